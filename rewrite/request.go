package rewrite

import "net/http"

// requestFields are the request fields in which public hosts become origin ones. Host is the
// relay's; what the site defines itself is left alone.
var requestFields = []string{
	"Origin",         // RFC 6454 section 7: CSRF and CORS checks
	"Referer",        // RFC 9110 section 10.1.3
	"Destination",    // RFC 4918 section 10.3: WebDAV COPY and MOVE
	"If",             // RFC 4918 section 10.4: WebDAV locks
	"Soapaction",     // SOAP 1.1 section 6.1.1: a name that the WSDL said, and it was mapped
	"Ping-From",      // HTML section 4.6.5, <a ping>
	"Ping-To",        // the same
	"Hx-Current-Url", // htmx
}

// Request maps r to the origin's names, in place: the fields above, cookies (cookies.go), the query
// (r.URL.RawQuery: ?return=https%3A%2F%2F…), the entity tags of conditional fields, the extensions
// that a WebSocket is offered (permessage.go), and a body that is text or a form (requestbody.go),
// which it may read ahead. Host and path stay, and what holds no public host stays byte for byte.
// Response reads from r's context which tags were ours, so that res.Request must be r or descend
// from it.
func (m *Map) Request(r *http.Request) {
	for _, name := range requestFields {
		mapValues(m.toOrigin, r.Header[name])
	}
	m.requestCookies(r.Header["Cookie"])
	if r.URL != nil && !m.rules.Untouched {
		r.URL.RawQuery = m.toOrigin.String(r.URL.RawQuery)
	}
	m.conditions(r)
	m.offers(r.Header)
	m.requestBody(r)
}

// mapValues exchanges the URLs in header lines, in place.
func mapValues(r *Replacer, lines []string) {
	for i, line := range lines {
		lines[i] = r.String(line)
	}
}
