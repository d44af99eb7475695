package link

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"causeway/outcome"
)

// Member is one relay of a Group.
type Member struct {
	Prefer    int // the smaller, the sooner
	Transport *Transport
}

// Group chooses among an edge's relays: the smallest Prefer that has an open
// connection, by turns among equals.
type Group struct {
	members  []Member // by Prefer
	patience time.Duration
	turn     atomic.Uint32
}

// NewGroup makes a Group. patience is how long a request may wait for a first
// connection when no relay has one, as it is just after the start.
func NewGroup(members []Member, patience time.Duration) *Group {
	members = slices.Clone(members)
	slices.SortStableFunc(members, func(a, b Member) int { return a.Prefer - b.Prefer })
	return &Group{members: members, patience: patience}
}

// Up reports whether any relay can be reached.
func (g *Group) Up() bool {
	return slices.ContainsFunc(g.members, func(m Member) bool { return m.Transport.Up() > 0 })
}

// Connections is the number of open connections by relay; nil for a nil Group.
func (g *Group) Connections() map[string]int {
	if g == nil {
		return nil
	}
	open := make(map[string]int, len(g.members))
	for _, member := range g.members {
		open[member.Transport.peer.Name] += member.Transport.Up()
	}
	return open
}

// RoundTrip sends req over the best relay. A request that never left, or one
// that may be repeated (idempotent, RFC 9110 §9.2.2, and without a body), moves
// to another connection, of another relay where one is up, when the link fails
// under it: at most three times.
func (g *Group) RoundTrip(req *http.Request) (*http.Response, error) {
	tries := 4
	var failed *Transport // the last one to fail: another is taken before it
	for {
		transport := g.pick(req.Context(), failed)
		if transport == nil {
			if err := req.Context().Err(); err != nil {
				return nil, context.Cause(req.Context())
			}
			return nil, outcome.Errorf(outcome.LinkDown, "choose a relay: none of %d has an open connection", len(g.members))
		}
		res, err := transport.RoundTrip(req)
		tries, failed = tries-1, transport
		if err == nil || tries == 0 || req.Context().Err() != nil {
			return res, err
		}
		if !errors.Is(err, errNotSent) && (outcome.KindOf(err) != outcome.LinkCut || !repeatable(req)) {
			return nil, err
		}
	}
}

// repeatable reports whether req may be sent twice.
func repeatable(req *http.Request) bool {
	switch req.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return req.Body == nil || req.Body == http.NoBody
	}
	return false
}

// pick gives the transport to use, waiting for a connection to come up when
// none is; nil when patience or ctx ended first.
func (g *Group) pick(ctx context.Context, failed *Transport) *Transport {
	if transport := g.best(failed); transport != nil {
		return transport
	}
	ctx, cancel := context.WithTimeout(ctx, g.patience)
	defer cancel()
	for {
		// Links come up rarely and requests wait rarely: a short poll is
		// simpler than waking every waiter, and costs nothing otherwise.
		wait(ctx, 5*time.Millisecond)
		if transport := g.best(failed); transport != nil {
			return transport
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// best gives the next transport, by turns, of the smallest Prefer that is up;
// the one that failed only when no other is up.
func (g *Group) best(failed *Transport) *Transport {
	var up []*Transport
	prefer := 0
	for _, member := range g.members {
		if member.Transport == failed || member.Transport.Up() == 0 || (len(up) > 0 && member.Prefer != prefer) {
			continue
		}
		prefer = member.Prefer
		up = append(up, member.Transport)
	}
	if len(up) > 0 {
		return up[int(g.turn.Add(1))%len(up)]
	}
	if failed != nil && failed.Up() > 0 {
		return failed
	}
	return nil
}
