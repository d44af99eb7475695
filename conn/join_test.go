package conn

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// tcpPair is a connection over loopback, both ends of it.
func tcpPair(t testing.TB) (server, client *net.TCPConn) {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err = net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	server, err = listener.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return server, client
}

// half is a connection that can end one way.
type half interface {
	net.Conn
	CloseWrite() error
}

// counted is around a connection, and has nothing of it but what a net.Conn has.
type counted struct{ net.Conn }

func (c counted) Around() net.Conn { return c.Conn }

// kinds are the connections that are joined: ours, and its far end.
var kinds = map[string]func(t testing.TB) (ours net.Conn, far half){
	"tcp":         func(t testing.TB) (net.Conn, half) { ours, far := tcpPair(t); return ours, far },
	"counted tcp": func(t testing.TB) (net.Conn, half) { ours, far := tcpPair(t); return counted{counted{ours}}, far },
	"tls":         tlsPair,
	"unix": func(t testing.TB) (net.Conn, half) {
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		var ends [2]*net.UnixConn
		for i, fd := range fds {
			file := os.NewFile(uintptr(fd), "")
			c, err := net.FileConn(file)
			file.Close()
			if err != nil {
				t.Fatal(err)
			}
			ends[i] = c.(*net.UnixConn)
			t.Cleanup(func() { c.Close() })
		}
		return ends[0], ends[1]
	},
	"peeked": func(t testing.TB) (net.Conn, half) {
		ours, far := tcpPair(t)
		return keep(ours), far
	},
	"pipes": func(t testing.TB) (net.Conn, half) { return streamPair(t) },
}

// streamPair is a pair of connections that are no sockets and can end one way,
// as the streams of a link are.
func streamPair(t testing.TB) (*stream, *stream) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	a, b := &stream{r: r1, w: w2}, &stream{r: r2, w: w1}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

type stream struct {
	net.Conn
	r *io.PipeReader
	w *io.PipeWriter
}

var errReset = errors.New("stream reset")

func (s *stream) Read(p []byte) (int, error)      { return s.r.Read(p) }
func (s *stream) Write(p []byte) (int, error)     { return s.w.Write(p) }
func (s *stream) CloseWrite() error               { return s.w.Close() }
func (s *stream) Reset() error                    { s.r.CloseWithError(errReset); return s.w.CloseWithError(errReset) }
func (s *stream) Close() error                    { s.r.Close(); return s.w.Close() }
func (s *stream) SetReadDeadline(time.Time) error { return nil }

var testServer = httptest.NewUnstartedServer(nil)

func tlsPair(t testing.TB) (net.Conn, half) {
	t.Helper()
	a, b := tcpPair(t)
	cert := testCertificate(t)
	pool := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(leaf)
	server := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{cert}})
	client := tls.Client(b, &tls.Config{RootCAs: pool, ServerName: "example.com"})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return server, client
}

// testCertificate is httptest's, for example.com.
func testCertificate(t testing.TB) tls.Certificate {
	if testServer.TLS == nil {
		testServer.StartTLS()
		testServer.Close()
	}
	return testServer.TLS.Certificates[0]
}

// join joins in the background.
func join(t testing.TB, a, b net.Conn, how Joint) <-chan Joined {
	done := make(chan Joined, 1)
	go func() { done <- Join(t.Context(), a, b, how) }()
	return done
}

// joining are the ways to join two ends of kinds: Join all of them, a Pair sockets.
type joining func(t testing.TB, a, b net.Conn, how Joint) <-chan Joined

// TestMoved sees that bytes are counted while both ends are open, each once.
func TestMoved(t *testing.T) {
	for kind := range kinds {
		testMoved(t, kind, join)
	}
}

func testMoved(t *testing.T, kind string, join joining) {
	pair := kinds[kind]
	t.Run(kind, func(t *testing.T) {
		var sent, received atomic.Int64
		a, client := pair(t)
		b, target := pair(t)
		done := join(t, a, b, Joint{Before: []byte("who"), Moved: func(there, back int64) { sent.Add(there); received.Add(back) }})
		counted := func(whom string, is *atomic.Int64, want int64) {
			t.Helper()
			for end := time.Now().Add(10 * time.Second); is.Load() != want; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%d bytes are counted from the %s, %d have moved", is.Load(), whom, want)
				}
			}
		}
		if _, err := io.ReadFull(target, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		total := int64(0)
		for _, size := range []int{5, 100_000, 7} {
			total += int64(size)
			var moving sync.WaitGroup
			for _, way := range []struct{ from, to half }{{client, target}, {target, client}} {
				moving.Go(func() { way.from.Write(make([]byte, size)) })
				moving.Go(func() { io.ReadFull(way.to, make([]byte, size)) })
			}
			moving.Wait()
			counted("client", &sent, total)
			counted("target", &received, total)
		}
		client.Close()
		target.Close()
		if joined := <-done; joined.Sent != total || joined.Received != total {
			t.Errorf("%+v, %d were counted", joined, total)
		}
	})
}

// TestHalfClose is the conformance of every two kinds: what was sent arrives
// whole, each end of it is passed on by itself, and what is sent the other way
// after that arrives as well.
func TestHalfClose(t *testing.T) {
	for a := range kinds {
		for b := range kinds {
			testHalfClose(t, a, b, join)
		}
	}
}

func testHalfClose(t *testing.T, nameA, nameB string, join joining) {
	request, answer := bytes.Repeat([]byte("request "), 1<<15), bytes.Repeat([]byte("answer"), 1<<16)
	t.Run(nameA+" to "+nameB, func(t *testing.T) {
		a, client := kinds[nameA](t)
		b, target := kinds[nameB](t)
		done := join(t, a, b, Joint{Before: []byte("PROXY\r\n"), Idle: time.Minute})
		go func() {
			client.Write(request)
			client.CloseWrite()
		}()
		got, err := io.ReadAll(target)
		if want := "PROXY\r\n" + string(request); err != nil || string(got) != want {
			t.Fatalf("the target got %d bytes of %d: %v", len(got), len(want), err)
		}
		go func() {
			target.Write(answer)
			target.CloseWrite()
		}()
		got, err = io.ReadAll(client)
		if err != nil || !bytes.Equal(got, answer) {
			t.Fatalf("the client got %d bytes of %d: %v", len(got), len(answer), err)
		}
		joined := <-done
		if joined.Why != WhyDone || joined.Err != nil || joined.Sent != int64(len(request)) || joined.Received != int64(len(answer)) {
			t.Errorf("%+v", joined)
		}
	})
}

// TestReset sees that who breaks off does so for the other side too, whichever
// side it is, also when it had ended what it sends before.
func TestReset(t *testing.T) {
	for name := range kinds {
		testReset(t, name, join)
	}
}

func testReset(t *testing.T, name string, join joining) {
	newB := kinds[name]
	for _, halfClosed := range []bool{false, true} {
		if halfClosed && !asksSockets {
			continue // nobody notices before the next write
		}
		for _, fromB := range []bool{false, true} {
			a, client := tcpPair(t)
			b, target := newB(t)
			var done <-chan Joined
			want := WhyResetA
			if fromB {
				done, want = join(t, b, a, Joint{}), WhyResetB
			} else {
				done = join(t, a, b, Joint{})
			}
			if halfClosed {
				client.CloseWrite()
				if _, err := target.Read(make([]byte, 1)); err != io.EOF {
					t.Fatal(err)
				}
			}
			abort(client)
			if joined := <-done; joined.Why != want || joined.Err == nil {
				t.Errorf("%s, half closed %t: %+v", name, halfClosed, joined)
			}
			if name == "unix" || halfClosed {
				continue // it knows no reset; and the end was read
			}
			if _, err := target.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("%s: the other side sees %v, not a reset", name, err)
			}
		}
	}
}

// deafStream is a stream whose far end has ended: what that said is to be read, and
// nothing can be written.
type deafStream struct {
	net.Conn
	said io.Reader
}

func (s deafStream) Read(p []byte) (int, error)  { return s.said.Read(p) }
func (s deafStream) Write(p []byte) (int, error) { return 0, io.ErrClosedPipe }
func (s deafStream) Close() error                { return nil }

// TestTail sees that a client which goes on speaking has all of what was said to it
// before the far end ended, and its own end ends it; and that one which does not end,
// silent or not, is not waited for for ever.
func TestTail(t *testing.T) {
	said := bytes.Repeat([]byte("answer"), 1<<17)
	for _, then := range []string{"ends", "is silent", "goes on"} {
		limit := time.Second
		if then == "ends" {
			limit = time.Minute
		}
		ours, client := tcpPair(t)
		_ = client.SetReadBuffer(64 << 10)
		done := join(t, counted{ours}, deafStream{said: bytes.NewReader(said)}, Joint{Idle: time.Minute, HalfClosed: limit})
		for range 3 {
			time.Sleep(50 * time.Millisecond)
			if _, err := client.Write([]byte("more")); err != nil {
				t.Fatal(err)
			}
		}
		got, err := io.ReadAll(client)
		if err != nil || !bytes.Equal(got, said) {
			t.Errorf("%s: the client got %d bytes of %d, %v", then, len(got), len(said), err)
		}
		want := WhyHalfClosed
		switch then {
		case "ends":
			want = WhyDone
			client.Close()
		case "goes on":
			go func() {
				for err == nil {
					_, err = client.Write(said)
				}
			}()
		}
		if joined := <-done; joined.Why != want || joined.Sent != 0 || joined.Received != int64(len(said)) {
			t.Errorf("%s: %+v, want %s", then, joined, want)
		}
	}
}

// TestCutTLS sees that a TLS connection that ends within a record does not look
// whole on the other side.
func TestCutTLS(t *testing.T) {
	a, client := tlsPair(t)
	b, target := tcpPair(t)
	done := join(t, a, b, Joint{})
	below := client.(*tls.Conn).NetConn()
	below.Write([]byte{23, 3, 3, 0, 100, 1, 2, 3})
	below.Close()
	if joined := <-done; joined.Why != WhyFailedA || !errors.Is(joined.Err, io.ErrUnexpectedEOF) {
		t.Errorf("%+v", joined)
	}
	if _, err := target.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the target sees %v", err)
	}
}

// TestJoinTimes has the clock of a bubble, where only pipes are.
func TestJoinTimes(t *testing.T) {
	how := Joint{Idle: 10 * time.Second, HalfClosed: 2 * time.Second}
	for _, test := range []struct {
		name string
		do   func(client, target *stream, stop func())
		want Why
		at   time.Duration
	}{
		{"idle", func(client, target *stream, stop func()) {}, WhyIdle, 10 * time.Second},
		{"each byte counts", func(client, target *stream, stop func()) {
			time.Sleep(9 * time.Second)
			target.Write([]byte("x"))
			time.Sleep(9 * time.Second)
			client.Write([]byte("x"))
		}, WhyIdle, 28 * time.Second},
		{"half closed", func(client, target *stream, stop func()) {
			time.Sleep(time.Second)
			client.CloseWrite()
		}, WhyHalfClosed, 3 * time.Second},
		{"half closed and busy", func(client, target *stream, stop func()) {
			client.CloseWrite()
			for range 10 {
				time.Sleep(time.Second)
				target.Write([]byte("x"))
			}
		}, WhyHalfClosed, 12 * time.Second},
		{"stopped", func(client, target *stream, stop func()) {
			time.Sleep(time.Second)
			stop()
		}, WhyStopped, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, client := streamPair(t)
				b, target := streamPair(t)
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				go io.Copy(io.Discard, client)
				go io.Copy(io.Discard, target)
				began := time.Now()
				go test.do(client, target, stop)
				joined := Join(ctx, a, b, how)
				if joined.Why != test.want || time.Since(began) != test.at {
					t.Errorf("%+v after %v, want %s after %v", joined, time.Since(began), test.want, test.at)
				}
			})
		})
	}
}

// TestPeekedStaysSpliceable sees that io.Copy reaches net.TCPConn.ReadFrom, by
// which it comes to splice(2), with a Conn on either side and after what was
// peeked at.
func TestPeekedStaysSpliceable(t *testing.T) {
	ours, client := tcpPair(t)
	wire := one(say(sni("www.example.cn")))
	client.Write(wire)
	client.Write([]byte("rest"))
	client.CloseWrite()
	_, k, err := PeekHello(ours, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	to, far := tcpPair(t)
	seen := &countingTCP{TCPConn: to}
	if n, err := io.Copy(seen, k); err != nil || n != int64(len(wire)+4) {
		t.Fatalf("copied %d: %v", n, err)
	}
	to.CloseWrite()
	if got, _ := io.ReadAll(far); string(got) != string(wire)+"rest" {
		t.Errorf("got %q", got)
	}
	if seen.from == "" || strings.Contains(seen.from, "conn.") {
		t.Errorf("ReadFrom was called with %q, want net's own", seen.from)
	}
}

// countingTCP notes what ReadFrom is called with.
type countingTCP struct {
	*net.TCPConn
	from string
}

func (c *countingTCP) ReadFrom(r io.Reader) (int64, error) {
	c.from = fmt.Sprintf("%T", r)
	return c.TCPConn.ReadFrom(r)
}
