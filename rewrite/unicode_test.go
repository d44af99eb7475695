package rewrite

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"
)

const unicodeMap = "https://example.cn https://xn--r8jz45g.jp\nhttps://*.example.cn https://*.xn--r8jz45g.jp\nhttps://test.cn https://xn--fsqu00a.xn--0zwm56d\nhttps://plain.cn https://example.com"

// TestUnicodeInChunks: however a text with names in their own script is cut, what comes out is the
// same, and it is what the A-labels give.
func TestUnicodeInChunks(t *testing.T) {
	m := parseMap(t, unicodeMap)
	rng := rand.New(rand.NewPCG(7, 8))
	parts := []string{"https:", "//", "/", `\/\/`, "%2f%2f", "例え.jp", "例子.测试", "example.com", "xn--r8jz45g.jp", ".", ":443", ":", "。", "，", "的", "店", "a", " ", `"`, "\xe4", "\xbe\x8b", strings.Repeat("路", 90)}
	for _, r := range []*Replacer{m.ToPublic(), m.ToPublic().withBare} {
		for range 20_000 {
			var text strings.Builder
			for range 1 + rng.IntN(12) {
				text.WriteString(parts[rng.IntN(len(parts))])
			}
			in := text.String()
			want := r.String(in)
			for _, size := range []int{1, 1 + rng.IntN(9), 1 + rng.IntN(len(in))} {
				if got := inChunks(r, in, size); got != want {
					t.Fatalf("%q in chunks of %d\n got %q\nwant %q", in, size, got, want)
				}
			}
		}
	}
}

// TestUnicodeAnswer: in a page, in UTF-16 too; in another charset the name's bytes are not those.
func TestUnicodeAnswer(t *testing.T) {
	m := parseMap(t, unicodeMap)
	const in, want = "<a href='https://例え.jp/茶'>例え.jp</a>", "<a href='https://example.cn/茶'>例え.jp</a>"
	if got := respond(t, m, "text/html; charset=utf-8", strings.NewReader(in)); string(got) != want {
		t.Errorf("%s", got)
	}
	for _, mark := range []bool{true, false} {
		got := respond(t, m, "text/html; charset=utf-16le", strings.NewReader(string(widened(in, binary.LittleEndian, mark))))
		if string(got) != string(widened(want, binary.LittleEndian, mark)) {
			t.Errorf("UTF-16, mark %v: %q", mark, got)
		}
	}
	const shiftJIS = "<a href='https://\x97\xe1\x82\xa6.jp/'>"
	if got := respond(t, m, "text/html; charset=shift_jis", strings.NewReader(shiftJIS)); string(got) != shiftJIS {
		t.Errorf("%q", got)
	}
}

// TestNoUnicode: a map without such a host takes bytes outside ASCII for the end of a host, as ever.
func TestNoUnicode(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	if r := m.ToPublic(); r.host != ofHost || r.spells != &spellsURL || len(r.unicode) > 0 {
		t.Error("a map of ASCII names looks for others")
	}
	s := m.ToPublic().NewStream()
	if out := s.Append(nil, []byte("https://店"), false); string(out) != "https://店" {
		t.Errorf("held back: %d bytes", s.Held())
	}
}
