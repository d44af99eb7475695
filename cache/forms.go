package cache

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// An answer is kept in the coding in which it came, and given in one that the
// client takes (RFC 9110 §8.4, §12.5.3):
//
//  1. codingOf says which that is; one that is not ours stays as it is,
//  2. pick takes the best form that is kept of those that the client takes,
//  3. where there is none, recoded opens the body as it is read, and of what comes
//     from the origin closes it again. A hit is not closed, but for who does not take
//     it open,
//  4. and form has the one that was wanted made once, in the background: it waits
//     behind others, and makeForms makes one after the other. What turns out to be
//     large waits behind all that is small, and lets those which come meanwhile go
//     first (unpacking). want is the same for who shares a fetch: it is made when that
//     is kept.

// Codings opens and closes bodies in "br", "zstd" and "gzip".
type Codings interface {
	Encode(coding string, dst io.Writer) Encoder
	Decode(coding string, body io.ReadCloser) io.ReadCloser
}

// Encoder closes a body in a coding. Flush makes all that was written readable;
// Free is called once, at the end, and nothing after it.
type Encoder interface {
	io.WriteCloser
	Flush() error
	Free()
}

// codingOf is the content coding of an answer, "" for none; not known is one that
// nobody here opens.
func codingOf(h http.Header) (coding string, known bool) {
	lines := h["Content-Encoding"]
	if len(lines) == 0 {
		return "", true
	}
	coding = strings.ToLower(strings.Trim(lines[0], " \t"))
	if len(lines) > 1 {
		coding = strings.ToLower(strings.Join(lines, ","))
	}
	switch coding {
	case "", "identity":
		return "", true
	case "x-gzip": // RFC 9110 §8.4.1.3
		return "gzip", true
	case "br", "zstd", "gzip":
		return coding, true
	}
	return coding, false
}

// codings is how much a client likes each coding, in thousandths; 0 is not at all.
type codings struct{ br, zstd, gzip, identity int }

// readCodings reads an Accept-Encoding field (RFC 9110 §12.5.3).
func readCodings(lines []string) codings {
	const unnamed = -1
	c := codings{unnamed, unnamed, unnamed, unnamed}
	rest := unnamed // what * says
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			coding, parameters, _ := strings.Cut(part, ";")
			q := weight(parameters)
			switch coding = strings.Trim(coding, " \t"); {
			case is(coding, "br"):
				c.br = q
			case is(coding, "zstd"):
				c.zstd = q
			case is(coding, "gzip"), is(coding, "x-gzip"):
				c.gzip = q
			case is(coding, "identity"):
				c.identity = q
			case coding == "*":
				rest = q
			}
		}
	}
	if c.identity == unnamed && rest != 0 {
		c.identity = 1 // taken, but anything named is liked better
	}
	for _, q := range []*int{&c.br, &c.zstd, &c.gzip, &c.identity} {
		if *q == unnamed {
			*q = max(rest, 0)
		}
	}
	return c
}

// weight is a q (RFC 9110 §12.4.2) in thousandths; a malformed one is 0.
func weight(parameters string) int {
	if strings.Trim(parameters, " \t") == "" {
		return 1000
	}
	name, value, _ := strings.Cut(parameters, "=")
	if !is(strings.Trim(name, " \t"), "q") {
		return 0
	}
	q, err := strconv.ParseFloat(strings.Trim(value, " \t"), 64)
	if err != nil || !(q >= 0 && q <= 1) {
		return 0
	}
	return int(q*1000 + 0.5)
}

func (c *codings) quality(coding string) int {
	switch coding {
	case "br":
		return c.br
	case "zstd":
		return c.zstd
	case "gzip":
		return c.gzip
	case "":
		return c.identity
	}
	return 0
}

// best is the coding that the client likes best; of two alike, the one that makes
// the body smaller.
func (c *codings) best() string {
	best := ""
	for _, coding := range []string{"gzip", "zstd", "br"} {
		if q := c.quality(coding); q > 0 && q >= c.quality(best) {
			best = coding
		}
	}
	return best
}

// leastCoded is the length of a body from which a coding is worth it: most of a
// packet.
const leastCoded = 1 << 10

// mostCoded is the longest body, in its coding and out of it, that is put into another
// form in the background: a second or so of a core. mostSmall is the longest for which
// others wait: some hundredths of one.
const (
	mostCoded = 32 << 20
	mostSmall = 1 << 20
)

// Recodes reports whether a kept answer with this header, in no coding, and of this
// length, is given in others once they have been made.
func Recodes(h http.Header, size int64) bool {
	return !opaque(h) && compressible(h) && leastCoded <= size && size <= mostCoded
}

// chosen is the form that a client is given.
type chosen struct {
	form   *Form  // that is kept; nil for one that is made as it is read
	coding string // of what is given
	wanted string // to be made in the background; the same as coding when nothing is
}

// pick chooses a form of an answer whose forms are kept, or of the one form that
// comes.
func (a *ask) pick(m *Meta, forms []Form) chosen {
	f, takes := m.facts(), a.takes()
	var best *Form
	for i := range forms {
		form := &forms[i]
		q := takes.quality(form.Coding)
		if q > 0 && (best == nil || q > takes.quality(best.Coding) || q == takes.quality(best.Coding) && smaller(form, best)) {
			best = form
		}
	}
	came := &forms[0]
	if f.opaque || a.c.options.Codings == nil || m.Span != nil || bodiless(m.Status) {
		return chosen{came, came.Coding, came.Coding} // as it is, whatever the client takes
	}
	kept := came.Body != nil
	wanted := takes.best()
	if came.Coding == "" && (!f.squeezed || kept && came.Body.Size() < leastCoded) {
		wanted = ""
	}
	switch {
	case best == nil && takes.quality(wanted) == 0:
		return chosen{came, came.Coding, came.Coding} // it takes nothing at all
	case best == nil && kept && takes.quality("") > 0:
		return chosen{nil, "", wanted}
	case best == nil:
		return chosen{nil, wanted, wanted}
	case best.Coding == "" && wanted != "":
		return chosen{best, "", wanted}
	}
	return chosen{best, best.Coding, best.Coding}
}

// bodiless are the statuses of answers that have no body (RFC 9110 §6.4.1, §15.3.6).
func bodiless(status int) bool {
	return status < 200 || status == http.StatusNoContent || status == http.StatusResetContent || status == http.StatusNotModified
}

// smaller reports whether a form is the better of two that are liked alike.
func smaller(a, b *Form) bool {
	if a.Body == nil || b.Body == nil {
		return a.Coding != ""
	}
	return a.Body.Size() < b.Body.Size()
}

// canTake reports whether an answer that is not kept can be given to its client: in
// the coding in which it came, which was asked for as for everybody, or in another
// that it may be put into.
func (a *ask) canTake(res *http.Response) bool {
	coding, known := codingOf(res.Header)
	takes := a.takes()
	return coding == "" || !known || bodiless(res.StatusCode) || takes.quality(coding) > 0 || takes.quality(takes.best()) == 0 ||
		!opaque(res.Header) && res.StatusCode != http.StatusPartialContent && a.c.options.Codings != nil
}

// recodeAlone puts an answer that is not kept into a coding that its client takes.
func (a *ask) recodeAlone(res *http.Response) {
	coding, known := codingOf(res.Header)
	takes := a.takes()
	to := takes.best()
	if coding == "" || !known || bodiless(res.StatusCode) || takes.quality(coding) > 0 || takes.quality(to) == 0 {
		return
	}
	if res.Body != http.NoBody {
		res.Body = a.c.recoded(coding, to, res.Body, true)
	}
	res.ContentLength = -1
	delete(res.Header, "Content-Length")
	if to == "" {
		delete(res.Header, "Content-Encoding")
	} else {
		res.Header["Content-Encoding"] = []string{to}
	}
	if etag := first(res.Header, "Etag"); etag != "" {
		res.Header["Etag"] = []string{weaken(etag)}
	}
	for _, name := range digests {
		delete(res.Header, name)
	}
	if !varies(res.Header, "Accept-Encoding") {
		res.Header.Add("Vary", "Accept-Encoding")
	}
}

// compressible reports whether a coding makes a body of this type smaller.
func compressible(h http.Header) bool {
	if coding, _ := codingOf(h); coding != "" {
		return true // it did
	}
	kind := mediaType(h)
	switch {
	case kind == "text/event-stream":
		return false
	case strings.HasPrefix(kind, "text/"), strings.HasSuffix(kind, "+json"), strings.HasSuffix(kind, "+xml"), strings.HasSuffix(kind, "script"):
		return true
	}
	switch kind {
	case "application/json", "application/xml", "application/wasm", "application/manifest+json", "application/vnd.ms-fontobject",
		"application/x-font-ttf", "font/ttf", "font/otf", "font/collection", "image/bmp", "image/x-icon", "image/vnd.microsoft.icon":
		return true
	}
	return false
}

// recoded is src, in the coding from, as it is read in the coding to. live says
// that src pauses, and what came is to be passed on meanwhile.
func (c *Cache) recoded(from, to string, src io.ReadCloser, live bool) io.ReadCloser {
	if from != "" {
		src = c.options.Codings.Decode(from, src)
	}
	if to == "" {
		return src
	}
	return &encoding{src: src, coding: to, codings: c.options.Codings, live: live}
}

// encoding closes a body in a coding as it is read. One goroutine uses it.
type encoding struct {
	src     io.ReadCloser
	coding  string
	codings Codings
	live    bool
	encoder Encoder // nil before the first read and after the last
	chunk   []byte
	out     bytes.Buffer
	err     error // comes when out has been read
}

func (e *encoding) Read(p []byte) (int, error) {
	for e.err == nil && e.out.Len() == 0 {
		e.step()
	}
	if e.out.Len() == 0 {
		return 0, e.err
	}
	return e.out.Read(p)
}

// step reads once and closes what came.
func (e *encoding) step() {
	if e.encoder == nil {
		e.encoder, e.chunk = e.codings.Encode(e.coding, &e.out), make([]byte, 16<<10)
	}
	n, err := e.src.Read(e.chunk)
	_, failed := e.encoder.Write(e.chunk[:n])
	switch {
	case err == io.EOF && failed == nil:
		failed = e.encoder.Close()
	case e.live && n > 0 && failed == nil:
		failed = e.encoder.Flush()
	}
	if e.err = err; failed != nil && (err == nil || err == io.EOF) {
		e.err = failed
	}
	if e.err != nil {
		e.free()
	}
}

func (e *encoding) free() {
	if e.encoder != nil {
		e.encoder.Free()
		e.encoder = nil
	}
}

func (e *encoding) Close() error {
	if e.err == nil {
		e.err = http.ErrBodyReadAfterClose
	}
	e.free()
	return e.src.Close()
}

// making names a form that is to be made, or is being made.
type making struct {
	key        Key
	id, coding string
}

// wish is a form that waits to be made, of whatever is kept under its key by then.
type wish struct {
	making
	most  int64 // bytes of it, at most
	large bool  // it takes long to make
}

// never names a form that is larger than is kept, or anyCoding where what all are made
// of is too long for that, of an answer.
type never struct {
	making
	most     int64
	received int64
}

const anyCoding = "*"

// neverOf is what names the form of o that w wants.
func neverOf(w wish, o *Object) never { return never{w.making, w.most, o.Meta.Received.UnixNano()} }

// neverAny is what names all forms of o.
func neverAny(o *Object) never {
	return never{making{o.Meta.Key, o.Meta.ID, anyCoding}, 0, o.Meta.Received.UnixNano()}
}

// mostWishes bounds how many forms wait to be made: a megabyte of names. Of more,
// each is wished for again by the next who asks for it. mostNever bounds how many are
// remembered that are not to be made.
const (
	mostWishes = 1 << 13
	mostNever  = 1 << 12
)

// mostOf is the length of the largest body that is kept under a policy.
func (c *Cache) mostOf(policy *Policy) int64 {
	most := c.most.Load()
	if policy.MostBytes > 0 {
		most = min(most, policy.MostBytes)
	}
	return most
}

// form has a form of an object made in the background, once.
func (c *Cache) form(o *Object, coding string, most int64) {
	c.flights.Lock()
	defer c.flights.Unlock()
	c.wish(o, coding, most)
}

// wish puts a form behind those that wait, and begins a maker if there may be one
// more. c.flights is held.
func (c *Cache) wish(o *Object, coding string, most int64) {
	came := o.Forms[0]
	if size := came.Body.Size(); size > mostCoded || size < leastCoded && came.Coding == "" {
		return
	}
	w := wish{making{o.Meta.Key, o.Meta.ID, coding}, most, came.Body.Size() > mostSmall}
	if c.closed || c.making[w.making] || len(c.wishes)+len(c.large) >= mostWishes || c.never[neverOf(w, o)] || c.never[neverAny(o)] {
		return
	}
	c.making[w.making] = true
	c.wait(w)
	if c.makers < c.options.MostForms {
		c.makers++
		c.work.Go(c.makeForms)
	}
}

// wait puts a form behind those of its kind. c.flights is held.
func (c *Cache) wait(w wish) {
	if w.large {
		c.large = append(c.large, w)
	} else {
		c.wishes = append(c.wishes, w)
	}
}

// makeForms makes what is wished for, until there is no more or the cache is closed.
func (c *Cache) makeForms() {
	for c.makeSmall() || c.makeLarge() {
	}
}

// makeSmall makes the first of those that wait and are not large, if there is one.
func (c *Cache) makeSmall() bool {
	c.flights.Lock()
	if c.closed || len(c.wishes) == 0 {
		c.flights.Unlock()
		return false
	}
	w := c.wishes[0]
	c.wishes = c.wishes[1:]
	c.flights.Unlock()
	c.fulfil(w)
	return true
}

// makeLarge makes the first of those that are large, or ends the maker where none waits
// at all.
func (c *Cache) makeLarge() bool {
	c.flights.Lock()
	switch {
	case c.closed:
		c.wishes, c.large = nil, nil
		fallthrough
	case len(c.wishes)+len(c.large) == 0:
		c.makers--
		c.flights.Unlock()
		return false
	case len(c.large) == 0: // one that came meanwhile
		c.flights.Unlock()
		return true
	}
	w := c.large[0]
	c.large = c.large[1:]
	c.flights.Unlock()
	c.fulfil(w)
	return true
}

// fulfil makes a form, if what it is of is still kept, and has it not yet.
func (c *Cache) fulfil(w wish) {
	var err error
	o := c.without(w.making)
	if o != nil {
		err = c.makeForm(o, w)
	}
	if err != nil && err != errLarge {
		c.options.Log.Debug("form not made", "url", o.Meta.URL, "coding", w.coding, "err", err)
	}
	c.flights.Lock()
	defer c.flights.Unlock()
	switch {
	case err == errLarge && !c.closed:
		w.large = true
		c.wait(w)
		return
	case err == errWhole: // it is not made for each who asks for it
		c.leave(neverOf(w, o))
	case err == errUnpacked: // a bomb is opened once
		c.leave(neverAny(o))
	}
	delete(c.making, w.making)
}

// leave notes what is not made. c.flights is held.
func (c *Cache) leave(what never) {
	for other := range c.never {
		if len(c.never) < mostNever {
			break
		}
		delete(c.never, other) // any one
	}
	c.never[what] = true
}

// without is the object that is kept without the form; nil for none.
func (c *Cache) without(of making) *Object {
	for _, o := range c.options.Store.Find(of.key) {
		if o.Meta.ID == of.id {
			if slices.ContainsFunc(o.Forms, func(form Form) bool { return form.Coding == of.coding }) {
				return nil
			}
			return o
		}
	}
	return nil
}

// want has a form made of what comes, when it is kept, for one who shares the fetch.
// Whose request it is does not count: most pages that are asked for once are not asked
// for again.
func (s *seat) want(coding string, most int64) {
	f := s.f
	if s == f.first {
		return
	}
	f.c.flights.Lock()
	defer f.c.flights.Unlock()
	if f.kept != nil {
		f.c.wish(f.kept, coding, most)
	} else if !slices.ContainsFunc(f.wanted, func(w wish) bool { return w.coding == coding }) {
		f.wanted = append(f.wanted, wish{making: making{coding: coding}, most: most})
	}
}

// fulfil has the forms made of what is kept now that were wanted while it came.
func (f *flight) fulfil(o *Object) {
	f.c.flights.Lock()
	defer f.c.flights.Unlock()
	f.kept = o
	for _, w := range f.wanted {
		f.c.wish(o, w.coding, w.most)
	}
}

// Why a form is not made: it would be larger than is kept, what it is made of is longer
// out of its coding than mostCoded, or, not now, than mostSmall.
var (
	errWhole    = errors.New("larger than is kept")
	errUnpacked = errors.New("too long out of its coding")
	errLarge    = errors.New("others go first")
)

// makeForm makes what w wants of o.
func (c *Cache) makeForm(o *Object, w wish) error {
	came := o.Forms[0]
	r, err := came.Body.Open()
	if err != nil {
		return err
	}
	out := &unpacking{c: c, ReadCloser: c.recoded(came.Coding, "", &keptBody{reader: r, to: came.Body.Size()}, false), large: w.large}
	body := c.recoded("", w.coding, out, false)
	defer body.Close()
	draft, err := c.options.Store.Begin(-1)
	if err != nil {
		return err
	}
	buffer := chunks.Get().(*[]byte)
	defer chunks.Put(buffer)
	for n := int64(0); ; {
		k, err := body.Read(*buffer)
		if n += int64(k); n > w.most {
			draft.Discard()
			return errWhole
		}
		if _, failed := draft.Write((*buffer)[:k]); failed != nil {
			err = failed
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			draft.Discard()
			return err
		}
	}
	c.options.Store.Form(o, w.coding, draft)
	draft.Discard()
	return nil
}

// unpacking is what a form is made of, out of its coding. It ends where that is too long,
// or the cache ends; and of what is large a small one that waits is made before each
// read.
type unpacking struct {
	c *Cache
	io.ReadCloser
	large bool
	n     int64
}

func (u *unpacking) Read(p []byte) (int, error) {
	if u.large {
		u.c.makeSmall()
	}
	n, err := u.ReadCloser.Read(p)
	u.n += int64(n)
	switch {
	case u.c.base.Err() != nil:
		err = u.c.base.Err()
	case u.n > mostCoded:
		err = errUnpacked
	case u.n > mostSmall && !u.large:
		err = errLarge
	}
	return n, err
}
