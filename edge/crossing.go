package edge

import (
	"io"
	"net/http"
	"strconv"

	"causeway/hop"
	"causeway/outcome"
	"causeway/rewrite"
)

// openBody opens the body of an answer that crossed in a coding of its own
// (hop.SetCoding), and makes the header what it was on the other side.
func (x *exchange) openBody(res *http.Response) error {
	x.opened = nil // of an answer that was lost
	coding, length := hop.TakeCoding(res.Header)
	if coding == "" {
		return nil
	}
	if !rewrite.IsCoding(coding) {
		res.Body.Close()
		return outcome.Errorf(outcome.LinkCut, "read from relay %s: its answer is in coding %q, which was not asked for", x.rec.Relay, coding)
	}
	x.opened = rewrite.NewDecoder(coding, res.Body)
	res.Body, res.ContentLength = x.opened, length
	delete(res.Header, "Content-Length")
	if length >= 0 {
		res.Header["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
	return nil
}

// encode is hop.Options.Encode for an opened body that the client takes in
// another coding, nil for any other.
func (x *exchange) encode(res *http.Response) hop.Encode {
	told := res.Header.Get("Content-Encoding")
	if x.opened == nil || !rewrite.IsCoding(told) {
		return nil
	}
	return func(h http.Header, _ int, dst io.Writer) hop.Encoder {
		delete(h, "Content-Length")
		return rewrite.NewEncoder(told, dst)
	}
}

// mostPacked is the longest body of a request that is closed in a coding: what
// the relay reads whole to map it (rewrite.DefaultBodyBytes). Longer ones may be
// uploads that are watched as they go.
const mostPacked = rewrite.DefaultBodyBytes

// lean is for link.WithLean: it says which codings this node can open, leaves
// out what the relay can make anew, and has a text's body cross in a coding.
func (x *exchange) lean(out *http.Request) {
	hop.SetCodings(out.Header, rewrite.CrossingCodings)
	hop.LeanForwarded(out.Header)
	n := out.ContentLength
	if out.Body == nil || n < rewrite.MinCrossing || n > mostPacked || !rewrite.CompressibleRequest(out.Header) || !rewrite.SpareEncoders() {
		return
	}
	const coding = "zstd" // its time is the visitor's
	x.packed = rewrite.NewClosed(coding, out.Body)
	out.Body, out.ContentLength = x.packed, -1
	delete(out.Header, "Content-Length")
	hop.SetCoding(out.Header, coding, n)
}

// countCrossing notes how many bytes of the two bodies crossed.
func (x *exchange) countCrossing() {
	if x.rec.Relay == "" {
		return
	}
	x.rec.LinkIn, x.rec.LinkOut = x.rec.BytesIn, x.rec.BytesOut
	if x.packed != nil {
		x.rec.LinkIn = x.packed.Coded()
	}
	switch {
	case x.asked != nil:
		x.rec.LinkOut = x.asked.crossed.Load() // so far
	case x.opened != nil:
		x.rec.LinkOut = x.opened.Coded()
	}
}
