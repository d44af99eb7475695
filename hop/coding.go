package hop

import (
	"io"
	"net/http"
	"strconv"
)

// A body crosses from node to node in a coding that need not be the client's:
//
//	request   Causeway-Accept-Coding: br, zstd   what the asking node can open,
//	                                             most liked first
//	response  Causeway-Coding: br                the body's coding on this hop, in
//	                                             place of what Content-Encoding says
//	          Causeway-Length: 4711              what Content-Length says of it
//
// The other header fields are those that the client gets, and the asking node
// makes the body what they say. The last two describe a request's body as well.
// A node that does not know the first sends the body as the client takes it.
const (
	codingsField = Prefix + "Accept-Coding"
	codingField  = Prefix + "Coding"
	lengthField  = Prefix + "Length"
)

// Encoder puts a body into a coding. Flush makes all that was written so far
// readable at the other end. Free is called once, at the end, and nothing after
// it.
type Encoder interface {
	io.WriteCloser
	Flush() error
	Free()
}

// Encode makes the Encoder for the body of an answer, which writes to dst, and
// makes the header true of what it writes; nil is none. The header is otherwise
// complete. came is how much of the body is there as the header goes out.
type Encode func(h http.Header, came int, dst io.Writer) Encoder

// SetCodings notes on a request what this node can open.
func SetCodings(h http.Header, codings []string) { h[codingsField] = codings }

// Codings is what the node that sent the request can open, "" for nothing.
func Codings(h http.Header) string { return h.Get(codingsField) }

// SetCoding notes the coding of a body on this hop, and the length that it has
// opened; -1 is not known.
func SetCoding(h http.Header, coding string, length int64) {
	h[codingField] = []string{coding}
	if length >= 0 {
		h[lengthField] = []string{strconv.FormatInt(length, 10)}
	}
}

// TakeCoding reads what SetCoding noted and takes it off; "" when there is
// nothing.
func TakeCoding(h http.Header) (coding string, length int64) {
	coding, length = h.Get(codingField), -1
	if n, err := strconv.ParseInt(h.Get(lengthField), 10, 64); err == nil && n >= 0 {
		length = n
	}
	delete(h, codingField)
	delete(h, lengthField)
	return coding, length
}
