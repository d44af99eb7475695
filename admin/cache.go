package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Cache is what a node keeps of the answers of its sites.
type Cache struct {
	Node    string         `json:"node,omitempty"`
	Memory  CacheTier      `json:"memory"`
	Disk    *CacheTier     `json:"disk,omitempty"` // nil without one
	Found   bool           `json:"found"`          // all that was on the disk at the start has been found
	Ill     bool           `json:"ill,omitempty"`  // the disk fails, and nothing is kept there
	Objects []CachedObject `json:"objects"`        // those that were asked for
	More    int            `json:"more,omitempty"` // that match, and are not shown
}

// CacheTier is one of the places where answers are kept.
type CacheTier struct {
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
	Limit   int64 `json:"limit"`
}

// CachedObject is an answer that is kept.
type CachedObject struct {
	Site    string    `json:"site"`
	URL     string    `json:"url"`
	Variant string    `json:"variant,omitempty"`
	Bytes   int64     `json:"bytes"` // of all its forms
	Tier    string    `json:"tier"`
	Hits    uint64    `json:"hits"` // since the start
	Stored  time.Time `json:"stored"`
	Until   time.Time `json:"fresh_until"`
	Purged  bool      `json:"purged,omitempty"` // softly: it is stale
}

// CacheMatch is which objects are meant: those that have all that is set.
type CacheMatch struct {
	URL    string `json:"url,omitempty"`
	Prefix string `json:"prefix,omitempty"`
	Host   string `json:"host,omitempty"`
	Tag    string `json:"tag,omitempty"`
}

// CachePurge is an order to let go of objects.
type CachePurge struct {
	Match []CacheMatch `json:"match"`          // any of them; one that says nothing is all objects
	Soft  bool         `json:"soft,omitempty"` // they are stale from now on, and may be given while they are asked for anew, or the origin fails
}

// CachePurged is what came of a CachePurge.
type CachePurged struct {
	Purged int  `json:"purged"`
	Ill    bool `json:"ill,omitempty"` // the disk fails, and still has what was purged: it may be found again by another process
}

// CacheStep is one step of a decision of the cache.
type CacheStep struct {
	About   string `json:"about"`             // what it is about, in a word
	Says    string `json:"says"`              // what was found, and what follows
	Section string `json:"section,omitempty"` // of an RFC, or the key of the file
}

// CacheQuestion is a request that the cache explains its way with.
type CacheQuestion struct {
	Method string      `json:"method"`
	URL    string      `json:"url"`
	Header http.Header `json:"header,omitempty"`
}

// ErrNoCache is what a node without a cache says.
var ErrNoCache = errors.New("this node has no cache: it is no edge, or the file says cache: off")

// Cacher is the cache of a node. Its methods give ErrNoCache where there is none.
type Cacher interface {
	// Cache says what is kept, with up to top objects that match, the largest
	// first, or the most asked for.
	Cache(match CacheMatch, top int, byHits bool) (Cache, error)
	// Purge lets go of objects, and says how many those were.
	Purge(order CachePurge) (CachePurged, error)
	// Explain says step by step what becomes of a request.
	Explain(ctx context.Context, question CacheQuestion) ([]CacheStep, error)
}

// mostTop is how many objects are listed at most, mostOrder how long an order or
// a question may be.
const (
	mostTop   = 10_000
	mostOrder = 1 << 20
)

// serveCache adds what an operator may do with a cache.
func serveCache(mux *http.ServeMux, node Cacher) {
	mux.HandleFunc("GET /cache", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		top, err := strconv.Atoi(q.Get("top"))
		if err != nil && q.Get("top") != "" || top < 0 || top > mostTop {
			http.Error(w, fmt.Sprintf("top must be 0 to %d", mostTop), http.StatusBadRequest)
			return
		}
		kept, err := node.Cache(CacheMatch{URL: q.Get("url"), Prefix: q.Get("prefix"), Host: q.Get("host"), Tag: q.Get("tag")}, top, q.Get("by") == "hits")
		say(w, kept, err)
	})
	mux.HandleFunc("POST /cache/purge", meant(func(w http.ResponseWriter, r *http.Request) {
		var order CachePurge
		if !read(w, r, &order) {
			return
		}
		if len(order.Match) == 0 {
			http.Error(w, "match names nothing; {} is all objects", http.StatusBadRequest)
			return
		}
		purged, err := node.Purge(order)
		say(w, purged, err)
	}))
	mux.HandleFunc("POST /cache/explain", meant(func(w http.ResponseWriter, r *http.Request) {
		var question CacheQuestion
		if !read(w, r, &question) {
			return
		}
		steps, err := node.Explain(r.Context(), question)
		say(w, steps, err)
	}))
}

// read takes the JSON of a request; false when it answered that there is none.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, mostOrder))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		http.Error(w, "read the order: "+err.Error(), http.StatusBadRequest)
		return false
	}
	if _, err := decoder.Token(); err != io.EOF {
		http.Error(w, "read the order: more follows it", http.StatusBadRequest)
		return false
	}
	return true
}

// say answers with JSON, or with why there is none.
func say(w http.ResponseWriter, what any, err error) {
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case errors.Is(err, ErrNoCache):
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(what)
}
