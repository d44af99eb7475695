package link

import (
	"context"
	"maps"
	"net/http"
	"strconv"
)

// A relay that speaks version leanVersion or a later one takes requests that are
// leaner than what they stand for: with a body in a coding, and without fields
// that it can make anew. What is lean knows the edge; when, knows the link: a
// request may go to an older relay after it went to a newer one.

// leanVersion is the first version of the link with lean requests.
const leanVersion = 2

// leanKey is the context key of WithLean's function.
type leanKey struct{}

// WithLean gives the round trips made with the context a way to make a request
// leaner for a relay that takes such. lean is called once for each try, with a
// request and a header that are its own.
func WithLean(ctx context.Context, lean func(out *http.Request)) context.Context {
	return context.WithValue(ctx, leanKey{}, lean)
}

// leaner makes out, which belongs to the caller but for its header, lean for a
// relay of that version.
func leaner(out *http.Request, version string) {
	lean, ok := out.Context().Value(leanKey{}).(func(*http.Request))
	if number, err := strconv.Atoi(version); !ok || err != nil || number < leanVersion {
		return
	}
	out.Header = maps.Clone(out.Header)
	lean(out)
}
