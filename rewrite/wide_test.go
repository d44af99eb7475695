package rewrite

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"
)

// widened is text in UTF-16, with a byte order mark or without.
func widened(text string, order binary.ByteOrder, mark bool) []byte {
	units := utf16.Encode([]rune(text))
	if mark {
		units = append([]uint16{0xfeff}, units...)
	}
	out := make([]byte, 2*len(units))
	for i, unit := range units {
		order.PutUint16(out[2*i:], unit)
	}
	return out
}

// respond is what becomes of a body, read in whatever pieces.
func respond(t *testing.T, m *Map, contentType string, body io.Reader) []byte {
	t.Helper()
	res := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(body), ContentLength: -1}
	m.Response(res, Options{})
	out, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestUTF16(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	const text, want = "<?xml?><a href='https://example.com/茶'>𝄞 example.com</a>", "<?xml?><a href='https://example.cn/茶'>𝄞 example.com</a>"
	for _, c := range []struct {
		kind  string
		order binary.ByteOrder
		mark  bool
		same  bool
	}{
		{"text/html", binary.LittleEndian, true, false},
		{"text/html; charset=gbk", binary.BigEndian, true, false}, // the mark goes before the charset
		{"text/html; charset=utf-16", binary.LittleEndian, false, false},
		{"text/html; Charset=\"UTF-16BE\"", binary.BigEndian, false, false},
		{"application/xml", binary.LittleEndian, false, false}, // its first bytes say so
		{"application/xml", binary.BigEndian, false, false},
		{"text/html; charset=utf-16be", binary.LittleEndian, false, false}, // XML's "<?" again
	} {
		in := widened(text, c.order, c.mark)
		for name, body := range map[string]io.Reader{"whole": bytes.NewReader(in), "by bytes": iotest.OneByteReader(bytes.NewReader(in))} {
			if got := respond(t, m, c.kind, body); !bytes.Equal(got, widened(want, c.order, c.mark)) {
				t.Errorf("%s, %v, %s: %q", c.kind, c.order, name, got)
			}
		}
	}
}

// TestUTF16Lies: whatever is not well-formed comes out as it came.
func TestUTF16Lies(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		in := make([]byte, rng.IntN(60))
		for i := range in {
			in[i] = []byte{0, 'a', 0xd8, 0xdc, 0xdf, 0xff, 0xfe, '/', byte(rng.IntN(256))}[rng.IntN(9)]
		}
		var body io.Reader = bytes.NewReader(in)
		if rng.IntN(2) == 0 {
			body = iotest.OneByteReader(body)
		}
		if got := respond(t, m, []string{"text/plain; charset=utf-16", "text/plain; charset=utf-16be", "text/plain"}[rng.IntN(3)], body); !bytes.Equal(got, in) {
			t.Fatalf("%q became %q", in, got)
		}
	}
	const ascii = "plain https://example.com/ that says it is UTF-16"
	if got := respond(t, m, "text/plain; charset=utf-16", strings.NewReader(ascii)); string(got) != ascii {
		t.Errorf("%q", got)
	}
}

// TestMisnamed: a charset that is a lie is said to be one, and every byte passes as it came.
func TestMisnamed(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	const ascii = "plain https://example.com/ that says it is UTF-16"
	const says, hides = "the text says that it is in UTF-16, and is not", "the text is in UTF-16, and does not say so"
	for _, c := range []struct{ kind, body, want string }{
		{"text/plain; charset=utf-16", ascii, says},
		{"text/plain; charset=utf-16be", "茶 " + ascii, says},
		{"application/json; charset=utf-16", `{"u": "https://example.com/"}`, says},
		{"text/plain; charset=utf-8", string(widened(ascii, binary.LittleEndian, false)), hides},
		{"text/plain", string(widened(ascii, binary.BigEndian, false)), hides},
		{"text/html; charset=gbk", string(widened("<p>茶 tea, and more tea</p>", binary.LittleEndian, false)), hides},
		// what it says is true
		{"text/plain; charset=utf-16", string(widened("茶在中国 tea, and more tea", binary.LittleEndian, false)), ""},
		{"text/plain; charset=utf-16be", string(widened("中文文本没有字母。也没有空格，都是汉字。", binary.BigEndian, false)), ""},
		{"text/plain; charset=utf-8", "茶在中国 tea, and more tea", ""},
		{"text/plain", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", ""},
		{"text/plain; charset=utf-16", "too short", ""},
	} {
		res := answer(strings.NewReader(c.body), -1, "Content-Type: "+c.kind)
		m.Response(res, Options{})
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		if string(got) != c.body || err != nil {
			t.Errorf("%s: %q became %q, %v", c.kind, c.body, got, err)
		}
		if said := res.Body.(interface{ Unmapped() string }).Unmapped(); said != c.want {
			t.Errorf("%s, %q: %q, want %q", c.kind, c.body, said, c.want)
		}
	}
	// A mark goes before the charset, and the text is mapped.
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		in := widened("https://example.com/ and so on", order, true)
		res := answer(bytes.NewReader(in), -1, "Content-Type: text/plain; charset=utf-8")
		m.Response(res, Options{})
		if got, _ := io.ReadAll(res.Body); !bytes.Equal(got, widened("https://example.cn/ and so on", order, true)) || res.Body.(interface{ Unmapped() string }).Unmapped() != "" {
			t.Errorf("%v: %q", order, got)
		}
	}
}

// TestCharsets: all others in use hold ASCII byte for byte, and what is not ASCII stays.
func TestCharsets(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	for kind, text := range map[string]string{
		"text/html; charset=gbk":       "\xb2\xe8\xd2\xb6 https://example.com/\xb2\xe8 \xa4\\https://example.com\xa1\xa3",
		"text/html; charset=gb18030":   "\x81\x30\x81\x30https://example.com/ \x90\x30\x81\x30",
		"text/html; charset=big5":      "\xa4\xa4\xa4\xe5 https://example.com/ \xa5\x5c\xb3\x5c",
		"text/html; charset=shift_jis": "\x83\x5c\x83\x7e https://example.com/ \x95\x5c",
		"text/html; charset=utf-8":     "\xff\xfd\xc0\x80 https://example.com/ \xed\xa0\x80",
		"text/html":                    "\xef\xbb\xbfhttps://example.com/",
	} {
		want := strings.ReplaceAll(text, "https://example.com", "https://example.cn")
		if got := respond(t, m, kind, strings.NewReader(text)); string(got) != want {
			t.Errorf("%s: %q, want %q", kind, got, want)
		}
	}
}
