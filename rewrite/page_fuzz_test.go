package rewrite

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// pageFragments are what fuzzed pages are made of: byte i of the input is fragment i.
var pageFragments = func() []string {
	own, other := sha256Hash.of([]byte(ownScript)).String(), sha384Hash.of([]byte("x")).String()
	return append(strings.Split("<script |<link |<meta |<SCRIPT/|<base href=/d/>|<!--|-->|<textarea>|</textarea>|</script>|<style>|</style>|<p>|<|>|/>"+
		"| integrity=| INTEGRITY = |integrity|security-policy| http-equiv=Content-Security-Policy| http-equiv='content-security-policy'| content=| src=| href=| onclick="+
		"|\"|'|/a.js|//example.com/a.js|https://other.net/a.js|a.js|script-src |example.com|'unsafe-hashes' |"+
		"| |\n|\r\n|=|a|r|y|&quot;|&amp;|&#39|;|/|ity|cy|<s|<m|text|<script>|<title>", "|"),
		own, other, "'"+own+"' ", "\""+own+"\"", ownScript, inline(ownScript), strings.Repeat("x", maxTag/4), withHash("x"), importMap("x"), "<iframe ", " csp=", `<iframe csp="img-src example.com">`, `<script type=importmap>{`, `"integrity":{`, `"/a.js":"`, `"}}</script>`, `,`,
		`<script src="/a.js" integrity="`+own+`">`, `<meta http-equiv="Content-Security-Policy" content="script-src '`+own+`'">`)
}()

func composePage(input []byte) string {
	var b strings.Builder
	for _, c := range input {
		b.WriteString(pageFragments[int(c)%len(pageFragments)])
	}
	return b.String()
}

// throughPage is a text through the stage alone, in chunks that next gives the sizes of.
func throughPage(t *testing.T, m *Map, res *http.Response, text string, next func() int) (out, policy string) {
	t.Helper()
	d := m.newDocument(res, "text/html")
	var dst []byte
	for src := []byte(text); ; {
		n := min(len(src), next())
		final := n == len(src)
		chunk := bytes.Clone(src[:n])
		if n%2 == 0 { // as where a text stays where it was read
			room := make([]byte, maxReturned)
			chunk = append(room[:d.giveBack(room)], chunk...)
		}
		if n, ok := d.pass(chunk, final); ok {
			dst = append(dst, chunk[:n]...)
		} else {
			dst = d.Append(dst, chunk, final)
		}
		if most := maxImportMap + len(scriptEndTag); len(d.held) > most && !d.waits || len(d.held) > maxPage {
			t.Fatalf("%d bytes held", len(d.held))
		}
		if src = src[n:]; final {
			break
		}
	}
	h := res.Header.Clone()
	d.writeHeader(h, true)
	if len(d.held) > 0 {
		t.Fatalf("%d bytes held at the end", len(d.held))
	}
	d.free()
	return string(dst), h.Get(csp)
}

// FuzzPage: chunks make no difference; nothing but attributes' values changes; no browser finds an
// integrity attribute on a resource of ours whose hash is not known; a page without the words is as
// it was.
func FuzzPage(f *testing.F) {
	for _, c := range htmlTables(f) {
		f.Add([]byte(c.in), uint64(len(c.in)), false, len(c.policy) > 0)
	}
	f.Fuzz(func(t *testing.T, input []byte, seed uint64, composed, policy bool) {
		text := string(input)
		if composed {
			text = composePage(input[:min(len(input), 100)])
		}
		checkPage(t, text, seed, policy)
	})
}

func checkPage(t *testing.T, text string, seed uint64, policy bool) {
	t.Helper()
	res := answer(strings.NewReader(""), -1)
	if policy {
		res.Header.Set(csp, "'unsafe-hashes' "+allowing(ownScript))
	}
	want, wantPolicy := throughPage(t, parseMap(t, fuzzMaps[0]), res, text, func() int { return len(text) })
	rng := rand.New(rand.NewPCG(seed, 1))
	longest := 1 + rng.IntN([]int{1, 4, 30, 1000, maxTag}[rng.IntN(5)])
	got, gotPolicy := throughPage(t, parseMap(t, fuzzMaps[0]), res, text, func() int { return rng.IntN(longest + 1) })
	if got != want || gotPolicy != wantPolicy {
		t.Fatalf("%q\nin chunks %q\n at once  %q\npolicy %s\n       %s", text, got, want, gotPolicy, wantPolicy)
	}
	folded := strings.ToLower(text)
	if !strings.Contains(folded, integrityWord) && !strings.Contains(folded, policyWord) && !strings.Contains(folded, frameWord) && want != text {
		t.Fatalf("%q became %q", text, want)
	}
	z := html.NewTokenizer(strings.NewReader(want))
	for z.Next() != html.ErrorToken {
		raw := string(z.Raw())
		if token := z.Token(); !policy && !strings.Contains(folded, policyWord) && token.Type == html.StartTagToken && strings.Count(raw, "<") == 1 && len(raw) <= maxTag {
			checkToken(t, raw, token)
		}
	}
}

// checkToken fails on a tag that needs its integrity attribute taken out.
func checkToken(t *testing.T, raw string, token html.Token) {
	t.Helper()
	value := map[string]string{}
	for _, a := range token.Attr {
		value[a.Key] = a.Val
	}
	target := map[string]string{"script": value["src"], "link": value["href"]}[token.Data]
	if target == "/a.js" && len(metadataHashes(value["integrity"])) > 0 && strings.IndexFunc(raw, func(r rune) bool { return r >= beyond || r == 0 }) < 0 {
		t.Fatalf("%q keeps its hash", raw)
	}
}

// TestRandomPages is FuzzPage over texts that look like pages.
func TestRandomPages(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	for range 6000 {
		input := make([]byte, rng.IntN(40))
		for i := range input {
			input[i] = byte(rng.IntN(256))
		}
		checkPage(t, composePage(input), rng.Uint64(), rng.IntN(2) == 0)
	}
}

// TestLongTags: a tag is read up to maxTag bytes, however it comes.
func TestLongTags(t *testing.T) {
	for _, more := range []int{-1, 0, 1} {
		tag := `<script src="/a.js" integrity="` + sha256Hash.of(nil).String() + `" title="">`
		tag = strings.Replace(tag, `title="`, `title="`+strings.Repeat("x", maxTag+more-len(tag)), 1)
		text := "<p>" + tag + withHash("x") + "<p>"
		got, _ := throughPage(t, parseMap(t, fuzzMaps[0]), answer(strings.NewReader(""), -1), text, func() int { return len(text) })
		if kept := strings.Contains(got, "integrity"); kept != (more > 0) {
			t.Errorf("a tag of maxTag %+d bytes keeps its attribute: %v", more, kept)
		}
		checkPage(t, text, uint64(more+2), false)
	}
}

// TestPageNoAllocation: a chunk without the words costs no memory, and neither does the stage.
func TestPageNoAllocation(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	text := page(32<<10, 5, []string{"example.com"})
	res := answer(strings.NewReader(""), -1)
	if n := testing.AllocsPerRun(100, func() {
		d := m.newDocument(res, "text/html")
		for range 3 {
			if n, ok := d.pass(text, false); !ok || n != len(text) {
				t.Fatal("the page did not pass")
			}
		}
		d.free()
	}); n > 0.5 {
		t.Errorf("%v allocations", n)
	}
}

// TestMaxPageInChunks: where a page that waits gets too long, chunks make no difference either.
func TestMaxPageInChunks(t *testing.T) {
	res := answer(strings.NewReader(""), -1, csp+": "+allowing(ownScript))
	tag := strings.Repeat(withHash("x")+inline(ownScript), 20)
	for shift := range 3 {
		text := strings.Repeat("x", maxPage-len(tag)/2+shift*len(tag)/5) + tag + tag
		want, wantPolicy := throughPage(t, parseMap(t, fuzzMaps[0]), res, text, func() int { return len(text) })
		for _, size := range []int{1000, chunkSize} {
			got, policy := throughPage(t, parseMap(t, fuzzMaps[0]), res, text, func() int { return size })
			if got != want || policy != wantPolicy {
				t.Errorf("chunks of %d: %s, want %s; %d bytes, want %d", size, policy, wantPolicy, len(got), len(want))
			}
		}
		if strings.Contains(want, "integrity") || wantPolicy != allowing(publicScript) {
			t.Errorf("policy %s, %s", wantPolicy, want[len(want)-200:])
		}
	}
}
