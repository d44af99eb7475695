package cache

import (
	"io"
	"net/http"
	"strings"
	"time"
)

// Key is what answers are found by, before Vary: a Head, and 12 bytes of a hash of the
// URL and all else that counts (key.go). 64 bits tell URLs apart where they are let
// go of; that nobody can have another's answer found by what he sends, all 160 see to.
type Key [len(Head{}) + 12]byte

// Head is what a Key begins with: a hash of the public URL as the policy sees it, so
// that all answers of one are known by it, whatever else is in their keys.
type Head [8]byte

func (k Key) head() Head { return Head(k[:]) }

// Meta is all that is known of a kept answer besides its bytes. It is immutable:
// a change makes another.
type Meta struct {
	Key  Key
	ID   string // tells the answers under one key apart: the variant (Vary), and the span of a part
	Site string
	URL  string // the public one, with its query: what purges and lists go by; "" is no answer, but the cache's own, and not counted

	Status int
	Header http.Header // end to end, as it came, less what the nodes say to each other
	Vary   []Selector  // what the request must have for this variant (RFC 9111 §4.1)
	Coding string      // the content coding that the body came in, "" for none
	Span   *Span       // which part of the body this is; nil is all of it
	Tags   []string    // Cache-Tag and Surrogate-Key, for purges

	Requested time.Time // when the request was sent (RFC 9111 §4.2.3)
	Received  time.Time // when the answer was received
	Until     time.Time // fresh until, by the policy and the answer
	Stale     bool      // a soft purge: not fresh, whatever Until says
	Note      string    // which rules of the policy were used in place of the answer's own, for Cache-Status

	read *facts // of Header; nil where nobody called settled, and they are read each time
}

// settled reads the header once and for all. m is not shared yet, and not changed
// any more.
func (m *Meta) settled() *Meta {
	m.read = readFacts(m.Header, m.Requested, m.Received)
	return m
}

// with is a copy of m with another header, not settled.
func (m *Meta) with(h http.Header) *Meta {
	return &Meta{
		Key: m.Key, ID: m.ID, Site: m.Site, URL: m.URL,
		Status: m.Status, Header: h, Vary: m.Vary, Coding: m.Coding, Span: m.Span, Tags: m.Tags,
		Requested: m.Requested, Received: m.Received, Until: m.Until, Stale: m.Stale, Note: m.Note,
	}
}

// Selector is a request field that an answer varies by, with the value, as
// normalised, that the answer was made for.
type Selector struct{ Name, Value string }

// Span is a part of a body: the bytes from From up to but not including To, of
// Of in all.
type Span struct{ From, To, Of int64 }

// Object is a kept answer. It is immutable: a change makes another.
type Object struct {
	Meta  *Meta
	Forms []Form // the first is the one that came; at least that one
}

// Form is the body of an Object in one coding.
type Form struct {
	Coding string // "" is none
	Body   Body
}

// Body is bytes that are whole and do not change. They can be read as long as a
// Reader is open, also when the object has been removed meanwhile.
type Body interface {
	Size() int64
	Tier() string // where the bytes are now: "memory" or "disk"
	// Open fails when the bytes are not there any more, or are not those that
	// were written.
	Open() (Reader, error)
}

// Reader reads a Body. Any number of goroutines may call ReadAt; who opened it
// closes it.
type Reader interface {
	io.ReaderAt
	io.Closer
}

// Draft is a body that is being written, by one goroutine. What was written can
// be read at once, by any number of others.
type Draft interface {
	io.Writer   // fails when there is no room: the draft can be read still, and no more be written or kept
	io.ReaderAt // of what was written; io.EOF behind it
	// Discard lets go of what was written; after Keep it does nothing. Nobody
	// reads any more.
	Discard()
}

// Store keeps objects. It is safe for concurrent use. It removes what it likes to
// when room is short. An error of the medium is the store's own affair: what
// can't be kept is not kept, what can't be read is not there.
type Store interface {
	// Find gives what is kept under key, the newest first. The slice is shared:
	// nobody changes it.
	Find(key Key) []*Object
	// Begin makes a draft for a body of so many bytes; -1 is not known.
	Begin(size int64) (Draft, error)
	// Keep makes the draft's bytes, all of them, the body of a new object, in
	// place of the one with the same Key and ID, if any. The draft is the store's
	// from then on. nil when it could not be kept.
	Keep(meta *Meta, draft Draft) *Object
	// Renew replaces the Meta of an object whose bytes stay, and gives the new
	// one; nil when old is not kept any more.
	Renew(old *Object, meta *Meta) *Object
	// Form adds a coding to an object; nothing when that is not kept any more, or
	// has the coding. The draft is the store's from then on.
	Form(of *Object, coding string, draft Draft)
	// Remove lets go of an object, if it is still kept.
	Remove(*Object)
	// Forget lets go of all objects whose Key begins with head. Nothing that was found
	// before is found once it returns.
	Forget(head Head)
	// Purge removes all that match, or marks it stale, and says how many those
	// were, less those without a URL. Nothing that was found before is found as it was once it returns.
	Purge(match Match, soft bool) int
	// List gives the objects that match and have a URL, in no order, until yield says false.
	List(match Match, yield func(Listed) bool)
}

// Match is which objects are meant: those that have all that is set.
type Match struct {
	URL    string // exactly
	Prefix string // of the URL
	Host   string // of the URL, with its port if it has one
	Tag    string

	head Head // of the Key; zero is any. Not for Of
}

// Of reports whether an object with this URL and these tags is meant.
func (m Match) Of(url string, tags []string) bool {
	if m.URL != "" && url != m.URL || !strings.HasPrefix(url, m.Prefix) || m.Host != "" && hostOf(url) != m.Host {
		return false
	}
	if m.Tag == "" {
		return true
	}
	for _, tag := range tags {
		if tag == m.Tag {
			return true
		}
	}
	return false
}

// hostOf is the host of an absolute URL, with its port.
func hostOf(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	if end := strings.IndexAny(rest, "/?"); end >= 0 {
		return rest[:end]
	}
	return rest
}

// Listed is what a list says of an object.
type Listed struct {
	Site   string    `json:"site"`
	URL    string    `json:"url"`
	ID     string    `json:"variant,omitempty"`
	Bytes  int64     `json:"bytes"` // of all forms
	Tier   string    `json:"tier"`  // "memory", "disk", "memory+disk"
	Hits   uint64    `json:"hits"`  // since the start
	Stored time.Time `json:"stored"`
	Until  time.Time `json:"fresh_until"`
	Stale  bool      `json:"purged,omitempty"` // softly
}
