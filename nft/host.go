package nft

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Lacks says what this host lacks for the forwards, each with the mend. It only
// reads. The settings are those of this thread's network namespace; a mend lasts
// until the next boot, and for good in a file of /etc/sysctl.d.
func Lacks(fs []Forward) []string {
	fs = normal(fs)
	var lacks []string
	lack := func(format string, args ...any) { lacks = append(lacks, fmt.Sprintf(format, args...)) }

	if may, err := mayAdminister(); err != nil {
		lack("cannot read the capabilities of this process: %v: is /proc mounted?", err)
	} else if !may {
		lack("no CAP_NET_ADMIN: run as root, or with AmbientCapabilities=CAP_NET_ADMIN of systemd")
	}
	lacks = append(lacks, firewallLacks()...)
	for family, forwarding := range map[string]string{
		"ip":  "net/ipv4/ip_forward",
		"ip6": "net/ipv6/conf/all/forwarding",
	} {
		if !slices.ContainsFunc(fs, func(f Forward) bool { return len(f.hosts(family)) > 0 }) {
			continue
		}
		switch value, err := sysctl(forwarding); {
		case err != nil:
			lack("cannot read whether the host forwards: %v", err)
		case value == 0 && family == "ip":
			lack("the host forwards no IPv4: sysctl -w net.ipv4.ip_forward=1")
		case value == 0:
			lack("the host forwards no IPv6: sysctl -w net.ipv6.conf.all.forwarding=1 (and net.ipv6.conf.IFACE.accept_ra=2 where it takes its routes from router advertisements, or it loses them)")
		}
	}
	lacks = append(lacks, conntrackLacks()...)
	lacks = append(lacks, filterLacks()...)
	lacks = append(lacks, localLacks(fs)...)
	slices.Sort(lacks)
	return lacks
}

// mayAdminister says whether this thread has CAP_NET_ADMIN.
func mayAdminister() (bool, error) {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return false, err
	}
	_, rest, found := strings.Cut(string(status), "CapEff:")
	if !found {
		return false, fmt.Errorf("/proc/thread-self/status has no CapEff")
	}
	capabilities, err := strconv.ParseUint(strings.Fields(rest)[0], 16, 64)
	return capabilities&(1<<unix.CAP_NET_ADMIN) != 0, err
}

// firewallLacks asks nftables for what is there: whether it answers, and who
// else would drop what is forwarded.
func firewallLacks() []string {
	conn, err := open()
	if err != nil {
		return []string{fmt.Sprintf("cannot talk to nftables: %v%s", err, mend(err))}
	}
	defer conn.CloseLasting()
	chains, err := conn.ListChains()
	if err != nil {
		return []string{fmt.Sprintf("cannot list what is in nftables: %v%s", err, mend(err))}
	}
	var lacks []string
	for _, c := range chains {
		forwards := c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Table.Family != nftables.TableFamilyBridge
		if forwards && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			lacks = append(lacks, fmt.Sprintf("chain %s of table %s drops what is forwarded unless a rule of it accepts: see that it does, for \"ct status dnat\" (iptables: -A FORWARD -m conntrack --ctstate DNAT -j ACCEPT)",
				c.Name, c.Table.Name))
		}
	}
	return lacks
}

// Below fewConntrack entries a host that forwards for many runs out: one entry
// is one flow, and a TCP one stays for two minutes after its end. Above
// fullConntrack of its size the rest is gone in one bad minute.
const (
	fewConntrack  = 65536
	fullConntrack = 0.8
)

// conntrackLacks looks at the size of conntrack. A kernel that has not loaded it
// yet has no such files, and that is no lack: Apply loads it.
func conntrackLacks() []string {
	most, err := sysctl("net/netfilter/nf_conntrack_max")
	if err != nil {
		return nil
	}
	var lacks []string
	const more = "sysctl -w net.netfilter.nf_conntrack_max=%d (each entry takes some 320 bytes), and a quarter of it in /sys/module/nf_conntrack/parameters/hashsize"
	if most < fewConntrack {
		lacks = append(lacks, fmt.Sprintf("conntrack holds %d flows at most: "+more, most, 4*fewConntrack))
	}
	if count, err := sysctl("net/netfilter/nf_conntrack_count"); err == nil && float64(count) > fullConntrack*float64(most) {
		lacks = append(lacks, fmt.Sprintf("conntrack holds %d of %d flows at most: "+more, count, most, max(2*most, 4*fewConntrack)))
	}
	return lacks
}

// filterLacks looks for strict reverse path filtering, which drops answers that
// come back another way. With one interface there is no other way.
func filterLacks() []string {
	filters, err := filepath.Glob("/proc/sys/net/ipv4/conf/*/rp_filter")
	if err != nil {
		return nil // the pattern is none of the host's
	}
	var strict []string
	interfaces := 0
	all, _ := sysctl("net/ipv4/conf/all/rp_filter")
	for _, path := range filters {
		name := filepath.Base(filepath.Dir(path))
		if slices.Contains([]string{"all", "default", "lo"}, name) {
			continue
		}
		interfaces++
		// The kernel takes the higher one of the two (ip-sysctl.rst).
		if own, err := sysctl("net/ipv4/conf/" + name + "/rp_filter"); err == nil && max(own, all) == 1 {
			strict = append(strict, name)
		}
	}
	if interfaces < 2 || len(strict) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("reverse path filtering is strict on %s: answers that come back by another interface are dropped; unless there are none: sysctl -w net.ipv4.conf.all.rp_filter=2",
		strings.Join(strict, ", "))}
}

// localLacks looks for services of this host where others are to be forwarded: who connects
// from outside does not reach them any more.
func localLacks(fs []Forward) (lacks []string) {
	for _, protocol := range []string{"tcp", "udp"} {
		for _, file := range []string{protocol, protocol + "6"} {
			table, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				continue // no IPv6
			}
			for _, local := range listening(string(table)) {
				for _, f := range fs {
					if !slices.Contains(f.Protocols, protocol) || !slices.ContainsFunc(f.Listen, func(r Range) bool { return r.takes(local) }) {
						continue
					}
					lacks = append(lacks, fmt.Sprintf("a service of this host has %s %s, and gets nothing from outside any more: forward %s takes it; leave the port out of that unless this is meant", protocol, local, f.Name))
				}
			}
		}
	}
	return slices.Compact(lacks)
}

// takes reports whether connections to a service that listens there go to the range in its
// place. One on a loopback address has none from outside.
func (r Range) takes(local netip.AddrPort) bool {
	if local.Addr().IsLoopback() || local.Port() < r.From || local.Port() > max(r.From, r.To) {
		return false
	}
	return isAny(r.Addr) || isAny(local.Addr()) || r.Addr == local.Addr()
}

// listening are the sockets of a table of /proc/net that take what comes: those of TCP that
// listen, and of UDP that have no peer (proc_pid_net(5)). Of a table it can't read there are
// none.
func listening(table string) (sockets []netip.AddrPort) {
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[3] != "0A" && fields[3] != "07" {
			continue
		}
		host, port, _ := strings.Cut(fields[1], ":")
		raw, err := hex.DecodeString(host)
		number, failed := strconv.ParseUint(port, 16, 16)
		if err != nil || failed != nil || len(raw)%4 != 0 {
			continue
		}
		for word := range slices.Chunk(raw, 4) { // each in the host's order
			binary.BigEndian.PutUint32(word, binary.NativeEndian.Uint32(word))
		}
		if addr, ok := netip.AddrFromSlice(raw); ok {
			sockets = append(sockets, netip.AddrPortFrom(addr.Unmap(), uint16(number)))
		}
	}
	return sockets
}

// sysctl reads a setting of the kernel that is a number.
func sysctl(name string) (int, error) {
	text, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return 0, err
	}
	value, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read /proc/sys/%s: %w", name, err)
	}
	return value, nil
}
