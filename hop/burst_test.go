package hop

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// counting counts the writes to the connections of a listener.
type counting struct {
	net.Listener
	writes atomic.Int64
}

type countingConn struct {
	net.Conn
	writes *atomic.Int64
}

func (l *counting) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countingConn{conn, &l.writes}, nil
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// burstServer answers over TLS with bodies of the size that the path says.
func burstServer(t *testing.T) (server *httptest.Server, writes *atomic.Int64) {
	t.Helper()
	server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var size int
		fmt.Sscanf(r.URL.Path, "/%d", &size)
		body := io.NopCloser(strings.NewReader(strings.Repeat("x", size)))
		if Answer(w, r, &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: -1, Body: body}, Options{}) != nil {
			panic(http.ErrAbortHandler)
		}
	}))
	counted := &counting{Listener: server.Listener}
	server.Listener = Bursts(counted)
	server.Config.ConnContext = BurstContext
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, &counted.writes
}

func burstClient(t *testing.T, server *httptest.Server, major int) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(major == 1)
	protocols.SetHTTP2(major == 2)
	transport := &http.Transport{TLSClientConfig: server.Client().Transport.(*http.Transport).TLSClientConfig.Clone(), Protocols: protocols, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// An answer that is there at once leaves in few writes.
func TestBurstsLeaveTogether(t *testing.T) {
	for _, major := range []int{1, 2} {
		server, writes := burstServer(t)
		client := burstClient(t, server, major)
		for _, size := range []int{0, 1, 40 << 10, 40 << 10, 300 << 10} {
			before := writes.Load()
			res, err := client.Get(fmt.Sprint(server.URL, "/", size))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || len(body) != size || res.ProtoMajor != major {
				t.Fatalf("HTTP/%d: %d of %d bytes, %v", res.ProtoMajor, len(body), size, err)
			}
			// Two are enough over HTTP/2, whose end of the stream is a frame by
			// itself; five it would be without.
			if n := writes.Load() - before; size == 40<<10 && n > 4 {
				t.Errorf("HTTP/%d: %d writes for 40 KiB", major, n)
			}
		}
	}
}

// A stream that waits for the client's window keeps no other waiting.
func TestBurstThatWaitsKeepsNobody(t *testing.T) {
	server, _ := burstServer(t)
	client := burstClient(t, server, 2)
	long, err := client.Get(server.URL + "/50000000") // more than any window
	if err != nil {
		t.Fatal(err)
	}
	defer long.Body.Close()
	for range 20 {
		res, err := client.Get(server.URL + "/40000")
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); err != nil || len(body) != 40000 {
			t.Fatalf("%d bytes, %v", len(body), err)
		}
		res.Body.Close()
	}
	if n, err := io.Copy(io.Discard, long.Body); err != nil || n != 50000000 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func pipe() (*burstConn, net.Conn) {
	near, far := net.Pipe()
	return &burstConn{Conn: near}, far
}

// Outside of a burst nothing is kept, in one nothing is sent before its time.
func TestBurstIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := pipe()
		defer c.Close()
		got := make(chan string, 10)
		go func() {
			defer close(got)
			p := make([]byte, 100)
			for {
				n, err := far.Read(p)
				if err != nil {
					return
				}
				got <- string(p[:n])
			}
		}()
		said := func() string {
			synctest.Wait()
			select {
			case s := <-got:
				return s
			default:
				return ""
			}
		}
		io.WriteString(c, "plain")
		if s := said(); s != "plain" {
			t.Errorf("outside of a burst: %q", s)
		}
		c.begin()
		io.WriteString(c, "one ")
		c.begin()
		io.WriteString(c, "two")
		if err := c.end(); err != nil || said() != "" {
			t.Error("sent before the last burst ended", err)
		}
		if err := c.end(); err != nil {
			t.Error(err)
		}
		if s := said(); s != "one two" {
			t.Errorf("at the end: %q", s)
		}
		c.begin()
		io.WriteString(c, "slow")
		if s := said(); s != "" {
			t.Errorf("in a burst: %q", s)
		}
		time.Sleep(burstTime)
		if s := said(); s != "slow" {
			t.Errorf("in a long burst: %q", s)
		}
		io.WriteString(c, "and on")
		if s := said(); s != "and on" {
			t.Errorf("later in a long burst: %q", s)
		}
		if err := c.end(); err != nil {
			t.Error(err)
		}
		c.Close()
		synctest.Wait()
	})
}

// A client that takes nothing ends the burst when the server's time is over,
// whether the server sets its deadline once or for each write.
func TestBurstHasTheServersDeadline(t *testing.T) {
	for _, lifted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, far := pipe()
			defer far.Close()
			c.begin()
			_ = c.SetWriteDeadline(time.Now().Add(time.Minute))
			io.WriteString(c, "nobody reads")
			if lifted {
				_ = c.SetWriteDeadline(time.Time{})
			}
			begun := time.Now()
			time.AfterFunc(time.Second, func() { _ = c.SetWriteDeadline(time.Time{}) }) // another stream's
			err := c.end()
			if took := time.Since(begun); !errors.Is(err, os.ErrDeadlineExceeded) || took < 59*time.Second || took > time.Minute {
				t.Errorf("lifted %v: %v after %v", lifted, err, took)
			}
			if _, err := c.Write(nil); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the next write: %v", err)
			}
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("the connection goes on")
			}
		})
	}
}

// crypto/tls shortens the deadline when it closes.
func TestBurstEndsWithTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := pipe()
		defer far.Close()
		_ = c.SetWriteDeadline(time.Now().Add(time.Hour))
		c.begin()
		io.WriteString(c, "nobody reads")
		begun := time.Now()
		time.AfterFunc(time.Second, func() { _ = c.SetWriteDeadline(time.Now().Add(5 * time.Second)) })
		if err := c.end(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) > 6*time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}

		d, other := pipe()
		defer other.Close()
		d.begin()
		io.WriteString(d, "nobody reads")
		time.AfterFunc(time.Second, func() { d.Close() })
		if err := d.end(); err == nil {
			t.Error("a closed connection took everything")
		}
	})
}

// However bursts and writes of many streams lie to each other, all bytes arrive
// in the order of their writes.
func TestBurstsKeepTheOrder(t *testing.T) {
	c, far := pipe()
	received := make(chan []byte)
	go func() {
		all, _ := io.ReadAll(far)
		received <- all
	}()
	const streams, writes = 8, 200
	var writing sync.WaitGroup
	for stream := range streams {
		writing.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(stream)))
			for i := 0; i < writes; {
				together := random.IntN(3) > 0
				if together {
					c.begin()
				}
				for range 1 + random.IntN(5) {
					line := fmt.Sprintf("%d %d %s\n", stream, i, strings.Repeat("x", random.IntN(4)*random.IntN(20000)))
					if _, err := io.WriteString(c, line); err != nil {
						t.Error(err)
					}
					i++
				}
				if together {
					if err := c.end(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	writing.Wait()
	c.Close()
	next := [streams]int{}
	for line := range bytes.Lines(<-received) {
		var stream, i int
		if _, err := fmt.Sscanf(string(line[:min(len(line), 20)]), "%d %d", &stream, &i); err != nil || i != next[stream] {
			t.Fatalf("stream %d: write %d in place of %d (%v)", stream, i, next[stream], err)
		}
		next[stream]++
	}
	for stream, n := range next {
		if n < writes {
			t.Errorf("stream %d: %d writes arrived", stream, n)
		}
	}
}

// A connection without bursts is served as ever.
func TestBurstContextLeavesOthers(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	for _, conn := range []net.Conn{near, tls.Server(near, &tls.Config{})} {
		if c := burstOf(BurstContext(t.Context(), conn)); c != nil {
			t.Errorf("%T has bursts", conn)
		}
	}
}
