package relay

import "net/http"

// A third party carried along stands under the site's own domain, so that
// browsers send it the site's cookies, and would take its cookies for the
// site's. At home neither happens: the relay takes them out, and with them what
// the edge says of the client, who is no business of others.

// clientFields are the fields in which the edge says who the client is and what
// it asked for.
var clientFields = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Client-Cert"}

// toThirdParty takes out of a request what a third party must not see.
func toThirdParty(h http.Header) {
	delete(h, "Cookie")
	for _, name := range clientFields {
		delete(h, name)
	}
}

// fromThirdParty takes out of an answer, or of an informational one, what a
// third party must not say.
func fromThirdParty(h http.Header) {
	for _, name := range []string{"Set-Cookie", "Clear-Site-Data"} {
		delete(h, name) // the second would clear the site's data where the domain is shared
	}
}
