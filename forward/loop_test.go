package forward

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"causeway/config"
	"causeway/outcome"
)

// slowTarget is a target that answers no dial before open is called, and then says
// what it hears.
func slowTarget(t *testing.T) (address string, open func()) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		err = syscall.Listen(fd, 0) // one may wait, and is dialled here
	}
	if err != nil {
		t.Fatal(err)
	}
	own, _ := syscall.Getsockname(fd)
	address = fmt.Sprintf("127.0.0.1:%d", own.(*syscall.SockaddrInet4).Port)
	first, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	t.Cleanup(func() {
		first.Close()
		_ = syscall.Shutdown(fd, syscall.SHUT_RDWR) // which wakes accept
		tasks.Wait()
		_ = syscall.Close(fd)
	})
	return address, func() {
		tasks.Go(func() {
			for {
				c, _, err := syscall.Accept(fd)
				if err != nil {
					return
				}
				tasks.Go(func() {
					defer syscall.Close(c)
					p := make([]byte, 4096)
					for {
						n, err := syscall.Read(c, p)
						if n <= 0 || err != nil {
							return
						}
						_, _ = syscall.Write(c, p[:n])
					}
				})
			}
		})
	}
}

// several are so many addresses as free gives, all different.
func several(t *testing.T, n int) []string {
	t.Helper()
	var all []string
	for range n {
		socket, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		all = append(all, socket.Addr().String())
	}
	return all
}

// echoes sees that what was said comes back.
func echoes(t *testing.T, c net.Conn, said string) {
	t.Helper()
	got := make([]byte, len(said))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != said {
		t.Errorf("%d of %d bytes came back: %v", n, len(said), err)
	}
}

// What comes while a target is dialled is passed on when that has answered, behind
// what was read before: a PROXY header, a hello, or nothing.
func TestEarly(t *testing.T) {
	hello := make(chan string)
	a, b := net.Pipe()
	go func() {
		p := make([]byte, 4096)
		n, _ := b.Read(p)
		b.Close()
		hello <- string(p[:n])
	}()
	_ = tls.Client(a, &tls.Config{ServerName: "example.com"}).Handshake()
	said := <-hello
	for _, test := range []struct{ keys, before, passed string }{
		{"", "", ""},
		{", proxy: {accept: [127.0.0.0/8]}", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", ""},
		{", sni: [example.com]", said, said},
		{", sni: [example.com], proxy: {accept: [127.0.0.0/8]}", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + said, said},
	} {
		at, open := slowTarget(t)
		listen := free(t)
		serve(t, nil, fmt.Sprintf(`[{name: app, listen: %q, targets: [%q], health: {check: off}%s}]`, listen, at, test.keys))
		c := dial(t, listen)
		fmt.Fprint(c, test.before)
		time.Sleep(50 * time.Millisecond)
		fmt.Fprint(c, "early")
		time.Sleep(50 * time.Millisecond)
		open()
		echoes(t, c, test.passed+"early")
		c.Close()
	}
}

// What stands behind urgent data, which itself is not passed on, is not left unread.
func TestUrgent(t *testing.T) {
	listen, a := free(t), target(t, "127.0.0.1:0", func(c net.Conn) { _, _ = io.Copy(c, c) })
	serve(t, nil, fmt.Sprintf(`[{name: app, listen: %q, targets: [%q], health: {check: off}}]`, listen, a))
	for range 20 {
		c := dial(t, listen)
		fmt.Fprint(c, "abc")
		raw, _ := c.(*net.TCPConn).SyscallConn()
		_ = raw.Control(func(fd uintptr) {
			if err := syscall.Sendto(int(fd), []byte("x"), syscall.MSG_OOB, nil); err != nil {
				t.Error(err)
			}
		})
		fmt.Fprint(c, "def")
		echoes(t, c, "abcdef")
		c.Close()
	}
}

// Nor in the midst of what is spliced, which does not step over it.
func TestUrgentInBulk(t *testing.T) {
	const piece, pieces = 10_000, 10
	got := make(chan int, 1)
	listen, a := free(t), target(t, "127.0.0.1:0", func(c net.Conn) {
		all, _ := io.Copy(io.Discard, c)
		got <- int(all)
	})
	s := serve(t, nil, fmt.Sprintf(`[{name: app, listen: %q, targets: [%q], health: {check: off}}]`, listen, a))
	for i, pause := range []time.Duration{0, 50 * time.Millisecond} {
		c := dial(t, listen)
		bulk := []byte(strings.Repeat("b", 30*piece))
		_, _ = c.Write(bulk)
		time.Sleep(pause)
		raw, _ := c.(*net.TCPConn).SyscallConn()
		_ = raw.Control(func(fd uintptr) { _ = syscall.Sendto(int(fd), []byte("x"), syscall.MSG_OOB, nil) })
		for range pieces {
			_, _ = c.Write(bulk[:piece])
		}
		_ = c.(*net.TCPConn).CloseWrite()
		if n, rec := <-got, s.ended(i+1); n != len(bulk)+pieces*piece || rec.In != int64(n) || rec.End != outcome.EndDone {
			t.Errorf("the target got %d of %d bytes: %+v", n, len(bulk)+pieces*piece, rec)
		}
		c.Close()
	}
}

// A listening socket that fails at once, while the loops are told of it, is closed.
func TestBrokenSocket(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(32))
	for range 50 {
		failed := make(chan error, 32)
		s := New(Options{Log: slog.New(slog.DiscardHandler), Failed: func(err error) { failed <- err }})
		e, err := s.loops.listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = syscall.Shutdown(e.fd, syscall.SHUT_RDWR) // accept fails from now on
		e.serve(&listener{server: s, address: "127.0.0.1:0", socket: e})
		select {
		case <-e.closed:
		case <-time.After(patience):
			t.Fatal("it is not closed")
		}
		if err := <-failed; !strings.Contains(err.Error(), "accept4") {
			t.Error(err)
		}
		now, cancel := context.WithCancel(t.Context())
		cancel()
		s.Stop(now)
	}
}

// The time after a half-close begins with it, however long nothing was said before.
func TestHalfCloseTime(t *testing.T) {
	a := target(t, "127.0.0.1:0", func(c net.Conn) {
		_, _ = io.Copy(io.Discard, c)
		time.Sleep(200 * time.Millisecond)
		fmt.Fprint(c, "answer")
	})
	listen := free(t)
	s := serve(t, nil, fmt.Sprintf(`[{name: app, listen: %q, targets: [%q], health: {check: off}, limits: {idle_timeout: 3s, half_close_timeout: 1s}}]`, listen, a))
	c := dial(t, listen)
	defer c.Close()
	time.Sleep(2900 * time.Millisecond)
	_ = c.(*net.TCPConn).CloseWrite()
	if answer, err := io.ReadAll(c); err != nil || string(answer) != "answer" {
		t.Errorf("%q, %v, %+v", answer, err, s.ended(1))
	}
}

// An address is free when the change that gives it up has been made.
func TestGivenUp(t *testing.T) {
	a, listens := target(t, "127.0.0.1:0", named("a")), several(t, 2)
	one, two := listens[0], listens[1]
	first := fmt.Sprintf(`{name: a, listen: %q, targets: [%q], health: {check: off}}`, one, a)
	second := fmt.Sprintf(`{name: b, listen: %q, targets: [%q], health: {check: off}}`, two, a)
	s := serve(t, nil, "["+first+", "+second+"]")
	for range 50 {
		s.change("[" + first + "]")
		s.change("[" + first + ", " + second + "]")
	}
}

// Loops share connections out, those too that come one by one.
func TestShares(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	listen, a := free(t), target(t, "127.0.0.1:0", named("a"))
	s := serve(t, nil, fmt.Sprintf(`[{name: app, listen: %q, targets: [%q], health: {check: off}}]`, listen, a))
	const connections = 200
	for range connections {
		c := dial(t, listen)
		defer c.Close()
		fmt.Fprintln(c, "x")
		echoes(t, c, "a x\n")
	}
	for i, l := range s.loops.all {
		if load, even := int(l.load.Load()), connections/len(s.loops.all); load > even+2*unevenness {
			t.Errorf("loop %d of %d has %d of %d connections", i, len(s.loops.all), load, connections)
		}
	}
}

// stuckHandler is a log that takes nothing until it is let go.
type stuckHandler struct {
	slog.Handler
	free chan struct{}
}

func (h stuckHandler) Enabled(context.Context, slog.Level) bool  { return true }
func (h stuckHandler) Handle(context.Context, slog.Record) error { <-h.free; return nil }
func (h stuckHandler) WithAttrs([]slog.Attr) slog.Handler        { return h }

// A node's own log that nobody reads holds up no connection either.
func TestStuckLines(t *testing.T) {
	r := &running{t: t}
	free1 := make(chan struct{})
	r.Server = New(Options{Sink: r, Log: slog.New(stuckHandler{slog.DiscardHandler, free1}), Failed: func(err error) { t.Error(err) }})
	a, listens := target(t, "127.0.0.1:0", named("a")), several(t, 2)
	one, two := listens[0], listens[1]
	r.change(fmt.Sprintf(`[{name: a, listen: %q, targets: [%q], health: {check: off}}, {name: b, listen: %q, targets: [%q, %q, %q], health: {check: off}}]`, one, a, two, free(t), free(t), a))
	held := dial(t, one)
	defer held.Close()
	for range 8 { // that b's dead targets are left out is a line of the log
		if _, err := ask(t, two); err != nil {
			t.Error(err)
		}
	}
	fmt.Fprintln(held, "x")
	echoes(t, held, "a x\n")
	r.stop(0)
	close(free1)
	<-r.lines.done
}

// A node stops at any moment, whatever step its connections are in and whatever is
// being changed, within its time, and nothing is left taken.
func TestStopsAnytime(t *testing.T) {
	a := target(t, "127.0.0.1:0", func(c net.Conn) {
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		_, _ = io.Copy(c, c)
	})
	silent, _ := slowTarget(t)
	for round := range 12 {
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 0))
		listens := several(t, 6)
		file := func(more string) string {
			return fmt.Sprintf(`[{name: a, listen: %q, targets: [%q], health: {check: off}}, {name: b, listen: %q, targets: [%q], health: {check: off}, limits: {dial_timeout: 3s}},
				{name: s, listen: %q, sni: [example.com], targets: [%q], health: {check: off}, limits: {hello_timeout: 1s}}, {name: w, listen: %q, targets: ["nowhere.invalid:1"], health: {check: off}},
				{name: p, listen: %q, targets: [%q], health: {check: off}, proxy: {accept: [127.0.0.0/8]}}%s]`,
				listens[0], a, listens[1], silent, listens[2], a, listens[3], listens[4], a, more)
		}
		r := &running{t: t}
		r.Server = New(Options{Sink: r, Log: slog.New(slog.DiscardHandler), Failed: func(err error) { t.Error(err) }})
		r.change(file(""))
		var clients sync.WaitGroup
		var over atomic.Bool
		for i := range 10 {
			clients.Go(func() {
				for !over.Load() {
					c, err := net.DialTimeout("tcp", listens[i%5], 300*time.Millisecond)
					if err != nil {
						time.Sleep(time.Millisecond)
						continue
					}
					_ = c.SetDeadline(time.Now().Add(time.Duration(50+i*20) * time.Millisecond))
					switch i {
					case 0, 5:
						fmt.Fprint(c, strings.Repeat("x", 100_000))
						_, _ = io.CopyN(io.Discard, c, 100_000)
					case 2:
						_ = tls.Client(c, &tls.Config{ServerName: "example.com"}).Handshake()
					case 7:
						fmt.Fprint(c, "\x16\x03")
					}
					_, _ = io.CopyN(io.Discard, c, 1)
					if i%2 == 0 {
						_ = c.(*net.TCPConn).SetLinger(0)
					}
					c.Close()
				}
			})
		}
		for range round % 4 {
			time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
			more := ""
			if random.IntN(2) == 0 {
				more = fmt.Sprintf(`, {name: x, listen: %q, targets: [%q], health: {check: off}}`, listens[5], a)
			}
			r.change(file(more))
		}
		time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
		began, limit := time.Now(), time.Duration(random.IntN(3))*60*time.Millisecond
		r.stop(limit)
		if took := time.Since(began); took > limit+time.Second {
			t.Errorf("seed %d: it stopped after %v, its time was %v", seed, took, limit)
		}
		over.Store(true)
		clients.Wait()
		for name, tally := range r.tallies {
			if n := tally.open.Load(); n != 0 {
				t.Errorf("seed %d: %d places of %s are taken", seed, n, name)
			}
		}
		for name, s := range r.services {
			if n := s.pool.dialing.Load(); n != 0 {
				t.Errorf("seed %d: %d dial for %s", seed, n, name)
			}
			for _, at := range s.pool.all {
				if n := at.open.Load(); n != 0 {
					t.Errorf("seed %d: %d connections to %s", seed, n, at.addr)
				}
			}
		}
		for _, l := range r.loops.all {
			if len(l.alarms) != 0 || l.load.Load() != 0 || len(l.ears) != 0 {
				t.Errorf("seed %d: %d alarms, %d slots, %d ears", seed, len(l.alarms), l.load.Load(), len(l.ears))
			}
		}
	}
}

// A server that is stopped takes no more changes.
func TestStopped(t *testing.T) {
	r := serve(t, nil, fmt.Sprintf(`[{name: app, listen: %q, targets: [%q]}]`, free(t), free(t)))
	r.stop(0)
	c, err := config.Parse("causeway.yaml", fmt.Appendf(nil, `forwards: [{name: app, listen: %q, targets: [%q]}]`, free(t), free(t)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Prepare(c.ForwardsOf(c.Nodes[0])); err == nil {
		t.Error("it prepares a change")
	}
}

// While bulk goes through, connections are taken, and have their turn.
func TestBesideBulk(t *testing.T) {
	bulk := target(t, "127.0.0.1:0", func(c net.Conn) {
		chunk := make([]byte, 1<<20)
		for {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	})
	a, listens := target(t, "127.0.0.1:0", named("a")), several(t, 2)
	one, two := listens[0], listens[1]
	s := serve(t, nil, fmt.Sprintf(`[{name: a, listen: %q, targets: [%q], health: {check: off}}, {name: bulk, listen: %q, targets: [%q], health: {check: off}}]`, one, a, two, bulk))
	var readers sync.WaitGroup
	var all []net.Conn
	for range 8 {
		c := dial(t, two)
		all = append(all, c)
		readers.Go(func() { _, _ = io.Copy(io.Discard, c) })
	}
	for range 50 {
		if answer, err := ask(t, one); err != nil || answer != "a hello" {
			t.Errorf("%q, %v", answer, err)
		}
	}
	for _, c := range all {
		c.Close()
	}
	readers.Wait()
	for i := range 58 {
		if rec := s.ended(i + 1); rec.Forward == "bulk" && rec.Out < 1<<20 || rec.Forward == "a" && rec.End != outcome.EndDone {
			t.Errorf("%+v", rec)
		}
	}
}
