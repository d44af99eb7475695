package link

import (
	"slices"
	"sync"
	"time"
)

// What goes over each path is metered as lines are paid: by the bytes of a
// month, and by the busiest five minutes in it. Totals are counted by the
// connections (state.go); a Meter only looks at them, once in MeterWindow, and
// whenever it is asked.

// MeterWindow is how long the rate is the mean of, as usual for lines that are
// paid by their rate.
const MeterWindow = 5 * time.Minute

// meterDays is the month that is looked at.
const meterDays = 30

// Usage is what went over a path in the last thirty days, or since the Meter
// knows of it.
type Usage struct {
	Relay, Via     string
	Since          time.Time // the beginning of what is counted
	Sent, Received uint64    // bytes of TLS records
	Peak           float64   // bits a second of the busiest MeterWindow, in the busier direction
	PeakAt         time.Time // its beginning; zero for none
}

// Month is what would go over the path in thirty days as it did since the
// beginning, in bytes of both directions.
func (u Usage) Month(now time.Time) float64 {
	elapsed := now.Sub(u.Since)
	if elapsed <= 0 {
		return 0
	}
	return float64(u.Sent+u.Received) * (meterDays * 24 * time.Hour).Seconds() / elapsed.Seconds()
}

// Meter keeps the Usage of paths. The zero value is ready.
type Meter struct {
	mu    sync.Mutex // guards the rest
	paths []*metered
}

// metered is one path.
type metered struct {
	relay, via     string
	since          time.Time
	sent, received uint64 // Totals as they were last seen
	window         window
	days           []day // the oldest first, meterDays and a part at most
}

// window is a MeterWindow that is under way.
type window struct {
	begin          time.Time
	sent, received uint64
}

// day is what is kept of a day.
type day struct {
	begin          time.Time
	sent, received uint64
	peak           float64
	peakAt         time.Time
}

// Look notes what the paths carried since the last look, and gives their Usage.
// Totals that went back are those of a link that was made anew.
func (m *Meter) Look(now time.Time, states []PathState) []Usage {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]Usage, 0, len(states))
	for _, state := range states {
		p := m.of(state, now)
		p.saw(now, state.Totals)
		list = append(list, p.usage())
	}
	return list
}

// of finds or makes the path of a state. Their number is that of the paths that
// files ever named. m.mu is held.
func (m *Meter) of(state PathState, now time.Time) *metered {
	at := slices.IndexFunc(m.paths, func(p *metered) bool { return p.relay == state.Relay && p.via == state.Via })
	if at < 0 {
		at = len(m.paths)
		m.paths = append(m.paths, &metered{relay: state.Relay, via: state.Via, since: now, window: window{begin: now.Truncate(MeterWindow)}})
	}
	return m.paths[at]
}

// saw adds what came since the last look. What came over several windows, when
// nobody looked, is counted in the first of them.
func (p *metered) saw(now time.Time, totals Totals) {
	sent, received := since(totals.Sent, p.sent), since(totals.Received, p.received)
	p.sent, p.received = totals.Sent, totals.Received
	if begin := now.Truncate(MeterWindow); p.window.begin.After(begin) { // the clock was set back
		p.window = window{begin: begin}
	}
	today := p.today(now)
	today.sent += sent
	today.received += received
	p.window.sent += sent
	p.window.received += received
	if rate := float64(max(p.window.sent, p.window.received)) * 8 / MeterWindow.Seconds(); rate > today.peak {
		today.peak, today.peakAt = rate, p.window.begin
	}
	if begin := now.Truncate(MeterWindow); begin.After(p.window.begin) {
		p.window = window{begin: begin}
	}
}

// since is how much more a count is than before.
func since(now, before uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

// today is the day that now is in. Days that are over for a month are dropped.
// When the clock was set back, what is dated later than now was now at the most.
func (p *metered) today(now time.Time) *day {
	begin := now.Truncate(24 * time.Hour)
	if p.since.After(now) {
		p.since = now
	}
	for i := range p.days {
		d := &p.days[i]
		if d.begin.After(begin) {
			d.begin = begin
		}
		if d.peakAt.After(now) {
			d.peakAt = now
		}
	}
	if len(p.days) == 0 || begin.After(p.days[len(p.days)-1].begin) {
		p.days = append(p.days, day{begin: begin})
	}
	p.days = slices.DeleteFunc(p.days, func(d day) bool { return begin.Sub(d.begin) >= meterDays*24*time.Hour })
	return &p.days[len(p.days)-1]
}

func (p *metered) usage() Usage {
	u := Usage{Relay: p.relay, Via: p.via, Since: p.since}
	if first := p.days[0].begin; first.After(u.Since) {
		u.Since = first
	}
	for _, d := range p.days {
		u.Sent += d.sent
		u.Received += d.received
		if d.peak > u.Peak {
			u.Peak, u.PeakAt = d.peak, d.peakAt
		}
	}
	return u
}
