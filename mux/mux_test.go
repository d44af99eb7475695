package mux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var usual = Options{Window: 256 << 10, Buffer: 1 << 20, Streams: 100}

// both are the two ends of a connection with streams.
type both struct {
	open, accept *Session
	accepted     chan *Stream
	ends         sync.WaitGroup
	openErr      error // of Run, once stop has returned
	acceptErr    error
}

func newBoth(open, accept Options) *both {
	near, far := net.Pipe()
	b := &both{accepted: make(chan *Stream, 100)}
	accept.Accept = func(st *Stream) { b.accepted <- st }
	b.open, b.accept = New(near, open), New(far, accept)
	b.ends.Go(func() { b.openErr = b.open.Run() })
	b.ends.Go(func() { b.acceptErr = b.accept.Run() })
	return b
}

func (b *both) stop() {
	b.open.Close()
	b.accept.Close()
	b.ends.Wait()
}

// pair is a stream and its other end.
func (b *both) pair(t testing.TB) (near, far *Stream) {
	t.Helper()
	near, err := b.open.Open()
	if err != nil {
		t.Fatal(err)
	}
	return near, <-b.accepted
}

// TestConn: a stream is a net.Conn, by the tests of golang.org/x/net.
func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		b := newBoth(usual, usual)
		near, far := b.pair(t)
		return near, far, b.stop, nil
	})
}

// TestManyStreams: random words on many streams come as they were sent, however small the
// windows are; nothing waits for ever, and nothing is left.
func TestManyStreams(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			size := func() int { return 1 << rng.IntN(20) }
			options := func() Options {
				window := size()
				return Options{Window: window, Buffer: window/2 + size() + 1, Streams: 1000}
			}
			b := newBoth(options(), options())
			var streams sync.WaitGroup
			for range 1 + rng.IntN(40) {
				near, far := b.pair(t)
				there, back := make([]byte, rng.IntN(1<<rng.IntN(19))), make([]byte, rng.IntN(1<<rng.IntN(19)))
				for _, p := range [][]byte{there, back} {
					for i := range p {
						p[i] = byte(rng.Uint32())
					}
				}
				one, other := rng.Uint64(), rng.Uint64()
				streams.Go(func() { says(t, near, there, one) })
				streams.Go(func() { hears(t, far, there) })
				streams.Go(func() { says(t, far, back, other) })
				streams.Go(func() { hears(t, near, back) })
			}
			streams.Wait()
			synctest.Wait()
			for _, s := range []*Session{b.open, b.accept} {
				s.mu.Lock()
				if len(s.streams) != 0 || s.unread != 0 || s.promised != 0 || len(s.waiting) != 0 {
					t.Errorf("seed %d: left are %d streams, %d bytes, %d promised, %d waiting", seed, len(s.streams), s.unread, s.promised, len(s.waiting))
				}
				s.mu.Unlock()
			}
			b.stop()
			if !errors.Is(b.openErr, net.ErrClosed) && !errors.Is(b.openErr, io.EOF) || errors.Is(b.acceptErr, ErrProtocol) {
				t.Errorf("seed %d: %v, %v", seed, b.openErr, b.acceptErr)
			}
		})
	}
}

// says sends p in words of any length, and its end.
func says(t *testing.T, st *Stream, p []byte, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	for len(p) > 0 {
		n := min(len(p), 1+rng.IntN(100_000))
		if wrote, err := st.Write(p[:n]); err != nil || wrote != n {
			t.Errorf("wrote %d of %d: %v", wrote, n, err)
			return
		}
		p = p[n:]
	}
	if err := st.CloseWrite(); err != nil {
		t.Error(err)
	}
}

func hears(t *testing.T, st *Stream, want []byte) {
	if got, err := io.ReadAll(st); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d of %d bytes, or others: %v", len(got), len(want), err)
	}
}

// TestStuckReader: who does not read holds up nobody else, as long as there is room for
// all; what it was sent stays within its window.
func TestStuckReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoth(usual, Options{Window: 10_000, Buffer: 35_000, Streams: 100})
		defer b.stop()
		for range 3 {
			stuck, _ := b.pair(t)
			go stuck.Write(make([]byte, 100_000))
		}
		synctest.Wait()
		near, far := b.pair(t)
		go says(t, near, bytes.Repeat([]byte("on it goes "), 100_000), 1)
		hears(t, far, bytes.Repeat([]byte("on it goes "), 100_000))
		b.accept.mu.Lock()
		defer b.accept.mu.Unlock()
		if b.accept.unread != 30_000 {
			t.Errorf("%d bytes are held", b.accept.unread)
		}
	})
}

// TestTurns: one that sends as much as it can does not keep others waiting.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe() // nobody answers at the far end: its bytes are looked at
		s := New(near, usual)
		var run sync.WaitGroup
		run.Go(func() { _ = s.Run() })
		for range 4 {
			bulk, err := s.Open()
			if err != nil {
				t.Fatal(err)
			}
			go bulk.Write(make([]byte, 1<<20))
		}
		go far.Write(appendHead(appendHead(nil, kindStart, version, 1<<20), kindWindow, 0, 1<<30))
		synctest.Wait()
		short, err := s.Open()
		if err != nil {
			t.Fatal(err)
		}
		go short.Write([]byte("a word"))
		synctest.Wait()
		var before int
		for head := make([]byte, headSize); ; {
			if _, err := io.ReadFull(far, head); err != nil {
				t.Fatal(err)
			}
			kind, id, size := head[0], binary.BigEndian.Uint32(head[1:]), int64(binary.BigEndian.Uint32(head[5:]))
			if kind != kindData {
				continue
			}
			if id == 5 {
				break
			}
			before += int(size)
			if _, err := io.CopyN(io.Discard, far, size); err != nil {
				t.Fatal(err)
			}
		}
		if before > 3*outBytes+4*maxFrame {
			t.Errorf("%d bytes of others went before", before)
		}
		s.Close()
		run.Wait()
	})
}

// TestNoRoundTrip: what is written to a new stream goes out before the other end has said
// anything of it.
func TestNoRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoth(usual, usual)
		defer b.stop()
		synctest.Wait()
		b.accept.mu.Lock() // it says nothing more
		near, err := b.open.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := near.Write([]byte("hello")); err != nil {
			t.Error(err)
		}
		b.accept.mu.Unlock()
		word := make([]byte, 5)
		if _, err := io.ReadFull(<-b.accepted, word); err != nil || string(word) != "hello" {
			t.Errorf("%q, %v", word, err)
		}
	})
}

// TestEnds: each way that a stream ends, at both ends.
func TestEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		does func(near *Stream, b *both)
		want string // what the far end reads, and why no more
	}{
		{"close", func(near *Stream, _ *both) { near.Close() }, "bye: EOF"},
		{"close write", func(near *Stream, _ *both) { near.CloseWrite() }, "bye: EOF"},
		{"reset", func(near *Stream, _ *both) { near.Reset() }, ": connection reset by peer"},
		{"reset after its end", func(near *Stream, _ *both) { near.CloseWrite(); near.Reset() }, ": connection reset by peer"},
		{"the session ends", func(_ *Stream, b *both) { b.open.Close() }, "bye: EOF"},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBoth(usual, usual)
			defer b.stop()
			near, far := b.pair(t)
			if _, err := near.Write([]byte("bye")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			c.does(near, b)
			synctest.Wait()
			select {
			case <-far.Done():
			default:
				t.Errorf("%s: it is not done", c.name)
			}
			got, err := io.ReadAll(far)
			why := "EOF"
			if errors.Is(err, syscall.ECONNRESET) {
				why = "connection reset by peer"
			} else if err != nil && c.name != "the session ends" {
				why = err.Error()
			}
			if said := fmt.Sprintf("%s: %s", got, why); said != c.want {
				t.Errorf("%s: %q, want %q", c.name, said, c.want)
			}
			if err == nil && c.name == "the session ends" {
				t.Errorf("%s: it looks whole", c.name)
			}
		})
	}
}

// TestClosedReader: what comes for one that is closed is thrown away, and takes no room of
// the others.
func TestClosedReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoth(usual, Options{Window: 50_000, Buffer: 60_000, Streams: 1000})
		defer b.stop()
		for range 20 {
			near, far := b.pair(t)
			far.Close()
			if _, err := near.Write(make([]byte, 50_000)); err != nil && err != io.ErrClosedPipe { // it may have heard
				t.Fatal(err)
			}
			if n, err := near.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%d, %v", n, err)
			}
			near.Close()
		}
		synctest.Wait()
		if left := len(b.accept.streams) + len(b.open.streams) + b.accept.unread; left != 0 {
			t.Errorf("%d are left", left)
		}
	})
}

// TestClosedWriter: who writes to a stream whose other end was closed hears of it, though
// its window is full, and what that had sent before is there.
func TestClosedWriter(t *testing.T) {
	for name, closes := range map[string]func(far *Stream){
		"at once":          func(far *Stream) { far.Close() },
		"after its end":    func(far *Stream) { far.CloseWrite(); far.Close() },
		"nothing is read":  func(far *Stream) { synctest.Wait(); far.Close() },
		"something is":     func(far *Stream) { far.Read(make([]byte, 1<<20)); far.Close() },
		"the writer waits": func(far *Stream) { time.Sleep(time.Minute); far.Close() },
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBoth(usual, usual)
			defer b.stop()
			near, far := b.pair(t)
			far.Write([]byte("bye"))
			go closes(far)
			near.SetWriteDeadline(time.Now().Add(time.Hour))
			if n, err := near.Write(make([]byte, 1<<20)); err != io.ErrClosedPipe {
				t.Errorf("%s: wrote %d, %v", name, n, err)
			}
			if said, err := io.ReadAll(near); string(said) != "bye" || err != nil {
				t.Errorf("%s: %q, %v", name, said, err)
			}
			synctest.Wait()
			if left := len(b.accept.streams) + len(b.open.streams) + b.accept.unread; left != 0 {
				t.Errorf("%s: %d are left", name, left)
			}
		})
	}
}

// TestMostStreams: one too many is broken off at once, and the next is not when one has gone.
func TestMostStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoth(usual, Options{Window: 1000, Buffer: 1000, Streams: 1})
		defer b.stop()
		near, far := b.pair(t)
		second, err := b.open.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := second.Read(nil); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the second: %v", err)
		}
		near.Close()
		far.Close()
		synctest.Wait()
		third, _ := b.pair(t)
		third.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := third.Read(nil); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the third: %v", err)
		}
	})
}

// TestProtocol: what the other end may not send ends the session, and all its streams.
func TestProtocol(t *testing.T) {
	start := appendHead(nil, kindStart, version, 1000)
	opened := appendHead(bytes.Clone(start), kindOpen, 1, 0)
	for name, frames := range map[string][]byte{
		"no start":             appendHead(nil, kindOpen, 1, 0),
		"two starts":           appendHead(bytes.Clone(start), kindStart, version, 1000),
		"another version":      appendHead(nil, kindStart, version+1, 1000),
		"no window":            appendHead(nil, kindStart, version, 0),
		"a stream left out":    appendHead(bytes.Clone(start), kindOpen, 2, 0),
		"a stream again":       appendHead(bytes.Clone(opened), kindOpen, 1, 0),
		"an unknown stream":    appendHead(bytes.Clone(opened), kindEnd, 2, 0),
		"stream 0":             appendHead(bytes.Clone(opened), kindEnd, 0, 0),
		"an unknown kind":      appendHead(bytes.Clone(opened), kindReset+1, 1, 0),
		"kind 0":               appendHead(bytes.Clone(opened), 0, 1, 0),
		"an empty frame":       appendHead(bytes.Clone(opened), kindData, 1, 0),
		"a long frame":         appendHead(bytes.Clone(opened), kindData, 1, maxFrame+1),
		"two ends":             appendHead(appendHead(bytes.Clone(opened), kindEnd, 1, 0), kindEnd, 1, 0),
		"bytes behind the end": append(appendHead(appendHead(bytes.Clone(opened), kindEnd, 1, 0), kindData, 1, 1), 'x'),
		"over the window":      append(appendHead(bytes.Clone(opened), kindData, 1, 501), make([]byte, 501)...),
		"over all windows":     append(append(appendHead(appendHead(bytes.Clone(opened), kindOpen, 2, 0), kindData, 1, 500), make([]byte, 500)...), append(appendHead(nil, kindData, 2, 500), make([]byte, 500)...)...),
		"a huge window":        appendHead(appendHead(bytes.Clone(opened), kindWindow, 1, 1<<31-1), kindWindow, 1, 1<<31-1),
		"a huge window of all": appendHead(appendHead(bytes.Clone(opened), kindWindow, 0, 1<<31-1), kindWindow, 0, 1<<31-1),
		"cut in a head":        opened[:len(opened)-1],
		"cut in bytes":         append(appendHead(bytes.Clone(opened), kindData, 1, 10), "half"...),
	} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			var streams []*Stream
			var mu sync.Mutex
			s := New(near, Options{Window: 500, Buffer: 900, Streams: 10, Accept: func(st *Stream) {
				mu.Lock()
				defer mu.Unlock()
				streams = append(streams, st)
			}})
			go io.Copy(io.Discard, far)
			cut := strings.HasPrefix(name, "cut")
			go func() {
				if far.Write(frames); cut {
					far.Close()
				}
			}()
			err := s.Run()
			if errors.Is(err, ErrProtocol) == cut {
				t.Errorf("%s: %v", name, err)
			}
			for _, st := range streams {
				if _, err := io.Copy(io.Discard, st); err == nil && !strings.HasSuffix(name, "end") && name != "two ends" {
					t.Errorf("%s: a stream looks whole", name)
				}
				if _, err := st.Write([]byte("x")); err == nil {
					t.Errorf("%s: a stream takes more", name)
				}
			}
			if _, err := s.Open(); err == nil {
				t.Errorf("%s: it opens streams", name)
			}
		})
	}
}

// TestOpensNothing: the end that opens streams takes none, and an end that takes nothing is
// given up before its words of windows are many.
func TestOpensNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		s := New(near, usual)
		go io.Copy(io.Discard, far)
		go far.Write(appendHead(appendHead(nil, kindStart, version, 1000), kindOpen, 1, 0))
		if err := s.Run(); !errors.Is(err, ErrProtocol) {
			t.Error(err)
		}
		near, far = net.Pipe()
		s = New(near, Options{Window: 1000, Buffer: 1000, Accept: func(*Stream) {}})
		go func() {
			frames := appendHead(nil, kindStart, version, 1000)
			for i := range 1000 {
				frames = appendHead(frames, kindOpen, uint32(i+1), 0)
			}
			for i := uint32(1); ; i += 1000 { // each is broken off, which it does not read
				if _, err := far.Write(frames); err != nil {
					return
				}
				frames = frames[:0]
				for j := range uint32(1000) {
					frames = appendHead(frames, kindOpen, i+1000+j, 0)
				}
			}
		}()
		if err := s.Run(); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "takes nothing") {
			t.Error(err)
		}
	})
}

// FuzzFrames: whatever comes, no stream gets more than its window, and the end of the
// connection ends all.
func FuzzFrames(f *testing.F) {
	start := appendHead(appendHead(nil, kindStart, version, 1000), kindWindow, 0, 5000)
	f.Add(append(appendHead(appendHead(bytes.Clone(start), kindOpen, 1, 0), kindData, 1, 5), "hello"...), uint8(3))
	f.Add(appendHead(appendHead(bytes.Clone(start), kindOpen, 1, 0), kindReset, 1, 0), uint8(1))
	f.Add(appendHead(appendHead(bytes.Clone(start), kindOpen, 1, 0), kindEnd, 1, 0), uint8(0))
	f.Fuzz(func(t *testing.T, wire []byte, reads uint8) {
		var out bytes.Buffer
		s := New(struct {
			io.Reader
			io.Writer
			io.Closer
		}{bytes.NewReader(wire), &out, io.NopCloser(nil)}, Options{Window: 300, Buffer: 1000, Streams: 5, Accept: func(st *Stream) {
			p := make([]byte, 100)
			for range reads {
				if _, err := st.Read(p); err != nil {
					break
				}
				st.Write(p[:10])
			}
			if reads%2 == 0 {
				st.Close()
			}
		}})
		if err := s.Run(); err == nil {
			t.Error("no reason")
		}
		if s.unread > 1000 {
			t.Errorf("%d bytes are held", s.unread)
		}
	})
}
