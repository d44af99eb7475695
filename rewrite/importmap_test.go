package rewrite

import (
	"strings"
	"testing"
)

func importMap(text string) string {
	return `<script type="importmap">{"integrity":{"/a.js":"` + sha384Hash.of([]byte(text)).String() + `"}}</script>`
}

const emptyImportMap = `<script type="importmap">{"integrity":{}}</script>`

// TestLongImportMaps: an import map is read up to maxImportMap bytes, however it comes.
func TestLongImportMaps(t *testing.T) {
	const end = len("</script>")
	for _, more := range []int{-1, 0, 1, 9} {
		filler := strings.Repeat(" ", maxImportMap+more+end-len(importMap("x")))
		text := "<p>" + strings.Replace(importMap("x"), "{", "{"+filler, 1) + withHash("x") + "<p>"
		got, _ := throughPage(t, parseMap(t, fuzzMaps[0]), answer(strings.NewReader(""), -1), text, func() int { return len(text) })
		if kept := strings.Contains(got, "sha384"); kept != (more > 0) {
			t.Errorf("an import map of maxImportMap %+d bytes keeps its hash: %v", more, kept)
		}
		for seed := range uint64(8) {
			checkPage(t, text, seed, false)
		}
	}
}

// TestPolicyOfImportMap: what an import map becomes is not the same in every page, and so the next
// page does not rely on it.
func TestPolicyOfImportMap(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	source := func(element string) string {
		return strings.TrimSuffix(element[strings.IndexByte(element, '>')+1:], "</script>")
	}
	ask := func(want string) {
		t.Helper()
		page, h := fetch(t, m, "https://example.com/", "text/html", importMap(ownScript), 0, csp+": "+allowing(source(importMap(ownScript))))
		if got := h.Get(csp); page != want || got != allowing(source(want)) {
			t.Errorf("got %s with %s, want %s with %s", page, got, want, allowing(source(want)))
		}
	}
	ask(emptyImportMap)
	fetch(t, m, "https://example.com/a.js", "application/octet-stream", ownScript, 0)
	ask(importMap(ownScript)) // it passes
	fetch(t, m, "https://example.com/a.js", "text/javascript", ownScript, 0)
	ask(emptyImportMap)
	fetch(t, m, "https://example.com/a.js", "text/javascript", ownScript, 0)
	ask(importMap(publicScript))
}
