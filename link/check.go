package link

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"causeway/outcome"
)

// Check is a request that tells whether a relay reaches the origin of a site.
type Check struct {
	Site, Host, Path string // the site's name, and the public URL
	Every, Timeout   time.Duration
	Status           int // of an origin that is well; 0 is any from 200 to 399
}

// failsAfter is how many checks fail in a row before the relay is avoided.
const failsAfter = 2

// checkAgent is what checks say that they are, in the origin's log and ours.
const checkAgent = "causeway-check"

// Check runs the checks over each relay until ctx ends. A check goes the whole
// way: over the best path to the relay, and from there to the origin. siteOf gives
// the site of a public host.
func (g *Group) Check(ctx context.Context, checks []Check, siteOf func(host string) string) {
	g.mu.Lock()
	g.siteOf = siteOf
	g.mu.Unlock()
	relays := make(map[string]bool)
	var running sync.WaitGroup
	for _, m := range g.members {
		relay := m.Transport.peer.Name
		if relays[relay] {
			continue
		}
		relays[relay] = true
		for _, c := range checks {
			running.Go(func() { g.checkFrom(ctx, relay, c) })
		}
	}
	running.Wait()
}

// checkFrom runs one check over one relay.
func (g *Group) checkFrom(ctx context.Context, relay string, c Check) {
	failures := 0
	for {
		wait(ctx, c.Every*7/8+rand.N(c.Every/4))
		if ctx.Err() != nil {
			return
		}
		err, known := g.checkOnce(ctx, relay, c)
		switch {
		case !known || ctx.Err() != nil: // it says nothing of the origin
			continue
		case err == nil:
			failures = 0
		default:
			failures++
		}
		if err == nil || failures >= failsAfter {
			g.checked(relay, c.Site, err)
		}
	}
}

// checkOnce sends the request; known is false when the failure is the link's.
func (g *Group) checkOnce(ctx context.Context, relay string, c Check) (err error, known bool) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.Host+c.Path, nil)
	if err != nil {
		return err, true
	}
	req.Header.Set("User-Agent", checkAgent)
	req.Header.Set("X-Forwarded-Proto", "https")
	req.Header.Set("X-Forwarded-Host", c.Host)
	var w *warm
	var over *member
	for _, m := range g.members {
		if m.Transport.peer.Name == relay {
			if w = m.Transport.reserve(); w != nil {
				over = m
				break
			}
		}
	}
	if w == nil {
		return nil, false
	}
	res, err := over.Transport.send(req, w, nil)
	if err != nil {
		switch outcome.KindOf(err) {
		case outcome.LinkDown, outcome.LinkCut, outcome.LinkSlow:
			return nil, false
		}
		return err, true
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the origin's connection can be kept
	if c.Status == res.StatusCode || c.Status == 0 && res.StatusCode >= 200 && res.StatusCode < 400 {
		return nil, true
	}
	return fmt.Errorf("GET %s%s: status %d", c.Host, c.Path, res.StatusCode), true
}

// checked takes in what a check found out.
func (g *Group) checked(relay, site string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := unwell{relay, site}
	if _, was := g.unwell[key]; was == (err != nil) {
		return
	}
	log := g.members[0].Transport.peer.Log
	if err != nil {
		g.unwell[key] = err.Error()
		g.failing.Add(1)
		log.Warn("origin is not well over a relay: others are taken", "relay", relay, "site", site, "err", err)
		return
	}
	delete(g.unwell, key)
	g.failing.Add(-1)
	log.Info("origin is well again over a relay", "relay", relay, "site", site)
}

// isUnwell reports whether the check of host's site fails over a relay.
func (g *Group) isUnwell(relay, host string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.unwell) == 0 {
		return false
	}
	_, bad := g.unwell[unwell{relay, g.siteOf(host)}]
	return bad
}

// unwell is a site whose origin does not answer a relay as it should.
type unwell struct{ relay, site string }

// Unwell are the sites whose checks fail, by relay: why.
func (g *Group) Unwell() map[string]map[string]string {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make(map[string]map[string]string)
	for key, why := range g.unwell {
		if all[key.relay] == nil {
			all[key.relay] = make(map[string]string)
		}
		all[key.relay][key.site] = why
	}
	return all
}
