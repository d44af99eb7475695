package rewrite

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"

	fast "github.com/klauspost/compress/flate"
)

// event is what a peer sees of a WebSocket: a message when it is whole, or a control frame.
type event struct {
	op   byte
	text string
}

func (e event) String() string {
	if len(e.text) > 60 {
		return fmt.Sprintf("%x %q… %d bytes", e.op, e.text[:60], len(e.text))
	}
	return fmt.Sprintf("%x %q", e.op, e.text)
}

// handMade is a frame, made as RFC 6455 section 5.2 draws it. A key of nil is no mask.
func handMade(first byte, key []byte, payload string) string {
	b := []byte{first}
	second := byte(0)
	if key != nil {
		second = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b = append(b, second|byte(n))
	case n < 1<<16:
		b = append(b, second|126, byte(n>>8), byte(n))
	default:
		b = append(b, second|127)
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	b = append(b, key...)
	for i := range len(payload) {
		c := payload[i]
		if key != nil {
			c ^= key[i%4]
		}
		b = append(b, c)
	}
	return string(b)
}

// terms are how messages of one side are compressed.
type terms struct {
	deflate, forgets bool
	bits             int
}

func (t terms) history() *history {
	if !t.deflate {
		return nil
	}
	return &history{forgets: t.forgets, bits: t.bits}
}

// speaker makes frames of messages. Each compressed message refers to those before it if it may.
type speaker struct {
	terms
	rng      *rand.Rand
	masked   bool
	deflater *fast.Writer
	packed   bytes.Buffer
}

func newSpeaker(rng *rand.Rand, masked bool, t terms) *speaker {
	s := &speaker{terms: t, rng: rng, masked: masked}
	if t.deflate {
		s.deflater, _ = fast.NewWriterWindow(&s.packed, 1<<t.bits)
		if t.bits == 15 {
			s.deflater, _ = fast.NewWriter(&s.packed, 9)
		}
	}
	return s
}

func (s *speaker) frame(first byte, payload string) string {
	var key []byte
	if s.masked {
		key = binary.BigEndian.AppendUint32(nil, s.rng.Uint32())
	}
	return handMade(first, key, payload)
}

// pack is a message compressed, without what ends it.
func (s *speaker) pack(text string) string {
	s.packed.Reset()
	if s.forgets {
		s.deflater.Reset(&s.packed)
	}
	for len(text) > 0 && s.rng.IntN(3) == 0 {
		n := s.rng.IntN(len(text) + 1)
		io.WriteString(s.deflater, text[:n])
		s.deflater.Flush()
		text = text[n:]
	}
	io.WriteString(s.deflater, text)
	s.deflater.Flush()
	return strings.TrimSuffix(s.packed.String(), "\x00\x00\xff\xff")
}

// say is a message in so many frames, with control frames of the list between them, and the events.
func (s *speaker) say(e event, packed bool, frames int, between []event) (wire string, events []event) {
	payload, first := e.text, e.op
	if packed {
		payload, first = s.pack(payload), first|0x40
	}
	var b strings.Builder
	for ; frames > 1; frames-- {
		n := s.rng.IntN(len(payload) + 1)
		b.WriteString(s.frame(first, payload[:n]))
		payload, first = payload[n:], 0
		if len(between) > 0 && s.rng.IntN(2) == 0 {
			b.WriteString(s.frame(0x80|between[0].op, between[0].text))
			events, between = append(events, between[0]), between[1:]
		}
	}
	b.WriteString(s.frame(0x80|first, payload))
	return b.String(), append(events, e)
}

// listener reads frames slowly and plainly.
type listener struct {
	terms
	masked  bool
	history []byte // of compressed messages
	frames  int
	events  []event

	op     byte
	packed bool
	begun  []byte
}

// listen is what a peer makes of all that was said; broken says what is wrong with it.
func (l *listener) listen(wire []byte) (broken error) {
	for len(wire) > 0 {
		f, rest, err := l.read(wire)
		if err != nil {
			return err
		}
		if err := l.heard(f); err != nil {
			return err
		}
		wire = rest
		l.frames++
	}
	return nil
}

type plainFrame struct {
	first   byte
	payload []byte
}

func (l *listener) read(b []byte) (f plainFrame, rest []byte, err error) {
	if len(b) < 2 {
		return f, nil, io.ErrUnexpectedEOF
	}
	first, masked, n := b[0], b[1]&0x80 != 0, uint64(b[1]&0x7f)
	b = b[2:]
	extended := map[uint64]int{126: 2, 127: 8}[n]
	if len(b) < extended {
		return f, nil, io.ErrUnexpectedEOF
	}
	if extended > 0 {
		n = 0
		for _, c := range b[:extended] {
			n = n<<8 | uint64(c)
		}
		b = b[extended:]
	}
	var key []byte
	if masked {
		if len(b) < 4 {
			return f, nil, io.ErrUnexpectedEOF
		}
		key, b = b[:4], b[4:]
	}
	if uint64(len(b)) < n && n>>63 == 0 {
		return f, nil, io.ErrUnexpectedEOF
	}
	if masked != l.masked || n>>63 != 0 || first&0x0f >= 8 && n > 125 {
		return f, nil, errors.New("header")
	}
	payload := bytes.Clone(b[:n])
	for i := range payload {
		if masked {
			payload[i] ^= key[i%4]
		}
	}
	return plainFrame{first, payload}, b[n:], nil
}

func (l *listener) heard(f plainFrame) error {
	op, fin := f.first&0x0f, f.first&0x80 != 0
	switch {
	case f.first&0x30 != 0, f.first&0x40 != 0 && (!l.deflate || op != 1 && op != 2):
		return errors.New("reserved bit")
	case op > 10, op > 2 && op < 8:
		return errors.New("opcode")
	case op >= 8 && !fin:
		return errors.New("control")
	case op >= 8:
		l.events = append(l.events, event{op, string(f.payload)})
		return nil
	case op == 0 && l.op == 0, op != 0 && l.op != 0:
		return errors.New("order")
	case op != 0:
		l.op, l.packed, l.begun = op, f.first&0x40 != 0, nil
	}
	if l.begun = append(l.begun, f.payload...); !fin {
		return nil
	}
	if l.packed {
		text, err := l.unpack(l.begun)
		if err != nil {
			return err
		}
		l.begun = text
	}
	l.events = append(l.events, event{l.op, string(l.begun)})
	l.op = 0
	return nil
}

// unpack opens a message with Go's own inflater.
func (l *listener) unpack(b []byte) ([]byte, error) {
	if l.forgets {
		l.history = nil
	}
	src := bytes.NewReader(append(bytes.Clone(b), "\x00\x00\xff\xff\x01\x00\x00\xff\xff"...))
	var all []byte
	for range maxStreams {
		dict := slices.Concat(l.history, all)
		text, err := io.ReadAll(flate.NewReaderDict(src, dict[max(0, len(dict)-1<<l.bits):]))
		if err != nil {
			return nil, err
		}
		if all = append(all, text...); src.Len() <= 9 {
			l.history = append(l.history, all...)
			return all, nil
		}
	}
	return nil, errors.New("too many streams")
}

// through puts frames through a direction in pieces of at most so many bytes.
func through(m *Map, t terms, client bool, wire string, longest int, rng *rand.Rand) (out []byte, err error) {
	d := direction{replacer: m.toPublic, masked: client, history: t.history()}
	if client {
		d.replacer = m.toOrigin
	}
	defer d.close()
	src := []byte(wire)
	for len(src) > 0 && err == nil {
		w := new(frameWork)
		n := min(len(src), 1+rng.IntN(longest))
		err = d.take(w, bytes.Clone(src[:n]))
		out, src = append(out, w.out...), src[n:]
	}
	return out, err
}

// mapped are events as the other side should see them.
func mappedEvents(m *Map, client bool, events []event) (want []event) {
	r := m.toPublic
	if client {
		r = m.toOrigin
	}
	for _, e := range events {
		if e.op == opText {
			e.text = r.String(e.text)
		}
		want = append(want, e)
	}
	return want
}

// checkWire: however what a side says is cut, the other side sees the same messages, mapped, and the
// control frames where they were.
func checkWire(t *testing.T, m *Map, terms terms, client bool, wire string, events []event, seed uint64) *listener {
	t.Helper()
	want := mappedEvents(m, client, events)
	rng := rand.New(rand.NewPCG(seed, 3))
	var l *listener
	pieces := []int{len(wire) + 1, 1 + rng.IntN(40), 1 + rng.IntN(5000)}
	if len(wire) > 1<<20 {
		pieces = []int{len(wire) + 1, 32 << 10}
	}
	for _, longest := range pieces {
		out, err := through(m, terms, client, wire, longest, rng)
		if err != nil {
			t.Fatalf("%+v, in pieces of %d: %v", terms, longest, err)
		}
		l = &listener{terms: terms, masked: client}
		if err := l.listen(out); err != nil {
			t.Fatalf("%+v, in pieces of %d: the other side sees %v", terms, longest, err)
		}
		if !slices.Equal(l.events, want) {
			t.Fatalf("%+v, in pieces of %d\n got %v\nwant %v", terms, longest, l.events, want)
		}
	}
	return l
}

var allTerms = []terms{{bits: 15}, {true, false, 15}, {true, true, 15}, {true, false, 9}, {true, false, 12}, {true, true, 8}}

func TestRandomWebSockets(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	m := parseMap(t, fuzzMaps[2])
	rounds := 400
	if testing.Short() {
		rounds = 100
	}
	for range rounds {
		terms, client := allTerms[rng.IntN(len(allTerms))], rng.IntN(2) == 0
		s := newSpeaker(rng, client, terms)
		var wire string
		var events []event
		for range 1 + rng.IntN(12) {
			part, more := randomMessage(rng, s)
			wire, events = wire+part, append(events, more...)
		}
		checkWire(t, m, terms, client, wire, events, rng.Uint64())
	}
}

func randomMessage(rng *rand.Rand, s *speaker) (wire string, events []event) {
	var text strings.Builder
	for range rng.IntN(6) {
		text.WriteString(urlish(rng))
		if rng.IntN(3) == 0 {
			text.WriteString([]string{`{"a":"https://example.com/x"}`, "https://example.cn/", strings.Repeat("lorem ipsum ", rng.IntN(100)), "中"}[rng.IntN(4)])
		}
	}
	if rng.IntN(20) == 0 {
		text.WriteString(string(page(rng.IntN(100_000), 3, []string{"example.com", "example.cn"})))
	}
	var between []event
	for range rng.IntN(3) {
		between = append(between, event{byte(9 + rng.IntN(2)), fmt.Sprint("ping ", rng.IntN(100))})
	}
	op := byte(opText)
	if rng.IntN(4) == 0 {
		op = opBinary
	}
	frames := 1
	if rng.IntN(2) == 0 {
		frames = 1 + rng.IntN(5)
	}
	return s.say(event{op, text.String()}, s.deflate && rng.IntN(5) > 0, frames, between)
}

// FuzzWebSocket: whatever a side says, cut however, the other side sees the same messages, up to
// the first fault.
func FuzzWebSocket(f *testing.F) {
	for _, text := range []string{
		handMade(0x81, nil, "https://example.com/"), handMade(0x01, nil, "https://exam") + handMade(0x89, nil, "") + handMade(0x80, nil, "ple.com/"),
		handMade(0x81, []byte("abcd"), "https://example.cn/"), handMade(0x82, nil, "//example.com"), handMade(0xc1, nil, "\xf2\x48\xcd\xc9\xc9\x07\x00"),
		handMade(0xc1, nil, "\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), "\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x05hello", "\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		for i := range allTerms {
			f.Add([]byte(text), uint64(i), i%2 == 0)
		}
	}
	m := parseMap(f, fuzzMaps[0])
	f.Fuzz(func(t *testing.T, wire []byte, seed uint64, client bool) {
		terms := allTerms[seed%uint64(len(allTerms))]
		plain := &listener{terms: terms, masked: client}
		broken := plain.listen(wire)
		rng := rand.New(rand.NewPCG(seed, 4))
		for _, longest := range []int{len(wire) + 1, 1 + rng.IntN(10)} {
			out, err := through(m, terms, client, string(wire), longest, rng)
			cut := errors.Is(broken, io.ErrUnexpectedEOF) || plain.op != 0 && plain.packed // what is missing may yet come
			l := &listener{terms: terms, masked: client}
			failed := l.listen(out) // at what was wrong with a binary message, which passed
			if !cut && (err == nil && failed == nil) != (broken == nil) || failed != nil && broken == nil {
				t.Fatalf("%v, the other side sees %v, and the plain one %v", err, failed, broken)
			}
			want := mappedEvents(m, client, plain.events)
			if cut && err != nil { // that was seen at once
				want = want[:min(len(want), len(l.events))]
			}
			if !slices.Equal(l.events, want) {
				t.Fatalf("in pieces of %d\n got %v\nwant %v", longest, l.events, want)
			}
		}
	})
}

// TestFrames: what leaves as it came, what leaves in one frame, and when.
func TestFrames(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	key := []byte{1, 2, 3, 4}
	const url, mapped = "https://example.com/", "https://example.cn/"
	for _, c := range []struct {
		name, in, want string
		client         bool
	}{
		{"text without a name", handMade(0x81, nil, "hello"), handMade(0x81, nil, "hello"), false},
		{"text with one", handMade(0x81, nil, url), handMade(0x81, nil, mapped), false},
		{"of the client, with the same mask", handMade(0x81, key, "see "+mapped), handMade(0x81, key, "see "+url), true},
		{"of the client, without a name", handMade(0x81, key, "hello"), handMade(0x81, key, "hello"), true},
		{"empty", handMade(0x81, nil, ""), handMade(0x81, nil, ""), false},
		{"binary", handMade(0x82, nil, url), handMade(0x82, nil, url), false},
		{"in fragments", handMade(0x01, nil, "a ") + handMade(0x00, nil, url+" ") + handMade(0x80, nil, "b"), handMade(0x01, nil, "a ") + handMade(0x00, nil, mapped+" ") + handMade(0x80, nil, "b"), false},
		{"a name across fragments, a ping between", handMade(0x01, nil, "a https://exa") + handMade(0x89, nil, url) + handMade(0x80, nil, "mple.com/"), handMade(0x01, nil, "a ") + handMade(0x89, nil, url) + handMade(0x80, nil, mapped), false},
		{"nothing certain of the first fragment", handMade(0x01, nil, "https:") + handMade(0x00, nil, "//x ") + handMade(0x80, nil, ""), handMade(0x01, nil, "https://x ") + handMade(0x80, nil, ""), false},
		{"an empty first fragment", handMade(0x01, nil, "") + handMade(0x80, nil, "a"), handMade(0x01, nil, "") + handMade(0x80, nil, "a"), false},
		{"binary in fragments", handMade(0x02, nil, url) + handMade(0x80, nil, url), handMade(0x02, nil, url) + handMade(0x80, nil, url), false},
		{"long binary", handMade(0x82, nil, strings.Repeat(url, 4000)), handMade(0x82, nil, strings.Repeat(url, 4000)), false},
		{"close", handMade(0x88, nil, "\x03\xe8"+url), handMade(0x88, nil, "\x03\xe8"+url), false},
		{"a length longer than it must be", "\x81\x7e\x00\x02hi", "\x81\x7e\x00\x02hi", false},
	} {
		for _, longest := range []int{1 << 20, 1} {
			out, err := through(m, terms{}, c.client, c.in, longest, rand.New(rand.NewPCG(1, 1)))
			if err != nil || string(out) != c.want {
				t.Errorf("%s: %v\n got %q\nwant %q", c.name, err, out, c.want)
			}
		}
	}
}

// TestBrokenFrames: what is no WebSocket ends the connection, after what came before it.
func TestBrokenFrames(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	packed := terms{deflate: true, bits: 15}
	bomb := newSpeaker(rand.New(rand.NewPCG(1, 1)), false, packed)
	for _, c := range []struct {
		terms
		client   bool
		in, want string
	}{
		{terms{}, false, handMade(0x81, []byte("abcd"), "a"), "origin's WebSocket: a frame whose mask bit is wrong"},
		{terms{}, true, handMade(0x81, nil, "a"), "client's WebSocket: a frame whose mask bit is wrong"},
		{terms{}, false, handMade(0xa1, nil, "a"), "origin's WebSocket: a frame with a reserved bit that nobody agreed on"},
		{terms{}, false, handMade(0xc1, nil, "a"), "origin's WebSocket: a frame with a reserved bit that nobody agreed on"},
		{packed, false, handMade(0xc9, nil, "a"), "origin's WebSocket: a frame with a reserved bit that nobody agreed on"},
		{packed, false, handMade(0x01, nil, "a") + handMade(0xc0, nil, "a"), "origin's WebSocket: a frame with a reserved bit that nobody agreed on"},
		{terms{}, false, handMade(0x83, nil, "a"), "origin's WebSocket: a frame with the reserved opcode 3"},
		{terms{}, false, handMade(0x8b, nil, "a"), "origin's WebSocket: a frame with the reserved opcode 11"},
		{terms{}, false, handMade(0x09, nil, "a"), "origin's WebSocket: a control frame that is too long or goes on"},
		{terms{}, false, handMade(0x89, nil, strings.Repeat("a", 126)), "origin's WebSocket: a control frame that is too long or goes on"},
		{terms{}, false, handMade(0x80, nil, "a"), "origin's WebSocket: a continuation of no message"},
		{terms{}, false, handMade(0x01, nil, "a") + handMade(0x81, nil, "b"), "origin's WebSocket: a message inside another"},
		{terms{}, false, "\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x01", "origin's WebSocket: a frame of a length that is none"},
		{packed, false, handMade(0xc1, nil, "\xff\xff\xff"), "origin's WebSocket: open a compressed message: flate: corrupt input before offset 1"},
		{packed, false, handMade(0x41, nil, "\xff") + handMade(0x80, nil, ""), "origin's WebSocket: open a compressed message: flate: corrupt input before offset 1"},
		{packed, false, handMade(0xc1, nil, strings.Repeat("\x03\x00", 100)+"\x00"), "origin's WebSocket: open a compressed message: deflate ends in it again and again"},
		{packed, false, handMade(0xc2, nil, bomb.pack(strings.Repeat("\x00", 100<<20))), "origin's WebSocket: open a compressed message: compressed body grows more than 1000-fold"},
	} {
		good := newSpeaker(rand.New(rand.NewPCG(1, 1)), c.client, terms{}).frame(0x81, "good")
		for _, longest := range []int{1 << 20, 1} {
			out, err := through(m, c.terms, c.client, good+c.in, longest, rand.New(rand.NewPCG(1, 1)))
			if err == nil || err.Error() != "read the "+c.want {
				t.Errorf("%q: %v, want %s", c.in[:min(20, len(c.in))], err, c.want)
			}
			if !strings.HasPrefix(string(out), good) {
				t.Errorf("%q: %q came before", c.in[:min(20, len(c.in))], out)
			}
		}
	}
}

// TestFlushedByFinalBlocks is the way to end a message that RFC 7692 section 7.2.3.5 shows.
func TestFinalBlocks(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	final := func(text string) string {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, 9)
		io.WriteString(w, text)
		w.Close()
		return b.String()
	}
	packed := terms{deflate: true, bits: 15}
	for in, want := range map[string]string{
		"\xf3\x48\xcd\xc9\xc9\x07\x00\x00":                           "Hello",
		"\xf3\x48\xcd\xc9\xc9\x07\x00":                               "Hello",
		final("https://exam") + final("ple.com/") + "\x00":           "https://example.cn/",
		final(strings.Repeat("a", 50_000)) + final("b") + "\x00":     strings.Repeat("a", 50_000) + "b",
		final("https://example.com/") + final(" c ") + final("http"): "https://example.cn/ c http",
	} {
		for _, longest := range []int{1 << 20, 1} {
			for _, wire := range []string{handMade(0xc1, nil, in), handMade(0x41, nil, in[:4]) + handMade(0x80, nil, in[4:])} {
				out, err := through(m, packed, false, wire, longest, rand.New(rand.NewPCG(1, 1)))
				l := &listener{terms: packed}
				if failed := l.listen(out); err != nil || failed != nil || len(l.events) != 1 || l.events[0].text != want {
					t.Errorf("%q: %v, %v, %v", in[:4], err, failed, l.events)
				}
			}
		}
	}
}

// TestPassesAsItCame: a compressed message without a name goes on as it is while both sides have
// heard the same, and again when the last that differs is out of the window.
func TestPassesAsItCame(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	terms := terms{deflate: true, bits: 10}
	s := newSpeaker(rand.New(rand.NewPCG(1, 1)), true, terms)
	d := direction{replacer: m.toOrigin, masked: true, history: terms.history()}
	defer d.close()
	l := &listener{terms: terms, masked: true}
	plain := func(n int) string { return strings.Repeat(fmt.Sprintf("%x ", n*7919), 20) }
	anew := 0
	for i := range 30 {
		text := plain(i)
		if i == 5 {
			text += "https://example.cn/"
		}
		wire, _ := s.say(event{opText, text}, true, 1, nil)
		apart, w := d.history.apart > 0, new(frameWork)
		if err := d.take(w, []byte(wire)); err != nil {
			t.Fatal(err)
		}
		if err := l.listen(w.out); err != nil {
			t.Fatal(i, err)
		}
		if apart {
			anew++
		} else if string(w.out) != wire && i != 5 {
			t.Errorf("message %d did not pass as it came", i)
		}
	}
	if least := 1024 / len(plain(29)); anew < least || anew > least+2 {
		t.Errorf("%d messages were compressed anew, want %d or a little more", anew, least)
	}
	if l.frames != 30 || l.events[5].text != plain(5)+"https://example.com/" || l.events[29].text != plain(29) {
		t.Errorf("%d frames, %v", l.frames, l.events)
	}
}

// TestLongMessage: a message of ten megabytes passes in pieces, in constant memory, as it comes.
func TestLongMessage(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	text := string(page(10<<20, 3, []string{"example.com"}))
	for _, terms := range allTerms[:3] {
		s := newSpeaker(rand.New(rand.NewPCG(1, 1)), false, terms)
		wire, events := s.say(event{opText, text}, terms.deflate, 1, nil)
		l := checkWire(t, m, terms, false, wire, events, 1)
		if l.frames < 10 {
			t.Errorf("%+v: in %d frames", terms, l.frames)
		}
		d := direction{replacer: m.toPublic, history: terms.history()}
		most := 0
		for src := []byte(wire); len(src) > 0; src = src[min(len(src), 32<<10):] {
			w := new(frameWork)
			if err := d.take(w, src[:min(len(src), 32<<10)]); err != nil {
				t.Fatal(err)
			}
			most = max(most, cap(w.out)+cap(w.packed)+cap(w.text)+cap(w.plain)+cap(w.whole))
		}
		d.close()
		if most > 2<<20 {
			t.Errorf("%+v: %d bytes for one piece", terms, most)
		}
	}
}

// TestWaitingMessages: a compressed message whose end does not come keeps an inflater, and not a
// deflater, which is ten times as large.
func TestWaitingMessages(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	s := newSpeaker(rand.New(rand.NewPCG(1, 1)), true, allTerms[1])
	begun := []byte(s.frame(0x41, s.pack("https://example.cn/ and so on")+string(flushed)))
	memory := func() int64 {
		var stats runtime.MemStats
		for range 2 { // pools keep what they have for one collection
			runtime.GC()
		}
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc + stats.StackInuse)
	}
	waiting := make([]direction, 200)
	before := memory()
	for i := range waiting {
		waiting[i] = direction{replacer: m.toOrigin, masked: true, history: allTerms[1].history()}
		w := new(frameWork)
		if err := waiting[i].take(w, begun); err != nil || len(w.out) == 0 {
			t.Fatal(err, w.out)
		}
	}
	if each := (memory() - before) / int64(len(waiting)); each > 100<<10 {
		t.Errorf("each keeps %d bytes", each)
	}
	for i := range waiting {
		waiting[i].close()
	}
}

// TestCompressedAnewRefersBack: small messages that are much alike stay small when they are changed.
func TestCompressedAnewRefersBack(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	size := func(terms terms) (n int) {
		s := newSpeaker(rand.New(rand.NewPCG(1, 1)), false, terms)
		d := direction{replacer: m.toPublic, history: terms.history()}
		defer d.close()
		for i := range 50 {
			wire, _ := s.say(event{opText, fmt.Sprintf(`{"type":"message","id":%d,"author":{"name":"Lin","avatar":"https://example.com/avatar/%d.png"},"text":"tea number %d is poured","time":"2026-01-01T00:00:%02dZ","reactions":[]}`, i, i, i*i, i)}, true, 1, nil)
			w := new(frameWork)
			if err := d.take(w, []byte(wire)); err != nil {
				t.Fatal(err)
			}
			n += len(w.out)
		}
		return n / 50
	}
	with, without := size(allTerms[1]), size(allTerms[2])
	if t.Logf("%d and %d bytes", with, without); with > without*2/3 {
		t.Errorf("%d bytes a message, %d when each stands alone", with, without)
	}
}

func TestOffers(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	for offer, want := range map[string]string{
		"": "", "permessage-deflate": "permessage-deflate", "permessage-deflate; client_max_window_bits": "permessage-deflate; client_max_window_bits",
		"x-webkit-deflate-frame, permessage-deflate;server_max_window_bits=10":                                "permessage-deflate;server_max_window_bits=10",
		"permessage-deflate; x=y, Permessage-Deflate; server_no_context_takeover; client_no_context_takeover": "Permessage-Deflate; server_no_context_takeover; client_no_context_takeover",
		"permessage-bzip2": "", "permessage-deflate; server_max_window_bits=7": "", "permessage-deflate; server_max_window_bits": "",
		"permessage-deflate; client_no_context_takeover=1": "", `permessage-deflate; client_max_window_bits="12";`: `permessage-deflate; client_max_window_bits="12";`,
	} {
		r := &http.Request{Header: http.Header{"Upgrade": {"WebSocket"}, extensionField: {offer}}}
		m.Request(r)
		if got := strings.Join(r.Header[extensionField], "|"); got != want {
			t.Errorf("%q became %q, want %q", offer, got, want)
		}
	}
	r := &http.Request{Header: http.Header{"Upgrade": {"websocket"}, extensionField: {"x"}}}
	if m.WithRules(Rules{Untouched: true}).Request(r); r.Header.Get(extensionField) != "x" {
		t.Errorf("untouched became %q", r.Header)
	}
}

// pipeEnd is one end of a connection that can be half-closed.
type pipeEnd struct {
	net.Conn
	half bool
}

func (p *pipeEnd) CloseWrite() error { p.half = true; return nil }

func TestSwitched(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	switchTo := func(m *Map, protocol, offered, chosen string) (wrapped io.ReadWriteCloser, conn *pipeEnd, origin net.Conn) {
		near, origin := net.Pipe()
		conn = &pipeEnd{Conn: near}
		request, response := http.Header{}, http.Header{"Upgrade": {protocol}}
		if offered != "" {
			request[extensionField] = []string{offered}
		}
		if chosen != "" {
			response[extensionField] = []string{chosen}
		}
		return m.Switched(request, response, conn), conn, origin
	}
	for _, untouched := range []bool{true, false} {
		wrapped, conn, _ := switchTo(m.WithRules(Rules{Untouched: untouched}), map[bool]string{true: "websocket", false: "chat"}[untouched], "", "")
		if wrapped != io.ReadWriteCloser(conn) {
			t.Errorf("untouched %v: wrapped", untouched)
		}
	}
	bare, _, origin := switchTo(m.WithRules(Rules{Bare: true}), "websocket", "", "")
	go origin.Write([]byte(handMade(0x81, nil, `{"host":"example.com"}`)))
	said := make([]byte, 100)
	if n, err := bare.Read(said); err != nil || string(said[:n]) != handMade(0x81, nil, `{"host":"example.cn"}`) {
		t.Errorf("with bare: %q, %v", said[:n], err)
	}
	bare.Close()
	wrapped, conn, origin := switchTo(m, "WebSocket", "", "")
	go origin.Write([]byte(handMade(0x81, nil, "https://example.com/") + handMade(0x89, nil, "") + "\x81"))
	got := make([]byte, 3) // less room than there is to read
	var all []byte
	for len(all) < len(handMade(0x81, nil, "https://example.cn/")+handMade(0x89, nil, "")) {
		n, err := wrapped.Read(got)
		if all = append(all, got[:n]...); err != nil {
			t.Fatal(err)
		}
	}
	if string(all) != handMade(0x81, nil, "https://example.cn/")+handMade(0x89, nil, "") {
		t.Errorf("read %q", all)
	}
	if n, err := wrapped.Read(nil); n != 0 || err != nil {
		t.Errorf("read nothing: %d, %v", n, err)
	}
	heard := make(chan []byte)
	go func() { b, _ := io.ReadAll(origin); heard <- b }()
	frame := handMade(0x81, []byte("abcd"), "https://example.cn/")
	for _, part := range []string{frame[:1], frame[1:10], frame[10:]} {
		if n, err := io.WriteString(wrapped, part); n != len(part) || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
	}
	if err := wrapped.(interface{ CloseWrite() error }).CloseWrite(); err != nil || !conn.half {
		t.Errorf("half-close: %v", err)
	}
	if n, err := io.WriteString(wrapped, "\x8f\x80abcd"); n != 0 || err == nil || err.Error() != "read the client's WebSocket: a frame with the reserved opcode 15" {
		t.Errorf("a broken frame: %d, %v", n, err)
	}
	if err := wrapped.Close(); err != nil {
		t.Error(err)
	}
	if b := <-heard; string(b) != handMade(0x81, []byte("abcd"), "https://example.com/") {
		t.Errorf("the origin heard %q", b)
	}
	if _, err := wrapped.Read(got); err == nil {
		t.Error("read after Close")
	}
	if n, err := io.WriteString(wrapped, "\x81\x80"); n != 0 || err == nil {
		t.Errorf("write after Close: %d, %v", n, err)
	}

	for _, c := range [][2]string{{"", "permessage-deflate"}, {"permessage-deflate", "x-other"}, {"permessage-deflate", "permessage-deflate, permessage-deflate"}, {"permessage-deflate", "permessage-deflate; a=b"}} {
		wrapped, _, _ := switchTo(m, "websocket", c[0], c[1])
		_, err := wrapped.Read(got)
		_, failed := wrapped.Write([]byte{0x81})
		if const_ := "read the origin's WebSocket: it chose an extension that was not offered"; err == nil || err.Error() != const_ || failed == nil || failed.Error() != const_ {
			t.Errorf("%q: %v, %v", c, err, failed)
		}
	}
	wrapped, _, _ = switchTo(m, "websocket", "permessage-deflate", "permessage-deflate; server_no_context_takeover; client_max_window_bits=10")
	s := wrapped.(*socket)
	if o, c := s.fromOrigin.history, s.fromClient.history; !o.forgets || o.bits != 15 || c.forgets || c.bits != 10 {
		t.Errorf("agreed on %+v, %+v", o, c)
	}
}

// TestCloseInTheMiddle: closing ends a message under way, whoever reads.
func TestCloseInTheMiddle(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	for range 50 {
		near, origin := net.Pipe()
		wrapped := m.Switched(http.Header{extensionField: {deflateName}}, http.Header{"Upgrade": {"websocket"}, extensionField: {deflateName}}, near)
		s := newSpeaker(rand.New(rand.NewPCG(1, 1)), false, allTerms[1])
		packed := s.pack(string(page(200_000, 1, []string{"example.com"})))
		done := make(chan error)
		go func() {
			_, err := io.Copy(io.Discard, wrapped)
			done <- err
		}()
		go origin.Write([]byte(s.frame(0x41, packed)))
		io.CopyN(io.Discard, rand.NewChaCha8([32]byte{}), 1000)
		wrapped.Close()
		if err := <-done; err == nil {
			t.Error("a closed connection ended as if it were whole")
		}
		origin.Close()
	}
}

// TestNoAllocationForMessages: a message costs no memory of its own, whether it is compressed or
// not, if nothing in it is exchanged; nor does one that is not compressed and changes.
func TestNoAllocationForMessages(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget at random under the race detector")
	}
	m := parseMap(t, fuzzMaps[0])
	for _, c := range []struct {
		name string
		terms
		text string
	}{
		{"plain", allTerms[0], strings.Repeat("hello ", 30)}, {"plain, changed", allTerms[0], "https://example.com/"},
		{"packed", allTerms[2], strings.Repeat("hello ", 30)}, {"packed with a history", allTerms[1], strings.Repeat("hello ", 30)},
		{"packed, changed", allTerms[2], strings.Repeat("hello ", 30) + "https://example.com/"},
	} {
		s := newSpeaker(rand.New(rand.NewPCG(1, 1)), false, c.terms)
		wire, _ := s.say(event{opText, c.text}, c.deflate, 1, nil)
		d := direction{replacer: m.toPublic, history: c.history()}
		w, src := new(frameWork), []byte(wire)
		once := func() {
			w.out = w.out[:0]
			if err := d.take(w, src); err != nil {
				t.Fatal(err)
			}
		}
		for range 1000 {
			once()
		}
		if n := testing.AllocsPerRun(1000, once); n > 0.1 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
		d.close()
	}
}

// BenchmarkWebSocket is a message of one frame through one direction; "inflate alone" is what a
// compressed one costs whoever reads it.
func BenchmarkWebSocket(b *testing.B) {
	m := parseMap(b, fuzzMaps[0])
	small := `{"type":"message","id":1234,"author":{"name":"Lin","avatar":"/avatar/7.png"},"text":"tea is poured","time":"2026-01-01T00:00:00Z"}`
	for _, c := range []struct {
		name, text string
		terms
		client bool
	}{
		{"plain/130B", small, allTerms[0], false},
		{"plain/130B/masked", small, allTerms[0], true},
		{"plain/130B/changed", strings.Replace(small, "/avatar", "https://example.com/avatar", 1), allTerms[0], false},
		{"plain/64KB", string(page(64<<10, 3, []string{"example.com"})), allTerms[0], false},
		{"packed/130B", small, allTerms[2], false},
		{"packed/130B/changed", strings.Replace(small, "/avatar", "https://example.com/avatar", 1), allTerms[2], false},
		{"packed/130B/history", small, allTerms[1], false},
		{"packed/130B/history/changed", strings.Replace(small, "/avatar", "https://example.com/avatar", 1), allTerms[1], false},
		{"packed/64KB", string(page(64<<10, 3, []string{"example.com"})), allTerms[2], false},
	} {
		s := newSpeaker(rand.New(rand.NewPCG(1, 1)), c.client, c.terms)
		wires := make([][]byte, 400) // the history is full then
		for i := range wires {
			wire, _ := s.say(event{opText, c.text}, c.deflate, 1, nil)
			wires[i] = []byte(wire)
		}
		b.Run(c.name, func(b *testing.B) {
			d := direction{replacer: m.toPublic, masked: c.client, history: c.history()}
			defer d.close()
			w := new(frameWork)
			take := func(src []byte) {
				w.out = w.out[:0]
				if err := d.take(w, src); err != nil {
					b.Fatal(err)
				}
			}
			for _, wire := range wires {
				take(wire)
			}
			b.SetBytes(int64(len(c.text)))
			b.ReportAllocs()
			for b.Loop() {
				take(wires[len(wires)-1])
			}
		})
		if !c.deflate || c.client {
			continue
		}
		b.Run(c.name+"/inflate alone", func(b *testing.B) {
			r := fast.NewReader(nil)
			var dict []byte
			if !c.forgets {
				dict = bytes.Repeat([]byte(c.text), 32<<10/len(c.text))
			}
			f, _ := parseFrame(wires[len(wires)-1])
			payload := append(bytes.Clone(wires[len(wires)-1][f.size:]), ending...)
			src, buf := bytes.NewReader(nil), make([]byte, len(c.text))
			b.SetBytes(int64(len(c.text)))
			b.ReportAllocs()
			for b.Loop() {
				src.Reset(payload)
				r.(fast.Resetter).Reset(src, dict)
				if _, err := io.ReadFull(r, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
