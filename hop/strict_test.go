package hop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// coded is a header block of "name: value" lines, encoded by one encoder.
func coded(encoder *hpack.Encoder, buffer *bytes.Buffer, fields ...string) []byte {
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
	for field, want := range map[string]bool{
		"connection: close": true, "connection: ": true, "keep-alive: timeout=5": true, "proxy-connection: keep-alive": true,
		"transfer-encoding: chunked": true, "upgrade: h2c": true, "te: gzip": true, "te: trailers, deflate": true, "te: ": true,
		"te: trailers": false, "te-x: gzip": false, "upgrade-insecure-requests: 1": false, "connections: 1": false, "x: connection": false,
		"transfer-encodings: x": false,
	} {
		name, value, _ := strings.Cut(field, ": ")
		if got := ofConnection(name, value); got != want {
			t.Errorf("%s: %v, want %v", field, got, want)
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
		param.BlockFragment = coded(encoder, &buffer, append([]string{":method: POST", ":path: /", ":scheme: https", ":authority: example.cn"}, fields...)...)
		must(framer.WriteHeaders(param))
	}
	must(framer.WriteSettings(http2.Setting{ID: 4, Val: 100}, http2.Setting{ID: 3, Val: 5}, http2.Setting{ID: 4, Val: 1}))
	must(framer.WriteSettingsAck())
	headers(1, http2.HeadersFrameParam{EndHeaders: true}, "cookie: a")
	must(framer.WriteData(1, true, bytes.Repeat([]byte("connection"), 100)))
	headers(3, http2.HeadersFrameParam{EndHeaders: true, EndStream: true}, "connection: close", "x-first: y")
	headers(5, http2.HeadersFrameParam{EndHeaders: true, EndStream: true, Priority: http2.PriorityParam{StreamDep: 1, Weight: 3}}, "x-first: y", "te: gzip")
	headers(7, http2.HeadersFrameParam{EndHeaders: true, EndStream: true, PadLength: 9}, "upgrade: x") // padded
	headers(9, http2.HeadersFrameParam{EndStream: true}, "keep-alive: x")                              // goes on
	must(framer.WriteContinuation(9, true, coded(encoder, &buffer, "x-second: z")))
	headers(11, http2.HeadersFrameParam{EndHeaders: true}, "x-first: y", "x-second: z")
	must(framer.WriteRawFrame(0x42, 7, 11, make([]byte, 300)))
	must(framer.WritePing(false, [8]byte{1}))
	return out.Bytes()
}

// readConn is a connection that is read alone.
type readConn struct {
	net.Conn
	io.Reader
}

func (c readConn) Read(p []byte) (int, error) { return c.Reader.Read(p) }

// through is what Read gives of data that comes as r gives it, read in pieces of
// at most size bytes.
func through(t testing.TB, r io.Reader, size int) ([]byte, error) {
	c := newFrames(readConn{Reader: r}, &StrictOptions{HeaderBytes: 64 << 10})
	var got []byte
	p := make([]byte, size)
	for {
		n, err := c.Read(p)
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
	if !slices.Equal(reset, []uint32{3, 5, 7, 9}) {
		t.Errorf("streams %v are malformed, want 3, 5, 7 and 9", reset)
	}
	for id, want := range map[uint32]string{1: "cookie=a;", 11: "x-first=y;x-second=z;"} {
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
	whole, _ := through(t, bytes.NewReader(sent), 1<<16)
	for n := range sent {
		got, err := through(t, io.MultiReader(bytes.NewReader(sent[:n]), iotest.ErrReader(broken)), 1000)
		if !errors.Is(err, broken) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		same := 0
		for same < min(len(got), len(whole)) && got[same] == whole[same] {
			same++
		}
		if !bytes.HasSuffix(sent[:n], got[same:]) { // frames as they are whole, and what came of the next
			t.Fatalf("of %d bytes: %x", n, got)
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

// BenchmarkStrictHeaders is what reading a usual request and writing it anew costs.
func BenchmarkStrictHeaders(b *testing.B) {
	var sent, buffer bytes.Buffer
	encoder := hpack.NewEncoder(&buffer)
	usual := func() []byte {
		return coded(encoder, &buffer, ":method: GET", ":path: /a/path/of/usual/length.html", ":scheme: https", ":authority: example.cn",
			"user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)", "accept: text/html,*/*", "accept-encoding: gzip, br",
			"accept-language: zh-CN,zh", "cookie: session=0123456789abcdef0123456789abcdef", "sec-fetch-mode: navigate", "referer: https://example.cn/")
	}
	c := newFrames(readConn{}, &StrictOptions{HeaderBytes: 64 << 10})
	c.pass = 0
	send := func(block []byte) {
		sent.Reset()
		_ = http2.NewFramer(&sent, nil).WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true, EndStream: true})
		c.conn = readConn{Reader: bytes.NewReader(sent.Bytes())}
	}
	p := make([]byte, 4<<10)
	send(usual())
	_, _ = c.Read(p)
	warm := usual() // now that the tables have it
	b.ReportAllocs()
	for b.Loop() {
		send(warm)
		if n, err := c.Read(p); n == 0 || err != nil {
			b.Fatal(err)
		}
	}
}
