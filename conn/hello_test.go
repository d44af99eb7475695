package conn

import (
	"bytes"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write testdata/hello/expected.txt anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a connection that gives what a reader gives.
type source struct {
	net.Conn
	io.Reader
	deadlines int
}

func (s *source) Read(p []byte) (int, error)        { return s.Reader.Read(p) }
func (s *source) SetReadDeadline(t time.Time) error { s.deadlines++; return nil }
func (s *source) RemoteAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711} }
func (s *source) LocalAddr() net.Addr               { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443} }

func from(wire []byte) *source { return &source{Reader: bytes.NewReader(wire)} }

// summary is a Hello and an error as text.
func summary(hello Hello, err error) string {
	if err != nil && !ReasonOf(err).OfName() {
		return string(ReasonOf(err))
	}
	text := fmt.Sprintf("name=%q alpn=%s ech=%t versions=", hello.ServerName, strings.Join(hello.ALPN, ","), hello.ECH)
	for i, version := range hello.Versions {
		if i > 0 {
			text += ","
		}
		text += strings.ReplaceAll(tls.VersionName(version), " ", "")
	}
	if err != nil {
		text += " " + string(ReasonOf(err))
	}
	return text
}

// TestCorpus reads the hellos of real clients, whole and byte by byte.
func TestCorpus(t *testing.T) {
	files, _ := filepath.Glob("testdata/hello/*.bin")
	if len(files) == 0 {
		t.Fatal("testdata/hello is empty")
	}
	var got strings.Builder
	for _, file := range files {
		wire, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		whole := peekAll(t, from(wire), wire)
		if bytewise := peekAll(t, &source{Reader: iotest.OneByteReader(bytes.NewReader(wire))}, wire); bytewise != whole {
			t.Errorf("%s byte by byte: %s, whole: %s", file, bytewise, whole)
		}
		fmt.Fprintf(&got, "%s: %s\n", strings.TrimSuffix(filepath.Base(file), ".bin"), whole)
	}
	const expected = "testdata/hello/expected.txt"
	if *update {
		if err := os.WriteFile(expected, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(expected)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("got:\n%swant:\n%s", got.String(), want)
	}
}

// peekAll peeks at the hello of c, and sees that all of wire is there still.
func peekAll(t testing.TB, c net.Conn, wire []byte) string {
	t.Helper()
	hello, k, err := PeekHello(c, Limits{})
	text := summary(hello, err)
	if rest, err := io.ReadAll(k); err != nil || !bytes.Equal(rest, wire) {
		t.Fatalf("after %s: %d bytes are left of %d: %v", text, len(rest), len(wire), err)
	}
	return text
}

// say is a hello with these extensions.
func say(extensions ...[]byte) []byte {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0)                // session id
	body = append(body, 0, 2, 0x13, 0x01) // one cipher suite
	body = append(body, 1, 0)             // one compression method
	if len(extensions) > 0 {
		body = append(body, vector(2, slices.Concat(extensions...))...)
	}
	return message(body)
}

func message(body []byte) []byte { return append([]byte{clientHello}, vector(3, body)...) }

func vector(size int, body []byte) []byte {
	var length []byte
	for i := size - 1; i >= 0; i-- {
		length = append(length, byte(len(body)>>(8*i)))
	}
	return append(length, body...)
}

func extension(kind int, body []byte) []byte {
	return append([]byte{byte(kind >> 8), byte(kind)}, vector(2, body)...)
}

func sni(name string) []byte {
	return extension(extServerName, vector(2, append([]byte{0}, vector(2, []byte(name))...)))
}

// records is the message in records of at most size bytes.
func records(message []byte, size int) (wire []byte) {
	for part := range slices.Chunk(message, size) {
		wire = append(wire, recordHandshake, 3, 1)
		wire = append(wire, vector(2, part)...)
	}
	return wire
}

func one(message []byte) []byte { return records(message, recordMax) }

func TestPeekHello(t *testing.T) {
	name := sni("www.example.cn")
	none := `name="" alpn= ech=false versions=TLS1.2`
	plain := `name="www.example.cn" alpn= ech=false versions=TLS1.2`
	long := extension(0xff00, make([]byte, 40000))
	for _, test := range []struct {
		name string
		wire []byte
		want string
	}{
		{"a name", one(say(name)), plain},
		{"no extensions at all", one(say()), none},
		{"no name", one(say(extension(23, nil))), none},
		{"records of one byte", records(say(name), 1), plain},
		{"records of three bytes", records(say(name), 3), plain},
		{"three large records", one(say(long, name)), plain},
		{"what follows is not read", append(one(say(name)), 0xff), plain},
		{"GREASE", one(say(name, extension(extALPN, vector(2, slices.Concat(vector(1, []byte{0x0a, 0x0a}), vector(1, []byte("h2"))))),
			extension(extSupportedVersions, vector(1, []byte{0xfa, 0xfa, 3, 4, 3, 3})), extension(0x0a0a, nil))),
			`name="www.example.cn" alpn=h2 ech=false versions=TLS1.3,TLS1.2`},
		{"ECH", one(say(name, extension(extECH, []byte{0, 0, 1}))), `name="www.example.cn" alpn= ech=true versions=TLS1.2`},

		{"nothing", nil, "nothing"},
		{"cut in the record's header", one(say(name))[:4], "cut"},
		{"cut in the message", one(say(name))[:50], "cut"},
		{"cut between records", records(say(name), 40)[:45], "cut"},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), "not_tls"},
		{"SSH", []byte("SSH-2.0-OpenSSH_9.2\r\n"), "not_tls"},
		{"an alert", []byte{21, 3, 1, 0, 2, 1, 0}, "not_tls"},
		{"a strange version", []byte{22, 9, 9, 0, 1, 1}, "not_tls"},
		{"SSL 2.0", []byte{0x80, 0x2e, 1, 3, 1, 0, 0x15}, "ssl2"},
		{"like SSL 2.0", []byte{0x80, 0x2e, 4, 3, 1, 0, 0x15}, "not_tls"},
		{"not a hello", one(append([]byte{2}, say(name)[1:]...)), "malformed"},
		{"an empty record", append([]byte{22, 3, 1, 0, 0}, one(say(name))...), "malformed"},
		{"a record too large", []byte{22, 3, 1, 0x40, 1, 1}, "malformed"},
		{"an alert in the middle", append(records(say(name), 40)[:45], 21, 3, 1, 0, 2, 1, 0), "malformed"},
		{"more in the record", one(append(say(name), 0)), "malformed"},
		{"a message too long", one([]byte{1, 1, 0, 0}), "too_long"},
		{"a message too long in small records", records([]byte{1, 0xff, 0xff, 0xff, 0}, 1), "too_long"},
		{"records too many", records(say(extension(0xff00, make([]byte, 20000)), name), 1), "too_long"},
		{"ends in the random", one(message(make([]byte, 20))), "malformed"},
		{"extensions too short", one(message(append(say(name)[messageHeader:], 0))), "malformed"},
		{"an extension too long", one(say([]byte{0, 0, 0, 9, 0})), "malformed"},
		{"two server_names", one(say(name, sni("other.example.cn"))), "malformed"},
		{"two names in one", one(say(extension(0, vector(2, slices.Repeat(append([]byte{0}, vector(2, []byte("a.cn"))...), 2))))), "malformed"},
		{"a name of another type", one(say(extension(0, vector(2, append([]byte{1}, vector(2, []byte("a.cn"))...))))), "malformed"},
		{"an empty server_name extension", one(say(extension(0, nil))), "malformed"},
		{"an empty protocol", one(say(extension(extALPN, vector(2, []byte{0})))), "malformed"},
		{"no protocols", one(say(extension(extALPN, vector(2, nil)))), "malformed"},
		{"half a version", one(say(extension(extSupportedVersions, vector(1, []byte{3, 4, 3})))), "malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := peekAll(t, from(test.wire), test.wire); got != test.want {
				t.Errorf("whole: %s, want %s", got, test.want)
			}
			if got := peekAll(t, &source{Reader: iotest.OneByteReader(bytes.NewReader(test.wire))}, test.wire); got != test.want {
				t.Errorf("byte by byte: %s, want %s", got, test.want)
			}
		})
	}
}

func TestServerName(t *testing.T) {
	label := strings.Repeat("a", 63)
	for _, test := range []struct {
		name string
		want Reason
	}{
		{"example.cn", ""}, {"localhost", ""}, {"xn--fsqu00a.xn--0zwm56d", ""}, {"a-b.1.cn", ""}, {"1.example", ""},
		{label + ".cn", ""}, {strings.Repeat(label+".", 3) + strings.Repeat("a", 61), ""},
		{"app.mydomain.com.evil.test", ""},
		{"", ReasonNameEmpty},
		{"192.0.2.1", ReasonNameIP}, {"2001:db8::1", ReasonNameIP}, {"[2001:db8::1]", ReasonNameIP}, {"1", ReasonNameIP}, {"127.1", ReasonNameIP}, {"192.0.2.1.", ReasonNameIP},
		{"example.cn.", ReasonNameDot},
		{"example.cn\x00.evil.test", ReasonNameNUL},
		{"exam ple.cn", ReasonNameBytes}, {"example.cn\r\n", ReasonNameBytes}, {"b\xfccher.cn", ReasonNameBytes}, {"例.cn", ReasonNameBytes}, {"a\x7f.cn", ReasonNameBytes},
		{"my_shop.cn", ReasonNameNotLDH}, {"*.cn", ReasonNameNotLDH}, {"a..cn", ReasonNameNotLDH}, {".cn", ReasonNameNotLDH}, {".", ReasonNameDot}, {"-a.cn", ReasonNameNotLDH}, {"a-.cn", ReasonNameNotLDH},
		{"example.cn:443", ReasonNameNotLDH}, {"a/../b.cn", ReasonNameNotLDH},
		{label + "a.cn", ReasonNameLong}, {strings.Repeat(label+".", 4), ReasonNameLong}, {strings.Repeat("a.", 127) + "a", ReasonNameLong},
	} {
		hello, k, err := PeekHello(from(one(say(sni(test.name), extension(extALPN, vector(2, vector(1, []byte("h2"))))))), Limits{})
		if got := ReasonOf(err); got != test.want {
			t.Errorf("%q: %q, want %q", test.name, got, test.want)
		}
		if want := test.name; test.want == "" && hello.ServerName != want || test.want != "" && hello.ServerName != "" {
			t.Errorf("%q: read as %q", test.name, hello.ServerName)
		}
		if len(hello.ALPN) != 1 {
			t.Errorf("%q: the rest of the hello is gone", test.name)
		}
		k.WriteTo(io.Discard)
	}
}

// TestPeekLimits sees that a silent client is waited for as long as Limits say,
// and that none of its bytes is lost.
func TestPeekLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, client := net.Pipe()
		defer client.Close()
		defer ours.Close()
		go client.Write(one(say())[:10])
		began := time.Now()
		_, k, err := PeekHello(ours, Limits{Time: 3 * time.Second})
		if ReasonOf(err) != ReasonTimedOut || time.Since(began) != 3*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		go client.Write([]byte("rest"))
		got := make([]byte, 14)
		if _, err := io.ReadFull(k, got); err != nil || string(got[10:]) != "rest" {
			t.Errorf("read %q: %v", got, err)
		}
	})
	wire := one(say(extension(0xff00, make([]byte, 500))))
	if _, _, err := PeekHello(from(wire), Limits{Bytes: len(wire)}); err != nil {
		t.Errorf("as long as the limit: %v", err)
	}
	if _, _, err := PeekHello(from(wire), Limits{Bytes: len(wire) - 1}); ReasonOf(err) != ReasonTooLong {
		t.Errorf("longer than the limit: %v", err)
	}
}

// TestPeekedErrors sees that errors say of whom, and what.
func TestPeekedErrors(t *testing.T) {
	_, _, err := PeekHello(from([]byte("GET /")), Limits{})
	want := "peek at the hello of 192.0.2.7:4711: not TLS: the client speaks something else on a port for TLS: first byte 0x47"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	_, _, err = PeekHello(&source{Reader: iotest.ErrReader(errors.New("reset"))}, Limits{})
	if ReasonOf(err) != ReasonNothing || !strings.HasSuffix(err.Error(), ": reset") {
		t.Errorf("got %v", err)
	}
}

// TestSendAlert sees that real TLS clients understand the alert.
func TestSendAlert(t *testing.T) {
	ours, client := tcpPair(t)
	failed := make(chan error, 1)
	go func() { failed <- tls.Client(client, &tls.Config{ServerName: "other.example.cn"}).Handshake() }()
	_, k, err := PeekHello(ours, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := SendAlert(k, AlertUnrecognizedName); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("the client says %v", err)
	}
}

// FuzzHello: however the bytes come, the result is the same and none is
// consumed.
func FuzzHello(f *testing.F) {
	files, _ := filepath.Glob("testdata/hello/*.bin")
	for _, file := range files {
		wire, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, []byte{1, 5, 100})
		f.Add(records(wire[recordHeader:], 7), []byte{3})
	}
	f.Add([]byte{0x80, 0x2e, 1, 3, 1}, []byte{1})
	f.Fuzz(func(t *testing.T, wire, sizes []byte) {
		for _, limits := range []Limits{{}, {Bytes: 100}} {
			whole := peeked(t, from(wire), wire, limits)
			chunks := peeked(t, &source{Reader: &chunked{wire, sizes, 0}}, wire, limits)
			if whole != chunks {
				t.Errorf("whole: %s, in chunks: %s", whole, chunks)
			}
		}
	})
}

func peeked(t *testing.T, c net.Conn, wire []byte, limits Limits) string {
	hello, k, err := PeekHello(c, limits)
	if rest, err := io.ReadAll(k); err != nil || !bytes.Equal(rest, wire) {
		t.Fatalf("%d bytes are left of %d: %v", len(rest), len(wire), err)
	}
	return summary(hello, err)
}

// chunked gives its bytes in chunks of these sizes, over and over.
type chunked struct {
	rest, sizes []byte
	i           int
}

func (c *chunked) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	size := 1
	if len(c.sizes) > 0 {
		size = max(1, int(c.sizes[c.i%len(c.sizes)]))
		c.i++
	}
	n := copy(p, c.rest[:min(size, len(c.rest))])
	c.rest = c.rest[n:]
	return n, nil
}

func BenchmarkPeekHello(b *testing.B) {
	for _, name := range []string{"curl", "chromium"} {
		wire, err := os.ReadFile("testdata/hello/" + name + ".bin")
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			reader := bytes.NewReader(wire)
			c := &source{Reader: reader}
			for b.Loop() {
				reader.Reset(wire)
				_, k, err := PeekHello(c, Limits{})
				if err != nil {
					b.Fatal(err)
				}
				p, _ := k.first()
				release(p)
			}
		})
	}
}
