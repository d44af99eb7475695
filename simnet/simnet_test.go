package simnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

// pair dials a listener and accepts.
func pair(t testing.TB, n *Network) (client, server net.Conn) {
	t.Helper()
	l, err := n.Listen("relay:7443")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = n.Dial(t.Context(), "relay:7443")
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func write(t testing.TB, c net.Conn, p []byte) {
	t.Helper()
	if n, err := c.Write(p); n != len(p) || err != nil {
		t.Errorf("Write = %d, %v, want %d", n, err, len(p))
	}
}

func readFull(t testing.TB, c net.Conn, size int) []byte {
	t.Helper()
	p := make([]byte, size)
	if n, err := io.ReadFull(c, p); err != nil {
		t.Errorf("read %d of %d bytes: %v", n, size, err)
	}
	return p
}

// wantAfter checks the fake clock exactly.
func wantAfter(t testing.TB, start time.Time, want time.Duration, what string) {
	t.Helper()
	if got := time.Since(start); got != want {
		t.Errorf("%s after %v, want %v", what, got, want)
	}
}

func TestConn(t *testing.T) {
	for name, line := range map[string]Line{
		"good": {},
		"slow": {RTT: 2 * ms, Jitter: ms},
		"bad":  {RTT: 2 * ms, Jitter: ms, Loss: 0.002, Rate: 50e6, Seed: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				c1, c2 = pair(t, New(line))
				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}

func TestHandshakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(Line{RTT: 200 * ms})
		start := time.Now()
		l, err := n.Listen("relay:7443")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Listen("relay:7443"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second Listen: %v", err)
		}
		client, err := n.Dial(t.Context(), "relay:7443")
		if err != nil {
			t.Fatal(err)
		}
		wantAfter(t, start, 200*ms, "dialled")
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		wantAfter(t, start, 300*ms, "accepted")
		if got := fmt.Sprintf("%v %v %v %v", client.LocalAddr(), client.RemoteAddr(), server.RemoteAddr(), l.Addr()); got != "192.0.2.1:49152 relay:7443 192.0.2.1:49152 relay:7443" {
			t.Errorf("addresses %s", got)
		}
		l.Close()
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close: %v", err)
		}
		start = time.Now()
		if _, err := n.Dial(context.Background(), "relay:7443"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Dial to nobody: %v", err)
		}
		wantAfter(t, start, 200*ms, "refused")
	})
}

func TestPingPong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(Line{RTT: 200 * ms})
		client, server := pair(t, n)
		go io.Copy(server, server)
		defer server.Close()
		defer client.Close()
		start := time.Now()
		for range 3 {
			write(t, client, []byte("ping"))
			readFull(t, client, 4)
		}
		wantAfter(t, start, 600*ms, "three echoes")
		there, back := n.Bytes()
		if there != 12 || back != 12 {
			t.Errorf("Bytes = %d, %d", there, back)
		}
	})
}

// A cold connection sends 10, 20, 40… segments a round trip, a warm one all.
func TestColdAndWarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, New(Line{RTT: 100 * ms}))
		page := make([]byte, 100*segmentSize)
		start := time.Now()
		write(t, client, page)
		readFull(t, server, 10*segmentSize)
		wantAfter(t, start, 50*ms, "10 segments")
		readFull(t, server, 20*segmentSize)
		wantAfter(t, start, 150*ms, "30 segments")
		readFull(t, server, 40*segmentSize)
		wantAfter(t, start, 250*ms, "70 segments")
		readFull(t, server, 30*segmentSize)
		wantAfter(t, start, 350*ms, "100 segments")
		time.Sleep(time.Second)
		start = time.Now()
		write(t, client, page)
		readFull(t, server, len(page))
		wantAfter(t, start, 50*ms, "100 segments, warm")

		// Small messages do not warm a connection.
		client, server = pair(t, client.(*Conn).net)
		for range 200 {
			write(t, client, page[:segmentSize])
			readFull(t, server, segmentSize)
			time.Sleep(100 * ms)
		}
		start = time.Now()
		write(t, client, page)
		readFull(t, server, len(page))
		wantAfter(t, start, 350*ms, "100 segments after many small ones")
	})
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(Line{RTT: 100 * ms, Rate: 10 * segmentSize}) // ten segments a second
		client, server := pair(t, n)
		start := time.Now()
		write(t, client, make([]byte, 10*segmentSize))
		readFull(t, server, segmentSize)
		wantAfter(t, start, 150*ms, "first segment")
		readFull(t, server, 9*segmentSize)
		wantAfter(t, start, 1050*ms, "ten segments")

		// Two connections share it evenly, the other direction is free.
		client2, server2 := pair(t, n)
		start = time.Now()
		write(t, client, make([]byte, 40*segmentSize))
		write(t, client2, make([]byte, 40*segmentSize))
		write(t, server, make([]byte, segmentSize))
		readFull(t, client, segmentSize)
		wantAfter(t, start, 150*ms, "other direction")
		readFull(t, server, 35*segmentSize)
		first := time.Since(start)
		readFull(t, server2, 35*segmentSize)
		if gap := time.Since(start) - first; gap > 2*time.Second {
			t.Errorf("the second connection came %v later", gap)
		}
		readFull(t, server, 5*segmentSize)
		readFull(t, server2, 5*segmentSize)
		wantAfter(t, start, 8050*ms, "80 segments")
	})
}

// seedWhere finds a seed under which the first connection over a line of loss
// one half comes up at once and its first segments are lost (true) or not.
func seedWhere(lost ...bool) uint64 {
	for seed := uint64(0); ; seed++ {
		n := New(Line{Seed: seed, Loss: 0.5})
		draws := n.draws(0)
		if n.lost(draws[there]) || n.lost(draws[back]) {
			continue
		}
		ok := true
		for _, want := range lost {
			ok = ok && n.lost(draws[there]) == want
		}
		if ok {
			return seed
		}
	}
}

func TestLossOfTheTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(Line{RTT: 100 * ms, Loss: 0.5, Seed: seedWhere(true, true, false)})
		client, server := pair(t, n)
		start := time.Now()
		write(t, client, []byte("alone"))
		readFull(t, server, 5)
		// Lost twice: 300 ms, then 600 ms, then half a round trip.
		wantAfter(t, start, 950*ms, "segment lost twice")
		if there, _ := n.Bytes(); there != 5 {
			t.Errorf("Bytes = %d", there)
		}
	})
}

func TestLossInTheMidst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(Line{RTT: 100 * ms, Loss: 0.5, Seed: seedWhere(false, true, false, false)})
		client, server := pair(t, n)
		start := time.Now()
		write(t, client, make([]byte, 3*segmentSize))
		readFull(t, server, segmentSize)
		wantAfter(t, start, 50*ms, "segment before the loss")
		// The third is acknowledged at 100 ms, the second goes again.
		readFull(t, server, segmentSize)
		wantAfter(t, start, 150*ms, "lost segment")
		readFull(t, server, segmentSize)
		wantAfter(t, start, 150*ms, "segment after the loss")
	})
}

func TestLossOfTheHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seed uint64
		for ; ; seed++ {
			n := New(Line{Seed: seed, Loss: 0.5})
			draws := n.draws(0)
			if n.lost(draws[there]) && !n.lost(draws[there]) && !n.lost(draws[back]) {
				break
			}
		}
		start := time.Now()
		n := New(Line{RTT: 100 * ms, Loss: 0.5, Seed: seed})
		client, server := pair(t, n)
		wantAfter(t, start, 1150*ms, "accepted") // a second, then one and a half round trips
		client.Close()
		server.Close()
	})
}

// Any line delivers every byte once and in order.
func TestBytesSurvive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(20) {
			client, server := pair(t, New(Line{RTT: 150 * ms, Jitter: 30 * ms, Loss: 0.05, Rate: 4 << 20, Seed: seed}))
			random := rand.New(rand.NewPCG(seed, 0))
			want := make([]byte, 300_000)
			for i := range want {
				want[i] = byte(random.Uint32())
			}
			go func() {
				for rest := want; len(rest) > 0; {
					some := min(len(rest), 1+random.IntN(5000))
					write(t, client, rest[:some])
					rest = rest[some:]
				}
				client.(*Conn).CloseWrite()
			}()
			got, err := io.ReadAll(server)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("seed %d: %d bytes, %v", seed, len(got), err)
			}
			server.Close()
			client.Close()
		}
	})
}

func TestSameSeedSameTimes(t *testing.T) {
	times := func(seed uint64) (at []time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			client, server := pair(t, New(Line{RTT: 150 * ms, Jitter: 30 * ms, Loss: 0.1, Seed: seed}))
			start := time.Now()
			write(t, client, make([]byte, 50*segmentSize))
			for range 50 {
				readFull(t, server, segmentSize)
				at = append(at, time.Since(start))
			}
		})
		return at
	}
	one, again, two := fmt.Sprint(times(1)), fmt.Sprint(times(1)), fmt.Sprint(times(2))
	if one != again {
		t.Errorf("same seed, other times:\n%s\n%s", one, again)
	}
	if one == two {
		t.Error("other seed, same times")
	}
}

func TestCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(Line{RTT: 100 * ms})
		client, server := pair(t, n)
		n.Cut(true)
		write(t, client, []byte("one"))
		client.Close()
		server.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := server.Read(make([]byte, 9)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read while cut: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if _, err := n.Dial(ctx, "relay:7443"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Dial while cut: %v", err)
		}
		wantAfter(t, start, time.Minute, "dial given up")
		n.Cut(false)
		start = time.Now()
		server.SetReadDeadline(time.Time{})
		if got, err := io.ReadAll(server); string(got) != "one" || err != nil {
			t.Errorf("after mending: %q, %v", got, err)
		}
		wantAfter(t, start, 0, "read")
	})
}

func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, New(Line{RTT: 100 * ms}))
		client.SetWriteDeadline(time.Now().Add(time.Minute))
		wrote, err := client.Write(make([]byte, 20<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write: %v", err)
		}
		if most := sendBuffer + receiveBuffer; wrote > most || wrote < most-segmentSize {
			t.Errorf("wrote %d bytes with nobody reading, want %d", wrote, most)
		}
		client.SetWriteDeadline(time.Time{})
		go func() {
			write(t, client, make([]byte, 20<<20))
			client.Close()
		}()
		got, err := io.Copy(io.Discard, server)
		if want := int64(wrote + 20<<20); got != want || err != nil {
			t.Errorf("read %d bytes, %v, want %d", got, err, want)
		}
	})
}

func TestHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, New(Line{RTT: 100 * ms}))
		write(t, client, []byte("question"))
		client.(*Conn).CloseWrite()
		if _, err := client.Write([]byte("more")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Write after CloseWrite: %v", err)
		}
		if got, err := io.ReadAll(server); string(got) != "question" || err != nil {
			t.Errorf("server read %q, %v", got, err)
		}
		write(t, server, []byte("answer"))
		server.Close()
		if got, err := io.ReadAll(client); string(got) != "answer" || err != nil {
			t.Errorf("client read %q, %v", got, err)
		}
		client.Close()
		if err := client.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close: %v", err)
		}
		if _, err := client.Read(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read after Close: %v", err)
		}
		if err := client.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("SetDeadline after Close: %v", err)
		}
	})
}

func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(Line{RTT: 100 * ms})

		// Closing with unread data; what the other side had sent is readable.
		client, server := pair(t, n)
		write(t, client, []byte("unread"))
		write(t, server, []byte("last words"))
		time.Sleep(time.Second)
		server.Close()
		start := time.Now()
		readFull(t, client, 10)
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read: %v", err)
		}
		wantAfter(t, start, 50*ms, "reset")
		if _, err := client.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Write: %v", err)
		}

		// Writing to a peer that has closed.
		client, server = pair(t, n)
		server.Close()
		start = time.Now()
		if _, err := client.Write(make([]byte, 20<<20)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Write to a closed peer: %v", err)
		}
		wantAfter(t, start, 100*ms, "reset")

		// A listener that closes resets whom it did not accept.
		l, err := n.Listen("closing")
		if err != nil {
			t.Fatal(err)
		}
		waiting, err := n.Dial(t.Context(), "closing")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		late, err := n.Dial(t.Context(), "closing")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		for _, c := range []net.Conn{waiting, late} {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("Read of a connection nobody accepted: %v", err)
			}
		}
	})
}

func TestHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(Line{RTT: 200 * ms})
		l, err := n.Listen("origin:80")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, r.RemoteAddr)
		})}
		var served sync.WaitGroup
		served.Go(func() { server.Serve(l) })
		transport := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return n.Dial(ctx, addr) }}
		for _, want := range []time.Duration{400 * ms, 200 * ms} { // with and without a dial
			start := time.Now()
			res, err := (&http.Client{Transport: transport}).Get("http://origin:80/")
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(res.Body); string(body) != "192.0.2.1:49152" || err != nil {
				t.Errorf("body %q, %v", body, err)
			}
			res.Body.Close()
			wantAfter(t, start, want, "page")
		}
		transport.CloseIdleConnections()
		server.Close()
		served.Wait()
	})
}

func BenchmarkTransfer(b *testing.B) {
	client, server := pair(b, New(Line{}))
	defer server.Close()
	block := make([]byte, 64<<10)
	b.SetBytes(int64(len(block)))
	var sent sync.WaitGroup
	sent.Go(func() {
		for range b.N {
			write(b, client, block)
		}
		client.Close()
	})
	if _, err := io.Copy(io.Discard, server); err != nil {
		b.Error(err)
	}
	sent.Wait()
}
