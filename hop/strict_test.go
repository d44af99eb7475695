package hop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// block is a header block of "name: value" lines, encoded by one encoder.
func block(encoder *hpack.Encoder, buffer *bytes.Buffer, fields ...string) []byte {
	buffer.Reset()
	for _, field := range fields {
		name, value, _ := strings.Cut(field[1:], ":")
		if err := encoder.WriteField(hpack.HeaderField{Name: field[:1] + name, Value: strings.TrimSpace(value)}); err != nil {
			panic(err)
		}
	}
	return slices.Clone(buffer.Bytes())
}

func TestOfConnection(t *testing.T) {
	usual := []string{":method: GET", ":path: /", ":scheme: https", ":authority: example.cn", "user-agent: x", "cookie: a=b"}
	for field, want := range map[string]bool{
		"connection: close": true, "connection: ": true, "keep-alive: timeout=5": true, "proxy-connection: keep-alive": true,
		"transfer-encoding: chunked": true, "upgrade: h2c": true, "te: gzip": true, "te: trailers, deflate": true, "te: ": true,
		"te: trailers": false, "te-x: gzip": false, "upgrade-insecure-requests: 1": false, "connections: 1": false, "x: connection": false,
		"transfer-encodings: x": false,
	} {
		var buffer bytes.Buffer
		encoder := hpack.NewEncoder(&buffer)
		for i, fields := range [][]string{append(slices.Clone(usual), field), append([]string{field}, usual...)} {
			encoder.SetMaxDynamicTableSize(uint32(4096 - 1000*i)) // a size update comes first
			if got := ofConnection(block(encoder, &buffer, fields...), false); got != want && i == 0 {
				t.Errorf("%s: %v, want %v", field, got, want)
			}
		}
		// Written out without Huffman code, and never to be indexed.
		name, value, _ := strings.Cut(field, ": ")
		raw := append([]byte{0x10, byte(len(name))}, name...)
		raw = append(append(raw, byte(len(value))), value...)
		if got := ofConnection(raw, false); got != want {
			t.Errorf("%s, as it is: %v, want %v", field, got, want)
		}
		if got := ofConnection(append(make([]byte, 5), raw...), true); got != want {
			t.Errorf("%s, with a priority: %v, want %v", field, got, want)
		}
		for n := range raw { // cut off, it is net/http's
			if ofConnection(raw[:n], false) {
				t.Errorf("%s: %x is taken for whole", field, raw[:n])
			}
		}
	}
	for what, raw := range map[string][]byte{
		"a number too long":     {0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		"a length too long":     {0x10, 0x7f, 0xff, 0xff, 0xff, 0xff, 0x0f},
		"no priority":           {1, 2},
		"a number that is cut":  {0xff},
		"an update that is cut": {0x3f},
	} {
		if ofConnection(raw, what == "no priority") {
			t.Errorf("%s: taken for a field of a connection", what)
		}
	}
}

func TestLastOfEach(t *testing.T) {
	frame := func(settings ...uint32) (p []byte) {
		for i := 0; i < len(settings); i += 2 {
			p = binary.BigEndian.AppendUint16(p, uint16(settings[i]))
			p = binary.BigEndian.AppendUint32(p, settings[i+1])
		}
		return p
	}
	many := make([]uint32, 0, 40)
	for range 20 {
		many = append(many, 4, 1)
	}
	for _, test := range []struct {
		what        string
		given, want []uint32
	}{
		{"none", nil, nil},
		{"each once", []uint32{3, 1, 4, 2, 0x1234, 5}, []uint32{3, 1, 4, 2, 0x1234, 5}},
		{"one twice", []uint32{4, 100, 4, 1}, []uint32{4, 1}},
		{"three times, among others", []uint32{4, 100, 3, 7, 4, 1, 6, 8, 4, 2}, []uint32{3, 7, 6, 8, 4, 2}},
		{"two of them", []uint32{3, 1, 4, 2, 3, 3, 4, 4}, []uint32{3, 3, 4, 4}},
		{"a wrong value that a good one follows", []uint32{4, 1 << 31, 4, 1}, []uint32{4, 1 << 31, 4, 1}},
		{"a frame size that is none", []uint32{5, 1, 5, 1 << 14}, []uint32{5, 1, 5, 1 << 14}},
		{"push neither on nor off", []uint32{2, 2, 2, 0}, []uint32{2, 2, 2, 0}},
		{"the table, whose lowest counts", []uint32{1, 0, 1, 4096}, []uint32{1, 0, 1, 4096}},
		{"one that is not known", []uint32{99, 0, 99, 1}, []uint32{99, 0, 99, 1}},
		{"a great many", many, many},
	} {
		p := frame(test.given...)
		if got := p[:lastOfEach(p)]; !bytes.Equal(got, frame(test.want...)) {
			t.Errorf("%s: %x, want %x", test.what, got, frame(test.want...))
		}
	}
}

// conversation is what a client sends: usual frames, and those that are changed.
func conversation(t testing.TB) []byte {
	var out, buffer bytes.Buffer
	out.WriteString(http2.ClientPreface)
	framer, encoder := http2.NewFramer(&out, nil), hpack.NewEncoder(&buffer)
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	headers := func(id uint32, param http2.HeadersFrameParam, fields ...string) {
		param.StreamID = id
		param.BlockFragment = block(encoder, &buffer, append([]string{":method: POST", ":path: /", ":scheme: https", ":authority: example.cn"}, fields...)...)
		must(framer.WriteHeaders(param))
	}
	must(framer.WriteSettings(http2.Setting{ID: 4, Val: 100}, http2.Setting{ID: 3, Val: 5}, http2.Setting{ID: 4, Val: 1}))
	must(framer.WriteSettingsAck())
	headers(1, http2.HeadersFrameParam{EndHeaders: true}, "cookie: a")
	must(framer.WriteData(1, true, bytes.Repeat([]byte("connection"), 100)))
	headers(3, http2.HeadersFrameParam{EndHeaders: true, EndStream: true}, "connection: close", "x-first: y")
	headers(5, http2.HeadersFrameParam{EndHeaders: true, EndStream: true, Priority: http2.PriorityParam{StreamDep: 1, Weight: 3}}, "x-first: y", "te: gzip")
	headers(7, http2.HeadersFrameParam{EndHeaders: true, EndStream: true, PadLength: 9}, "upgrade: x") // padded: net/http's
	headers(9, http2.HeadersFrameParam{EndStream: true}, "keep-alive: x")                              // goes on: net/http's
	must(framer.WriteContinuation(9, true, block(encoder, &buffer, "x-second: z")))
	headers(11, http2.HeadersFrameParam{EndHeaders: true}, "x-first: y", "x-second: z")
	must(framer.WriteRawFrame(0x42, 7, 11, make([]byte, 300)))
	must(framer.WritePing(false, [8]byte{1}))
	return out.Bytes()
}

// through is what Read gives of data that comes as r gives it, read in pieces of
// at most size bytes.
func through(t testing.TB, r io.Reader, size int) ([]byte, error) {
	c := &strictConn{http2: spoken, pass: prefaceLen}
	var got []byte
	p := make([]byte, size)
	for {
		n, err := c.read(r, p)
		got = append(got, p[:n]...)
		if err != nil {
			return got, err
		}
		if n == 0 {
			t.Fatal("nothing was read, and no error")
		}
	}
}

func TestStrictRead(t *testing.T) {
	sent := conversation(t)
	whole, err := through(t, bytes.NewReader(sent), 1<<16)
	if err != io.EOF {
		t.Fatal(err)
	}
	framer := http2.NewFramer(io.Discard, bytes.NewReader(whole[prefaceLen:]))
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	reset, fields := []uint32{}, map[uint32]string{}
	for {
		frame, err := framer.ReadFrame()
		var stream http2.StreamError
		switch {
		case errors.As(err, &stream):
			reset = append(reset, stream.StreamID)
			continue
		case err == io.EOF:
		case err != nil:
			t.Fatal(err)
		}
		if err == io.EOF {
			break
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, field := range f.RegularFields() {
				fields[f.StreamID] += field.Name + "=" + field.Value + ";"
			}
		case *http2.SettingsFrame:
			if value, _ := f.Value(4); !f.IsAck() && (f.HasDuplicates() || value != 1) {
				t.Errorf("settings %v", f)
			}
		}
	}
	if !slices.Equal(reset, []uint32{3, 5}) {
		t.Errorf("streams %v are malformed, want 3 and 5", reset)
	}
	for id, want := range map[uint32]string{1: "cookie=a;", 7: "upgrade=x;", 9: "keep-alive=x;x-second=z;", 11: "x-first=y;x-second=z;"} {
		if fields[id] != want {
			t.Errorf("stream %d has %q, want %q: the client's table and ours differ", id, fields[id], want)
		}
	}
	for size := 1; size < 300; size += 7 {
		for what, r := range map[string]io.Reader{"": bytes.NewReader(sent), "one by one": iotest.OneByteReader(bytes.NewReader(sent)), "halves": iotest.HalfReader(bytes.NewReader(sent)), "the error with the data": iotest.DataErrReader(bytes.NewReader(sent))} {
			if got, err := through(t, r, size); err != io.EOF || !bytes.Equal(got, whole) {
				t.Fatalf("%s, in pieces of %d: %v, another result", what, size, err)
			}
		}
	}
}

// TestStrictCut holds that what came before an error is passed on, and the error.
func TestStrictCut(t *testing.T) {
	sent, broken := conversation(t), errors.New("broken")
	for n := range sent {
		got, err := through(t, io.MultiReader(bytes.NewReader(sent[:n]), iotest.ErrReader(broken)), 1000)
		if !errors.Is(err, broken) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		if len(got) > n+2*len(malformed) || len(got) < n-12 { // a setting left out twice, two fields put in
			t.Fatalf("%d of %d bytes", len(got), n)
		}
	}
}

func FuzzStrict(f *testing.F) {
	f.Add(conversation(f)[prefaceLen:], byte(7))
	f.Fuzz(func(t *testing.T, frames []byte, size byte) {
		sent := append([]byte(http2.ClientPreface), frames...)
		whole, err := through(t, bytes.NewReader(sent), 1<<16)
		if err != io.EOF {
			t.Fatal(err)
		}
		if pieces, err := through(t, iotest.HalfReader(bytes.NewReader(sent)), int(size)+1); err != io.EOF || !bytes.Equal(pieces, whole) {
			t.Fatalf("%v: other bytes in other pieces", err)
		}
	})
}

// BenchmarkStrictHeaders is what looking at a usual request costs.
func BenchmarkStrictHeaders(b *testing.B) {
	var buffer bytes.Buffer
	encoder := hpack.NewEncoder(&buffer)
	usual := block(encoder, &buffer, ":method: GET", ":path: /a/path/of/usual/length.html", ":scheme: https", ":authority: example.cn",
		"user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)", "accept: text/html,*/*", "accept-encoding: gzip, br",
		"accept-language: zh-CN,zh", "cookie: session=0123456789abcdef0123456789abcdef", "sec-fetch-mode: navigate", "referer: https://example.cn/")
	b.ReportAllocs()
	for b.Loop() {
		if ofConnection(usual, false) {
			b.Fatal("taken for malformed")
		}
	}
}
