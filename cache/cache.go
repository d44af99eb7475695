// Package cache keeps answers as RFC 9111 lets a shared cache, and gives them
// again: an http.RoundTripper before another one.
//
// The path of a request through it:
//
//  1. RoundTrip takes the policy; a request that it, or what it asks, makes pass by
//     goes on as it is (request.go), and invalidates what it changes (purge.go),
//  2. its key is what the policy has count of it, and the fields that nobody knows
//     (key.go); what is kept under that and has the same selecting fields (vary.go) is
//     weighed: fresh, stale and still good, or neither (lookup.go, fresh.go),
//  3. what is good is given: conditions (condition.go), ranges (ranges.go) and the
//     client's codings (forms.go) are held against it (serve.go),
//  4. what is not is fetched, for all who ask for it at that time at once
//     (fetch.go), with the validators of what there is (validate.go); while the origin
//     fails, what is stale is given in its place where that is allowed (trouble.go),
//  5. the answer is judged (storable.go); one that may be kept is written to the
//     store as it comes, and everybody reads it there, at a pace of their own
//     (seat.go); any other goes to the one whose request fetched it,
//  6. what became of it is said in Cache-Status and in the Trace (status.go).
//
// It refuses to give anybody what was made for somebody else: an answer is kept
// only when the RFC, or a rule that the owner wrote, says so. It lets no failure of
// the store become one of a request. It knows nothing of nodes, links or files of
// configuration.
package cache

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Options are what a Cache is made of.
type Options struct {
	Store       Store
	Codings     Codings // nil gives every body in the form in which it came
	MostBytes   int64   // the largest body that is kept; 0 is 64 MiB
	MostFetches int     // of those that nobody waits for, at a time, beside one of each origin; 0 is 64
	MostForms   int     // that are made at a time; 0 is 1
	Log         *slog.Logger
}

// Cache is what outlives a reload: what is kept, and what is fetched.
type Cache struct {
	options Options
	base    context.Context // of what is made in the background
	cut     context.CancelFunc
	work    sync.WaitGroup // fetches and forms; begun under flights, while not closed
	ended   atomic.Uint64  // how many can be joined no more; written under flights
	most    atomic.Int64   // Options.MostBytes, as it is now
	rules   rules          // of No-Vary-Search
	covers  covers         // failures that nobody saw

	flights   sync.Mutex // guards the rest
	closed    bool
	joined    map[flightKey]*flight // those that can be joined
	all       map[*flight]struct{}  // under way
	making    map[making]bool       // forms that wait or are made
	wishes    []wish                // those that wait
	large     []wish                // and those that wait behind them
	makers    int                   // goroutines that make them
	never     map[never]bool        // forms that are too large to be made
	marks     marks
	standings map[originKey]*standing
	lone      int // fetches that nobody waits for
}

// New makes a Cache.
func New(options Options) *Cache {
	if options.MostBytes == 0 {
		options.MostBytes = 64 << 20
	}
	if options.MostFetches == 0 {
		options.MostFetches = 64
	}
	if options.MostForms == 0 {
		options.MostForms = 1
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	c := &Cache{
		options: options,
		joined:  map[flightKey]*flight{}, all: map[*flight]struct{}{}, making: map[making]bool{}, never: map[never]bool{},
		marks: marks{}, standings: map[originKey]*standing{},
	}
	c.most.Store(options.MostBytes)
	c.base, c.cut = context.WithCancel(context.Background())
	return c
}

// SetMostBytes changes how large a body may be that is kept, for fetches to come.
func (c *Cache) SetMostBytes(n int64) { c.most.Store(n) }

// Retire lets the fetches under way finish, until ctx ends, and closes the cache
// then. Requests pass by from the beginning.
func (c *Cache) Retire(ctx context.Context) {
	c.flights.Lock()
	c.closed = true
	c.flights.Unlock()
	stop := context.AfterFunc(ctx, c.Close)
	c.work.Wait()
	stop()
	c.Close()
}

// Close ends all fetches, and the making of forms, and waits for them. Requests
// pass by from then on.
func (c *Cache) Close() {
	c.flights.Lock()
	c.closed = true
	for f := range c.all {
		f.cancel()
	}
	c.flights.Unlock()
	c.cut()
	c.work.Wait()
}

// Transport is a Cache with the way to the origin and the rules of one time. It
// is immutable.
type Transport struct {
	Cache *Cache
	Next  http.RoundTripper
	// Policy is what the owner wants for a request; nil, or a nil Policy, obeys
	// the origin. It is asked once for each request, with its context.
	Policy func(*http.Request) *Policy
}

// RoundTrip answers from the cache, or asks Next. The values of the answer's
// header may be shared: they are replaced, not changed.
func (t *Transport) RoundTrip(req *http.Request) (res *http.Response, err error) {
	a := &ask{t: t, c: t.Cache, req: req, policy: t.policyOf(req), trace: traceOf(req.Context())}
	*a.trace = Trace{}
	reason := a.read()
	if reason != "" {
		res, err = a.pass(reason)
	} else {
		res, err = a.answer()
	}
	if err != nil {
		if a.status.detail == "" {
			a.status.detail = whyError
		}
		a.trace.Status = a.status.String()
	}
	return res, err
}

func (t *Transport) policyOf(req *http.Request) *Policy {
	if t.Policy != nil {
		if policy := t.Policy(req); policy != nil {
			return policy
		}
	}
	return &Policy{}
}

// Kept answers from what is kept, as RoundTrip would, under this policy; nil where
// that would do anything else: ask Next, or have something fetched meanwhile. Then
// nothing has been done. said tells of which fields req has what it would have on
// its way to Next; where another counts it gives nil. The Body of an answer with one
// may have a Bytes method: all of it, until it is closed. With lines the header may be
// there, and not in the answer: then they have Fixed. The answer, and what it is made
// with, may then be theirs too: they are one answer's, until it has been given.
func (t *Transport) Kept(req *http.Request, policy *Policy, said func(name string) bool, trace *Trace, lines *Lines) *http.Response {
	for _, name := range policy.KeyHeaders {
		if !said(name) {
			return nil
		}
	}
	a := new(ask)
	if lines != nil {
		a = &lines.ask
	}
	*a = ask{t: t, c: t.Cache, req: req, policy: policy, said: said, trace: trace, lines: lines}
	*trace = Trace{}
	if a.read() != "" {
		return nil
	}
	found := a.lookup()
	if !found.serve || found.refresh {
		return nil
	}
	return a.fromStore(&found)
}

// Changed lets go of what a request changed that went past the cache, and was answered so.
func (t *Transport) Changed(req *http.Request, res *http.Response) {
	if !safe(req.Method) {
		(&ask{t: t, c: t.Cache, req: req}).invalidate(res)
	}
}

// pass sends the request on as it is.
func (a *ask) pass(reason Reason) (*http.Response, error) {
	a.trace.Result, a.trace.Reason = Bypass, string(reason)
	a.status.rules = ""
	a.status.forward(reason)
	res, err := a.t.Next.RoundTrip(a.req)
	if err != nil {
		return nil, err
	}
	a.reached(res)
	a.t.Changed(a.req, res)
	takeTags(res.Header)
	a.status.set(res.Header)
	return res, nil
}

// mark is what is remembered of a key for a while.
type mark struct {
	uncacheable time.Time // until then an answer is expected to be for one request alone
	large       bool      // as one turned out larger than is kept
	trouble               // the page's own
}

// tooLarge reports whether the last answer of unknown length turned out larger than is
// kept, a while ago.
func (m *mark) tooLarge(now time.Time) bool { return m.large && now.Before(m.uncacheable) }

// marks are bounded: a key that is forgotten costs a wait.
type marks map[Key]mark

const (
	// mostMarks are some megabytes.
	mostMarks = 1 << 16
	// aloneFor is as Varnish's hit-for-miss (default_ttl, 120 s).
	aloneFor = 2 * time.Minute
)

func (m marks) set(key Key, as mark) {
	if as == (mark{}) {
		delete(m, key)
		return
	}
	for other := range m {
		if len(m) < mostMarks {
			break
		}
		delete(m, other) // any one
	}
	m[key] = as
}
