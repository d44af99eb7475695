package cache

import "time"

// Policy is what the owner of a site wants of the cache for a request. The zero
// Policy obeys the origin. It is not changed once it is used.
type Policy struct {
	Site string // for purges, lists and metrics; and no object of one is found by another
	Off  bool   // requests pass by the cache
	// Made says what answers are made with on the way, so that none that was made
	// with something else is found, also after a restart; short, as it is hashed for
	// each request. "" is that nothing is changed.
	Made string

	// Freshness, where it is not the answer's own (RFC 9111 §4.2).
	TTL        time.Duration // of answers with a status in Statuses, whatever they say of it; 0 obeys them
	DefaultTTL time.Duration // of the same, where they say nothing; 0 is not to keep those
	Heuristic  bool          // where they say nothing but have a Last-Modified: a tenth of their age, a day at most (§4.2.2)
	Statuses   []int         // that TTL and DefaultTTL are for; nil is 200, 203, 301, 308
	Negative   time.Duration // of 404, 405, 410, 414 and 501 that say nothing; 0 is not to keep those

	// Age beyond freshness (RFC 5861), where the answer does not say it itself.
	StaleWhileRevalidate time.Duration
	StaleIfError         time.Duration

	// Which requests are alike.
	Query      Query    // which parameters of the query count
	KeyHeaders []string // fields whose values count, canonical
	KeyCookies []string // cookies whose values count
	// IgnoreHeaders are fields that would count by themselves, and do not; a name that
	// ends in * is all that begin so. They do not reach the origin either.
	IgnoreHeaders []string
	// Which requests pass by.
	BypassCookies []string // a request with one of these cookies; a name that ends in * is all that begin so

	MostBytes int64 // the largest body that is kept; 0 is the cache's own limit
	// Extensions keeps nothing whose type does not go with the extension of its
	// path: a page under /account.css is kept for everybody otherwise ("web cache
	// deception", Gil 2017).
	Extensions bool
	// Search follows No-Vary-Search (draft-ietf-httpbis-no-vary-search).
	Search bool
	// ShowKey has the key in Cache-Status (RFC 9211 §2.7), for whoever asks.
	ShowKey bool
}

// Query is which parameters of a query count. The zero Query counts all, as they
// stand.
type Query struct {
	Only   []string // nothing but these count; a name that ends in * is all that begin so
	Ignore []string // all but these count
	None   bool     // none does
}
