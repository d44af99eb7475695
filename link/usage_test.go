package link

import (
	"testing"
	"time"
)

func TestMeter(t *testing.T) {
	var m Meter
	start := time.Date(2026, 11, 1, 10, 2, 0, 0, time.UTC)
	look := func(after time.Duration, sent, received uint64) Usage {
		return m.Look(start.Add(after), []PathState{{Relay: "virginia-1", Via: "10.1.0.5:7443", Totals: Totals{Sent: sent, Received: received}}})[0]
	}
	look(0, 0, 0)
	look(time.Minute, 100, 3000) // 10:00–10:05
	u := look(3*time.Minute, 200, 7500)
	if u.Sent != 200 || u.Received != 7500 || u.Peak != 7500*8/300. || !u.PeakAt.Equal(start.Add(-2*time.Minute)) || !u.Since.Equal(start) {
		t.Errorf("the first window: %+v", u)
	}
	u = look(8*time.Minute, 9200, 8000) // 10:05–10:10, the other direction is the busier
	if u.Peak != 9000*8/300. || !u.PeakAt.Equal(start.Add(3*time.Minute)) {
		t.Errorf("a busier window: %+v", u)
	}
	u = look(13*time.Minute, 500, 600) // a link that was made anew
	if u.Sent != 9700 || u.Received != 8600 || u.Peak != 240 {
		t.Errorf("a link made anew: %+v", u)
	}
	if month := u.Month(start.Add(13 * time.Minute)); month < 18300*30*24*60/13.-1 || month > 18300*30*24*60/13.+1 {
		t.Errorf("a month like this: %v bytes", month)
	}
	u = look(20*24*time.Hour, 1500, 600)
	if u.Sent != 10700 || u.Peak != 240 {
		t.Errorf("20 days on: %+v", u)
	}
	u = look(31*24*time.Hour, 1600, 600)
	if u.Sent != 1100 || u.Received != 0 || u.Peak != 1000*8/300. || u.Since.Before(start.Add(19*24*time.Hour)) {
		t.Errorf("what is over for a month counts: %+v", u)
	}
	if other := m.Look(start, []PathState{{Relay: "virginia-1", Via: "b"}})[0]; other.Sent != 0 {
		t.Errorf("another path: %+v", other)
	}
	if (Usage{Since: start}).Month(start) != 0 {
		t.Error("a month of no time")
	}
}

// The clock of a node is set back: a window is five minutes all the same, and
// what is counted began no later than now.
func TestMeterWhenTheClockIsSetBack(t *testing.T) {
	for _, back := range []time.Duration{30 * time.Minute, 20 * 365 * 24 * time.Hour} {
		var m Meter
		at := time.Date(2046, 11, 1, 10, 0, 0, 0, time.UTC)
		var sent uint64
		look := func() Usage {
			u := m.Look(at, []PathState{{Relay: "virginia-1", Via: "10.1.0.5:7443", Totals: Totals{Sent: sent}}})[0]
			at = at.Add(MeterWindow)
			sent += 3000
			return u
		}
		for range 5 {
			look()
		}
		at = at.Add(-back)
		var u Usage
		for range 20 {
			u = look()
		}
		if now := at.Add(-MeterWindow); u.Peak > 2*3000*8/300. || u.Sent != sent-3000 || u.Since.After(now) || u.Month(now) == 0 || u.PeakAt.After(now) {
			t.Errorf("%v back: %+v at %v, a month is %v", back, u, now, u.Month(now))
		}
	}
}
