package conn

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
)

func TestPeekHost(t *testing.T) {
	for _, test := range []struct{ wire, want string }{
		{"GET / HTTP/1.1\nHost: a.cn\n\n", "malformed"},
		{"GET / HTTP/1.1~Host: www.Example.cn~~", "www.example.cn|"},
		{"GET / HTTP/1.1~Accept: */*~hOST:\twww.example.cn:8080 ~~body", "www.example.cn|8080"},
		{"~~GET / HTTP/1.0~Host: a.cn.~~", "a.cn|"},
		{"GET http://b.cn:81/x?y HTTP/1.1~Host: a.cn~~", "b.cn|81"},
		{"GET https://b.cn?y HTTP/1.1~Host: a.cn~~", "b.cn|"},
		{"OPTIONS * HTTP/1.1~Host: a.cn~~", "a.cn|"},
		{"CONNECT b.cn:443 HTTP/1.1~Host: a.cn~~", "b.cn|443"},
		{"GET / HTTP/1.1~Host: 192.0.2.1:80~~", "192.0.2.1|80"},
		{"GET / HTTP/1.1~Host: [2001:DB8::1]:80~~", "2001:db8::1|80"},
		{"GET / HTTP/1.1~Host: my_shop.cn~~", "my_shop.cn|"},
		{"GET / HTTP/1.1~Host: app.mydomain.com.evil.test~~", "app.mydomain.com.evil.test|"},

		{"", "nothing"},
		{"GET / HTTP/1.1~Host: a.cn~", "cut"},
		{"GET / HTTP/1.1~Accept: */*~~", "no_host"},
		{"GET http://b.cn/ HTTP/1.1~~", "no_host"},
		{"GET / HTTP/1.1~Host: a.cn~Host: a.cn~~", "two_hosts"},
		{"GET http://b.cn/ HTTP/1.1~Host: a.cn~Host: b.cn~~", "two_hosts"},
		{"GET / HTTP/1.1~Host:~~", "bad_host"},
		{"GET / HTTP/1.1~Host: a.cn, b.cn~~", "bad_host"},
		{"GET / HTTP/1.1~Host: a.cn@b.cn~~", "bad_host"},
		{"GET / HTTP/1.1~Host: a.cn/x~~", "bad_host"},
		{"GET / HTTP/1.1~Host: a.cn:x~~", "bad_host"},
		{"GET / HTTP/1.1~Host: a.cn:999999~~", "bad_host"},
		{"GET / HTTP/1.1~Host: a%2ecn~~", "bad_host"},
		{"GET / HTTP/1.1~Host: 例.cn~~", "bad_host"},
		{"GET / HTTP/1.1~Host: 1.2.3~~", "bad_host"},
		{"GET / HTTP/1.1~Host: [fe80::1%25eth0]~~", "bad_host"},
		{"GET / HTTP/1.1~Host: 2001:db8::1~~", "bad_host"},
		{"GET / HTTP/1.1~Host: a..cn~~", "bad_host"},
		{"GET http://u@b.cn/ HTTP/1.1~Host: a.cn~~", "bad_host"},
		{"GET / HTTP/1.1~Host : a.cn~~", "malformed"},
		{"GET / HTTP/1.1~X: a~ Host: a.cn~~", "malformed"},
		{"GET / HTTP/1.1~X: a\x00~~", "malformed"},
		{"GET / HTTP/1.1~X: a\rHost: b.cn~~", "malformed"},
		{"GET / HTTP/1.1~nothing~~", "malformed"},
		{"GET  / HTTP/1.1~Host: a.cn~~", "malformed"},
		{"GET / HTTP/1.1 ~Host: a.cn~~", "malformed"},
		{"GET / HTTP/2.0~Host: a.cn~~", "malformed"},
		{"GET /~~", "malformed"},
		{"GET ftp://b.cn/ HTTP/1.1~Host: a.cn~~", "malformed"},
		{"GET www.b.cn HTTP/1.1~Host: a.cn~~", "malformed"},
		{"PRI * HTTP/2.0~~SM~~", "http2"},
		{"\x16\x03\x01\x02\x00", "tls"},
		{"SSH-2.0-OpenSSH_9.2~", "not_http"},
		{"\x00", "not_http"},
		{strings.Repeat("A", 100), "not_http"},
		{" GET / HTTP/1.1~", "not_http"},
		{"GET / HTTP/1.1~X: " + strings.Repeat("a", MaxBytes), "too_long"},
	} {
		wire := []byte(strings.ReplaceAll(test.wire, "~", "\r\n"))
		if got := peekedHost(t, from(wire), wire, Limits{}); got != test.want {
			t.Errorf("%.60q: %s, want %s", wire, got, test.want)
		}
		if got := peekedHost(t, &source{Reader: iotest.OneByteReader(bytes.NewReader(wire))}, wire, Limits{}); got != test.want {
			t.Errorf("%.60q byte by byte: %s, want %s", wire, got, test.want)
		}
	}
}

func peekedHost(t *testing.T, c net.Conn, wire []byte, limits Limits) string {
	head, k, err := PeekHost(c, limits)
	if rest, err := io.ReadAll(k); err != nil || !bytes.Equal(rest, wire) {
		t.Fatalf("%.60q: %d bytes are left of %d: %v", wire, len(rest), len(wire), err)
	}
	if err != nil {
		return string(ReasonOf(err))
	}
	return head.Host + "|" + head.Port
}

// FuzzHost: however the bytes come, the result is the same and none is
// consumed; a host is in lower case and has no byte that a host may not have.
func FuzzHost(f *testing.F) {
	for _, wire := range []string{
		"GET / HTTP/1.1\r\nHost: a.cn\r\n\r\n", "GET http://b.cn:81/ HTTP/1.1\r\nHost: a.cn\r\nHost: b\r\n\r\n",
		"\r\nGET / HTTP/1.0\r\nHost: [::1]:80\r\n\r\nrest", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\n\r\n",
	} {
		f.Add([]byte(wire), []byte{1, 7})
	}
	f.Fuzz(func(t *testing.T, wire, sizes []byte) {
		for _, limits := range []Limits{{}, {Bytes: 60}} {
			whole := peekedHost(t, from(wire), wire, limits)
			chunks := peekedHost(t, &source{Reader: &chunked{wire, sizes, 0}}, wire, limits)
			if whole != chunks {
				t.Errorf("whole: %s, in chunks: %s", whole, chunks)
			}
			if host, _, found := strings.Cut(whole, "|"); found && (host == "" || strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-_.:") != "") {
				t.Errorf("host %q", host)
			}
		}
	})
}
