package hop

import (
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2/hpack"
)

// An ordinary request is a GET or HEAD of HTTP/1.1 with fields that browsers and
// programs send to get a page, each once, and nothing that a node must take out,
// or that concerns the connection. What net/http would make of it is what read
// makes of it (FuzzOrdinary): no more is read here.

// ordinary are the fields of such a request, by their names in lower case. Those
// that nodes make themselves, and those that this or another package drops from
// what a client says, are not among them.
var ordinary = map[string]string{
	"accept":                    "Accept",
	"accept-charset":            "Accept-Charset",
	"accept-encoding":           "Accept-Encoding",
	"accept-language":           "Accept-Language",
	"authorization":             "Authorization",
	"cache-control":             "Cache-Control",
	"cookie":                    "Cookie",
	"device-memory":             "Device-Memory",
	"dnt":                       "Dnt",
	"downlink":                  "Downlink",
	"dpr":                       "Dpr",
	"ect":                       "Ect",
	"from":                      "From",
	"if-modified-since":         "If-Modified-Since",
	"if-none-match":             "If-None-Match",
	"origin":                    "Origin",
	"priority":                  "Priority",
	"purpose":                   "Purpose",
	"referer":                   "Referer",
	"rtt":                       "Rtt",
	"save-data":                 "Save-Data",
	"sec-ch-ua":                 "Sec-Ch-Ua",
	"sec-ch-ua-arch":            "Sec-Ch-Ua-Arch",
	"sec-ch-ua-mobile":          "Sec-Ch-Ua-Mobile",
	"sec-ch-ua-model":           "Sec-Ch-Ua-Model",
	"sec-ch-ua-platform":        "Sec-Ch-Ua-Platform",
	"sec-fetch-dest":            "Sec-Fetch-Dest",
	"sec-fetch-mode":            "Sec-Fetch-Mode",
	"sec-fetch-site":            "Sec-Fetch-Site",
	"sec-fetch-user":            "Sec-Fetch-User",
	"sec-gpc":                   "Sec-Gpc",
	"sec-purpose":               "Sec-Purpose",
	"upgrade-insecure-requests": "Upgrade-Insecure-Requests",
	"user-agent":                "User-Agent",
	"viewport-width":            "Viewport-Width",
	"x-requested-with":          "X-Requested-With",
}

const (
	// mostOrdinary is how many fields an ordinary request has at most.
	mostOrdinary = 24
	longestName  = 32
)

// ordinaryNames are the same by their canonical names.
var ordinaryNames = func() map[string]bool {
	names := make(map[string]bool, len(ordinary))
	for _, name := range ordinary {
		names[name] = true
	}
	return names
}()

// Ordinary reports whether a field, by its canonical name, says the same at this
// node and behind it: it is passed on as it came.
func Ordinary(name string) bool { return ordinaryNames[name] }

// read makes of head, a request's header with its empty line, an ordinary request;
// false when it is none. Nothing is kept of head.
func (a *Asked) read(head []byte) bool {
	text := string(head)
	line, text, _ := strings.Cut(text, "\r\n")
	r := &a.Request
	method, line, _ := strings.Cut(line, " ")
	target, proto, _ := strings.Cut(line, " ")
	if method != "GET" && method != "HEAD" || proto != "HTTP/1.1" || !a.readTarget(target) {
		return false
	}
	r.Method, r.RequestURI, r.Proto, r.ProtoMajor, r.ProtoMinor = method, target, proto, 1, 1
	for n := 0; ; {
		if line, text, _ = strings.Cut(text, "\r\n"); line == "" {
			return text == "" && r.Host != ""
		}
		name, value, named := strings.Cut(line, ":")
		if !named || len(name) > longestName {
			return false
		}
		value = strings.Trim(value, " ")
		if !plainValue(value) {
			return false
		}
		var room [longestName]byte
		switch lower := lowered(room[:], name); string(lower) {
		case "host":
			if r.Host != "" || value == "" || !httpguts.ValidHostHeader(value) {
				return false
			}
			r.Host = value
		case "connection":
			if !strings.EqualFold(value, "keep-alive") {
				return false
			}
		default:
			name, ok := ordinary[string(lower)]
			if !ok || r.Header[name] != nil || n == mostOrdinary {
				return false
			}
			a.values[n] = value
			r.Header[name] = a.values[n : n+1 : n+1]
			n++
		}
	}
}

// readFields makes of a request's fields over HTTP/2 an ordinary request, with what
// base has; false when they are none.
func (a *Asked) readFields(base *http.Request, fields []hpack.HeaderField) bool {
	header := a.Request.Header
	a.Request = *base
	r := &a.Request
	r.Header = header
	scheme, regular, n := "", false, 0
	for _, field := range fields {
		value := field.Value
		if pseudo := strings.HasPrefix(field.Name, ":"); pseudo {
			var to *string
			switch field.Name {
			case ":method":
				to = &r.Method
			case ":scheme":
				to = &scheme
			case ":authority":
				to = &r.Host
			case ":path":
				to = &r.RequestURI
			}
			if to == nil || *to != "" || value == "" || regular {
				return false
			}
			*to = value
			continue
		}
		regular = true
		if len(field.Name) > longestName || !plainValue(value) || strings.Trim(value, " ") != value {
			return false
		}
		name, ok := ordinary[field.Name]
		switch {
		case !ok:
			return false
		case name == "Cookie" && r.Header[name] != nil: // in parts (RFC 9113 section 8.2.3)
			r.Header[name][0] += "; " + value
			continue
		case r.Header[name] != nil || n == mostOrdinary:
			return false
		}
		a.values[n] = value
		r.Header[name] = a.values[n : n+1 : n+1]
		n++
	}
	return (r.Method == "GET" || r.Method == "HEAD") && scheme == "https" && httpguts.ValidHostHeader(r.Host) && r.Host != "" && a.readTarget(r.RequestURI)
}

// readTarget reads the request line's target, in origin-form (RFC 9112 §3.2.1).
func (a *Asked) readTarget(target string) bool {
	r := &a.Request
	if target == "" || target[0] != '/' || strings.HasPrefix(target, "//") {
		return false
	}
	path, query, has := strings.Cut(target, "?")
	plain := true
	for i := 0; i < len(path); i++ {
		plain = plain && inPath[path[i]]
	}
	for i := 0; i < len(target); i++ {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	if plain {
		a.url = url.URL{Path: path, RawQuery: query, ForceQuery: has && query == ""}
		r.URL = &a.url
		return true
	}
	var err error
	r.URL, err = url.ParseRequestURI(target)
	return err == nil
}

// inPath are the bytes that stand for themselves in a path, and are written so.
var inPath = func() (in [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/") {
		in[c] = true
	}
	return in
}()

// plainValue reports whether a field's value is of bytes that say nothing of
// lines.
func plainValue(value string) bool {
	for i := 0; i < len(value); i++ {
		if c := value[i]; c < ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// lowered is name in lower case.
func lowered(room []byte, name string) []byte {
	n := copy(room, name)
	for i, c := range room[:n] {
		if c >= 'A' && c <= 'Z' {
			room[i] = c | 0x20
		}
	}
	return room[:n]
}
