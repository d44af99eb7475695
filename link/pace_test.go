package link

import (
	"testing"
	"time"
)

// queueLine is a line with a queue, and a sender on it that goes at the pace it
// is held to, else a little faster than the line, as BBR does. One step is 10 ms.
type queueLine struct {
	rate   float64       // bytes a second
	delay  time.Duration // of a round trip without a queue
	depth  float64       // bytes that the queue holds
	others float64       // bytes a second that others send
	loss   float64       // share of what is sent that is lost, and sent again
	alone  bool          // nobody else needs it

	now       time.Time
	queue     float64
	delivered float64
	lost      float64
	longest   float64 // queue, since it was last set to 0

	looks, noisy int // every noisy-th look finds what is no queue; 0 for none
}

func newQueueLine() *queueLine {
	const rate = 50e6 / 8
	return &queueLine{rate: rate, delay: 200 * time.Millisecond, depth: rate * .2, now: time.Unix(1e9, 0)}
}

// run sends for d with p in control; a pacer that holds nothing makes 1.1 of the
// rate of the line.
func (l *queueLine) run(p *pacer, d time.Duration) (rate float64) {
	const step = 10 * time.Millisecond
	before := l.delivered
	for end := l.now.Add(d); l.now.Before(end); l.now = l.now.Add(step) {
		mine := 1.1 * l.rate
		if p.pace > 0 {
			mine = min(mine, p.pace)
		}
		all := mine + l.others
		l.queue += all * step.Seconds()
		out := min(l.queue, l.rate*step.Seconds())
		l.queue -= out
		if over := l.queue - l.depth; over > 0 {
			l.lost, l.queue = l.lost+over, l.depth
		}
		l.delivered += out * mine / all
		l.longest = max(l.longest, l.queue)
		if !l.now.Before(p.next) {
			p.look(l.now, l.info(out*mine/all/step.Seconds()), l.alone)
		}
	}
	return (l.delivered - before) / d.Seconds()
}

func (l *queueLine) info(rate float64) SocketInfo {
	wait := time.Duration(l.queue / l.rate * float64(time.Second))
	if l.looks++; l.noisy > 0 && l.looks%l.noisy == 0 {
		wait += 80 * time.Millisecond
	}
	return SocketInfo{Known: true, RTT: l.delay + wait, MinRTT: l.delay, Delivered: uint64(l.delivered), DeliveryRate: uint64(rate), NotSent: 1,
		Segments: uint64(l.delivered / 1448), Retransmits: uint64((l.loss*l.delivered + l.lost) / 1448)}
}

// A sender that would fill the queue leaves it nearly empty, and nearly all of
// the line is used.
func TestPaceKeepsTheQueueShort(t *testing.T) {
	l, p := newQueueLine(), &pacer{}
	l.run(p, 5*time.Second)
	l.longest, l.lost = 0, 0
	rate := l.run(p, 60*time.Second)
	if share := rate / l.rate; share < .9 {
		t.Errorf("%.2f of the line is used", share)
	}
	if ms := 1000 * l.longest / l.rate; ms > 80 || l.lost > 0 { // 200 ms hold, and 5 s without would fill it
		t.Errorf("the queue grew to %.0f ms, %.0f bytes were lost", ms, l.lost)
	}
}

// So it is on a line that loses packets: what it loses is no reason to fill it.
func TestPaceOnALossyLine(t *testing.T) {
	l, p := newQueueLine(), &pacer{}
	l.loss = .02
	l.run(p, 5*time.Second)
	l.longest = 0
	if share := l.run(p, 60*time.Second) / l.rate; share < .9 {
		t.Errorf("%.2f of the line is used", share)
	}
	if ms := 1000 * l.longest / l.rate; ms > 80 {
		t.Errorf("the queue grew to %.0f ms", ms)
	}
}

// While nobody else needs the line BBR does as it likes, and when somebody does the
// queue is emptied.
func TestPaceAlone(t *testing.T) {
	l, p := newQueueLine(), &pacer{}
	l.alone = true
	if l.run(p, 20*time.Second); p.pace > 0 || l.queue < l.depth {
		t.Errorf("held to %.0f bytes a second, %.0f are in the queue", p.pace, l.queue)
	}
	l.alone = false
	l.run(p, 3*time.Second)
	l.longest = 0
	if l.run(p, 20*time.Second); l.longest > l.depth*2/5 {
		t.Errorf("the queue has %.0f bytes", l.longest)
	}
}

// A line that gets slower is followed, and one that gets faster too.
func TestPaceFollowsTheLine(t *testing.T) {
	l, p := newQueueLine(), &pacer{}
	l.run(p, 10*time.Second)
	l.rate /= 2
	l.run(p, 10*time.Second)
	l.longest, l.lost = 0, 0
	if share := l.run(p, 30*time.Second) / l.rate; share < .8 || l.longest > l.depth/2 {
		t.Errorf("slower: %.2f of the line, and %.0f bytes in the queue", share, l.longest)
	}
	l.rate *= 2
	l.run(p, 5*time.Second)
	if share := l.run(p, 30*time.Second) / l.rate; share < .9 {
		t.Errorf("faster: %.2f of the line", share)
	}
}

// Others who keep the queue full are not given way to for ever.
func TestPaceAmongOthers(t *testing.T) {
	l, p := newQueueLine(), &pacer{}
	l.others = 1.5 * l.rate
	l.run(p, 10*time.Second)
	if rate := l.run(p, 60*time.Second); rate < .3*l.rate { // all would be .42
		t.Errorf("%.2f of the line is left", rate/l.rate)
	}
}

// A machine that is busy now and then, and makes round trips long, does not slow
// a connection down for long.
func TestPaceOnABusyMachine(t *testing.T) {
	for noisy := 2; noisy < 8; noisy++ {
		l, p := newQueueLine(), &pacer{}
		l.noisy = noisy
		l.run(p, 10*time.Second)
		if share := l.run(p, 60*time.Second) / l.rate; share < .75 {
			t.Errorf("one look in %d: %.2f of the line is used", noisy, share)
		}
	}
}

// What fills no queue is left alone.
func TestPaceLeavesAlone(t *testing.T) {
	full := SocketInfo{Known: true, RTT: 400 * time.Millisecond, MinRTT: 200 * time.Millisecond, Delivered: 2 * leastPace, DeliveryRate: 2 * leastPace, NotSent: 1}
	with := func(change func(*SocketInfo)) SocketInfo {
		info := full
		change(&info)
		return info
	}
	for _, c := range []struct {
		what  string
		info  SocketInfo
		pause time.Duration
		paced bool
	}{
		{"a long body", full, time.Second, true},
		{"short answers, in a queue of others", with(func(i *SocketInfo) { i.Delivered = leastPace * 9 / 10 }), time.Second, false},
		{"a machine beside this one", with(func(i *SocketInfo) { i.RTT, i.MinRTT = 40*time.Millisecond, time.Millisecond }), time.Second, false},
		{"a kernel that does not say", SocketInfo{}, time.Second, false},
		{"a connection that was idle", full, time.Minute, false},
	} {
		var p pacer
		now := time.Unix(1e9, 0)
		before := c.info
		before.Delivered = 0
		p.look(now, before, false)
		p.look(now.Add(c.pause), c.info, false)
		if (p.pace > 0) != c.paced {
			t.Errorf("%s: pace %.0f", c.what, p.pace)
		}
		p.look(now.Add(c.pause+time.Minute), full, false)
		if p.pace != 0 {
			t.Errorf("%s: it is not forgotten", c.what)
		}
	}
}

// settled is a connection in the middle of a long body whose BBR has settled for
// 2 Mbit/s, on a line of 200 ms without a queue.
var settled = SocketInfo{Known: true, RTT: 202 * time.Millisecond, MinRTT: 200 * time.Millisecond, NotSent: 1 << 17, Bandwidth: 250e3}

// BBR that believes in less than the line carries begins anew, once it is plain
// that the body is long; not while it looks by itself, and not in vain.
func TestClimb(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(*SocketInfo, *pacer)
		anew   bool
	}{
		{"settled for little", func(*SocketInfo, *pacer) {}, true},
		{"looks by itself", func(i *SocketInfo, _ *pacer) { i.Startup = true }, false},
		{"not BBR", func(i *SocketInfo, _ *pacer) { i.Bandwidth = 0 }, false},
		{"a queue", func(i *SocketInfo, _ *pacer) { i.RTT = 300 * time.Millisecond }, false},
		{"nothing waits", func(i *SocketInfo, _ *pacer) { i.NotSent = 0 }, false},
		{"as much as the line was found to carry", func(_ *SocketInfo, p *pacer) { p.found = 300e3 }, false},
		{"less than the line was found to carry", func(_ *SocketInfo, p *pacer) { p.found = 6e6 }, true},
		{"held to a pace", func(_ *SocketInfo, p *pacer) { p.pace, p.line, p.best = 1e6, 1e6, [2]float64{1e6} }, false},
	} {
		info, p, now := settled, &pacer{}, time.Unix(1e9, 0)
		p.look(now, settled, false)
		if p.anew {
			t.Errorf("%s: at the first look", c.what)
		}
		c.change(&info, p)
		p.look(now.Add(time.Second), info, false)
		if p.anew != c.anew {
			t.Errorf("%s: begins anew: %v", c.what, p.anew)
		}
	}
}

// It has ten round trips to find more, begins anew again when it did, and is
// left alone when it did not, until the connection was idle.
func TestClimbAgain(t *testing.T) {
	p, now := &pacer{}, time.Unix(1e9, 0)
	look := func(after time.Duration, bandwidth uint64) bool {
		now = now.Add(after)
		info := settled
		info.Bandwidth = bandwidth
		p.look(now, info, false)
		return p.anew
	}
	look(0, 250e3)
	for _, step := range []struct {
		after     time.Duration
		bandwidth uint64
		anew      bool
	}{
		{time.Second, 250e3, true},
		{time.Second, 1e6, false}, // has not had its time
		{1500 * time.Millisecond, 1e6, true},
		{2500 * time.Millisecond, 1.1e6, false}, // in vain
		{2500 * time.Millisecond, 3e6, false},
		{time.Minute, 1e6, false},
		{time.Second, 1e6, true},
	} {
		if look(step.after, step.bandwidth) != step.anew {
			t.Fatalf("%+v: begins anew: %v", step, p.anew)
		}
	}
}

// After a pause BBR begins anew that would send a short answer slowly.
func TestPauseBeginsAnew(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(*SocketInfo)
		anew   bool
	}{
		{"settled for little", func(*SocketInfo) {}, true},
		{"looks by itself, from little", func(i *SocketInfo) { i.Startup, i.Bandwidth = true, leastPace/3 }, true},
		{"looks by itself, from enough", func(i *SocketInfo) { i.Startup, i.Bandwidth = true, leastPace/2 }, false},
		{"believes in enough", func(i *SocketInfo) { i.Bandwidth = leastPace }, false},
		{"a queue", func(i *SocketInfo) { i.RTT = 300 * time.Millisecond }, false},
		{"not BBR", func(i *SocketInfo) { i.Bandwidth = 0 }, false},
		{"a short line", func(i *SocketInfo) { i.RTT, i.MinRTT = 2*time.Millisecond, time.Millisecond }, false},
		{"a kernel that does not say", func(i *SocketInfo) { i.Known = false }, false},
	} {
		var p pacer
		info := settled
		c.change(&info)
		if p.pause(info); p.anew != c.anew {
			t.Errorf("%s: begins anew: %v", c.what, p.anew)
		}
	}
}

// A queue that is found when a connection paused for most of the time since the
// look before does not hold a long body to what came through in all that time.
func TestPaceAfterAPause(t *testing.T) {
	const knows = 6_000_000 // bytes a second: 48 Mbit/s
	at := time.Unix(1e9, 0)
	info := SocketInfo{Known: true, RTT: 200 * time.Millisecond, MinRTT: 200 * time.Millisecond, Bandwidth: knows, Delivered: 8e6, NotSent: 1}
	p := &pacer{}
	p.look(at, info, false)
	p.look(at.Add(200*time.Millisecond), info, false) // still, and nothing came through
	info.RTT, info.Delivered = 300*time.Millisecond, 8e6+1_500_000
	p.look(at.Add(1200*time.Millisecond), info, false)
	if p.pace < knows/2 {
		t.Errorf("held to %.1f Mbit/s on a line of 48", p.pace*8/1e6)
	}
}
