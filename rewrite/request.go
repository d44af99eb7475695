package rewrite

import "net/http"

// Request maps Origin, Referer and the query of r to the origin's names, in place.
func (m *Map) Request(r *http.Request) {
}
