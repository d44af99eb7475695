package cache

import (
	"strings"
	"sync"
	"time"
)

// Failures of the origin that no visitor sees, as something stale is given in place
// of the answer: the log has one a minute of each site, and all are counted.

// coverEvery is how often the log has such a failure of a site.
const coverEvery = time.Minute

// covers are those failures.
type covers struct {
	mu sync.Mutex // guards of
	of map[string]*covered
}

// covered is that of a site.
type covered struct {
	all   uint64
	since uint64    // the last line
	last  time.Time // of the lines
}

// Covered says how many fetches of each site failed while something stale was given.
func (c *Cache) Covered() map[string]uint64 {
	c.covers.mu.Lock()
	defer c.covers.mu.Unlock()
	said := map[string]uint64{}
	for site, of := range c.covers.of {
		said[site] = of.all
	}
	return said
}

// Count makes the counters of sites, so that they are there before their first failure.
func (c *Cache) Count(sites []string) {
	c.covers.mu.Lock()
	defer c.covers.mu.Unlock()
	if c.covers.of == nil {
		c.covers.of = map[string]*covered{}
	}
	for _, site := range sites {
		if c.covers.of[site] == nil {
			c.covers.of[site] = &covered{}
		}
	}
}

// cover notes that a fetch failed, with err or an answer of status.
func (c *Cache) cover(site, url string, status int, err error) {
	c.covers.mu.Lock()
	defer c.covers.mu.Unlock()
	of := c.covers.of[site]
	if of == nil {
		if c.covers.of == nil {
			c.covers.of = map[string]*covered{}
		}
		of = &covered{}
		c.covers.of[site] = of
	}
	of.all++
	of.since++
	now := time.Now()
	if !of.last.IsZero() && now.Sub(of.last) < coverEvery {
		return
	}
	at, _, _ := strings.Cut(url, "?") // queries carry tokens and names
	log := c.options.Log.With("site", site, "url", at, "failures", of.since)
	if of.last, of.since = now, 0; err != nil {
		log.Warn("the origin fails: what is kept is given, stale", "err", err)
		return
	}
	log.Warn("the origin fails: what is kept is given, stale", "status", status)
}
