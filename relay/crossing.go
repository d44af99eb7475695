package relay

import (
	"io"
	"net/http"
	"strconv"

	"causeway/hop"
	"causeway/rewrite"
)

// minRecoded is the length of a text from which br saves enough over gzip to be
// worth opening and closing it again at the edge.
const minRecoded = 16 << 10

// crossing is how the body of an answer goes to an edge that opens codings
// itself (hop.Codings):
//
//   - a text that the client takes in a coding leaves the rewriting without it,
//     and is closed here: in that coding, or, where the client knows none of the
//     good ones, in one for the edge alone, which closes it again,
//   - one that the client takes without a coding, and what is not rewritten and
//     gets smaller, is closed for the edge alone, which opens it: the client gets
//     the bytes that it would have got, under the same entity tag,
//   - all else crosses as it is, above all what the origin has closed itself.
type crossing struct {
	codings string // that the edge can open
	told    string // the body's coding by its header, which it does not have yet
}

// encode is hop.Options.Encode for an answer to r; nil when it crosses as it is.
func encode(r *http.Request, codings string, names *rewrite.Map, res *http.Response) hop.Encode {
	told := uncoded(res.Body)
	if codings == "" || res.StatusCode == http.StatusSwitchingProtocols || (told == "" && !electable(r, names, res)) {
		return nil
	}
	return (&crossing{codings, told}).encoder
}

// electable reports whether the body of res may have a coding for the edge alone.
func electable(r *http.Request, names *rewrite.Map, res *http.Response) bool {
	switch {
	case r.Method == http.MethodHead, res.StatusCode == http.StatusNoContent, res.StatusCode == http.StatusPartialContent, res.StatusCode == http.StatusNotModified:
		return false
	}
	return res.Body != http.NoBody && names != nil && names.Compressible(res.Header)
}

// encoder makes the encoder for a body with the header h.
func (c *crossing) encoder(h http.Header, came int, dst io.Writer) hop.Encoder {
	length := int64(-1)
	if n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); err == nil {
		length = n
	}
	coding := c.coding(length, came)
	if coding == "" {
		return nil
	}
	delete(h, "Content-Length")
	if coding != c.told {
		if c.told != "" {
			length = -1 // nobody knows what the edge will make of it
		}
		hop.SetCoding(h, coding, length)
	}
	return rewrite.NewEncoder(coding, dst)
}

// coding is that of a body so long, -1 when unknown, of which so much has come;
// "" leaves it as it is. One that begins with a little and pauses may go on like
// that for hours, and would hold an encoder all the while.
func (c *crossing) coding(length int64, came int) string {
	switch {
	case c.told == "br" || c.told == "zstd", !rewrite.SpareEncoders():
		return c.told
	case length < 0 && came < rewrite.MinCrossing:
		return c.told
	case c.told == "" && 0 <= length && length < rewrite.MinCrossing, c.told != "" && 0 <= length && length < minRecoded:
		return c.told
	}
	if best := rewrite.CrossingCoding(c.codings); best != "" {
		return best
	}
	return c.told
}

// uncoded is the coding that a body lacks which its header names, "" for none.
func uncoded(body io.Reader) string {
	if text, ok := body.(interface{ Uncoded() string }); ok {
		return text.Uncoded()
	}
	return ""
}

// openRequest opens the body of a request that crossed in a coding of its own,
// and makes the header what the client sent.
func openRequest(r *http.Request) {
	coding, length := hop.TakeCoding(r.Header)
	if !rewrite.IsCoding(coding) {
		return
	}
	r.Body, r.ContentLength = rewrite.NewDecoder(coding, r.Body), length
	delete(r.Header, "Content-Length")
	if length >= 0 {
		r.Header["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
}
