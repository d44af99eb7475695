package rewrite

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// FuzzTag: a tag ends where a tokenizer ends it, however it is cut, and its attributes are those.
func FuzzTag(f *testing.F) {
	for _, tag := range []string{
		`<script src="/a.js" integrity='sha384-x' async>`, `<a b=c/d e = "f>g" 'h>`, `<a =b==c>`, `<a b= >`, `<a/b/c=/>`, `<a "b"=c"d'e>`,
		`<a b=">`, `<a b='&amp;&lt&copy=2&copyfoo;&#45&#x2dz&notit;&notin;&ampx'>`, `<a`, `<a b<c>`, `<a b="<c">`, "<a\n\tb\f=\n'c'd=e>", `<a b=c b=d B>`,
	} {
		f.Add([]byte(tag), byte(3))
	}
	f.Fuzz(func(t *testing.T, tag []byte, piece byte) {
		if len(tag) < 2 || tag[0] != '<' || !('a' <= lower(tag[1]) && lower(tag[1]) <= 'z') || bytes.ContainsFunc(tag, func(r rune) bool { return r == '\r' || r == 0 || r >= beyond }) {
			return
		}
		var scan, cut tagScan
		state := scan.run(tag[1:])
		for n := 1; n < len(tag); n += 1 + int(piece) {
			cut.run(tag[1:n])
		}
		if cut.run(tag[1:]) != state || cut != scan {
			t.Fatalf("in pieces %+v, at once %+v", cut, scan)
		}
		z := html.NewTokenizer(bytes.NewReader(tag))
		if kind := z.Next(); state == tagBroken || kind == html.ErrorToken != (state != tagClosed) {
			if state != tagBroken {
				t.Fatalf("%q: state %d, token %v", tag, state, kind)
			}
			return
		} else if state != tagClosed {
			return
		}
		if raw := z.Raw(); len(raw) != 1+scan.at {
			t.Fatalf("%q ends before %d, want %d", tag, 1+scan.at, len(raw))
		}
		tag = tag[:1+scan.at]
		list := attributes(nil, tag)
		for _, want := range z.Token().Attr { // each name once
			a, ok := attributeOf(list, tag, strings.ToLower(want.Key))
			if !ok || a.text(tag) != want.Val {
				t.Fatalf("%q: attribute %q, want %+v", tag, a.text(tag), want)
			}
		}
		checkEdits(t, tag, list)
	})
}

// checkEdits: a tag without one attribute, or with another value, has all others as before.
func checkEdits(t *testing.T, tag []byte, list []attribute) {
	t.Helper()
	for i, a := range list {
		from, to := a.without(tag)
		less := string(tag[:from]) + string(tag[to:])
		rest := texts([]byte(less))
		want := append(texts(tag)[:i:i], texts(tag)[i+1:]...)
		if strings.Join(rest, "\n") != strings.Join(want, "\n") && !glued(tag, list, i) {
			t.Fatalf("%q without attribute %d is %q: %q, want %q", tag, i, less, rest, want)
		}
		if a.value == a.nameEnd {
			continue
		}
		for _, value := range []string{"x", `a b'"&<>=`, "&amp;"} {
			other := string(tag[:a.value]) + a.written(value) + string(tag[a.valueEnd:])
			if a.quote == 0 && strings.HasPrefix(string(tag[a.valueEnd:]), "/") {
				continue
			}
			want := texts(tag)
			want[i] = string(tag[a.name:a.nameEnd]) + "=" + value
			if got := texts([]byte(other)); strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Fatalf("%q with %q is %q: %q, want %q", tag, value, other, got, want)
			}
		}
	}
}

// glued: without the attribute, what stands before it would go on with what stands behind it. So
// it is with attributes that nothing parts, and with names that begin with "=".
func glued(tag []byte, list []attribute, i int) bool {
	return i > 0 && list[i-1].end() == list[i].name || i+1 < len(list) && tag[list[i+1].name] == '='
}

// texts are the attributes of a tag as name=value.
func texts(tag []byte) (list []string) {
	var scan tagScan
	if scan.run(tag[1:]) != tagClosed {
		return []string{"no tag"}
	}
	for _, a := range attributes(nil, tag[:1+scan.at]) {
		list = append(list, string(tag[a.name:a.nameEnd])+"="+a.text(tag))
	}
	return list
}
