package nft

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place is a network namespace.
type place string

// lab is a client, an edge and three targets, each a machine of its own; the
// client and the targets know no way but through the edge.
//
//	client 10.90.0.2, fd90::2 ── edge ── targets 10.90.1.2, fd90:0:0:1::2, …
type lab struct {
	client, edge place
	targets      [3]place
}

var labs atomic.Int32

// bare makes a network namespace, for as long as the test runs.
func bare(t testing.TB, of string) place {
	t.Helper()
	skip := t.Skip
	if os.Getenv("CI") != "" {
		skip = t.Fatal
	}
	if os.Geteuid() != 0 {
		skip("network namespaces need root")
	}
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			skip(tool, "is not installed: apt-get install iproute2 nftables")
		}
	}
	p := place(fmt.Sprintf("causeway-nft-%d-%d-%s", os.Getpid(), labs.Add(1), of))
	run(t, "ip", "netns", "add", string(p))
	t.Cleanup(func() { run(t, "ip", "netns", "del", string(p)) })
	// Without waiting for whoever may have the same IPv6 address.
	p.sh(t, "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad; ip link set lo up")
	return p
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{client: bare(t, "client"), edge: bare(t, "edge")}
	// Refusals are counted here, so none may be left out: no limit of ICMP.
	l.edge.sh(t, `cd /proc/sys/net; echo 1 >ipv4/ip_forward; echo 1 >ipv6/conf/all/forwarding
		echo 0 >ipv4/icmp_ratelimit; echo 0 >ipv6/icmp/ratelimit`)
	l.join(t, l.client, 0)
	for i := range l.targets {
		l.targets[i] = bare(t, fmt.Sprint("target", i+1))
		l.join(t, l.targets[i], i+1)
	}
	return l
}

// join lays network number n between the edge and another machine.
func (l *lab) join(t testing.TB, with place, n int) {
	t.Helper()
	at := fmt.Sprint("lab", n)
	run(t, "ip", "-n", string(l.edge), "link", "add", at, "type", "veth", "peer", "name", "lab", "netns", string(with))
	for _, side := range []struct {
		place  place
		device string
		last   int
	}{{l.edge, at, 1}, {with, "lab", 2}} {
		side.place.sh(t, fmt.Sprintf("ip addr add 10.90.%d.%d/24 dev %s && ip addr add %s/64 dev %s nodad && ip link set %s up",
			n, side.last, side.device, v6(n, side.last), side.device, side.device))
	}
	with.sh(t, fmt.Sprintf("ip route add default via 10.90.%d.1 && ip -6 route add default via %s", n, v6(n, 1)))
}

func v4(n, last int) string { return fmt.Sprintf("10.90.%d.%d", n, last) }
func v6(n, last int) string {
	return netip.MustParseAddr(fmt.Sprintf("fd90:0:0:%x::%x", n, last)).String()
}

// target gives the address of target n, from 1, and a weight of 1.
func target(n int, port uint16) Target {
	return Target{Addr: netip.AddrPortFrom(netip.MustParseAddr(v4(n, 2)), port), Weight: 1}
}

func target6(n int, port uint16) Target {
	return Target{Addr: netip.AddrPortFrom(netip.MustParseAddr(v6(n, 2)), port), Weight: 1}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sh runs a shell command in the place.
func (p place) sh(t testing.TB, script string) string {
	t.Helper()
	return run(t, "ip", "netns", "exec", string(p), "sh", "-ec", script)
}

// do calls f on a thread of its own in the place. The thread ends with f.
func (p place) do(f func() error) error {
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is no good for others
		failed <- func() error {
			file, err := os.Open("/run/netns/" + string(p))
			if err != nil {
				return err
			}
			defer file.Close()
			if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter %s: %w", p, err)
			}
			return f()
		}()
	}()
	return <-failed
}

// apply programs forwards in the place.
func (p place) apply(t testing.TB, fs ...Forward) {
	t.Helper()
	if err := p.do(func() error { return Apply(fs) }); err != nil {
		t.Fatal(err)
	}
}

func (p place) counters(t testing.TB) map[string]Counter {
	t.Helper()
	var counters map[string]Counter
	err := p.do(func() (err error) {
		counters, err = Counters()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return counters
}

// dial connects from the place.
func (p place) dial(network, address string) (conn net.Conn, err error) {
	err = p.do(func() error {
		conn, err = (&net.Dialer{Timeout: 2 * time.Second}).Dial(network, address)
		return err
	})
	return conn, err
}

// ask connects, and gives the answer: the name of who served, and the address
// that the server saw.
func (p place) ask(network, address string) (server, seen string, err error) {
	conn, err := p.dial(network, address)
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	return hello(conn)
}

// hello asks the server at the other end for its name.
func hello(conn net.Conn) (server, seen string, err error) {
	conn.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(conn, "who?\n"); err != nil {
		return "", "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", "", err
	}
	_, err = fmt.Sscan(line, &server, &seen)
	return server, seen, err
}

// mustAsk is ask of what answers.
func (p place) mustAsk(t testing.TB, network, address string) (server, seen string) {
	t.Helper()
	server, seen, err := p.ask(network, address)
	if err != nil {
		t.Fatalf("%s %s: %v", network, address, err)
	}
	return server, seen
}

// mustRefuse wants a connection refused, at once.
func (p place) mustRefuse(t testing.TB, network, address string) {
	t.Helper()
	server, _, err := p.ask(network, address)
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("%s %s: answered by %q, error %v, want refused", network, address, server, err)
	}
}

// serve answers at the port, each line with the name and the address of who
// asks, over TCP and UDP and both families, until the test ends.
func (p place) serve(t testing.TB, name string, port int) {
	t.Helper()
	var serving sync.WaitGroup
	ending, end := context.WithCancel(context.Background())
	var listener net.Listener
	var packets net.PacketConn
	err := p.do(func() (err error) {
		if listener, err = net.Listen("tcp", fmt.Sprint(":", port)); err != nil {
			return err
		}
		packets, err = net.ListenPacket("udp", fmt.Sprint(":", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				stop := context.AfterFunc(ending, func() { conn.Close() })
				defer stop()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					fmt.Fprintln(conn, name, conn.RemoteAddr())
				}
			})
		}
	})
	serving.Go(func() {
		buf := make([]byte, 2048)
		for {
			_, from, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			packets.WriteTo(fmt.Appendln(nil, name, from), from)
		}
	})
	t.Cleanup(func() {
		listener.Close()
		packets.Close()
		end()
		serving.Wait()
	})
}

// serveAll lets each target answer at the ports as "t1", "t2", "t3".
func (l *lab) serveAll(t testing.TB, ports ...int) {
	t.Helper()
	for i, p := range l.targets {
		for _, port := range ports {
			p.serve(t, fmt.Sprint("t", i+1), port)
		}
	}
}

// listing is what nft(8) says of a table, its blocks sorted: their order is that
// of their making.
func (p place) listing(t testing.TB) []string {
	t.Helper()
	text := p.sh(t, "nft list table inet causeway")
	var blocks []string
	for _, block := range strings.Split(text, "\n\n") {
		block = strings.TrimPrefix(strings.TrimSuffix(strings.TrimSpace(block), "\n}"), "table inet causeway {\n")
		blocks = append(blocks, strings.TrimSpace(block))
	}
	return blocks
}
