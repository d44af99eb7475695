package rewrite

import (
	"net/http"
	"strings"
)

// Which bodies are text in which URLs are exchanged: everything under text/, what ends in one of
// textSuffixes (RFC 6839), textTypes, and what Rules.Types add or take out. Everything else,
// fonts, images, archives, multipart and application/octet-stream, is never touched. A body
// without a type is text when its first bytes look like it.
var (
	textSuffixes = []string{"+json", "+xml", "+yaml"}
	textTypes    = map[string]bool{
		"application/connect+json":          false, // JSON in frames, with a length before each
		"application/csp-report":            true,  // a client sends it
		"application/dash+xml":              true,
		"application/ecmascript":            true,
		"application/graphql":               true,
		"application/grpc+json":             false, // as connect+json
		"application/grpc-web+json":         false,
		"application/javascript":            true,
		"application/json":                  true,
		"application/json-seq":              true,
		"application/json5":                 true,
		"application/jsonl":                 true,
		"application/jsonp":                 true,
		"application/ndjson":                true,
		"application/source-map":            true,
		"application/toml":                  true,
		"application/typescript":            true,
		"application/vnd.apple.mpegurl":     true,
		"application/x-httpd-php":           true,
		"application/x-javascript":          true,
		"application/x-json":                true,
		"application/x-jsonlines":           true,
		"application/x-mpegurl":             true,
		"application/x-ndjson":              true,
		"application/x-typescript":          true,
		"application/x-www-form-urlencoded": true,
		"application/x-yaml":                true,
		"application/xml":                   true,
		"application/xml-dtd":               true,
		"application/yaml":                  true,
		"audio/mpegurl":                     true,
		"audio/x-mpegurl":                   true,
	}
)

const eventStream = "text/event-stream"

// Rewritable says whether an answer with these header fields is one whose body Response changes
// when it comes whole: its type is text or unknown and its codings can be opened. A part of such
// a body (206) must not be passed on: its offsets are the origin's.
func (m *Map) Rewritable(h http.Header) bool {
	if _, ok := contentCodings(h); !ok || m.rules.Untouched {
		return false
	}
	kind := mediaType(h)
	return kind == "" || m.isText(kind)
}

// isSourceMap says whether an answer may be a source map (ECMA-426) that the origin has no type for.
func (m *Map) isSourceMap(res *http.Response, kind string) bool {
	if kind != "application/octet-stream" || m.rules.Untouched || res.Request == nil || res.Request.URL == nil {
		return false
	}
	_, ok := contentCodings(res.Header)
	return ok && strings.HasSuffix(res.Request.URL.Path, ".map")
}

// mediaType is the type of Content-Type in lower case, without parameters.
func mediaType(h http.Header) string {
	lines := h["Content-Type"]
	if len(lines) > 1 || len(lines) == 1 && strings.Contains(lines[0], ",") {
		kind, _ := lastType(lines)
		return kind
	}
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.ToLower(strings.TrimSpace(kind))
}

// charset is the parameter of Content-Type, in lower case.
func charset(h http.Header) string {
	lines := h["Content-Type"]
	if len(lines) > 1 || len(lines) == 1 && strings.Contains(lines[0], ",") {
		_, charset := lastType(lines)
		return charset
	}
	return charsetIn(h.Get("Content-Type"))
}

// lastType is what browsers take several types for: the last one that is well-formed. One without a
// charset has that of those of its kind right before it (Fetch section 2.2.2, extract a MIME type).
func lastType(lines []string) (kind, charset string) {
	for value := range eachTag(strings.Join(lines, ",")) {
		essence, _, _ := strings.Cut(value, ";")
		essence = strings.ToLower(strings.TrimSpace(essence))
		if top, sub, ok := strings.Cut(essence, "/"); !ok || !isToken(top) || !isToken(sub) || essence == "*/*" {
			continue
		}
		if named := charsetIn(value); named != "" || essence != kind {
			charset = named
		}
		kind = essence
	}
	return kind, charset
}

// isToken is for RFC 9110 section 5.6.2.
func isToken(s string) bool {
	return s != "" && strings.IndexFunc(s, func(c rune) bool {
		return c <= ' ' || c >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
	}) < 0
}

// charsetIn is the charset of one value.
func charsetIn(value string) string {
	for parameter := range strings.SplitSeq(value, ";") {
		name, value, _ := strings.Cut(parameter, "=")
		if strings.EqualFold(strings.TrimSpace(name), "charset") {
			return strings.ToLower(strings.Trim(strings.TrimSpace(value), `"'`))
		}
	}
	return ""
}

func (m *Map) isText(kind string) bool {
	for _, ruled := range m.rules.Types {
		if name, not := strings.CutPrefix(ruled, "-"); name == kind {
			return !not
		}
	}
	if text, known := textTypes[kind]; known {
		return text
	}
	if strings.HasPrefix(kind, "text/") {
		return true
	}
	for _, suffix := range textSuffixes {
		if strings.HasSuffix(kind, suffix) {
			return true
		}
	}
	return false
}

func isHTML(kind string) bool { return kind == "text/html" || kind == "application/xhtml+xml" }

func isJSON(kind string) bool { return kind == "application/json" || strings.HasSuffix(kind, "+json") }

// sniffText is the media type of a text without one, by its first bytes (WHATWG MIME Sniffing); ""
// when it is none.
func sniffText(first []byte) string {
	kind, _, _ := strings.Cut(http.DetectContentType(first), ";")
	if len(first) == 0 || !strings.HasPrefix(kind, "text/") {
		return ""
	}
	return kind
}
