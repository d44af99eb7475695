package relay

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"

	"causeway/rewrite"
)

// partOfText reports whether res is a part (206), counted in bytes, of a text
// that is rewritten: its offsets are the origin's, a name may be cut at its
// ends, and so it can't be passed on. asked says that the request had a Range.
func partOfText(names *rewrite.Map, res *http.Response, asked bool) bool {
	if res.StatusCode != http.StatusPartialContent {
		return false
	}
	kind, params, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if kind == "multipart/byteranges" {
		return names.Rewritable(firstPart(res, params["boundary"]))
	}
	return inBytes(res.Header.Get("Content-Range"), asked) && names.Rewritable(res.Header)
}

// inBytes reports whether a Content-Range speaks of bytes (RFC 9110 §14.4).
// APIs count in units of their own, also where nobody asked for a part, or say
// 206 of a list that goes on: each of their answers is a text for itself.
func inBytes(contentRange string, asked bool) bool {
	unit, _, _ := strings.Cut(contentRange, " ")
	return strings.EqualFold(unit, "bytes") || (unit == "" && asked)
}

// mostPartHead is how far into several parts the header of the first is looked
// for.
const mostPartHead = 8 << 10

// firstPart is what the first of several parts (RFC 9110 §14.6) says of the
// whole: its type and its coding; nothing when it can't be read. The body is as
// it was afterwards.
func firstPart(res *http.Response, boundary string) http.Header {
	whole := make(http.Header)
	if boundary == "" {
		return whole
	}
	var read bytes.Buffer
	head := io.TeeReader(io.LimitReader(res.Body, mostPartHead), &read)
	part, err := multipart.NewReader(head, boundary).NextRawPart()
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(&read, res.Body), res.Body}
	if err == nil {
		whole["Content-Type"] = part.Header["Content-Type"]
		whole["Content-Encoding"] = res.Header["Content-Encoding"]
	}
	return whole
}
