package link

import (
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"causeway/simnet"
)

// wrapper is a connection around another, as those of hop and daemon are.
type wrapper struct{ net.Conn }

func (w wrapper) NetConn() net.Conn { return w.Conn }

// bothEnds are the two of a connection over loopback.
func bothEnds(t *testing.T) (dialled, accepted net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if dialled, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if accepted, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled, accepted
}

// mayHave reports whether this process may choose a congestion control.
func mayHave(t *testing.T, algorithm string) bool {
	t.Helper()
	file := "/proc/sys/net/ipv4/tcp_allowed_congestion_control"
	if os.Geteuid() == 0 {
		file = "/proc/sys/net/ipv4/tcp_available_congestion_control"
	}
	names, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(strings.Fields(string(names)), algorithm)
}

// The kernel says what was set, through what wraps a socket too.
func TestSocketSettings(t *testing.T) {
	dialled, accepted := bothEnds(t)
	for _, end := range []net.Conn{dialled, accepted} {
		new(sockets).take(wrapper{wrapper{end}}, bodyWindow)
		raw, err := end.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		err = raw.Control(func(fd uintptr) {
			for _, option := range []struct {
				what              string
				level, name, want int
			}{
				{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 15000},
				{"TCP_NOTSENT_LOWAT", unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 128 << 10},
				{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
				{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 6},
				{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 3},
				{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
			} {
				if got, err := unix.GetsockoptInt(int(fd), option.level, option.name); err != nil || got != option.want {
					t.Errorf("%s is %d (%v), want %d", option.what, got, err, option.want)
				}
			}
			if floor, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_RTO_MIN_US); err == nil && (floor < 50_000 || floor >= 60_000) { // in ticks of the kernel; older ones have none
				t.Errorf("TCP_RTO_MIN_US is %d, want 50000", floor)
			}
			if buffer, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF); err != nil || os.Geteuid() == 0 && buffer != 2*sendBuffer {
				t.Errorf("SO_SNDBUF is %d (%v), want twice %d", buffer, err, sendBuffer)
			}
			got, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
			if err != nil || (got == "bbr") != mayHave(t, "bbr") {
				t.Errorf("TCP_CONGESTION is %q (%v)", got, err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A writer that goes on and on is held up before the kernel has much more than
// it can send.
func TestNotSentIsBounded(t *testing.T) {
	dialled, _ := bothEnds(t) // nobody reads
	c := new(sockets).take(dialled, bodyWindow)
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = c.Write(make([]byte, 64<<20)) // until it is closed
	}()
	var info SocketInfo
	for same := 0; same < 20; { // until it stands still
		before := info.NotSent
		if info = socketInfo(c); info.NotSent > 0 && info.NotSent == before {
			same++
		} else {
			same = 0
		}
		select {
		case <-written:
			t.Fatal("all of it was taken")
		default:
		}
	}
	c.Close()
	<-written
	if most := uint32(notSentLow + 64<<10); info.NotSent > most { // and the piece that went over it
		t.Errorf("%d bytes are not sent, want at most %d", info.NotSent, most)
	}
}

// BBR that begins anew looks for what the line carries, as on a new connection,
// and nothing of what was written is lost.
func TestBeginAnew(t *testing.T) {
	if !mayHave(t, "bbr") {
		t.Skip("this kernel has no BBR")
	}
	dialled, accepted := bothEnds(t)
	c := new(sockets).take(dialled, bodyWindow)
	wrote := make(chan int64, 1)
	go func() { // as slowly as the reader takes it, until it has settled
		var written int64
		var info SocketInfo
		for info = socketInfo(c); info.Startup; info = socketInfo(c) {
			n, err := c.Write(make([]byte, 64<<10))
			if written += int64(n); err != nil {
				t.Error(err)
				break
			}
		}
		if info.Bandwidth == 0 {
			t.Errorf("BBR does not say what it believes: %+v", info)
		}
		beginAnew(c.raw)
		if info := socketInfo(c); !info.Startup || info.Congestion != "bbr" {
			t.Errorf("after it began anew: %+v", info)
		}
		_ = dialled.(*net.TCPConn).CloseWrite()
		wrote <- written
	}()
	read, err := io.Copy(io.Discard, accepted)
	if written := <-wrote; err != nil || read != written {
		t.Errorf("%d of %d bytes came: %v", read, written, err)
	}
}

// What ended stays in the totals, and its slot is given again.
func TestSocketsCount(t *testing.T) {
	dialled, accepted := bothEnds(t)
	var path sockets
	first := path.take(wrapper{dialled}, bodyWindow)
	go func() { _, _ = io.Copy(accepted, accepted) }()
	if _, err := first.Write(make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(first, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	open, states, before := path.states()
	if len(open) != 1 || open[0] != first || len(states) != 1 {
		t.Fatalf("%d are open: %+v", len(open), states)
	}
	c := states[0]
	if c.Slot != 0 || c.Sent != 100_000 || c.Received != 100_000 || c.Since.IsZero() || c.Remote != accepted.LocalAddr().String() {
		t.Errorf("%+v", c)
	}
	if i := c.Info; !i.Known || i.RTT <= 0 || i.MinRTT <= 0 || i.Segments == 0 || i.Cwnd == 0 || i.Congestion == "" {
		t.Errorf("%+v", i)
	}
	first.Close()
	first.Close()
	second, _ := bothEnds(t)
	third, _ := bothEnds(t)
	if a, b := path.take(second, bodyWindow), path.take(third, bodyWindow); a.slot != 0 || b.slot != 1 {
		t.Errorf("the slots are %d and %d", a.slot, b.slot)
	}
	open, _, after := path.states()
	if len(open) != 2 || after.Sent != before.Sent || after.Received != before.Received || after.Segments < before.Segments || after.Connections != 3 {
		t.Errorf("%d are open; totals before %+v, after %+v", len(open), before, after)
	}
}

// A connection in process has no socket, and does all else.
func TestNoSocket(t *testing.T) {
	line := simnet.New(simnet.Line{})
	ln, err := line.Listen("relay-1")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := line.Dial(t.Context(), "relay-1")
	if err != nil {
		t.Fatal(err)
	}
	var path sockets
	c := path.take(conn, bodyWindow)
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, states, _ := path.states(); states[0].Sent != 5 || states[0].Info.Known {
		t.Errorf("%+v", states[0])
	}
	c.Close()
}
