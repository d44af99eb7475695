package forward

import (
	"context"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"causeway/config"
	"causeway/resolve"
)

const (
	// followPause is how often the resolver is asked whether a name has moved;
	// it asks a name server when the TTL is over.
	followPause = time.Second
	// mostAddresses of a name: more than a DNS answer over UDP holds.
	mostAddresses = 64
	// ejectAfter failures in a row an address is left out for ejectFirst, twice
	// as long each time, as a relay's origins are; never more than half of all
	// addresses, as then it is something else that fails.
	ejectAfter = 3
	ejectFirst = 10 * time.Second
	ejectMost  = 2 * time.Minute
)

// pool is the targets of a forward: which addresses they have, which of those are
// well, and whose turn it is.
type pool struct {
	file  *config.Forward
	names *resolve.Resolver
	check *check
	tally *tally
	log   *slog.Logger

	base  context.Context // ends with stop: nothing is followed or checked any more
	end   context.CancelFunc
	tasks sync.WaitGroup
	ready chan struct{} // closed when every name was looked up once

	dialing atomic.Int64 // connections that look for a target

	ejected chan struct{} // wakes ejections; holds one

	mu   sync.Mutex // guards the rest, and what endpoint says
	all  []*endpoint
	room []candidate // for choose
}

// endpoint is one address of a target.
type endpoint struct {
	name  string // the target, as in the file
	addr  netip.Addr
	port  int // 0: the one that came
	share float64
	seed  uint64 // of the hash
	tally *targetTally

	open *atomic.Int64 // connections; one with that of the pools before

	// The mutex of the pool guards the rest.
	turn    float64   // of the smooth weighted round robin
	since   time.Time // when it came back; zero when it was always there
	changed time.Time // when it last came, went down, came up, or was left out
	down    bool      // as the checks say
	why     string    // what failed last
	row     int       // checks in a row that said the other thing than down
	heard   int       // number of the check that was heard last
	checked time.Time // when that was; zero before the first
	result  string    // what it said; "" when it was well
	misses  int       // connections in a row that failed
	missed  netip.Addr
	until   time.Time // it is left out until then
	out     bool      // the log says that it is left out, and not yet that this is over
	pause   time.Duration
	loop    bool            // it leads back to where its connections come from
	life    context.Context // ends when it goes down: dials then are tried elsewhere
	die     context.CancelFunc
	unwatch context.CancelFunc // ends its checks
}

func newPool(f *config.Forward, names *resolve.Resolver, check *check, tally *tally, log *slog.Logger) *pool {
	p := &pool{file: f, names: names, check: check, tally: tally, log: log, ready: make(chan struct{}), ejected: make(chan struct{}, 1)}
	p.base, p.end = context.WithCancel(context.Background())
	for _, target := range f.Targets {
		host, _ := target.Split()
		if addr, err := netip.ParseAddr(host); err == nil {
			p.all = append(p.all, p.newEndpoint(target, addr))
		}
	}
	p.shareOut()
	return p
}

func (p *pool) newEndpoint(target config.Target, addr netip.Addr) *endpoint {
	_, port := target.Split()
	at := &endpoint{name: target.To, addr: addr.Unmap(), port: port, tally: p.tally.target(target.To), open: new(atomic.Int64), changed: time.Now()}
	at.seed = seedOf(netip.AddrPortFrom(at.addr, uint16(port)).String())
	at.life, at.die = context.WithCancel(context.Background())
	return at
}

// shareOut gives each address its share of the weight of its target. The caller
// has mu, or the only reference.
func (p *pool) shareOut() {
	for _, target := range p.file.Targets {
		n := 0
		for _, at := range p.all {
			if at.name == target.To {
				n++
			}
		}
		for _, at := range p.all {
			if at.name == target.To {
				at.share = float64(target.Weight) / float64(n)
			}
		}
	}
}

// learn takes over what another pool knows of the same addresses.
func (p *pool) learn(old *pool) {
	old.mu.Lock()
	defer old.mu.Unlock()
	for _, target := range p.file.Targets { // names begin where they were
		host, _ := target.Split()
		if _, err := netip.ParseAddr(host); err == nil {
			continue
		}
		for _, at := range old.all {
			if at.name == target.To {
				p.all = append(p.all, p.newEndpoint(target, at.addr))
			}
		}
	}
	for _, at := range p.all {
		for _, before := range old.all {
			if before.addr == at.addr && before.port == at.port {
				at.down, at.why, at.since = before.down && p.check.does(), before.why, before.since
				if at.down == before.down {
					at.changed = before.changed
				}
				at.checked, at.result = before.checked, before.result
				at.misses, at.until, at.out, at.pause = before.misses, before.until, before.out, before.pause
				at.open = before.open
			}
		}
	}
	p.shareOut()
}

// run follows the names and checks the addresses until stop. tasks waits for it.
func (p *pool) run(tasks *sync.WaitGroup) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range p.all {
		p.watch(at)
	}
	var first sync.WaitGroup
	for _, target := range p.file.Targets {
		host, _ := target.Split()
		if _, err := netip.ParseAddr(host); err != nil {
			first.Add(1)
			p.tasks.Go(func() { p.follow(host, target, sync.OnceFunc(first.Done)) })
		}
	}
	p.tasks.Go(func() { first.Wait(); close(p.ready) })
	p.tasks.Go(p.ejections)
	tasks.Go(p.tasks.Wait)
}

// stop ends what run began. Connections may still be dialled.
func (p *pool) stop() { p.end() }

// settled says that some target has an address, or that every name was looked up
// once: there is nothing to wait for.
func (p *pool) settled() bool {
	select {
	case <-p.ready:
		return true
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.all) > 0
}

// follow keeps the addresses of a name.
func (p *pool) follow(host string, target config.Target, looked func()) {
	defer looked()
	failing := false
	for p.base.Err() == nil {
		addrs, err := p.names.Lookup(p.base, host)
		if err == nil && len(addrs) > 0 {
			p.replace(target, addrs[:min(len(addrs), mostAddresses)])
			failing = false
		} else if p.base.Err() == nil && !failing {
			failing = true
			p.log.Warn("a target can't be looked up", "forward", p.file.Name, "target", target.To, "err", err)
		}
		looked()
		pause(p.base, followPause)
	}
}

// pause waits for so long, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// replace makes addrs the addresses of a target.
func (p *pool) replace(target config.Target, addrs []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var kept []*endpoint
	known := make(map[netip.Addr]bool)
	changed := false
	for _, at := range p.all {
		if at.name != target.To || slices.Contains(addrs, at.addr) {
			kept = append(kept, at)
			known[at.addr] = known[at.addr] || at.name == target.To
			continue
		}
		changed = true
		at.die()
		if at.unwatch != nil {
			at.unwatch()
		}
	}
	for _, addr := range addrs {
		if !known[addr] {
			known[addr], changed = true, true
			at := p.newEndpoint(target, addr)
			p.watch(at)
			kept = append(kept, at)
		}
	}
	if changed {
		p.all = kept
		p.shareOut()
		p.log.Info("a target has other addresses", "forward", p.file.Name, "target", target.To, "addresses", addrs)
	}
}

// alive ends when the checks of the address say that it is down, or the node is
// cut.
func (p *pool) alive(at *endpoint) context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	return at.life
}

// kill ends the dials under way.
func (p *pool) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range p.all {
		at.die()
	}
}

// choose takes the address for a connection of client, but none of tried, and
// says how many more there are. Those that are well come first; when none is,
// the others. leave ends the connection.
func (p *pool) choose(client netip.Addr, tried []*endpoint) (chosen *endpoint, left int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, lenient := range []bool{false, true} {
		candidates := p.room[:0]
		left = -1
		for _, at := range p.all {
			if at.share == 0 || at.loop || slices.Contains(tried, at) {
				continue
			}
			left++
			if lenient || at.well(now) {
				candidates = append(candidates, candidate{at, at.weight(now, p.file.SlowStart)})
			}
		}
		p.room = candidates[:0]
		if len(candidates) > 0 {
			chosen = choosers[p.file.Balance](candidates, client)
			chosen.open.Add(1)
			return chosen, left
		}
	}
	return nil, 0
}

// leave ends a connection that choose began.
func (p *pool) leave(at *endpoint) { at.open.Add(-1) }

// well says whether the address gets connections. The caller has mu.
func (at *endpoint) well(now time.Time) bool { return !at.down && !now.Before(at.until) }

// slowest is the part of its weight with which an address comes back.
const slowest = 0.1

// weight is the share of the address now. The caller has mu.
func (at *endpoint) weight(now time.Time, slowStart time.Duration) float64 {
	if slowStart <= 0 || at.since.IsZero() {
		return at.share
	}
	return at.share * min(1, max(slowest, now.Sub(at.since).Seconds()/slowStart.Seconds()))
}

// answered notes a connection that the address served.
func (p *pool) answered(at *endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at.misses, at.pause, at.missed = 0, 0, netip.Addr{}
}

// missed notes a connection that the address failed: when it was dialled, or,
// with the client that it was for, by a reset before a byte. Such a client may be
// the cause: one that goes on by itself counts once.
func (p *pool) missed(at *endpoint, client netip.Addr, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if client.IsValid() && client == at.missed {
		return
	}
	at.missed = client
	at.misses++
	now := time.Now()
	if at.misses < ejectAfter || !at.well(now) {
		return
	}
	out := 1
	for _, other := range p.all {
		if now.Before(other.until) {
			out++
		}
	}
	if out > len(p.all)/2 {
		return
	}
	at.pause = min(max(2*at.pause, ejectFirst), ejectMost)
	at.until, at.since = now.Add(at.pause), now.Add(at.pause)
	at.changed, at.out = now, true
	select {
	case p.ejected <- struct{}{}:
	default:
	}
	at.misses = ejectAfter - 1 // one more failure leaves it out again
	at.why = err.Error()
	at.tally.ejections.Add(1)
	p.log.Warn("a target is left out", "forward", p.file.Name, "target", at.name, "address", at.addr, "for", at.pause, "err", err)
}

// ejections logs when what was left out gets connections again, until the pool
// stops.
func (p *pool) ejections() {
	for {
		timer := time.NewTimer(p.readmit())
		select {
		case <-timer.C:
		case <-p.ejected:
		case <-p.base.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// readmit logs which addresses are no longer left out, and says how long it is to
// the next.
func (p *pool) readmit() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, next := time.Now(), ejectMost
	for _, at := range p.all {
		switch left := at.until.Sub(now); {
		case !at.out:
		case left > 0:
			next = min(next, left)
		default:
			at.out = false
			p.log.Info("a target is no longer left out", "forward", p.file.Name, "target", at.name, "address", at.addr)
		}
	}
	return next
}

// comesRound notes that the address leads back to the listener whose connections
// it gets: each would make the next. It gets none any more.
func (p *pool) comesRound(at *endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at.loop {
		return
	}
	at.loop, at.why, at.changed = true, "it leads back to its own listener", time.Now()
	if at.unwatch != nil {
		at.unwatch()
	}
	p.log.Error("a target leads back to the listener of its forward, and is left out", "forward", p.file.Name, "target", at.name, "address", at.addr)
}

// goesRound says whether comesRound was noted of the address.
func (p *pool) goesRound(at *endpoint) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return at.loop
}

// heard notes the result of a check, the number-th.
func (p *pool) heard(at *endpoint, number int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if number < at.heard {
		return // a later one has said what is so
	}
	at.heard, at.checked, at.result = number, time.Now(), ""
	at.tally.checks.Add(1)
	if err != nil {
		at.tally.failed.Add(1)
		at.why = err.Error()
		at.result = at.why
	}
	if (err != nil) == at.down {
		at.row = 0
		return
	}
	at.row++
	switch {
	case !at.down && at.row >= p.file.Health.Fall:
		at.down, at.row, at.changed = true, 0, time.Now()
		at.out = false // what is said of it is that it is down
		at.die()
		at.life, at.die = context.WithCancel(context.Background())
		p.log.Warn("a target is down", "forward", p.file.Name, "target", at.name, "address", at.addr, "err", err)
	case at.down && at.row >= p.file.Health.Rise:
		at.down, at.row, at.since, at.changed = false, 0, time.Now(), time.Now()
		at.misses, at.until, at.pause = 0, time.Time{}, 0 // what connections met is over
		p.log.Info("a target is up", "forward", p.file.Name, "target", at.name, "address", at.addr)
	}
}

// state is that of every address.
func (p *pool) state() []TargetState {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	shares := p.shares(now)
	var all []TargetState
	for _, target := range p.file.Targets {
		some := false
		for _, at := range p.all {
			if at.name == target.To {
				some = true
				s := at.state(now, p.file.SlowStart)
				s.Share = shares[at]
				all = append(all, s)
			}
		}
		if !some {
			all = append(all, TargetState{Target: target.To, State: StateUnresolved})
		}
	}
	return all
}

// shares are which part of new connections each address gets, by its weight. The
// caller has mu.
func (p *pool) shares(now time.Time) map[*endpoint]float64 {
	shares, total := make(map[*endpoint]float64), 0.0
	for _, lenient := range []bool{false, true} {
		for _, at := range p.all {
			if at.share > 0 && !at.loop && (lenient || at.well(now)) {
				shares[at] = at.weight(now, p.file.SlowStart)
				total += shares[at]
			}
		}
		if total > 0 {
			break
		}
	}
	for at := range shares {
		shares[at] /= total
	}
	return shares
}

// state is that of the address, but for its share. The caller has mu.
func (at *endpoint) state(now time.Time, slowStart time.Duration) TargetState {
	s := TargetState{
		Target: at.name, Address: at.addr.String(), State: StateUp, Since: at.changed, Open: at.open.Load(),
		Checked: at.checked, Result: at.result, at: netip.AddrPortFrom(at.addr, uint16(at.port)),
	}
	switch full := at.since.Add(slowStart); {
	case at.loop:
		s.State, s.Why = StateEjected, at.why
	case at.down:
		s.State, s.Why = StateDown, at.why
	case now.Before(at.until):
		s.State, s.Why = StateEjected, at.why
	case !at.since.IsZero() && now.Before(full):
		s.State, s.Since = StateWarming, at.since
	case full.After(s.Since):
		s.Since = full
	}
	return s
}

// ---- how one is chosen

// candidate is an address that may be chosen.
type candidate struct {
	*endpoint
	weight float64 // now; more than 0
}

var choosers = map[config.Balance]func([]candidate, netip.Addr) *endpoint{
	config.BalanceWeighted: byTurns,
	config.BalanceLeast:    byLeast,
	config.BalanceHash:     byHash,
}

// byTurns is nginx's smooth weighted round robin: a run of one address is as
// short as the weights allow.
func byTurns(candidates []candidate, _ netip.Addr) *endpoint {
	var best candidate
	total := 0.0
	for _, c := range candidates {
		c.turn += c.weight
		total += c.weight
		if best.endpoint == nil || c.turn > best.turn {
			best = c
		}
	}
	best.turn -= total
	return best.endpoint
}

// byLeast takes the one with the fewest connections for its weight; of several,
// by turns.
func byLeast(candidates []candidate, client netip.Addr) *endpoint {
	least, level := math.Inf(1), candidates[:0:0]
	for _, c := range candidates {
		load := float64(c.open.Load()+1) / c.weight
		switch {
		case load < least:
			least, level = load, append(level[:0], c)
		case load == least:
			level = append(level, c)
		}
	}
	return byTurns(level, client)
}

// byHash is rendezvous hashing with weights (Thaler and Ravishankar, 1998;
// Schindelhauer and Schomaker, 2005): each address draws a number for the client,
// and the best wins. When one goes, only its clients go elsewhere.
func byHash(candidates []candidate, client netip.Addr) *endpoint {
	as16 := client.As16()
	var best *endpoint
	lowest := math.Inf(1)
	for _, c := range candidates {
		drawn := (float64(mix(fnv(c.seed, as16[:]))>>11) + 0.5) / (1 << 53) // between 0 and 1
		if score := -math.Log(drawn) / c.weight; score < lowest {
			best, lowest = c.endpoint, score
		}
	}
	return best
}

// seedOf is the same on every edge and in every process.
func seedOf(address string) uint64 { return fnv(14695981039346656037, []byte(address)) }

// fnv goes on with FNV-1a.
func fnv(h uint64, data []byte) uint64 {
	for _, b := range data {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}

// mix spreads what FNV leaves in the low bits (the end of SplitMix64).
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
