package conn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loop is the least that has a Pair go: an epoll for its two sockets. Closing stop
// stops the Pair.
type loop struct {
	t     testing.TB
	epoll int
	fds   [2]int
	told  [2]uint32
	bell  [2]int // a pipe: a byte in it stops the Pair
}

func newLoop(t testing.TB) *loop {
	l := &loop{t: t}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := unix.Pipe2(l.bell[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	l.watch(l.bell[0], 2, unix.EPOLLIN)
	t.Cleanup(func() {
		for _, fd := range []int{l.epoll, l.bell[0], l.bell[1]} {
			unix.Close(fd)
		}
	})
	return l
}

func (l *loop) watch(fd, index int, events uint32) {
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(index)}); err != nil {
		l.t.Error(err)
	}
}

// take takes the socket out of Go's hands.
func (l *loop) take(index int, c net.Conn) int {
	tcp := c.(*net.TCPConn)
	raw, err := tcp.SyscallConn()
	if err != nil {
		l.t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { l.fds[index], err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		l.t.Fatal(err)
	}
	tcp.Close()
	l.watch(l.fds[index], index, PairEvents)
	return l.fds[index]
}

// wait waits for events, until a time. stopped: the bell rang.
func (l *loop) wait(d time.Duration) (stopped bool) {
	var events [3]unix.EpollEvent
	milliseconds := -1
	if d >= 0 {
		milliseconds = int(d.Milliseconds() + 1)
	}
	n, _ := unix.EpollWait(l.epoll, events[:], milliseconds)
	for _, e := range events[:max(n, 0)] {
		if e.Fd == 2 {
			return true
		}
		l.told[e.Fd] |= e.Events
	}
	return false
}

// run has a Pair go to its end.
func (l *loop) run(p *Pair) Joined {
	for again := false; ; {
		wait := p.Look(time.Now())
		if wait == 0 {
			wait = -1
		}
		if again {
			wait = 0
		}
		if came, ok := p.Ended(); ok {
			return came
		}
		if l.wait(wait) {
			p.Stop(context.Canceled)
		}
		again = p.Ready(l.told[0], l.told[1], time.Now())
		l.told = [2]uint32{}
	}
}

// pairUp is join by a Pair, of two TCP connections.
func pairUp(t testing.TB, a, b net.Conn, how Joint) <-chan Joined {
	done := make(chan Joined, 1)
	l := newLoop(t)
	fdA, fdB := l.take(0, a), l.take(1, b)
	go func() {
		var p Pair
		p.Start(fdA, fdB, netip.AddrPort{}, nil, how, time.Now())
		done <- l.run(&p)
	}()
	return done
}

// A Pair is as Join.
func TestPair(t *testing.T) {
	t.Run("moved", func(t *testing.T) { testMoved(t, "tcp", pairUp) })
	t.Run("half-close", func(t *testing.T) { testHalfClose(t, "tcp", "tcp", pairUp) })
	t.Run("reset", func(t *testing.T) { testReset(t, "tcp", pairUp) })
}

// TestPairTimes is TestJoinTimes with a real clock, and less exact.
func TestPairTimes(t *testing.T) {
	how := Joint{Idle: 400 * time.Millisecond, HalfClosed: 150 * time.Millisecond}
	for _, test := range []struct {
		name string
		do   func(client, target *net.TCPConn)
		want Why
		at   time.Duration
	}{
		{"idle", func(client, target *net.TCPConn) {}, WhyIdle, 400 * time.Millisecond},
		{"each byte counts", func(client, target *net.TCPConn) {
			time.Sleep(300 * time.Millisecond)
			target.Write([]byte("x"))
			time.Sleep(300 * time.Millisecond)
			client.Write([]byte("x"))
		}, WhyIdle, time.Second},
		{"half closed", func(client, target *net.TCPConn) {
			time.Sleep(50 * time.Millisecond)
			client.CloseWrite()
		}, WhyHalfClosed, 150 * time.Millisecond},
		{"half closed and busy", func(client, target *net.TCPConn) {
			client.CloseWrite()
			for range 6 {
				time.Sleep(75 * time.Millisecond)
				target.Write([]byte("x"))
			}
		}, WhyHalfClosed, 600 * time.Millisecond},
	} {
		a, client := tcpPair(t)
		b, target := tcpPair(t)
		go io.Copy(io.Discard, client)
		go io.Copy(io.Discard, target)
		began := time.Now()
		done := pairUp(t, a, b, how)
		test.do(client, target)
		if joined, took := <-done, time.Since(began); joined.Why != test.want || took < test.at {
			t.Errorf("%s: %+v after %v, want %s after %v", test.name, joined, took, test.want, test.at)
		}
	}
}

// A Pair that is stopped ends, whatever it is about.
func TestPairStops(t *testing.T) {
	a, client := tcpPair(t)
	b, target := tcpPair(t)
	l := newLoop(t)
	fdA, fdB := l.take(0, a), l.take(1, b)
	done := make(chan Joined)
	go func() {
		var p Pair
		p.Start(fdA, fdB, netip.AddrPort{}, nil, Joint{}, time.Now())
		done <- l.run(&p)
	}()
	go client.Write(make([]byte, 64<<20)) // that the target does not take
	time.Sleep(50 * time.Millisecond)
	unix.Write(l.bell[1], []byte("x"))
	if joined := <-done; joined.Why != WhyStopped || !errors.Is(joined.Err, context.Canceled) {
		t.Errorf("%+v", joined)
	}
	if _, err := io.Copy(io.Discard, target); err != nil {
		t.Errorf("the target sees %v", err)
	}
}

// TestPairBothWays has both ends send at the same time, in pieces of all sizes, to
// readers of all speeds: what comes is what was sent, and a byte was either copied or
// spliced.
func TestPairBothWays(t *testing.T) {
	for range 20 {
		a, client := tcpPair(t)
		b, target := tcpPair(t)
		before := []byte("PROXY who\r\n")
		done := pairUp(t, a, b, Joint{Before: before, Idle: time.Minute})
		seed := rand.Uint64()
		var tasks sync.WaitGroup
		var sizes [2]int64
		for i, way := range []struct{ from, to *net.TCPConn }{{client, target}, {target, client}} {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			said := make([]byte, 1+random.IntN(6<<20))
			for at := range said {
				said[at] = byte(random.Uint32())
			}
			sizes[i] = int64(len(said))
			largest := 1 << (9 + random.IntN(12))
			tasks.Go(func() {
				for left := said; len(left) > 0; {
					n, err := way.from.Write(left[:min(len(left), 1+random.IntN(largest))])
					if left = left[n:]; err != nil {
						t.Errorf("seed %d: %v", seed, err)
						return
					}
					if random.IntN(50) == 0 {
						time.Sleep(time.Duration(random.IntN(2000)) * time.Microsecond)
					}
				}
				way.from.CloseWrite()
			})
			tasks.Go(func() {
				want := said
				if i == 0 {
					want = append(bytes.Clone(before), said...)
				}
				slow := &slowReader{way.to, rand.New(rand.NewPCG(seed, uint64(i+2)))}
				if got, err := io.ReadAll(slow); err != nil || !bytes.Equal(got, want) {
					t.Errorf("seed %d: way %d: %d bytes of %d: %v", seed, i, len(got), len(want), err)
				}
			})
		}
		tasks.Wait()
		if joined := <-done; joined.Why != WhyDone || joined.Sent != sizes[0] || joined.Received != sizes[1] || joined.Spliced > joined.Sent+joined.Received {
			t.Errorf("seed %d: %+v of %v", seed, joined, sizes)
		}
	}
}

// slowReader reads little, and not always at once.
type slowReader struct {
	io.Reader
	random *rand.Rand
}

func (r *slowReader) Read(p []byte) (int, error) {
	if r.random.IntN(200) == 0 {
		time.Sleep(time.Duration(r.random.IntN(2000)) * time.Microsecond)
	}
	return r.Reader.Read(p[:min(len(p), 1+r.random.IntN(256<<10))])
}

// A stranger's PROXY header ends a Pair, in however many pieces it comes, and what
// only begins alike goes through.
func TestPairStranger(t *testing.T) {
	for said, want := range map[string]Why{
		"PROXY TCP4 1.2.3.4 1.2.3.4 5 6\r\n": WhyStranger,
		signature2 + "\x21\x11\x00\x0c":      WhyStranger,
		"PROXIES are no PROXY":               WhyDone,
		"\r\n\r\nand more":                   WhyDone,
	} {
		for _, pieces := range []int{1, 100} {
			a, client := tcpPair(t)
			b, target := tcpPair(t)
			go func() {
				size := (len(said) + pieces - 1) / pieces
				for left := said; left != ""; {
					n, err := io.WriteString(client, left[:min(size, len(left))])
					if left = left[n:]; err != nil {
						return
					}
					time.Sleep(time.Millisecond)
				}
				client.CloseWrite()
			}()
			go func() {
				defer target.CloseWrite()
				got, _ := io.ReadAll(target)
				if want == WhyDone && string(got) != said || want != WhyDone && (strings.Contains(string(got), signature1) || strings.Contains(string(got), signature2)) {
					t.Errorf("the target got %q of %q", got, said)
				}
			}()
			if joined := <-pairUp(t, a, b, Joint{Idle: time.Minute}); joined.Why != want || want == WhyStranger && ReasonOf(joined.Err) != ReasonStranger {
				t.Errorf("%q in %d pieces: %+v", said, pieces, joined)
			}
		}
	}
}

// peeking reads what comes to c with read until that is done.
func peeking(t *testing.T, l *loop, c net.Conn, peek *Peek, read func(fd int) (done bool, err error)) (int, error) {
	fd := l.take(0, c)
	for {
		if l.wait(10 * time.Second) {
			t.Fatal("stopped")
		}
		if done, err := read(fd); done || err != nil {
			return fd, err
		}
	}
}

// A Peek gives what PeekHello gives of the same bytes, in however many pieces they
// come, and the Pair that has it sends all of them on.
func TestPeek(t *testing.T) {
	hello := one(say(sni("www.example.cn")))
	header, err := (&ProxyHeader{Source: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5}, Destination: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 443}}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, proxied := range []bool{false, true} {
		for _, size := range []int{1, 7, 100, 1 << 20} {
			for _, before := range []string{"", "who"} {
				rest := strings.Repeat("rest", 10_000)
				wire := string(hello) + rest
				if proxied {
					wire = string(header) + wire
				}
				ours, client := tcpPair(t)
				b, target := tcpPair(t)
				go func() {
					for left, n := wire, size; left != ""; {
						wrote, _ := io.WriteString(client, left[:min(n, len(left))])
						left = left[wrote:]
						if sent := len(wire) - len(left); n < 100 && sent < 1000 {
							time.Sleep(100 * time.Microsecond)
						} else {
							n = max(n, 1000)
						}
					}
					client.CloseWrite()
				}()
				l := newLoop(t)
				peek, asked, told := &Peek{}, Hello{}, (*ProxyHeader)(nil)
				fd, err := peeking(t, l, ours, peek, func(fd int) (bool, error) {
					if proxied && told == nil {
						if told, err = peek.ReadProxy(fd); told == nil || err != nil {
							return false, err
						}
					}
					return peek.ReadHello(fd, &asked)
				})
				if err != nil || asked.ServerName != "www.example.cn" || proxied && told.Source.String() != "192.0.2.1:5" {
					t.Fatalf("%+v, %+v, %v", asked, told, err)
				}
				to := l.take(1, b)
				done := make(chan Joined)
				go func() {
					var p Pair
					p.Start(fd, to, netip.AddrPort{}, peek, Joint{Before: []byte(before), Idle: time.Minute}, time.Now())
					done <- l.run(&p)
				}()
				got, _ := io.ReadAll(target)
				target.Close()
				if want := before + string(hello) + rest; string(got) != want {
					t.Errorf("the target got %d bytes of %d", len(got), len(want))
				}
				if joined := <-done; joined.Why != WhyDone || joined.Sent != int64(len(hello)+len(rest)) {
					t.Errorf("%+v", joined)
				}
			}
		}
	}
}

// FuzzPeek shows that a Peek says of any bytes, in two pieces, what PeekHello says.
func FuzzPeek(f *testing.F) {
	f.Add([]byte(one(say(sni("www.example.cn")))), 7)
	f.Add([]byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"), 3)
	f.Add([]byte(signature2+"\x21\x11\x00\x0c"), 12)
	f.Fuzz(func(t *testing.T, wire []byte, cut int) {
		if len(wire) > 2*MaxBytes || cut < 0 || cut > len(wire) {
			return
		}
		var trust Trust
		_, k, err := trust.Accept(from(wire), Limits{})
		var want Hello
		if err == nil {
			want, _, err = PeekHello(k, Limits{})
		}
		fds, failed := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if failed != nil {
			t.Fatal(failed)
		}
		defer unix.Close(fds[0])
		var peek Peek
		var hello Hello
		done, got := false, error(nil)
		for _, piece := range [][]byte{wire[:cut], wire[cut:]} {
			for len(piece) > 0 && !done && got == nil {
				n, _ := unix.Write(fds[1], piece)
				piece = piece[max(n, 0):]
				done, got = peek.ReadHello(fds[0], &hello)
			}
		}
		unix.Close(fds[1])
		if !done && got == nil {
			done, got = peek.ReadHello(fds[0], &hello)
		}
		said := ReasonOf(got)
		if said == ReasonNotTLS && ReasonOf(err) == ReasonStranger { // the first piece is no hello, and no header yet
			said = ReasonStranger
		}
		if said != ReasonOf(err) || err == nil && (!done || hello.ServerName != want.ServerName || !slices.Equal(hello.ALPN, want.ALPN)) {
			t.Errorf("%q cut at %d: %+v, %v; PeekHello: %+v, %v", wire, cut, hello, got, want, err)
		}
		peek.Close()
	})
}

// What is no hello, or no header, is refused with the reasons of PeekHello.
func TestPeekRefuses(t *testing.T) {
	for _, test := range []struct {
		said  string
		proxy bool
		want  Reason
	}{
		{"GET / HTTP/1.1\r\n\r\n", false, ReasonNotTLS},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 5 6\r\n", false, ReasonStranger},
		{"\x16\x03\x01\x00\x10\x01", false, ReasonCut},
		{"", false, ReasonNothing},
		{"\x16\x03\x01\x00\x00", false, ReasonMalformed},
		{string(one(say(sni("www.example.cn."))) /* a name, and a dot */), false, ReasonNameDot},
		{"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + strings.Repeat("\x00", 1<<14-4) + strings.Repeat("\x16\x03\x01\x40\x00"+strings.Repeat("\x00", 1<<14), 4), false, ReasonTooLong},
		{"GET / HTTP/1.1\r\n\r\n", true, ReasonNoProxy},
		{"PROXY nonsense\r\n", true, ReasonBadProxy},
		{"PROXY ", true, ReasonCut},
	} {
		ours, client := tcpPair(t)
		go func() {
			io.WriteString(client, test.said)
			client.CloseWrite()
		}()
		peek, hello := &Peek{Peer: netip.MustParseAddrPort("192.0.2.1:5")}, Hello{}
		fd, err := peeking(t, newLoop(t), ours, peek, func(fd int) (bool, error) {
			if test.proxy {
				header, err := peek.ReadProxy(fd)
				return header != nil, err
			}
			return peek.ReadHello(fd, &hello)
		})
		if ReasonOf(err) != test.want || !strings.Contains(fmt.Sprint(err), "192.0.2.1:5") {
			t.Errorf("%.40q: %v, want %s", test.said, err, test.want)
		}
		peek.Close()
		unix.Close(fd)
	}
	if err := (&Peek{}).TimedOut(); ReasonOf(err) != ReasonTimedOut {
		t.Error(err)
	}
}

// TestIdleHoldsNothing sees that pairs that have nothing to pass hold no pipe.
func TestIdleHoldsNothing(t *testing.T) {
	const pairs = 100
	var far []*net.TCPConn
	var done []<-chan Joined
	before := descriptors(t)
	for range pairs {
		a, client := tcpPair(t)
		b, target := tcpPair(t)
		done = append(done, pairUp(t, a, b, Joint{Idle: time.Minute}))
		far = append(far, client)
		client.Write(make([]byte, 100_000))
		if _, err := io.ReadFull(target, make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
	}
	const each = 4 + 3 // the four ends, and the loop of each
	if more := descriptors(t) - before - each*pairs; more > 2*pipesKept {
		t.Errorf("%d pairs hold %d descriptors besides their own", pairs, more)
	}
	for i, client := range far {
		client.SetLinger(0)
		client.Close()
		if joined := <-done[i]; joined.Spliced == 0 {
			t.Errorf("%+v", joined)
		}
	}
}

// TestStalledWaitsInPipes sees that a reader that takes nothing, and then all,
// gets all, and that its pipe is bounded by those allowed.
func TestStalledWaitsInPipes(t *testing.T) {
	most := pipes.most
	defer func() { pipes.most = most }()
	for _, allowed := range []int{0, 1000} {
		pipes.most = func() int { return allowed }
		pipes.mu.Lock()
		for _, p := range pipes.free {
			p.close()
		}
		pipes.open -= len(pipes.free)
		pipes.free = nil
		pipes.mu.Unlock()

		a, client := tcpPair(t)
		b, target := tcpPair(t)
		done := pairUp(t, a, b, Joint{Idle: time.Minute})
		const size = 32 << 20
		go func() {
			client.Write(make([]byte, size))
			client.CloseWrite()
		}()
		time.Sleep(20 * time.Millisecond) // the queues fill; if they have not, all passes as well
		if n, err := io.Copy(io.Discard, target); n != size || err != nil {
			t.Fatalf("got %d bytes: %v", n, err)
		}
		target.Close()
		joined := <-done
		if joined.Sent != size || joined.Why != WhyDone || (joined.Spliced > 0) != (allowed > 0) {
			t.Errorf("with %d pipes: %+v", allowed, joined)
		}
	}
}

// A reset in the midst of bulk ends a Pair, and gives its pipe back.
func TestPairBreaksOff(t *testing.T) {
	for range 50 {
		a, client := tcpPair(t)
		b, target := tcpPair(t)
		done := pairUp(t, a, b, Joint{Idle: time.Minute})
		go client.Write(make([]byte, 16<<20))
		io.CopyN(io.Discard, target, rand.Int64N(1<<20))
		broken, want := client, WhyResetA
		if rand.IntN(2) == 0 {
			broken, want = target, WhyResetB
		}
		broken.SetLinger(0)
		broken.Close()
		if broken == target {
			if joined := <-done; joined.Why != want {
				t.Errorf("%+v, want %s", joined, want)
			}
			continue
		}
		_, err := io.Copy(io.Discard, target)
		if joined := <-done; joined.Why != want || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%+v, want %s; the target sees %v", joined, want, err)
		}
	}
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
