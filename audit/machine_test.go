package audit

import (
	"strings"
	"testing"
	"testing/fstest"

	"causeway/config"
)

// kernel is a file system with sysctls of net.ipv4, `name: words` each.
func kernel(settings ...string) fstest.MapFS {
	system := fstest.MapFS{}
	for _, setting := range settings {
		name, words, _ := strings.Cut(setting, ": ")
		system["proc/sys/net/ipv4/"+name] = &fstest.MapFile{Data: []byte(words + "\n")}
	}
	return system
}

func TestMachine(t *testing.T) {
	const (
		cubic   = "tcp_congestion_control: cubic"
		both    = "tcp_available_congestion_control: reno cubic bbr"
		allowed = "tcp_allowed_congestion_control: reno cubic"
		warm    = "tcp_slow_start_after_idle: 0"
		cold    = "tcp_slow_start_after_idle: 1"
		rmem    = "tcp_rmem: 4096\t131072\t6291456" // Linux's own
		wmem    = "tcp_wmem: 4096\t16384\t4194304"
	)
	for _, c := range []struct {
		what string
		role config.Role
		root bool
		has  fstest.MapFS
		want string
	}{
		{"a usual kernel, as root", config.RoleEdge, true, kernel(cubic, both, allowed, cold, rmem, wmem), ``},
		{"the same for others", config.RoleRelay, false, kernel(cubic, both, allowed, cold, rmem, wmem), `
this machine: warning: only root may choose BBR, links of other users use cubic: a connection of 200 ms that loses 1 % then carries less than 1 Mbit/s; let all users have it: sysctl -w net.ipv4.tcp_allowed_congestion_control="reno cubic bbr"
this machine: warning: a connection without BBR that was idle for a moment begins slowly again, with ten segments a round trip (RFC 2861); sysctl -w net.ipv4.tcp_slow_start_after_idle=0`},
		{"BBR for all", config.RoleRelay, false, kernel("tcp_congestion_control: bbr", both, "tcp_allowed_congestion_control: reno bbr", cold, rmem, wmem), ``},
		{"BBR that others may choose", config.RoleRelay, false, kernel(cubic, both, "tcp_allowed_congestion_control: reno cubic bbr", cold, rmem, wmem), ``},
		{"a container that does not say", config.RoleRelay, false, kernel(cubic, both), ``},
		{"no BBR", config.RoleEdge, true, kernel(cubic, "tcp_available_congestion_control: reno cubic", allowed, warm, rmem, wmem), `
this machine: warning: the kernel has no BBR, links use cubic: a connection of 200 ms that loses 1 % then carries less than 1 Mbit/s; load it, and at each start: modprobe tcp_bbr && echo tcp_bbr >/etc/modules-load.d/causeway.conf; a kernel without that module needs a newer one`},
		{"a small machine", config.RoleEdge, true, kernel(both, "tcp_rmem: 4096 131072 2097152", "tcp_wmem: 4096 16384 1048576"), `
this machine: warning: sockets receive at most 2097152 bytes at a time (net.ipv4.tcp_rmem), enough for 41 Mbit/s at 200 ms; sysctl -w net.ipv4.tcp_rmem="4096 131072 8388608"
this machine: warning: sockets send at most 1048576 bytes at a time (net.ipv4.tcp_wmem), enough for 20 Mbit/s at 200 ms; sysctl -w net.ipv4.tcp_wmem="4096 16384 8388608"`},
		{"no links", config.RoleBoth, false, kernel("tcp_available_congestion_control: reno", "tcp_wmem: 1 1 1"), ``},
		{"not Linux", config.RoleEdge, false, kernel(), ``},
		{"sysctls that are none", config.RoleEdge, false, kernel("tcp_wmem: 1 1", "tcp_rmem: 1 1 many", "tcp_available_congestion_control: "), ``},
	} {
		got := ""
		for _, finding := range Machine(c.has, &config.Node{Role: c.role}, c.root) {
			got += "\n" + finding.String()
		}
		if got != c.want {
			t.Errorf("%s:%s", c.what, got)
		}
	}
}
