package link

import (
	"cmp"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"causeway/outcome"
)

// How a path is known to be well:
//
//  1. watch looks at the connections that something is awaited from. One that has
//     been silent for longer than a round trip is asked for a sign of life;
//     without one it is suspect, the others are asked too, and what can be is sent
//     elsewhere. Its requests stay otherwise: a line that comes back delivers them,
//     and HTTP/2's own pings end a connection that does not.
//  2. probe asks from time to time, how long the round trip takes.
//  3. Failures in a row eject the path for a while, longer each time, until it
//     answers a probe.
//  4. A path that comes back is settled when it has been well for settleTime, and
//     then gets its share little by little.

const (
	// tick is how often the connections are looked at, and silentFor how much longer
	// than a round trip one may say nothing. With a tick until a silence begins to
	// count, one until it is seen, and signTime, that is two round trips and a
	// second at most.
	tick      = 100 * time.Millisecond
	silentFor = 200 * time.Millisecond

	// probeEvery is the pause between two probes of a path that is well. One costs
	// some 200 bytes each way, with TCP's.
	probeEvery = 5 * time.Second
	// probeAgain is the same of one that is ejected.
	probeAgain = time.Second

	// failuresToEject in a row eject a path, for leastEjection at first, and twice
	// as long each time after, up to mostEjection.
	failuresToEject = 5
	leastEjection   = 2 * time.Second
	mostEjection    = time.Minute
	// forgiveAfter is how long a path must be well for its ejections to be
	// forgotten.
	forgiveAfter = 5 * time.Minute

	// settleTime is how long a path that came back must be well before it is
	// preferred again, rampTime how long its share grows then.
	settleTime = 3 * time.Second
	rampTime   = 10 * time.Second
	leastRamp  = 0.1
)

// health is what is known of a path beside its connections.
type health struct {
	mu        sync.Mutex
	latency   time.Duration // of a round trip, smoothed; 0 is not known
	failures  int           // in a row
	ejected   bool
	until     time.Time // it stays ejected at least
	ejections int       // since it was forgiven
	lastEject time.Time
	wasUp     bool      // it has had a connection before
	back      time.Time // when it came back last; zero when it never was away
	draining  bool      // the relay says so
	down      string    // why there is no connection
}

// isDown notes why the path has no connection.
func (h *health) isDown(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = err.Error()
}

func (h *health) whyDown() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return cmp.Or(h.down, "not connected yet")
}

// up notes that the path has a connection again.
func (h *health) up(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wasUp {
		h.back = now
	}
	h.wasUp = true
}

// measured takes in a round trip. What takes longer counts at once, what is
// faster little by little.
func (h *health) measured(rtt time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.latency == 0:
		h.latency = rtt
	case rtt > h.latency:
		h.latency = (h.latency + rtt) / 2
	default:
		h.latency += (rtt - h.latency) / 8
	}
}

// noted takes in how a request or a probe ended, and says whether that ejected
// the path.
func (h *health) noted(failed bool, now time.Time) (ejected bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !failed {
		h.failures = 0
		return false
	}
	if h.failures++; h.failures < failuresToEject || h.ejected {
		return false
	}
	if now.Sub(h.lastEject) > forgiveAfter {
		h.ejections = 0
	}
	pause := min(leastEjection<<min(h.ejections, 10), mostEjection)
	h.ejected, h.until, h.lastEject = true, now.Add(pause+rand.N(pause/4)), now
	h.ejections++
	return true
}

// answered takes in a probe that came back, and says whether it ended an
// ejection.
func (h *health) answered(rtt time.Duration, now time.Time) (back bool) {
	h.measured(rtt)
	h.noted(false, now)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ejected || now.Before(h.until) {
		return false
	}
	h.ejected, h.back = false, now
	return true
}

// drains takes in what the relay says of itself.
func (h *health) drains(yes bool) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed = h.draining != yes
	h.draining = yes
	return changed
}

// condition is how well a path is, of those that have a connection.
type condition struct {
	ejected, draining, warming bool
	ramp                       float64 // of its share: leastRamp to 1
	latency                    time.Duration
}

// illness is how bad a path is for a request, 0 for one that is well; unreached says
// that its relay fails to reach the origin.
func (c condition) illness(unreached bool) int {
	switch {
	case c.ejected:
		return 4
	case unreached:
		return 3
	case c.draining:
		return 2
	case c.warming:
		return 1
	}
	return 0
}

func (h *health) condition(now time.Time) condition {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := condition{ejected: h.ejected, draining: h.draining, ramp: 1, latency: h.latency}
	if !h.back.IsZero() {
		well := now.Sub(h.back)
		c.warming = well < settleTime
		c.ramp = min(1, max(leastRamp, float64(well-settleTime)/float64(rampTime)))
	}
	return c
}

// watch looks at the connections until ctx ends, while something is awaited from
// any.
func (t *Transport) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.awaits:
		}
		t.lookWhileAwaited(ctx)
	}
}

func (t *Transport) lookWhileAwaited(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for awaited := true; awaited; {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			awaited = false
			for _, w := range t.all() {
				awaited = t.look(ctx, w, now) || awaited
			}
		}
	}
}

// awaiting wakes watch.
func (t *Transport) awaiting() {
	select {
	case t.awaits <- struct{}{}:
	default:
	}
}

// look asks w for a sign of life when it has been silent for too long, and says
// whether anything is awaited from it.
func (t *Transport) look(ctx context.Context, w *warm, now time.Time) (awaited bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.suspect:
		if w.line.lastHeard().After(w.awaited) { // it was slow, and has been given up all the same
			w.suspect = false
		} else {
			t.tasks.Go(w.move)
		}
		return true
	case w.due.Load() == 0 && w.bulk.Load() == 0:
		w.awaited = time.Time{}
		return false
	case w.awaited.IsZero():
		w.awaited = now
		return true
	}
	since := w.awaited
	if heard := w.line.lastHeard(); heard.After(since) {
		since = heard
	}
	if now.Sub(since) >= w.roundTrip()+silentFor && !w.probing && !w.ended {
		w.probing = true
		t.tasks.Go(func() { t.question(ctx, w) })
	}
	return true
}

// signTime is how long the sign of life may take: two round trips and a little, in
// which a packet may be lost, but no less than a busy machine needs.
func signTime(rtt time.Duration) time.Duration {
	const busy, little = 600 * time.Millisecond, 200 * time.Millisecond
	return min(max(2*rtt+little, busy), rtt+busy)
}

// question asks w for a sign of life, whatever it is.
func (t *Transport) question(ctx context.Context, w *warm) {
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, signTime(w.roundTrip()))
	defer cancel()
	_, err := t.greet(ctx, w.ClientConn)
	w.mu.Lock()
	w.probing = false
	if err == nil || w.line.lastHeard().After(asked) || ctx.Err() == context.Canceled {
		w.mu.Unlock()
		return
	}
	w.suspect = true
	w.awaited = asked
	w.mu.Unlock()
	t.peer.Log.Debug("link connection is silent", "relay", t.peer.Name, "via", t.peer.Via, "err", err)
	w.end()
	w.move()
	if t.health.noted(true, time.Now()) {
		t.ejected(err)
	}
	for _, other := range t.open() { // the line may be cut for all
		other.mu.Lock()
		if !other.probing && !other.suspect {
			other.probing = true
			t.tasks.Go(func() { t.question(ctx, other) })
		}
		other.mu.Unlock()
	}
}

// probe measures the path from time to time until ctx ends.
func (t *Transport) probe(ctx context.Context) {
	for ctx.Err() == nil {
		pause := probeEvery
		if t.health.condition(time.Now()).ejected {
			pause = probeAgain
		}
		wait(ctx, pause*3/4+rand.N(pause/2))
		if w := t.least(); w != nil {
			t.measure(ctx, w)
		}
	}
}

// measure asks the relay over w.
func (t *Transport) measure(ctx context.Context, w *warm) {
	start := time.Now()
	limit, cancel := context.WithTimeout(ctx, max(4*w.roundTrip(), 2*time.Second))
	defer cancel()
	_, err := t.greet(limit, w.ClientConn)
	if err == nil {
		w.took(time.Since(start))
	}
	switch now := time.Now(); {
	case ctx.Err() != nil:
	case err != nil:
		if t.health.noted(true, now) {
			t.ejected(err)
		}
	case t.health.answered(now.Sub(start), now):
		t.peer.Log.Info("link path is back", "relay", t.peer.Name, "via", t.peer.Via)
	}
}

// ejected tells of an ejection.
func (t *Transport) ejected(err error) {
	t.counts.ejections.Add(1)
	t.peer.Log.Warn("link path is ejected: other paths are taken until it answers again", "relay", t.peer.Name, "via", t.peer.Via, "err", err)
}

// note takes in how a request ended.
func (t *Transport) note(err error) {
	kind := outcome.KindOf(err)
	failed := err != nil && (kind == outcome.LinkCut || kind == outcome.LinkSlow)
	if failed {
		t.counts.failures.Add(1)
	}
	if t.health.noted(failed, time.Now()) {
		t.ejected(err)
	}
}
