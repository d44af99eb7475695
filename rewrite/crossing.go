package rewrite

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

// The codings of bodies between nodes, where every byte is paid for. Of a page of documentation br
// leaves 6 % to 14 % less than gzip and zstd do, for three times zstd's time; so br is taken as long
// as there are cores for it.

// CrossingCodings are what NewDecoder can open, most liked first.
var CrossingCodings = []string{"br, zstd"}

// MinCrossing is the length of a body from which a coding is worth its time and memory: most of a
// packet.
const MinCrossing = 1 << 10

// mostEncoders is how many bodies may be in coding at a time as if there were no others: each holds
// up to 6 MB as long as it comes. Beyond them no body is coded that need not be, and newEncoder is
// sparing.
const mostEncoders = 64

// mostCoded is how many bodies are in coding at a time that a client would rather have so: who opens
// them, the client or an edge, has 40 KB for each, and so do we.
const mostCoded = 512

var (
	encoding  atomic.Int32 // encoders at work at this moment
	inCodings atomic.Int32 // that exist
)

// CrossingCoding is the coding for a text to a node that can open some: "" when that is none of ours.
func CrossingCoding(accept string) string {
	dear := quality(accept, "br") > 0
	if quality(accept, "zstd") > 0 && (!dear || int(encoding.Load()) >= runtime.GOMAXPROCS(0)) && SpareEncoders() {
		return "zstd"
	}
	if dear {
		return "br"
	}
	return ""
}

// SpareEncoders says whether there is room for bodies that need no coding.
func SpareEncoders() bool { return inCodings.Load() < mostEncoders }

// compressible are the types beside texts that a coding makes smaller; most others have one inside.
var compressible = map[string]bool{
	"application/eot":               true,
	"application/font-sfnt":         true,
	"application/vnd.ms-fontobject": true,
	"application/wasm":              true,
	"application/x-font-opentype":   true,
	"application/x-font-otf":        true,
	"application/x-font-truetype":   true,
	"application/x-font-ttf":        true,
	"font/collection":               true,
	"font/otf":                      true,
	"font/sfnt":                     true,
	"font/ttf":                      true,
	"image/bmp":                     true,
	"image/vnd.microsoft.icon":      true,
	"image/x-icon":                  true,
}

// Compressible says whether a body with these header fields is one that a coding makes smaller, and
// has none. Event streams are left alone: they are open for hours, and each would hold an encoder.
func (m *Map) Compressible(h http.Header) bool {
	kind := mediaType(h)
	return len(h["Content-Encoding"]) == 0 && len(h["Content-Range"]) == 0 && !noTransform(h) &&
		kind != eventStream && (m.isText(kind) || compressible[kind])
}

// Encoder closes a body in a coding. One goroutine at a time may use it.
type Encoder struct {
	coding string
	inner  encoder
}

// NewEncoder writes to dst in one of CrossingCodings, or another that this package knows.
func NewEncoder(coding string, dst io.Writer) *Encoder {
	return &Encoder{coding, newEncoder(coding, dst)}
}

// atWork counts e as one at work until the function that it returns is called.
func atWork() (done func()) {
	encoding.Add(1)
	return func() { encoding.Add(-1) }
}

// Write takes text.
func (e *Encoder) Write(p []byte) (int, error) {
	defer atWork()()
	return e.inner.Write(p)
}

// Flush makes all that was written so far readable.
func (e *Encoder) Flush() error {
	defer atWork()()
	return e.inner.Flush()
}

// Close ends the text.
func (e *Encoder) Close() error {
	defer atWork()()
	return e.inner.Close()
}

// Free gives back e's memory.
func (e *Encoder) Free() {
	freeEncoder(e.coding, e.inner)
}

// IsCoding says whether NewEncoder and NewDecoder know a coding.
func IsCoding(name string) bool { return isCoding(name) }

// Opened is a body that was closed by another node, opened.
type Opened struct {
	src   io.ReadCloser
	bytes atomic.Int64 // read of src

	mu      sync.Mutex // guards the rest: a body may be closed while it is read
	source  source
	decoder *decoder // nil once all was read
	err     error
}

// NewDecoder opens body, which another node closed in a coding that IsCoding. It gives out what came
// before it waits for more. How much a body grows is not looked at: the other node is ours.
func NewDecoder(coding string, body io.ReadCloser) *Opened {
	o := &Opened{src: body}
	o.source.origin = (*openedSource)(o)
	o.decoder = newDecoder([]string{coding}, &o.source)
	o.decoder.trusted = true
	return o
}

// openedSource is the coded body, counted.
type openedSource Opened

func (s *openedSource) Read(p []byte) (int, error) {
	n, err := s.src.Read(p)
	s.bytes.Add(int64(n))
	return n, err
}

// Coded is how many bytes came so far.
func (o *Opened) Coded() int64 { return o.bytes.Load() }

// Read gives the text. The body is read to its end.
func (o *Opened) Read(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.decoder == nil {
		return 0, o.err
	}
	n, err := o.decoder.Read(p)
	if err == io.EOF {
		err = o.drain()
	}
	if err != nil {
		o.end(err)
	}
	return n, err
}

// drain reads what is behind the text: nothing, and then the trailers or what cut the body short.
func (o *Opened) drain() error {
	var more [1]byte
	n, err := o.source.Read(more[:])
	if n > 0 {
		return fmt.Errorf("open %s body: more behind its end", o.decoder.coding)
	}
	return err
}

func (o *Opened) end(err error) {
	if o.decoder != nil {
		o.decoder.free()
		o.decoder, o.err, o.source = nil, err, source{}
	}
}

// Close closes the coded body.
func (o *Opened) Close() error {
	err := o.src.Close()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.end(http.ErrBodyReadAfterClose)
	return err
}

// uncoded changes p, for a body that leaves without its coding: whoever sends it on closes it, in the
// coding best for the way where the client takes that too.
func (p *plan) uncode(accept string) {
	if p.coding == "" || p.kind == eventStream {
		return
	}
	p.uncoded = true
	if best := CrossingCoding(accept); best != "" && quality(accept, best) >= quality(accept, p.coding) {
		p.coding = best
	}
}

// Uncoded is the coding that the header names and the body does not have, "" when it has what the
// header says (Options.Uncoded).
func (b *body) Uncoded() string {
	if b.uncoded {
		return b.coding
	}
	return ""
}

// CompressibleRequest says whether the body of a request is a text without a coding.
func CompressibleRequest(h http.Header) bool {
	kind := mediaType(h)
	return len(h["Content-Encoding"]) == 0 && len(h["Content-Range"]) == 0 && len(h["Expect"]) == 0 &&
		(kind == "application/x-www-form-urlencoded" || isJSON(kind) || strings.HasPrefix(kind, "text/") || strings.HasSuffix(kind, "+xml") || kind == "application/xml")
}

// Closed is a body that is closed in a coding as it is read, without a flush: it is all there or on
// its way. One goroutine reads it; Close may come from another and does not wait for it.
type Closed struct {
	src    io.ReadCloser
	coding string
	bytes  atomic.Int64 // given
	closed atomic.Bool

	mu      sync.Mutex // guards the rest; held by Read
	chunk   []byte
	out     bytes.Buffer
	encoder *Encoder // nil before the first read and after the last
	err     error    // comes when out has been read
}

// NewClosed closes body in one of CrossingCodings.
func NewClosed(coding string, body io.ReadCloser) *Closed {
	return &Closed{src: body, coding: coding}
}

// Coded is how many bytes were given so far.
func (c *Closed) Coded() int64 { return c.bytes.Load() }

func (c *Closed) Read(p []byte) (int, error) {
	defer c.release()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil && c.out.Len() == 0 {
		if c.closed.Load() {
			c.err = http.ErrBodyReadAfterClose
			break
		}
		c.step()
	}
	if c.out.Len() == 0 {
		return 0, c.err
	}
	n, _ := c.out.Read(p)
	c.bytes.Add(int64(n))
	return n, nil
}

// step reads once and closes what came.
func (c *Closed) step() {
	if c.encoder == nil {
		c.encoder, c.chunk = NewEncoder(c.coding, &c.out), make([]byte, 16<<10)
	}
	n, err := c.src.Read(c.chunk)
	_, c.err = c.encoder.Write(c.chunk[:n]) // to memory: it does not fail
	switch {
	case err == io.EOF && c.err == nil:
		if c.err = c.encoder.Close(); c.err == nil {
			c.err = io.EOF
		}
	case err != nil:
		c.err = err
	}
	if c.err != nil {
		c.free()
	}
}

func (c *Closed) free() {
	if c.encoder != nil {
		c.encoder.Free()
		c.encoder = nil
	}
}

// release gives back the memory of a body that was closed, unless it is read: then the reader does.
func (c *Closed) release() {
	if c.closed.Load() && c.mu.TryLock() {
		defer c.mu.Unlock()
		c.free()
	}
}

// Close closes the body.
func (c *Closed) Close() error {
	c.closed.Store(true)
	defer c.release()
	return c.src.Close()
}
