package hop

import (
	"net/http"
	"strings"
)

// SetForwarded says in h who the client is: client is its address, host the
// public host, scheme how it came.
func SetForwarded(h http.Header, client, host, scheme string) {
	h["X-Real-Ip"] = []string{client}
	h["X-Forwarded-Proto"] = []string{scheme}
	setDerived(h, client, host, scheme)
}

// setDerived sets what says again, in other words, what Host, X-Real-Ip and
// X-Forwarded-Proto say.
func setDerived(h http.Header, client, host, scheme string) {
	h["X-Forwarded-For"] = []string{client}
	h["X-Forwarded-Host"] = []string{host}
	h["Forwarded"] = []string{forwardedElement(client, host, scheme)}
}

// LeanForwarded takes off what the next node can make anew of the rest.
func LeanForwarded(h http.Header) {
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "Forwarded"} {
		delete(h, name)
	}
}

// RestoreForwarded makes anew what LeanForwarded took off.
func RestoreForwarded(h http.Header, host string) {
	client, scheme := h.Get("X-Real-Ip"), h.Get("X-Forwarded-Proto")
	if _, full := h["Forwarded"]; !full && client != "" && scheme != "" {
		setDerived(h, client, host, scheme)
	}
}

// forwardedElement is the value of RFC 7239 §4: an IPv6 address and a host with
// a port must be quoted.
func forwardedElement(client, host, scheme string) string {
	if strings.IndexByte(client, ':') >= 0 {
		client = `"[` + client + `]"`
	}
	if strings.IndexByte(host, ':') >= 0 {
		host = `"` + host + `"`
	}
	return "for=" + client + ";host=" + host + ";proto=" + scheme
}
