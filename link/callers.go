package link

import (
	"context"
	"crypto/tls"
	"slices"
	"sync"
	"time"
)

// What a relay minds of its edges, which have proven who they are and may have
// gone mad all the same:
//
//  1. prove gives each connection to its edge, and ends those that are more than
//     an edge may have: each may hold leastBodies windows of what it sends,
//  2. a connection that this end closed is told of with its node's name: net/http
//     closes those that break HTTP/2, and does not always say so; where it does
//     nodeAt knows the name,
//  3. as is one that carries as many requests as it may,
//  4. Dismiss lets those go that a new file names no more.

// tellPause is how often the log tells the same of one edge.
const tellPause = 10 * time.Second

// limited tells now and then of what happens often. The zero value is ready.
type limited struct {
	mu    sync.Mutex // guards the rest
	times int        // not told of yet
	told  time.Time
}

// now counts one more, and gives how many are to be told of, 0 for none yet.
func (l *limited) now() (times int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.times++
	if now := time.Now(); now.Sub(l.told) >= tellPause {
		times, l.times, l.told = l.times, 0, now
	}
	return times
}

// prove notes that s is a connection of the edge that state names.
func (c *Callers) prove(s *socket, state tls.ConnectionState) {
	if c.Name == nil {
		return
	}
	edge := c.Name(state)
	c.mu.Lock()
	if c.of == nil {
		c.of = make(map[string]*caller)
	}
	from := c.of[edge]
	if from == nil {
		from = &caller{edge: edge, callers: c}
		c.of[edge] = from
	}
	c.mu.Unlock()
	s.from = from
	from.add(s)
	if most := c.most(edge); most > 0 && from.count() > most {
		s.dismissed.Store(true)
		if times := from.refused.now(); times > 0 && c.Log != nil {
			c.Log.Warn("link refused connections of a node: it has as many as it may, limits.link_connections_most of its paths and some more",
				"node", edge, "peer", s.RemoteAddr().String(), "has", most, "refused", times)
		}
		s.Close()
	}
}

// nodeAt is the edge that has a connection from this address, "" for none.
func (c *Callers) nodeAt(address string) string {
	if c == nil {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for edge, from := range c.of {
		for _, s := range from.all() {
			if s.RemoteAddr().String() == address {
				return edge
			}
		}
	}
	return ""
}

// most is how many connections an edge may have, 0 for as many as it likes.
func (c *Callers) most(edge string) int {
	if c.Most == nil {
		return 0
	}
	return c.Most(edge)
}

// closed tells that this end closed s.
func (c *caller) closed(s *socket) {
	if c.callers.Log == nil || c.callers.Stopping != nil && c.callers.Stopping() {
		return
	}
	if times := c.ended.now(); times > 0 {
		c.callers.Log.Warn("link closed connections of a node: it broke the protocol, did not take what it was sent, or was silent",
			"node", c.edge, "peer", s.RemoteAddr().String(), "closed", times)
	}
}

// full tells that s carries as many requests as it may.
func (c *caller) full(s *socket) {
	if c.callers.Log == nil {
		return
	}
	if times := c.crowded.now(); times > 0 {
		c.callers.Log.Warn("link node asks for more than a connection carries: what comes on top is refused",
			"node", c.edge, "peer", s.RemoteAddr().String(), "requests", streams)
	}
}

// flooded tells that s is closed, as it takes back more requests than visitors would.
func (c *caller) flooded(s *socket) {
	if c.callers.Log == nil {
		return
	}
	if times := c.floods.now(); times > 0 {
		c.callers.Log.Warn("link closed connections of a node: it takes back one request after the other",
			"node", c.edge, "peer", s.RemoteAddr().String(), "closed", times)
	}
}

// Dismiss ends the connections of all but these edges, each when its requests
// are done, or when ctx ends.
func (c *Callers) Dismiss(ctx context.Context, but []string) {
	c.mu.Lock()
	var left []*socket
	for edge, from := range c.of {
		if !slices.Contains(but, edge) {
			left = append(left, from.all()...)
		}
	}
	c.mu.Unlock()
	for {
		left = slices.DeleteFunc(left, func(s *socket) bool {
			over := s.streams.Load() == 0 || ctx.Err() != nil
			if over {
				s.dismissed.Store(true)
				s.Close()
			}
			return over
		})
		if len(left) == 0 {
			return
		}
		wait(ctx, 50*time.Millisecond)
	}
}
