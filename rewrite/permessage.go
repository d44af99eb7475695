package rewrite

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/flate"
)

// permessage-deflate (RFC 7692) compresses each message of a WebSocket, and a message may refer to
// the text of those before it, as far back as the window reaches. What one side compressed can go
// on as it is, then, if nothing in it is exchanged and the other side has heard the same text
// before, for one window back. Otherwise it is compressed anew.

const deflateName = "permessage-deflate"

// isWebSocket says whether a message asks or agrees to switch to WebSocket (RFC 6455 section 4).
func isWebSocket(h http.Header) bool {
	for protocol := range strings.SplitSeq(h.Get("Upgrade"), ",") {
		if strings.EqualFold(strings.TrimSpace(protocol), "websocket") {
			return true
		}
	}
	return false
}

// offers leaves in a client's offer what Switched can read. Extensions are the server's choice: one
// that is not offered is not missed.
func (m *Map) offers(h http.Header) {
	if m.rules.Untouched || !isWebSocket(h) {
		return
	}
	var kept []string
	for offer := range eachExtension(h) {
		if _, ok := parseDeflate(offer); ok {
			kept = append(kept, offer)
		}
	}
	if delete(h, extensionField); len(kept) > 0 {
		h[extensionField] = []string{strings.Join(kept, ", ")}
	}
}

const extensionField = "Sec-Websocket-Extensions"

// eachExtension gives the members of the field. None that can be read has a comma in quotes.
func eachExtension(h http.Header) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, line := range h[extensionField] {
			for member := range strings.SplitSeq(line, ",") {
				if member = strings.TrimSpace(member); member != "" && !yield(member) {
					return
				}
			}
		}
	}
}

// deflateTerms are the parameters of the extension (RFC 7692 section 7.1).
type deflateTerms struct{ origin, client history }

// parseDeflate reads an offer of the extension, or an agreement to it.
func parseDeflate(member string) (terms deflateTerms, ok bool) {
	name, params, _ := strings.Cut(member, ";")
	if !strings.EqualFold(strings.TrimSpace(name), deflateName) {
		return terms, false
	}
	terms.origin.bits, terms.client.bits = 15, 15
	for param := range strings.SplitSeq(params, ";") {
		key, value, valued := strings.Cut(strings.TrimSpace(param), "=")
		window, err := strconv.Atoi(strings.Trim(strings.TrimSpace(value), `"`))
		sized := err == nil && 8 <= window && window <= 15
		switch key = strings.ToLower(strings.TrimSpace(key)); {
		case key == "" && !valued:
		case key == "server_no_context_takeover" && !valued:
			terms.origin.forgets = true
		case key == "client_no_context_takeover" && !valued:
			terms.client.forgets = true
		case key == "server_max_window_bits" && sized:
			terms.origin.bits = window
		case key == "client_max_window_bits" && sized:
			terms.client.bits = window
		case key == "client_max_window_bits" && !valued: // "I know it", in an offer
		default:
			return terms, false
		}
	}
	return terms, true
}

// agreed are the histories of both sides, nil when they do not compress.
type agreed struct{ origin, client *history }

// agreement reads what request and response agreed on.
func agreement(request, response http.Header) (a agreed, err error) {
	offered := false
	for range eachExtension(request) {
		offered = true
	}
	for member := range eachExtension(response) {
		terms, ok := parseDeflate(member)
		if !ok || !offered || a.origin != nil {
			return a, &SocketError{Err: errors.New("it chose an extension that was not offered")}
		}
		a = agreed{&terms.origin, &terms.client}
	}
	return a, nil
}

// maxTold is as much as is kept of what the other side heard, to refer to in what is compressed anew:
// a few messages, which are much alike.
const maxTold = 8 << 10

// history is the text of the compressed messages of one side.
type history struct {
	forgets bool // no message refers to another
	bits    int  // the window is 1<<bits bytes

	said  []byte // the end of it, for one window
	told  []byte // the end of what the other side heard, nil as long as that is the same
	apart int    // so many bytes of text must pass unchanged for that to be so again

	came, text int64 // bytes, compressed and not
}

// slide appends p to a window of so many bytes. A quarter more is kept, so that little is moved.
func slide(window, p []byte, size int) []byte {
	p = p[max(0, len(p)-size):]
	if len(window)+len(p) > size+size/4 {
		window = window[:copy(window, window[len(window)-(size-len(p)):])]
	}
	return append(window, p...)
}

// end is the last bytes of a window of so many.
func end(window []byte, size int) []byte { return window[max(0, len(window)-size):] }

func (h *history) window() int { return 1 << h.bits }

// say keeps text that the side said.
func (h *history) say(text []byte) {
	if !h.forgets {
		h.said = slide(h.said, text, h.window())
	}
}

// begin begins a message that is compressed anew.
func (h *history) begin() {
	if h.told == nil {
		h.told = append(make([]byte, 0, maxTold), end(h.said, maxTold)...)
	}
}

// tell keeps text of it, as the other side hears it.
func (h *history) tell(text []byte) { h.told = slide(h.told, text, h.reach()) }

// reach is how far back it refers.
func (h *history) reach() int { return min(maxTold, h.window()) }

// finish ends it.
func (h *history) finish(length int, changed bool) {
	switch {
	case h.forgets:
		h.told = h.told[:0]
	case changed:
		h.apart = h.window()
	default:
		if h.apart -= length; h.apart <= 0 {
			h.apart, h.told = 0, nil
		}
	}
}

// recoding is a message that is compressed anew.
type recoding struct {
	anew     bool          // it is
	length   int           // of the text so far
	flow     *flow         // where the text comes from when the message comes in pieces
	deflater *flate.Writer // of the piece under way, nil before there is text in it
}

// deflaters are pools by window.
var deflaters [16]sync.Pool

// newDeflater takes a deflater out of its pool.
func newDeflater(bits int) *flate.Writer {
	if w, ok := deflaters[bits].Get().(*flate.Writer); ok {
		return w
	}
	if bits == 15 {
		w, _ := flate.NewWriter(nil, 1)
		return w
	}
	w, _ := flate.NewWriterWindow(nil, 1<<bits)
	return w
}

// beginRecode begins to compress the message anew.
func (d *direction) beginRecode() {
	d.anew = true
	d.history.begin()
}

// recoded takes text of the message.
func (d *direction) recoded(text []byte, final bool) {
	d.history.say(text)
	d.length += len(text)
	if d.kind == opText {
		text = d.mapped(text, final)
	}
	if len(text) > 0 {
		d.beginPiece()
		_, _ = d.deflater.Write(text) // deflated takes all of it
		d.history.tell(text)
	}
}

// beginPiece takes a deflater for what one take sends of the message. None is kept longer: they
// are large, and a side may let a message wait for as long as it likes.
func (d *direction) beginPiece() {
	if d.deflater == nil {
		d.deflater = newDeflater(d.history.bits)
		d.deflater.ResetDict((*deflated)(d), end(d.history.told, d.history.reach()))
	}
}

func (d *direction) endPiece() {
	if d.deflater != nil {
		d.deflater.ResetDict(io.Discard, nil)
		deflaters[d.history.bits].Put(d.deflater)
		d.deflater = nil
	}
}

// deflated is where the deflater writes.
type deflated direction

func (d *deflated) Write(b []byte) (int, error) {
	d.work.packed = append(d.work.packed, b...)
	return len(b), nil
}

// sayRecoded sends what was compressed, without the four bytes that end each message (RFC 7692
// section 7.2.1).
func (d *direction) sayRecoded(last bool) {
	if last {
		d.beginPiece()
	}
	if d.deflater != nil {
		_ = d.deflater.Flush()
		d.endPiece()
	}
	b := d.work.packed
	if last {
		b = bytes.TrimSuffix(b, flushed)
		d.history.finish(d.length, d.stream.exchanged > 0)
	}
	d.say(b, last)
	d.work.packed = b[:0]
}

// flushed is what the sender took off a message, and ending that and an end for the inflater.
var (
	flushed = []byte("\x00\x00\xff\xff")
	ending  = []byte("\x00\x00\xff\xff\x01\x00\x00\xff\xff")
)

const (
	// maxUnpacked is the longest text that is looked at as a whole, so that it can pass as it came.
	maxUnpacked = 32 << 10
	// maxStreams is how often deflate may end within a message (RFC 7692 section 7.2.3.5).
	maxStreams = 32
)

// shortPacked takes a compressed message in one short frame.
func (d *direction) shortPacked(b []byte) error {
	w := d.work
	payload := d.unmasked(b[d.frame.size:], 0)
	if !d.masked {
		payload = append(w.plain[:0], payload...)
	}
	d.history.came += int64(len(payload))
	w.plain, w.whole = append(payload, ending...), w.whole[:0]
	w.flow.in, w.flow.ended = w.plain, true
	if err := d.inflate(&w.flow); err != nil {
		return d.broken(err)
	}
	switch {
	case d.anew:
		d.recoded(nil, true)
	case d.unchanged(w.whole) && d.history.apart == 0:
		d.history.say(w.whole)
		w.out = append(w.out, b...)
		return nil
	default:
		d.stream.Reset(d.replacer)
		d.beginRecode()
		d.recoded(w.whole, true)
	}
	d.sayRecoded(true)
	return nil
}

// unchanged says whether nothing is to be exchanged in a message.
func (d *direction) unchanged(text []byte) bool {
	if d.kind != opText {
		return true
	}
	_, ok := d.stream.Pass(text, true)
	return ok
}

// unpack takes a piece of a compressed message.
func (d *direction) unpack(b []byte, last bool) error {
	if d.flow == nil {
		d.beginRecode()
		d.flow = d.newFlow()
	}
	d.history.came += int64(len(b))
	d.flow.give(b, false)
	if last {
		d.flow.give(ending, true)
	}
	if d.flow.err != nil {
		return d.broken(d.flow.err)
	}
	if last {
		d.recoded(nil, true)
	}
	d.sayRecoded(last)
	return nil
}

// inflate opens a message.
func (d *direction) inflate(f *flow) error {
	r := flateReaders.Get().(io.ReadCloser)
	defer flateReaders.Put(r)
	for range maxStreams {
		_ = r.(flate.Resetter).Reset(f, d.dictionary())
		if _, err := r.(io.WriterTo).WriteTo((*inflated)(d)); err != nil {
			return fmt.Errorf("open a compressed message: %w", err)
		}
		if f.over() {
			return nil
		}
	}
	return errors.New("open a compressed message: deflate ends in it again and again")
}

// dictionary is the text that what is to be inflated may refer to.
func (d *direction) dictionary() []byte {
	said := end(d.history.said, d.history.window())
	if !d.anew && len(d.work.whole) > 0 {
		said = append(bytes.Clone(said), d.work.whole...)
	}
	return said
}

// inflated is where the inflater writes.
type inflated direction

func (i *inflated) Write(text []byte) (int, error) {
	d := (*direction)(i)
	if d.flow != nil && d.flow.stopped {
		return 0, io.ErrClosedPipe
	}
	h, w := d.history, d.work
	if h.text += int64(len(text)); h.text > maxFreeText && h.text/maxRatio > h.came {
		return 0, ErrRatio
	}
	if !d.anew {
		if len(w.whole)+len(text) <= maxUnpacked {
			w.whole = append(w.whole, text...)
			return len(text), nil
		}
		d.beginRecode()
		d.recoded(w.whole, false)
	}
	d.recoded(text, false)
	return len(text), nil
}

// flow is compressed text on its way to an inflater. When it comes in pieces, the inflater is a
// coroutine, which rests while there is nothing to read.
type flow struct {
	in      []byte // has come
	ended   bool   // and no more will
	rest    func() (awake bool)
	next    func() (struct{}, bool)
	stop    func()
	stopped bool
	err     error
}

// newFlow is the flow of d's message.
func (d *direction) newFlow() *flow {
	f := new(flow)
	f.next, f.stop = iter.Pull(func(yield func(struct{}) bool) {
		f.rest = func() bool { return yield(struct{}{}) }
		f.err = d.inflate(f)
	})
	return f
}

// give has the inflater read b, to its end.
func (f *flow) give(b []byte, ended bool) {
	f.in, f.ended = b, ended
	f.next()
}

// free ends the coroutine.
func (f *flow) free() {
	f.stopped = true
	f.stop()
}

// wait waits for something to read.
func (f *flow) wait() error {
	for len(f.in) == 0 {
		if f.ended || !f.rest() {
			return io.ErrUnexpectedEOF
		}
	}
	return nil
}

// over says whether nothing is left, where deflate has ended, but what the sender took off.
func (f *flow) over() bool { return f.wait() != nil || f.ended && len(f.in) <= len(ending) }

func (f *flow) Read(p []byte) (int, error) {
	if err := f.wait(); err != nil {
		return 0, err
	}
	n := copy(p, f.in)
	f.in = f.in[n:]
	return n, nil
}

func (f *flow) ReadByte() (byte, error) {
	if err := f.wait(); err != nil {
		return 0, err
	}
	c := f.in[0]
	f.in = f.in[1:]
	return c, nil
}
