package nft

import (
	"errors"
	"fmt"

	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The edge as the client calls it.
var (
	edge4 = v4(0, 1)
	edge6 = v6(0, 1)
)

func at(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

func listenOn(ports ...uint16) (ranges []Range) {
	for _, port := range ports {
		ranges = append(ranges, Range{From: port})
	}
	return ranges
}

var bothProtocols = []string{"tcp", "udp"}

func TestForwards(t *testing.T) {
	l := newLab(t)
	l.serveAll(t, 80, 5000, 5009)
	l.edge.serve(t, "edge", 9000)
	allow := []netip.Prefix{netip.MustParsePrefix("10.90.0.0/24")}
	away := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	l.edge.apply(t,
		Forward{Name: "kept", Listen: listenOn(80), Protocols: bothProtocols, Targets: []Target{target(1, 80), target6(1, 80)}},
		Forward{Name: "masked", Listen: listenOn(81), Protocols: bothProtocols, Masquerade: true, Targets: []Target{target(2, 80), target6(2, 80)}},
		Forward{Name: "range", Listen: []Range{{From: 5000, To: 5009}}, Protocols: bothProtocols, Targets: []Target{target(3, 0), target6(3, 0)}},
		Forward{Name: "allowed", Listen: listenOn(82), Protocols: bothProtocols, Allow: allow, Targets: []Target{target(1, 80), target6(1, 80)}},
		Forward{Name: "strangers", Listen: listenOn(83), Protocols: bothProtocols, Allow: away, Targets: []Target{target(1, 80), target6(1, 80)}},
		Forward{Name: "none", Listen: listenOn(84), Protocols: bothProtocols},
		Forward{Name: "one-family", Listen: listenOn(85), Protocols: bothProtocols, Targets: []Target{target(1, 80)}},
		Forward{Name: "tcp-only", Listen: listenOn(86), Protocols: []string{"tcp"}, Targets: []Target{target(1, 80)}},
		Forward{Name: "any4", Listen: []Range{{Addr: netip.IPv4Unspecified(), From: 87}}, Protocols: bothProtocols, Targets: []Target{target(1, 80), target6(1, 80)}},
		Forward{Name: "any-address", Listen: listenOn(88), Protocols: bothProtocols, Targets: []Target{target(1, 80)}},
		Forward{Name: "this-address", Listen: []Range{{Addr: netip.MustParseAddr(edge4), From: 88}}, Protocols: bothProtocols, Targets: []Target{target(2, 80)}},
		Forward{Name: "drained", Listen: listenOn(89), Protocols: bothProtocols, Targets: []Target{target(1, 80), {Addr: target(2, 80).Addr}}},
		Forward{Name: "one-machine", Listen: listenOn(90), Protocols: bothProtocols, Targets: []Target{target(3, 5000), target(3, 5009)}},
	)
	for _, c := range []struct {
		host, server, seen string // no server: refused
		port               int
		only               string // protocol
	}{
		{host: edge4, port: 80, server: "t1", seen: v4(0, 2)},
		{host: edge6, port: 80, server: "t1", seen: v6(0, 2)},
		{host: edge4, port: 81, server: "t2", seen: v4(2, 1)},
		{host: edge6, port: 81, server: "t2", seen: v6(2, 1)},
		{host: edge4, port: 5009, server: "t3", seen: v4(0, 2)},
		{host: edge6, port: 5000, server: "t3", seen: v6(0, 2)},
		{host: edge4, port: 82, server: "t1", seen: v4(0, 2)},
		{host: edge6, port: 82},
		{host: edge4, port: 83},
		{host: edge6, port: 83},
		{host: edge4, port: 84},
		{host: edge6, port: 84},
		{host: edge4, port: 85, server: "t1", seen: v4(0, 2)},
		{host: edge6, port: 85},
		{host: edge4, port: 86, server: "t1", seen: v4(0, 2), only: "tcp"},
		{host: edge4, port: 86, only: "udp"},
		{host: edge4, port: 87, server: "t1", seen: v4(0, 2)},
		{host: edge6, port: 87},
		{host: edge4, port: 88, server: "t2", seen: v4(0, 2)},
		{host: v4(3, 1), port: 88, server: "t1", seen: v4(0, 2)},
		{host: edge4, port: 89, server: "t1", seen: v4(0, 2)},
		{host: edge4, port: 90, server: "t3", seen: v4(0, 2)},
		{host: edge4, port: 9000, server: "edge", seen: v4(0, 2)},
		{host: v4(3, 2), port: 80, server: "t3", seen: v4(0, 2)}, // only routed through the edge
		{host: v6(3, 2), port: 80, server: "t3", seen: v6(0, 2)},
	} {
		for _, network := range bothProtocols {
			if c.only != "" && c.only != network {
				continue
			}
			address := at(c.host, c.port)
			if c.server == "" {
				l.client.mustRefuse(t, network, address)
				continue
			}
			server, seen := l.client.mustAsk(t, network, address)
			host, _, _ := net.SplitHostPort(seen)
			if server != c.server || host != c.seen {
				t.Errorf("%s %s: served by %s, which saw %s, want %s and %s", network, address, server, host, c.server, c.seen)
			}
		}
	}

	t.Run("from the edge itself", func(t *testing.T) {
		if server, _ := l.edge.mustAsk(t, "tcp", at(edge4, 81)); server != "t2" {
			t.Errorf("served by %s, want t2", server)
		}
		if server, _ := l.edge.mustAsk(t, "udp", at(edge6, 80)); server != "t1" {
			t.Errorf("served by %s, want t1", server)
		}
		l.edge.mustRefuse(t, "tcp", at(edge4, 83))
		l.edge.mustRefuse(t, "tcp", "127.0.0.1:80") // loopback is nobody's business
		l.edge.mustRefuse(t, "tcp", "[::1]:80")
		if server, _ := l.edge.mustAsk(t, "tcp", "127.0.0.1:9000"); server != "edge" {
			t.Errorf("served by %s, want edge", server)
		}
	})

	t.Run("hairpin", func(t *testing.T) {
		if server, _ := l.targets[1].mustAsk(t, "tcp", at(edge4, 81)); server != "t2" {
			t.Errorf("a target that calls itself: served by %s, want t2", server)
		}
	})

	t.Run("counters", func(t *testing.T) {
		all := l.edge.counters(t)
		kept := all["kept"]
		one := kept.Targets[target(1, 80).Addr]
		// Two families, two protocols, and one UDP of the edge itself.
		if kept.Connections != 5 || one.Connections != 2 || kept.Targets[target6(1, 80).Addr].Connections != 3 {
			t.Errorf("connections %d, to the target %d, want 5 and 2: %+v", kept.Connections, one.Connections, kept)
		}
		if one.PacketsIn < 4 || one.PacketsOut < 3 || one.BytesIn < 4*28 || one.BytesOut < 3*28 {
			t.Errorf("a TCP and a UDP conversation came to %+v", one)
		}
		if sum := one.BytesIn + kept.Targets[target6(1, 80).Addr].BytesIn; kept.BytesIn != sum {
			t.Errorf("%d bytes in, its targets %d", kept.BytesIn, sum)
		}
		if n := all["strangers"].Refused; n != 5 {
			t.Errorf("strangers: refused %d, want 5", n)
		}
		if n := all["one-machine"].Targets; len(n) != 2 || n[target(3, 5000).Addr].PacketsOut+n[target(3, 5009).Addr].PacketsOut < 3 {
			t.Errorf("two targets on one machine: %+v", n)
		}
	})
}

// TestWeights asks for the shares of new connections. 2000 throws: the bounds
// are six standard deviations away.
func TestWeights(t *testing.T) {
	l := newLab(t)
	l.serveAll(t, 80)
	f := Forward{Name: "web", Listen: listenOn(80), Protocols: bothProtocols, Targets: []Target{target(1, 80), target(2, 80), target(3, 80)}}
	f.Targets[0].Weight, f.Targets[1].Weight, f.Targets[2].Weight = 60, 30, 10
	l.edge.apply(t, f)
	const throws = 2000
	err := l.client.do(func() error {
		for range throws {
			conn, err := net.Dial("udp", at(edge4, 80))
			if err != nil {
				return err
			}
			_, _, err = hello(conn)
			conn.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	targets := l.edge.counters(t)["web"].Targets
	for i, bounds := range [3][2]uint64{{1068, 1332}, {477, 723}, {119, 281}} {
		if n := targets[target(i+1, 80).Addr].Connections; n < bounds[0] || n > bounds[1] {
			t.Errorf("target %d got %d of %d connections, want between %d and %d", i+1, n, throws, bounds[0], bounds[1])
		}
	}
}

// TestSticky wants a client to stay with its target, and only the clients of
// the target that goes to move.
func TestSticky(t *testing.T) {
	l := newLab(t)
	l.serveAll(t, 80)
	var clients []string
	var script strings.Builder
	for i := range 60 {
		clients = append(clients, v4(0, 100+i), v6(0, 100+i))
		fmt.Fprintf(&script, "ip addr add %s/24 dev lab; ip addr add %s/64 dev lab nodad;", v4(0, 100+i), v6(0, 100+i))
	}
	l.client.sh(t, script.String())
	f := Forward{Name: "web", Listen: listenOn(80), Protocols: bothProtocols, Balance: Hash}
	for n := range 3 {
		f.Targets = append(f.Targets, target(n+1, 80), target6(n+1, 80))
	}
	port := 20_000
	where := func() map[string]string {
		served := map[string]string{}
		for _, client := range clients {
			for range 3 {
				to := at(edge4, 80)
				if strings.Contains(client, ":") {
					to = at(edge6, 80)
				}
				err := l.client.do(func() error {
					port++ // one that conntrack remembers would go where it went
					dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(client), Port: port}}
					conn, err := dialer.Dial("udp", to)
					if err != nil {
						return err
					}
					defer conn.Close()
					server, _, err := hello(conn)
					if served[client] != "" && served[client] != server {
						t.Errorf("%s went to %s, then to %s", client, served[client], server)
					}
					served[client] = server
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		return served
	}
	l.edge.apply(t, f)
	before := where()
	share := map[string]int{}
	for _, server := range before {
		share[server]++
	}
	for _, server := range []string{"t1", "t2", "t3"} {
		if share[server] < len(clients)/8 {
			t.Errorf("%s has %d of %d clients", server, share[server], len(clients))
		}
	}
	f.Targets[2].Weight, f.Targets[3].Weight = 0, 0 // the second target goes
	l.edge.apply(t, f)
	for client, server := range where() {
		if was := before[client]; server == "t2" || (was != "t2" && was != server) {
			t.Errorf("%s was with %s, and is with %s now that t2 is gone", client, was, server)
		}
	}
	f.Targets[2].Weight, f.Targets[3].Weight = 1, 1
	l.edge.apply(t, f)
	for client, server := range where() {
		if server != before[client] {
			t.Errorf("%s was with %s, and is with %s after t2 came back", client, before[client], server)
		}
	}
}

// TestReplaceUnderLoad changes the table all the time while clients connect:
// none may fail, and a flow from before goes on.
func TestReplaceUnderLoad(t *testing.T) {
	l := newLab(t)
	l.serveAll(t, 80)
	web := func(targets ...Target) Forward {
		return Forward{Name: "web", Listen: listenOn(80), Protocols: bothProtocols, Masquerade: true, Targets: targets,
			Allow: []netip.Prefix{netip.MustParsePrefix("10.90.0.0/24"), netip.MustParsePrefix("fd90::/64"), netip.MustParsePrefix("192.0.2.0/24")}}
	}
	other := Forward{Name: "other", Listen: listenOn(81), Protocols: bothProtocols, Balance: Hash, Targets: []Target{target(1, 80), target(2, 80)}}
	l.edge.apply(t, web(target(1, 80), target(2, 80), target(3, 80)), other)
	old, err := l.client.dial("tcp", at(edge4, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	first, _, err := hello(old)
	if err != nil {
		t.Fatal(err)
	}

	stop := make(chan struct{})
	var asking sync.WaitGroup
	var asked, failed atomic.Int64
	for range 4 {
		asking.Go(func() {
			l.client.do(func() error {
				for {
					select {
					case <-stop:
						return nil
					default:
					}
					conn, err := net.DialTimeout("tcp", at(edge4, 80), 900*time.Millisecond) // less than a second SYN
					if err == nil {
						_, _, err = hello(conn)
						conn.(*net.TCPConn).SetLinger(0) // no port stays in TIME_WAIT
						conn.Close()
					}
					asked.Add(1)
					if err != nil && failed.Add(1) < 5 {
						t.Error(err)
					}
				}
			})
		})
	}
	choices := [][]Target{
		{target(1, 80), target(2, 80), target(3, 80)},
		{target(1, 80), target(2, 80)},
		{target(3, 80)},
		{target(2, 80), {Addr: target(1, 80).Addr, Weight: 7}},
	}
	const changes = 200
	for i := range changes {
		fs := []Forward{web(choices[i%len(choices)]...)}
		if i%3 == 0 {
			fs = append(fs, other)
		}
		if i%5 == 0 {
			fs[0].Allow = nil
		}
		l.edge.apply(t, fs...)
	}
	close(stop)
	asking.Wait()
	t.Logf("%d connections during %d changes", asked.Load(), changes)
	t.Logf("refused by rule: %d", l.edge.counters(t)["web"].Refused)
	if asked.Load() < changes || failed.Load() > 0 {
		t.Errorf("%d of %d connections failed during %d changes", failed.Load(), asked.Load(), changes)
	}
	l.edge.apply(t, web(target(1, 80), target(2, 80), target(3, 80)))
	if server, _, err := hello(old); err != nil || server != first {
		t.Errorf("the connection from before is with %q, error %v, want %s", server, err, first)
	}
}

// TestDeadTarget wants no new connection at a target that is gone, where the
// recipe with iptables gives it a third of them, and its flows cut.
func TestDeadTarget(t *testing.T) {
	l := newLab(t)
	l.serveAll(t, 80)
	f := Forward{Name: "web", Listen: listenOn(80), Protocols: bothProtocols, Masquerade: true,
		Targets: []Target{target(2, 80)}}
	l.edge.apply(t, f)
	var old [2]net.Conn // to the target that dies
	for i, network := range bothProtocols {
		conn, err := l.client.dial(network, at(edge4, 80))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if server, _, err := hello(conn); err != nil || server != "t2" {
			t.Fatalf("%s is with %q, %v", network, server, err)
		}
		old[i] = conn
	}
	f.Targets = []Target{target(1, 80), target(2, 80), target(3, 80)}
	l.edge.apply(t, f)
	alive, err := l.client.dial("tcp", at(edge4, 80))
	for err == nil {
		server, _, failed := hello(alive)
		if err = failed; server != "t2" {
			break
		}
		alive.Close()
		alive, err = l.client.dial("tcp", at(edge4, 80))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	l.targets[1].sh(t, "ip link set lab down") // the machine is gone: nobody answers

	failures := func(tries int, port int) (failed int) {
		for range tries {
			err := l.client.do(func() error {
				conn, err := net.DialTimeout("tcp", at(edge4, port), 300*time.Millisecond)
				if err == nil {
					conn.Close()
				}
				return err
			})
			if err != nil {
				failed++
			}
		}
		return failed
	}

	t.Run("iptables", func(t *testing.T) {
		l.edge.iptables(t)
		if failed := failures(30, 8080); failed != 10 {
			t.Errorf("%d of 30 connections failed, want the third that goes to the dead target", failed)
		}
	})
	t.Run("nft", func(t *testing.T) {
		f.Targets[1].Weight = 0
		counted := func() uint64 { return l.edge.counters(t)["web"].Targets[f.Targets[1].Addr].Connections }
		before := counted()
		l.edge.apply(t, f)
		if after := counted(); before < 2 || after != before {
			t.Errorf("%d connections of the dead target are counted, and %d were before it died", after, before)
		}
		if failed := failures(30, 80); failed != 0 {
			t.Errorf("%d of 30 connections failed, want none", failed)
		}
	})
	t.Run("cut", func(t *testing.T) {
		var cut int
		err := l.edge.do(func() (err error) {
			cut, err = Cut(f, target(2, 80).Addr)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if cut < 2 {
			t.Errorf("cut %d flows, want the TCP and the UDP one at least", cut)
		}
		if _, _, err := hello(old[0]); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the TCP connection to the dead target: %v, want a reset", err)
		}
		if server, _, err := hello(old[1]); err != nil || server == "t2" {
			t.Errorf("the UDP flow to the dead target: with %q, %v, want it with another", server, err)
		}
		if _, _, err := hello(alive); err != nil {
			t.Errorf("a connection to a target that lives: %v", err)
		}
	})
}

// iptables programs the recipe that people use: a rule for each address, each
// taking its part of what the ones before left (here in turns rather than by
// chance, so that a test can count).
func (p place) iptables(t testing.TB) {
	t.Helper()
	p.sh(t, `command -v iptables-nft >/dev/null || { echo "iptables is not installed: apt-get install iptables"; exit 1; }
		iptables-nft -t nat -A PREROUTING -p tcp --dport 8080 -m statistic --mode nth --every 3 --packet 0 -j DNAT --to-destination `+at(v4(1, 2), 80)+`
		iptables-nft -t nat -A PREROUTING -p tcp --dport 8080 -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination `+at(v4(2, 2), 80)+`
		iptables-nft -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination `+at(v4(3, 2), 80))
}

// TestLacks takes away what a host needs, and wants it named.
func TestLacks(t *testing.T) {
	host := bare(t, "host")
	fs := []Forward{{Name: "web", Listen: listenOn(80), Protocols: bothProtocols, Targets: []Target{target(1, 80), target6(1, 80)}}}
	want := func(words ...string) {
		t.Helper()
		var lacks []string
		host.do(func() error { lacks = Lacks(fs); return nil })
		text := strings.Join(lacks, "\n")
		for _, word := range words {
			if not, found := strings.CutPrefix(word, "!"); found == strings.Contains(text, not) {
				t.Errorf("want %q in:\n%s", word, text)
			}
		}
	}
	host.sh(t, `ip link add one type veth peer name two
		echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding
		echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter; echo 1 >/proc/sys/net/ipv4/conf/one/rp_filter; echo 2 >/proc/sys/net/ipv4/conf/two/rp_filter
		nft 'table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }'`)
	want("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "strict on one:", "chain FORWARD of table filter", "!CAP_NET_ADMIN")
	fs[0].Targets = fs[0].Targets[:1]
	host.sh(t, `echo 1 >/proc/sys/net/ipv4/ip_forward; echo 2 >/proc/sys/net/ipv4/conf/all/rp_filter; nft delete table ip filter`)
	want("!ip_forward", "!forwarding", "!strict", "!FORWARD", "!a service of this host")

	for _, c := range []struct{ network, address, word string }{
		{"tcp", ":80", "a service of this host has tcp [::]:80,"},
		{"tcp4", "0.0.0.0:80", "a service of this host has tcp 0.0.0.0:80,"},
		{"tcp", ":81", "!a service of this host"},
		{"tcp", "127.0.0.1:80", "!a service of this host"},
	} {
		host.do(func() error {
			socket, err := net.Listen(c.network, c.address)
			if err != nil {
				return err
			}
			t.Cleanup(func() { socket.Close() })
			want(c.word)
			return socket.Close()
		})
	}
	host.do(func() error {
		socket, err := net.ListenPacket("udp", ":80")
		if err != nil {
			return err
		}
		defer socket.Close()
		want("a service of this host has udp [::]:80,")
		return nil
	})

	var lacks []string
	host.do(func() error {
		// The thread ends with this.
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			t.Error(err)
		}
		lacks = Lacks(fs)
		for what, err := range map[string]error{"Apply": Apply(fs), "Remove": Remove()} {
			if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
				t.Errorf("%s without rights: %v", what, err)
			}
		}
		return nil
	})
	if text := strings.Join(lacks, "\n"); !strings.Contains(text, "no CAP_NET_ADMIN") {
		t.Errorf("without rights: %s", text)
	}
}

// TestFlushedTable wants Counters to say that somebody took the table away, and
// Apply to make it again.
func TestFlushedTable(t *testing.T) {
	host := bare(t, "host")
	f := Forward{Name: "web", Listen: listenOn(80), Protocols: bothProtocols, Targets: []Target{target(1, 80)}}
	host.apply(t, f)
	host.sh(t, "nft flush ruleset")
	if err := host.do(func() error { _, err := Counters(); return err }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("counters of no table: %v, want fs.ErrNotExist", err)
	}
	host.apply(t, f)
	if _, there := host.counters(t)["web"]; !there {
		t.Error("the forward is not back")
	}
}
