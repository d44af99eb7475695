package audit

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"causeway/config"
)

// What a link needs of the kernel, as far as sysctls tell. Nothing of it stops a
// link: it gets slower than the line.

// lineBytes is what a line of 50 Mbit/s and 200 ms carries in a round trip.
const lineBytes = 50_000_000 / 8 * 200 / 1000

// socketBytes is how much a socket must hold to fill that line. Of what it
// receives about half is taken up by the kernel's own (net.ipv4.tcp_adv_win_scale
// of 1), and of what it sends BBR wants up to two round trips under way (Cardwell
// et al. 2016).
const socketBytes = 2 * lineBytes

// algorithm is the congestion control that links ask for.
const algorithm = "bbr"

// Machine says where the kernel makes the links of node slower than they need
// be. system is the root of the file system; root is whether the node may do
// what root alone may. On a node without links, or a system that is not Linux,
// there is nothing to say.
func Machine(system fs.FS, node *config.Node, root bool) []Finding {
	if node.Role == config.RoleBoth {
		return nil
	}
	m := machine{system: system, root: root}
	if !m.congestionControl() {
		m.slowStart()
	}
	m.buffers("tcp_rmem", "receive")
	m.buffers("tcp_wmem", "send")
	return m.findings
}

// machine is this one, and what was found on it.
type machine struct {
	system   fs.FS
	root     bool
	findings []Finding
}

func (m *machine) warn(kind, mend, format string, args ...any) {
	m.findings = append(m.findings, Finding{Level: Warning, Kind: kind, Msg: fmt.Sprintf(format, args...), Mend: mend})
}

// sysctl is the words of net.ipv4.NAME, none where there is none.
func (m *machine) sysctl(name string) []string {
	text, err := fs.ReadFile(m.system, "proc/sys/net/ipv4/"+name)
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}

// congestionControl reports whether links get the one they ask for. Where the
// kernel does not say, as it may in a container, they are taken to.
func (m *machine) congestionControl() (fine bool) {
	available := m.sysctl("tcp_available_congestion_control")
	allowed := m.sysctl("tcp_allowed_congestion_control")
	inUse := strings.Join(m.sysctl("tcp_congestion_control"), "")
	const slow = "a connection of 200 ms that loses 1 % then carries less than 1 Mbit/s"
	switch {
	case len(available) == 0 || inUse == algorithm:
		return true
	case !slices.Contains(available, algorithm):
		m.warn(kindCongestion, "load it, and at each start: modprobe tcp_bbr && echo tcp_bbr >/etc/modules-load.d/causeway.conf; a kernel without that module needs a newer one",
			"the kernel has no BBR, links use %s: %s", inUse, slow)
		return false
	case !m.root && len(allowed) > 0 && !slices.Contains(allowed, algorithm):
		m.warn(kindCongestion, fmt.Sprintf("let all users have it: sysctl -w net.ipv4.tcp_allowed_congestion_control=%q", strings.Join(available, " ")),
			"only root may choose BBR, links of other users use %s: %s", inUse, slow)
		return false
	}
	return true
}

// slowStart looks at what happens to a warm connection without BBR, which minds
// its rate itself (tcp_slow_start_after_idle_check).
func (m *machine) slowStart() {
	if slices.Equal(m.sysctl("tcp_slow_start_after_idle"), []string{"1"}) {
		m.warn(kindSlowStart, "sysctl -w net.ipv4.tcp_slow_start_after_idle=0",
			"a connection without BBR that was idle for a moment begins slowly again, with ten segments a round trip (RFC 2861)")
	}
}

// buffers looks at the greatest size of a direction's socket buffers.
func (m *machine) buffers(name, does string) {
	sizes := m.sysctl(name)
	if len(sizes) != 3 {
		return
	}
	most, err := strconv.ParseInt(sizes[2], 10, 64)
	if err != nil || most >= socketBytes {
		return
	}
	m.warn(kindBuffers, fmt.Sprintf("sysctl -w net.ipv4.%s=\"%s %s %d\"", name, sizes[0], sizes[1], 8<<20),
		"sockets %s at most %d bytes at a time (net.ipv4.%s), enough for %d Mbit/s at 200 ms", does, most, name, most*50/socketBytes)
}
