package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"causeway/admin"
	"causeway/cache"
	"causeway/config"
	"causeway/edge"
)

// keptCache is the cache of an edge. It outlives reloads of the file, as long as
// that names the same folder.
type keptCache struct {
	*cache.Cache
	tiers *cache.Tiers
	dir   string        // of the disk, "" for none
	gone  chan struct{} // closed when the folder is let go
}

// prepareCache makes the cache that cfg wants, or finds it in the one there is;
// nil when it wants none. It may fail; nothing is changed yet.
func (d *Daemon) prepareCache(cfg *config.Config, node *config.Node) (*keptCache, error) {
	if !node.IsEdge() || cfg.Cache.Off || len(cfg.Sites) == 0 {
		return nil, nil
	}
	dir := cfg.CacheDir(node)
	if d.cache != nil && d.cache.dir == dir {
		return d.cache, nil
	}
	if d.edge != nil { // a node that starts serves with its memory alone; one that serves keeps the file before
		if err := cfg.CheckCacheDir(node); err != nil {
			return nil, err
		}
	}
	tiers, err := cache.OpenTiers(cache.TiersOptions{
		Memory: int64(cfg.Cache.Memory), Disk: int64(cfg.Cache.Disk), Dir: dir, Handover: d.lets(dir), Log: d.log})
	if err != nil {
		return nil, err // says what it opens
	}
	made := cache.New(cache.Options{Store: tiers, Codings: edge.Codings{}, MostBytes: cfg.Cache.MostBytes(), Log: d.log})
	return &keptCache{Cache: made, tiers: tiers, dir: dir, gone: make(chan struct{})}, nil
}

// lets reports whether a cache of an earlier file has the folder yet, and will let
// it go.
func (d *Daemon) lets(dir string) bool {
	d.leaving = slices.DeleteFunc(d.leaving, func(k *keptCache) bool {
		select {
		case <-k.gone:
			return true
		default:
			return false
		}
	})
	return slices.ContainsFunc(d.leaving, func(k *keptCache) bool { return k.dir == dir })
}

// changeCache puts a prepared cache in the place of the one before, which
// finishes what it fetches, within the limit of a drain.
func (d *Daemon) changeCache(next *keptCache, cfg *config.Config) {
	before := d.cache
	d.cache = next
	d.kept.Store(next)
	if next != nil {
		next.tiers.Resize(int64(cfg.Cache.Memory), int64(cfg.Cache.Disk))
		next.SetMostBytes(cfg.Cache.MostBytes())
		names := make([]string, len(cfg.Sites))
		for i, site := range cfg.Sites {
			names[i] = site.Name
		}
		next.Count(names)
	}
	if before != nil && before != next {
		d.leaving = append(d.leaving, before)
		d.tasks.Go(func() {
			limit, cancel := context.WithTimeout(d.base, cfg.Limits.DrainTimeout)
			defer cancel()
			before.Retire(limit)
			before.close(d)
		})
	}
}

// close ends what is fetched, and lets go of the files.
func (k *keptCache) close(d *Daemon) {
	defer close(k.gone)
	k.Close()
	if err := k.tiers.Close(); err != nil {
		d.log.Warn("the cache was not closed well", "err", err)
	}
}

// Cache is what the node keeps, for the admin address.
func (d *Daemon) Cache(match admin.CacheMatch, top int, byHits bool) (admin.Cache, error) {
	k := d.kept.Load()
	if k == nil {
		return admin.Cache{}, admin.ErrNoCache
	}
	stats := k.tiers.Stats()
	said := admin.Cache{
		Node: d.options.Node, Found: !stats.Recovering, Ill: stats.Degraded, Objects: []admin.CachedObject{},
		Memory: admin.CacheTier{Objects: stats.MemoryObjects, Bytes: stats.MemoryBytes, Limit: stats.MemoryLimit},
	}
	if k.dir != "" {
		said.Disk = &admin.CacheTier{Objects: stats.DiskObjects, Bytes: stats.DiskBytes, Limit: stats.DiskLimit}
	}
	first := func(a, b cache.Listed) int { // what is shown before
		if byHits {
			return cmp.Or(cmp.Compare(b.Hits, a.Hits), cmp.Compare(a.URL, b.URL), cmp.Compare(a.ID, b.ID))
		}
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.URL, b.URL), cmp.Compare(a.ID, b.ID))
	}
	best, all := topOf(top, first), 0
	for _, match := range d.matchesOf(match) {
		k.tiers.List(match, func(l cache.Listed) bool {
			all++
			best.add(l)
			return true
		})
	}
	for _, l := range best.sorted() {
		said.Objects = append(said.Objects, admin.CachedObject{
			Site: l.Site, URL: l.URL, Variant: l.ID, Bytes: l.Bytes, Tier: l.Tier, Hits: l.Hits, Stored: l.Stored, Until: l.Until, Purged: l.Stale})
	}
	said.More = all - len(said.Objects)
	return said, nil
}

// matchesOf is what is meant, as the cache has it; nothing is in two of them.
func (d *Daemon) matchesOf(m admin.CacheMatch) []cache.Match {
	match := cache.Match{Prefix: m.Prefix, Host: m.Host, Tag: m.Tag}
	if m.URL == "" {
		return []cache.Match{match}
	}
	d.mu.Lock()
	server := d.edge
	d.mu.Unlock()
	var all []cache.Match
	for _, match.URL = range server.KeptURLs(m.URL) {
		all = append(all, match)
	}
	return all
}

// best is the first few of many.
type best struct {
	most  int
	first func(a, b cache.Listed) int
	list  []cache.Listed
}

func topOf(most int, first func(a, b cache.Listed) int) *best { return &best{most: most, first: first} }

// add takes one in. Twice as many as are wanted are held at most.
func (b *best) add(l cache.Listed) {
	if b.list = append(b.list, l); len(b.list) >= 2*b.most+64 {
		b.list = b.sorted()
	}
}

func (b *best) sorted() []cache.Listed {
	slices.SortFunc(b.list, b.first)
	return b.list[:min(len(b.list), b.most)]
}

// Purge lets go of what the node keeps.
func (d *Daemon) Purge(order admin.CachePurge) (purged admin.CachePurged, err error) {
	k := d.kept.Load()
	if k == nil {
		return purged, admin.ErrNoCache
	}
	for _, meant := range order.Match {
		for _, match := range d.matchesOf(meant) {
			purged.Purged += k.Cache.Purge(match, order.Soft)
		}
	}
	if purged.Purged == 0 {
		if host, ok := d.strange(order.Match); ok {
			return purged, fmt.Errorf("purge: nothing is kept of %s, and no site has that host: hosts are written as visitors see them, with a port that is not the usual one", host)
		}
	}
	purged.Ill = k.tiers.Owes()
	d.log.Info("purged", "objects", purged.Purged, "softly", order.Soft)
	return purged, nil
}

// strange finds a host in an order that no site has: it is misspelt, or its site is
// gone.
func (d *Daemon) strange(matches []admin.CacheMatch) (host string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range matches {
		hosts := []string{m.Host}
		for _, address := range []string{m.URL, m.Prefix} {
			if parsed, err := url.Parse(address); err == nil {
				hosts = append(hosts, parsed.Host)
			}
		}
		for _, host := range hosts {
			if _, known := d.config.Lookup(host); host != "" && !known {
				return host, true
			}
		}
	}
	return "", false
}

// Explain says what the cache does with a request.
func (d *Daemon) Explain(ctx context.Context, question admin.CacheQuestion) ([]admin.CacheStep, error) {
	if d.kept.Load() == nil {
		return nil, admin.ErrNoCache
	}
	r, err := http.NewRequestWithContext(ctx, question.Method, question.URL, nil)
	if err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	if r.URL.Scheme != "http" && r.URL.Scheme != "https" {
		return nil, fmt.Errorf("explain: %q is no scheme of a site", r.URL.Scheme)
	}
	r.RequestURI, r.RemoteAddr = r.URL.RequestURI(), "127.0.0.1:0"
	for name, values := range question.Header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	d.mu.Lock()
	server := d.edge
	d.mu.Unlock()
	steps, err := server.Explain(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	said := make([]admin.CacheStep, len(steps))
	for i, step := range steps {
		said[i] = admin.CacheStep(step)
	}
	return said, nil
}

// cacheCollector gives the metrics of the store when asked.
type cacheCollector struct{ kept *atomic.Pointer[keptCache] }

func cacheDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("causeway_cache_"+name, help, labels, nil)
}

var (
	cacheObjects   = cacheDesc("objects", "Answers that are kept, by where; those in memory may be on the disk too.", "tier")
	cacheBytes     = cacheDesc("bytes", "Bytes of them with their headers, by where.", "tier")
	cacheLimit     = cacheDesc("limit_bytes", "Most bytes that are kept, by where.", "tier")
	cacheEvictions = cacheDesc("evictions_total", "Answers that left for want of room, by where.", "tier")
	cacheCovered   = cacheDesc("covered_failures_total", "Fetches that failed while something stale was given in place of the answer.", "site")
	cacheErrors    = cacheDesc("disk_errors_total", "Failures of the disk.")
	cacheCorrupt   = cacheDesc("corrupt_total", "Files that were not what had been written, and were thrown away.")
	cacheIll       = cacheDesc("disk_ill", "1 while the disk fails and nothing is kept there.")
	cacheShort     = cacheDesc("disk_short", "1 while others leave less room on the disk than disk says.")
	cacheFound     = cacheDesc("disk_found_ratio", "Part of the disk that has been looked through since the start.")
)

var cacheDescs = []*prometheus.Desc{cacheObjects, cacheBytes, cacheLimit, cacheEvictions, cacheCovered, cacheErrors, cacheCorrupt, cacheIll, cacheShort, cacheFound}

// Describe sends the descriptions.
func (c *cacheCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range cacheDescs {
		ch <- desc
	}
}

// Collect sends what is so now: nothing on a node without a cache.
func (c *cacheCollector) Collect(ch chan<- prometheus.Metric) {
	k := c.kept.Load()
	if k == nil {
		return
	}
	s := k.tiers.Stats()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	count := func(desc *prometheus.Desc, value uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
	}
	tier := func(name string, objects, bytes, limit int64, evictions uint64) {
		gauge(cacheObjects, float64(objects), name)
		gauge(cacheBytes, float64(bytes), name)
		gauge(cacheLimit, float64(limit), name)
		count(cacheEvictions, evictions, name)
	}
	for site, n := range k.Covered() {
		count(cacheCovered, n, site)
	}
	tier("memory", s.MemoryObjects, s.MemoryBytes, s.MemoryLimit, s.MemoryEvictions)
	if k.dir == "" {
		return
	}
	tier("disk", s.DiskObjects, s.DiskBytes, s.DiskLimit, s.DiskEvictions)
	count(cacheErrors, s.DiskErrors)
	count(cacheCorrupt, s.Corrupt)
	ill := 0.0
	if s.Degraded {
		ill = 1
	}
	gauge(cacheIll, ill)
	short := 0.0
	if s.Short {
		short = 1
	}
	gauge(cacheShort, short)
	gauge(cacheFound, s.Recovered)
}
