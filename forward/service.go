package forward

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"causeway/config"
	"causeway/outcome"
)

// service is a forward as one file has it. It is immutable but for its pool and
// its tally.
type service struct {
	file     *config.Forward
	settings string // another text is another service
	pool     *pool
	tally    *tally
	moved    func(in, out int64) // counts bytes; nil: nobody does
}

// service is the one that there is, when nothing changed, or a new one, which
// knows what is known of the old one's targets. The caller has mu.
func (s *Server) service(f *config.Forward) (*service, error) {
	check, err := newCheck(f)
	if err != nil {
		return nil, fmt.Errorf("forward %s: %w", f.Name, err)
	}
	old := s.services[f.Name]
	settings := fmt.Sprintf("%+v %x", *f, check.authorities)
	if old != nil && old.settings == settings {
		return old, nil
	}
	made := &service{file: f, settings: settings, tally: s.tallies[f.Name]}
	if made.tally == nil {
		made.tally = newTally()
	}
	if s.meter != nil {
		made.moved = s.meter.Moving(&outcome.Connection{Forward: f.Name})
	}
	made.pool = newPool(f, s.names, check, made.tally, s.options.Log)
	if old != nil {
		made.pool.learn(old.pool)
	}
	return made, nil
}

// tally is what is counted of a forward. It outlives changes of the file, as do
// the connections that it counts.
type tally struct {
	open atomic.Int64 // connections

	mu      sync.Mutex // guards the rest
	clients map[netip.Addr]int
	targets map[string]*targetTally // as in the file
}

// targetTally counts for a target of the file.
type targetTally struct {
	dials, dialErrors, checks, failed, ejections atomic.Int64
}

func newTally() *tally {
	return &tally{clients: make(map[netip.Addr]int), targets: make(map[string]*targetTally)}
}

// clientEnters counts a connection of a client, if it may be one more.
func (t *tally) clientEnters(client netip.Addr, most int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.clients[client] >= most {
		return false
	}
	t.clients[client]++
	return true
}

func (t *tally) clientLeaves(client netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.clients[client]--; t.clients[client] <= 0 {
		delete(t.clients, client)
	}
}

// target is the tally of a target, by its words in the file.
func (t *tally) target(to string) *targetTally {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.targets[to]
	if of == nil {
		of = new(targetTally)
		t.targets[to] = of
	}
	return of
}

// totals are those of the targets that f has.
func (t *tally) totals(f *config.Forward) []TargetTotals {
	var all []TargetTotals
	for _, target := range f.Targets {
		of := t.target(target.To)
		all = append(all, TargetTotals{
			Target: target.To, Dials: of.dials.Load(), DialErrors: of.dialErrors.Load(),
			Checks: of.checks.Load(), Failed: of.failed.Load(), Ejections: of.ejections.Load(),
		})
	}
	return all
}
