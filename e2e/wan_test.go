package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wan is two places far from each other: two network namespaces that nothing
// joins but long lines, which this process runs. What listens on 127.0.0.1 of a
// place is near to all in that place.
type wan struct {
	china, overseas place
	lines           []*line
}

// place is a network namespace; "" is that of the test.
type place string

// line is a line from china to overseas with an address at each end: two TUN
// devices, whose packets this process carries (the kernel of the tests has no
// netem).
type line struct {
	china, overseas string     // the addresses of its ends
	out, home       *direction // to overseas and to china
}

// quality is what a line does to packets, each way alike.
type quality struct {
	rate  float64       // bytes a second
	delay time.Duration // half of a round trip
	loss  float64       // of each packet's chance, 0 to 1
	queue int           // bytes that may wait for the line; what comes above is dropped
}

// longLine is a private line of 50 Mbit/s to the other side of the earth with a
// queue of one bandwidth × delay.
func longLine(loss float64) quality {
	const rate = 50e6 / 8
	return quality{rate: rate, delay: 100 * time.Millisecond, loss: loss, queue: rate * 0.2}
}

// wans counts those of this process: their namespaces have names of their own.
var wans atomic.Int32

// newWAN makes the places and a line between them for each quality. All ends
// with the test. congestion is the congestion control of both places; "" leaves
// the system's.
func newWAN(t testing.TB, congestion string, qualities ...quality) *wan {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("network namespaces need root")
		}
		t.Skip("network namespaces need root")
	}
	require(t, "ip")
	number := wans.Add(1)
	name := func(of string) place { return place(fmt.Sprintf("causeway-%d-%d-%s", os.Getpid(), number, of)) }
	w := &wan{china: name("china"), overseas: name("overseas")}
	for _, p := range []place{w.china, w.overseas} {
		mustRun(t, "ip", "netns", "add", string(p))
		t.Cleanup(func() { mustRun(t, "ip", "netns", "del", string(p)) })
		// First of all: with IPv6 the kernel sends packets of its own.
		p.set(t, "net/ipv6/conf/all/disable_ipv6", "1")
		p.set(t, "net/ipv6/conf/default/disable_ipv6", "1")
		mustRun(t, "ip", "-n", string(p), "link", "set", "lo", "up")
		if congestion != "" {
			p.set(t, "net/ipv4/tcp_congestion_control", congestion)
		}
	}
	for i, q := range qualities {
		w.join(t, i+1, q)
	}
	return w
}

// join lays line number i.
func (w *wan) join(t testing.TB, i int, q quality) {
	t.Helper()
	l := &line{china: fmt.Sprintf("10.82.%d.1", i), overseas: fmt.Sprintf("10.82.%d.2", i)}
	device := fmt.Sprint("line", i)
	china, overseas := w.china.tun(t, device, l.china), w.overseas.tun(t, device, l.overseas)
	l.out = newDirection(china, overseas, rand.NewPCG(uint64(i), 1))
	l.home = newDirection(overseas, china, rand.NewPCG(uint64(i), 2))
	l.set(q)
	var carrying sync.WaitGroup
	for _, d := range []*direction{l.out, l.home} {
		carrying.Go(d.take)
		carrying.Go(d.hand)
	}
	t.Cleanup(func() {
		china.Close()
		overseas.Close()
		carrying.Wait()
	})
	w.lines = append(w.lines, l)
}

// set gives the line another quality from now on.
func (l *line) set(q quality) {
	l.out.set(q)
	l.home.set(q)
}

// cut makes a black hole of the line: what is sent is gone and nobody hears of
// it. What is under way arrives. restore ends it.
func (l *line) cut()     { l.out.cut.Store(true); l.home.cut.Store(true) }
func (l *line) restore() { l.out.cut.Store(false); l.home.cut.Store(false) }

// bytes are those that went over the line so far, both ways, with all headers:
// what one pays for.
func (l *line) bytes() int64 { return l.out.sent.Load() + l.home.sent.Load() }

// packet is one that is under way.
type packet struct {
	due  time.Time
	size int
	data *[maxPacket]byte
}

// maxPacket is the MTU, and some more.
const maxPacket = 1536

// direction is one way of a line. take reads what the kernel sends, decides
// its fate at once, and hand delivers it when its time has come.
type direction struct {
	from, to *os.File
	cut      atomic.Bool
	waiting  chan packet // by due
	spare    sync.Pool   // of *[maxPacket]byte

	// In bytes and packets, IP headers included.
	sent                    atomic.Int64 // bytes that left over the line, those lost on it too
	taken, dropped, lost    atomic.Int64 // packets: of the kernel, by the full queue, by chance or cut
	delivered, deliveredAll atomic.Int64 // packets, bytes

	mu      sync.Mutex // guards the rest
	quality quality
	random  *rand.Rand
	free    time.Time // when the last byte that was let in has left
	last    time.Time // when the last packet is due: none overtakes another
}

func newDirection(from, to *os.File, seed rand.Source) *direction {
	return &direction{
		from: from, to: to, random: rand.New(seed),
		// More packets than any queue and delay of a test holds: one that finds
		// it full waits, as if the line were slower.
		waiting: make(chan packet, 1<<16),
		spare:   sync.Pool{New: func() any { return new([maxPacket]byte) }},
	}
}

func (d *direction) set(q quality) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quality = q
}

// take reads packets until the device is closed.
func (d *direction) take() {
	defer close(d.waiting)
	for {
		data := d.spare.Get().(*[maxPacket]byte)
		size, err := d.from.Read(data[:])
		if err != nil {
			return
		}
		d.taken.Add(1)
		if due, ok := d.admit(size, time.Now()); ok {
			d.waiting <- packet{due, size, data}
		} else {
			d.spare.Put(data)
		}
	}
}

// admit decides when a packet that comes now arrives, and whether.
func (d *direction) admit(size int, now time.Time) (due time.Time, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.quality
	if d.free.Before(now) {
		d.free = now
	}
	if d.free.Sub(now).Seconds()*q.rate+float64(size) > float64(q.queue) {
		d.dropped.Add(1)
		return due, false
	}
	d.free = d.free.Add(time.Duration(float64(size) / q.rate * float64(time.Second)))
	d.sent.Add(int64(size))
	if d.cut.Load() || (q.loss > 0 && d.random.Float64() < q.loss) {
		d.lost.Add(1)
		return due, false
	}
	due = d.free.Add(q.delay)
	if due.Before(d.last) { // the delay was made shorter
		due = d.last
	}
	d.last = due
	return due, true
}

// hand writes packets when they are due, until there are no more. It sleeps
// once for all that fall due in that time: a packet may be some tenths of a
// millisecond late, and the processor is for those whom the line serves.
func (d *direction) hand() {
	const nap = 500 * time.Microsecond
	for p := range d.waiting {
		if early := time.Until(p.due); early > 0 {
			time.Sleep(max(early, nap))
		}
		// A device that does not take it, as one that is down, loses it.
		_, _ = d.to.Write(p.data[:p.size])
		d.delivered.Add(1)
		d.deliveredAll.Add(int64(p.size))
		d.spare.Put(p.data)
	}
}

// tun makes a TUN device in the place, with one end of a line's address.
func (p place) tun(t testing.TB, device, address string) *os.File {
	t.Helper()
	var file *os.File
	err := p.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		request, err := unix.NewIfreq(device)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			unix.Close(fd)
			return fmt.Errorf("make the device %s: %w", device, err)
		}
		// Only now: the runtime cannot wait for a device that is not there.
		if err := unix.SetNonblock(fd, true); err != nil {
			unix.Close(fd)
			return err
		}
		file = os.NewFile(uintptr(fd), device)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mustRun(t, "ip", "-n", string(p), "address", "add", address+"/30", "dev", device)
	// The queue is the line's; the device's own must not drop before it.
	mustRun(t, "ip", "-n", string(p), "link", "set", device, "mtu", "1500", "txqueuelen", "10000", "up")
	return file
}

// set writes a setting of the place's network, a path below /proc/sys.
func (p place) set(t testing.TB, setting, value string) {
	t.Helper()
	if err := p.do(func() error { return os.WriteFile("/proc/sys/"+setting, []byte(value), 0) }); err != nil {
		mend := ""
		if strings.HasSuffix(setting, "tcp_congestion_control") {
			// A namespace may only take what the machine allows everybody.
			mend = "; is it in `sysctl net.ipv4.tcp_allowed_congestion_control`?"
		}
		t.Fatalf("set %s to %s: %v%s", setting, value, err, mend)
	}
}

// do runs what makes sockets or devices on a thread of the place. Sockets
// belong to the place where they were made, whoever uses them later.
func (p place) do(what func() error) error {
	if p == "" {
		return what()
	}
	runtime.LockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer here.Close()
	there, err := os.Open("/run/netns/" + string(p))
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network namespace %s: %w", p, err)
	}
	failed := what()
	if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
		// The thread stays locked and so ends with its goroutine.
		return fmt.Errorf("leave the network namespace %s: %w", p, err)
	}
	runtime.UnlockOSThread()
	return failed
}

// dial connects from the place. The address is a number: names are not looked
// up there.
func (p place) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = p.do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// listen listens in the place. It ends with the test at the latest.
func (p place) listen(t testing.TB, address string) net.Listener {
	t.Helper()
	var ln net.Listener
	err := p.do(func() (err error) {
		ln, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// packets is a UDP socket in the place.
func (p place) packets(t testing.TB, address string) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	err := p.do(func() (err error) {
		conn, err = net.ListenPacket("udp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestLineDelay: a round trip takes two delays, not less, and under no load not
// much more.
func TestLineDelay(t *testing.T) {
	w := newWAN(t, "", quality{rate: 1e6, delay: 40 * time.Millisecond, queue: 1e6})
	ln := w.overseas.listen(t, w.lines[0].overseas+":7")
	go func() {
		if conn, err := ln.Accept(); err == nil {
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()
	conn, err := w.china.dial(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	least := time.Hour
	eventually(t, "a round trip takes hardly more than two delays", func() bool {
		began := time.Now()
		if _, err := conn.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		if took < 80*time.Millisecond {
			t.Fatalf("a round trip of %v over a line of twice 40 ms", took)
		}
		least = min(least, took)
		return least < 100*time.Millisecond
	})
	t.Logf("least round trip: %v", least)
}

// TestLineRate: a transfer goes no faster than the line, its bytes are counted
// with their headers, and none come twice when none were lost.
func TestLineRate(t *testing.T) {
	const rate, size = 2.5e6, 2 << 20
	w := newWAN(t, "reno", quality{rate: rate, delay: 5 * time.Millisecond, queue: 1 << 20})
	l := w.lines[0]
	ln := w.overseas.listen(t, l.overseas+":9")
	took := make(chan time.Duration, 1)
	began := time.Now()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if n, err := io.Copy(io.Discard, conn); err != nil || n != size {
			t.Errorf("%d bytes of %d came: %v", n, size, err)
		}
		took <- time.Since(began)
	}()
	conn, err := w.china.dial(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Write(make([]byte, size))
	conn.Close()
	if err != nil {
		t.Fatal(err)
	}
	select {
	case d := <-took:
		if got := size / d.Seconds(); got > rate {
			t.Errorf("%.2f MB/s over a line of %.2f", got/1e6, rate/1e6)
		}
		t.Logf("%.2f MB/s on a line of %.2f", size/d.Seconds()/1e6, rate/1e6)
	case <-time.After(patience):
		t.Fatal("the transfer does not end")
	}
	if sent := l.out.sent.Load(); sent < size*103/100 || sent > size*115/100 {
		t.Errorf("%d bytes went over the line for %d", sent, size)
	}
	if home := l.home.sent.Load(); home == 0 || l.bytes() != home+l.out.sent.Load() {
		t.Errorf("%d bytes came home, %d both ways", home, l.bytes())
	}
}

// TestLineLoses: by chance as often as was said, by a full queue, and all while
// it is cut; every packet is accounted for.
func TestLineLoses(t *testing.T) {
	w := newWAN(t, "", quality{rate: 10e6, delay: time.Millisecond, loss: 0.1, queue: 10e6})
	l := w.lines[0]
	receiver := w.overseas.packets(t, l.overseas+":9")
	sender := w.china.packets(t, l.china+":9")
	var received atomic.Int64
	var receiving sync.WaitGroup
	receiving.Go(func() {
		for {
			if _, _, err := receiver.ReadFrom(make([]byte, maxPacket)); err != nil {
				return
			}
			received.Add(1)
		}
	})
	defer receiving.Wait()
	defer receiver.Close()
	send := func(packets, size int) {
		t.Helper()
		before := l.out.taken.Load()
		for range packets {
			if _, err := sender.WriteTo(make([]byte, size), receiver.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the line took every packet", func() bool { return l.out.taken.Load() == before+int64(packets) })
		eventually(t, "what was not lost is there", func() bool {
			return l.out.delivered.Load() == l.out.taken.Load()-l.out.lost.Load()-l.out.dropped.Load() &&
				received.Load() == l.out.delivered.Load()
		})
	}

	for range 20 { // not all at once: the sockets' own queues are small
		send(50, 100)
	}
	if lost := l.out.lost.Load(); lost < 50 || lost > 200 { // by its seed always the same
		t.Errorf("%d packets of 1000 were lost, of 10 %%", lost)
	}
	l.set(quality{rate: 20_000, queue: 5_000})
	eventually(t, "a queue of 10 packets drops some of 30 at a time", func() bool {
		send(30, 500)
		return l.out.dropped.Load() > 0
	})
	l.set(quality{rate: 10e6, queue: 1e6})
	eventually(t, "the queue is empty", func() bool { return len(l.out.waiting) == 0 })

	before := received.Load()
	l.cut()
	send(10, 100)
	if got := received.Load(); got != before {
		t.Errorf("%d packets came over a line that is cut", got-before)
	}
	l.restore()
	send(10, 100)
	if got := received.Load(); got != before+10 {
		t.Errorf("%d packets of 10 came over a line that is there again", got-before)
	}
}

// TestPlaces: nothing of one place is to be had in another but over the line.
func TestPlaces(t *testing.T) {
	w := newWAN(t, "reno", quality{rate: 1e6, queue: 1e6})
	for p, address := range map[place]string{w.china: "127.0.0.1:80", w.overseas: "127.0.0.1:81"} {
		p.listen(t, address)
	}
	for p, want := range map[place]map[string]bool{
		w.china:    {"127.0.0.1:80": true, "127.0.0.1:81": false},
		w.overseas: {"127.0.0.1:80": false, "127.0.0.1:81": true},
	} {
		for address, there := range want {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			conn, err := p.dial(ctx, "tcp", address)
			cancel()
			if (err == nil) != there {
				t.Errorf("from %q to %s: %v", p, address, err)
			}
			if err == nil {
				conn.Close()
			} else if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENETUNREACH) && ctx.Err() == nil {
				t.Errorf("from %q to %s: %v", p, address, err)
			}
		}
	}
	if got := runProgram(t, "ip", "netns", "exec", string(w.china), "cat", "/proc/sys/net/ipv4/tcp_congestion_control").stdout; strings.TrimSpace(got) != "reno" {
		t.Errorf("the congestion control is %q", got)
	}
}
