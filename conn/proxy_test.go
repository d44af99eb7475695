package conn

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

var (
	client4 = &net.TCPAddr{IP: net.IPv4(198, 51, 100, 9).To4(), Port: 5000}
	server4 = &net.TCPAddr{IP: net.IPv4(203, 0, 113, 1).To4(), Port: 443}
	client6 = &net.TCPAddr{IP: net.ParseIP("2001:db8::9"), Port: 5000}
	server6 = &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 443}

	listed = Trust{From: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}} // source is 192.0.2.7
)

// TestProxyHeader sends headers and reads them again.
func TestProxyHeader(t *testing.T) {
	unix := &net.UnixAddr{Name: "/run/a.sock", Net: "unix"}
	for _, header := range []ProxyHeader{
		{Version: 1, Source: client4, Destination: server4},
		{Version: 1, Source: client6, Destination: server6},
		{Version: 1, Local: true},
		{Version: 2, Source: client4, Destination: server4},
		{Version: 2, Source: client6, Destination: server6, Authority: "www.example.cn", ALPN: "h2"},
		{Version: 2, Source: client4, Destination: server4, UniqueID: []byte("0123"), TLS: tls.VersionTLS13, Checksum: true},
		{Version: 2, Source: client6, Destination: server6, Checksum: true},
		{Version: 2, Source: unix, Destination: unix, Checksum: true},
		{Version: 2, Local: true},
		{Version: 2, Local: true, Checksum: true},
	} {
		wire, err := header.Append([]byte("before"))
		if err != nil {
			t.Errorf("%+v: %v", header, err)
			continue
		}
		wire = append(bytes.TrimPrefix(wire, []byte("before")), "rest"...)
		for _, c := range []net.Conn{from(wire), &source{Reader: iotest.OneByteReader(bytes.NewReader(wire))}} {
			got, k, err := listed.Accept(c, Limits{})
			if err != nil || !reflect.DeepEqual(*got, header) {
				t.Errorf("sent %+v\ngot  %+v: %v", header, got, err)
				continue
			}
			remote, local := c.RemoteAddr(), c.LocalAddr()
			if !header.Local {
				remote, local = header.Source, header.Destination
			}
			if k.RemoteAddr().String() != remote.String() || k.LocalAddr().String() != local.String() {
				t.Errorf("%+v: from %v to %v", header, k.RemoteAddr(), k.LocalAddr())
			}
			if rest, err := io.ReadAll(k); string(rest) != "rest" || err != nil {
				t.Errorf("%+v: %q is left: %v", header, rest, err)
			}
		}
	}
	if _, err := (&ProxyHeader{Source: client4, Destination: unix}).Append(nil); err == nil {
		t.Error("a header from TCP to UNIX was made")
	}
}

// TestProxyRefusals has headers, and none, of peers who must send one.
func TestProxyRefusals(t *testing.T) {
	v2 := func(command, family byte, body string) string {
		return signature2 + string([]byte{command, family, byte(len(body) >> 8), byte(len(body))}) + body
	}
	four := "\xc6\x33\x64\x09\xcb\x00\x71\x01\x13\x88\x01\xbb"
	for _, test := range []struct {
		wire string
		want Reason
	}{
		{"", ReasonNothing},
		{"PROX", ReasonCut},
		{"PROXY TCP4 198.51.100.9", ReasonCut},
		{signature2, ReasonCut},
		{v2(0x21, 0x11, four)[:20], ReasonCut},
		{"GET / HTTP/1.1\r\n\r\n", ReasonNoProxy},
		{"PROXY\r\n", ReasonNoProxy},
		{"\r\n\r\n\x00\r\nQUIX", ReasonNoProxy},
		{"PROXY TCP4 198.51.100.9 203.0.113.1 5000 443\n", ReasonBadProxy},
		{"PROXY TCP4 198.51.100.9 203.0.113.1 5000\r\n", ReasonBadProxy},
		{"PROXY TCP4 198.51.100.999 203.0.113.1 5000 443\r\n", ReasonBadProxy},
		{"PROXY TCP4 198.51.100.9 203.0.113.1 5000 65536\r\n", ReasonBadProxy},
		{"PROXY TCP4 2001:db8::1 203.0.113.1 5000 443\r\n", ReasonBadProxy},
		{"PROXY UDP4 198.51.100.9 203.0.113.1 5000 443\r\n", ReasonBadProxy},
		{"PROXY " + strings.Repeat("x", 200), ReasonBadProxy},
		{v2(0x11, 0x11, four), ReasonBadProxy},
		{v2(0x22, 0x11, four), ReasonBadProxy},
		{v2(0x21, 0x13, four), ReasonBadProxy},
		{v2(0x21, 0x12, four), ReasonBadProxy},
		{v2(0x21, 0x11, four[:10]), ReasonBadProxy},
		{v2(0x21, 0x11, four+"\x02\x00\x09a"), ReasonBadProxy},
		{v2(0x21, 0x11, four+"\x03\x00\x04abcd"), ReasonBadProxy},
		{v2(0x21, 0x11, four+"\x03\x00\x01a"), ReasonBadProxy},
		{v2(0x21, 0x11, four+"\x20\x00\x01\x01"), ReasonBadProxy},
		{v2(0x21, 0x11, four+strings.Repeat("\x04\x00\x00", 2000)), ReasonBadProxy},
		{v2(0x21, 0x31, strings.Repeat("a", 216)), ""},
		{v2(0x21, 0x00, "whatever"), ReasonBadProxy}, // what follows UNSPEC must be TLVs
		{v2(0x21, 0x00, ""), ""},
		{v2(0x21, 0x00, "\x02\x00\x04a.cn"), ""},
		{v2(0x20, 0x11, ""), ""},
		{"PROXY UNKNOWN what ever\r\n", ""},
	} {
		_, k, err := listed.Accept(from([]byte(test.wire)), Limits{})
		if got := ReasonOf(err); got != test.want {
			t.Errorf("%.60q: %v, want %q", test.wire, err, test.want)
		}
		rest, _ := io.ReadAll(k)
		if want := test.wire; err != nil && string(rest) != want || err == nil && len(rest) > 0 {
			t.Errorf("%.60q: %.60q is left", test.wire, rest)
		}
	}
}

// TestOptionalProxy sees that who need not send a header may send none, or
// nothing.
func TestOptionalProxy(t *testing.T) {
	optional := Trust{From: listed.From, Optional: true}
	header, k, err := optional.Accept(from([]byte("PROXIMA")), Limits{})
	if rest, _ := io.ReadAll(k); header != nil || err != nil || string(rest) != "PROXIMA" {
		t.Errorf("%v, %v, left %q", header, err, rest)
	}
	if header, _, err = optional.Accept(from([]byte("PROXY TCP4 198.51.100.9 203.0.113.1 5000 443\r\n")), Limits{}); header == nil || err != nil {
		t.Errorf("%v, %v", header, err)
	}
	if _, _, err = optional.Accept(from([]byte("PROXY nonsense\r\n")), Limits{}); ReasonOf(err) != ReasonBadProxy {
		t.Error(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ours, far := net.Pipe()
		defer far.Close()
		began := time.Now()
		header, k, err := readProxyHeader(keep(ours), Limits{Time: time.Second}, true)
		if header != nil || err != nil || time.Since(began) != time.Second || !k.plain.Load() {
			t.Errorf("of a silent peer: %v, %v after %v", header, err, time.Since(began))
		}
	})
}

// TestStranger sees that nobody but those listed may send a header, that the
// signature never passes whole, and that who only begins alike is not held up.
func TestStranger(t *testing.T) {
	for _, trust := range []Trust{{}, {From: []netip.Prefix{netip.MustParsePrefix("192.0.2.8/32")}}} {
		for _, signature := range []string{signature1, signature2} {
			for _, alike := range []string{signature[:len(signature)-1] + "-", signature[:3] + "x", "hello"} {
				_, k, err := trust.Accept(&source{Reader: iotest.OneByteReader(strings.NewReader(alike + signature))}, Limits{})
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(k); string(got) != alike+signature || err != nil {
					t.Errorf("%q came as %q: %v", alike+signature, got, err)
				}
			}
			for _, reader := range []io.Reader{strings.NewReader(signature + "rest"), iotest.OneByteReader(strings.NewReader(signature + "rest"))} {
				_, k, _ := trust.Accept(&source{Reader: reader}, Limits{})
				got, err := io.ReadAll(k)
				if ReasonOf(err) != ReasonStranger || string(got) != signature[:len(signature)-1] {
					t.Errorf("%q let %q through: %v", signature, got, err)
				}
				if n, err := k.Read(make([]byte, 9)); n != 0 || ReasonOf(err) != ReasonStranger {
					t.Errorf("and then %d bytes: %v", n, err)
				}
			}
			_, k, _ := trust.Accept(from([]byte(signature+"rest")), Limits{})
			if _, _, err := PeekHello(k, Limits{}); ReasonOf(err) != ReasonStranger {
				t.Errorf("peeked at: %v", err)
			}
		}
	}
}

// TestStrangerJoined is the same for a joined connection.
func TestStrangerJoined(t *testing.T) {
	for _, test := range []struct {
		sent, got string
		why       Why
	}{
		{"PROXY TCP4 198.51.100.9 203.0.113.1 5000 443\r\nrest", "PROXY", WhyStranger},
		{"PROXIMA centauri", "PROXIMA centauri", WhyDone},
	} {
		ours, client := tcpPair(t)
		b, target := tcpPair(t)
		_, a, err := (&Trust{}).Accept(ours, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		done := join(t, a, b, Joint{})
		target.Write([]byte("220 hello\r\n")) // a server that speaks first is heard
		if _, err := io.ReadFull(client, make([]byte, 11)); err != nil {
			t.Fatal(err)
		}
		client.Write([]byte(test.sent))
		client.CloseWrite()
		got, _ := io.ReadAll(target)
		target.CloseWrite()
		if joined := <-done; joined.Why != test.why || !strings.HasPrefix(test.got, string(got)) || test.why == WhyDone && string(got) != test.got {
			t.Errorf("%q: the target got %q, %+v", test.sent, got, joined)
		}
	}
}

// FuzzProxyHeader: however the bytes come, the result is the same; what is left
// is what followed the header.
func FuzzProxyHeader(f *testing.F) {
	for _, header := range []ProxyHeader{
		{Version: 1, Source: client4, Destination: server4}, {Version: 1, Local: true},
		{Source: client6, Destination: server6, Authority: "a.cn", ALPN: "h2", TLS: tls.VersionTLS12, Checksum: true},
		{Local: true},
	} {
		wire, err := header.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(wire, "rest"...), []byte{1, 9})
	}
	f.Fuzz(func(t *testing.T, wire, sizes []byte) {
		read := func(c net.Conn) string {
			header, k, err := listed.Accept(c, Limits{})
			rest, failed := io.ReadAll(k)
			if failed != nil || !bytes.HasSuffix(wire, rest) || err != nil && len(rest) != len(wire) || err == nil && len(rest) == len(wire) {
				t.Fatalf("%d bytes are left of %d after %v: %v", len(rest), len(wire), err, failed)
			}
			if err != nil {
				return string(ReasonOf(err))
			}
			return fmt.Sprintf("%+v %d %v", *header, len(rest), k.RemoteAddr())
		}
		if whole, chunks := read(from(wire)), read(&source{Reader: &chunked{wire, sizes, 0}}); whole != chunks {
			t.Errorf("whole: %s, in chunks: %s", whole, chunks)
		}
	})
}
