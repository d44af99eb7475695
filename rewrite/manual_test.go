package rewrite

import (
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

// manualMap is the map of docs/REWRITING.md.
const manualMap = "https://example.cn https://example.com\nhttps://*.example.cn https://*.example.com\nhttps://fonts.example.cn https://fonts.googleapis.com"

// manualUnicode is the one with names in their own script.
const manualUnicode = "https://example.cn https://xn--r8jz45g.jp\nhttps://*.example.cn https://*.xn--r8jz45g.jp\nhttps://test.cn https://xn--fsqu00a.xn--0zwm56d"

// manualTables are the rows of docs/REWRITING.md by the first cell of their table's head.
func manualTables(t *testing.T) map[string][][]string {
	t.Helper()
	data, err := os.ReadFile("../docs/REWRITING.md")
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string][][]string{}
	head := ""
	for line := range strings.Lines(string(data)) {
		row, ok := strings.CutPrefix(strings.TrimSpace(line), "|")
		if !ok {
			head = ""
			continue
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.TrimSuffix(row, "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		switch {
		case head == "":
			head = cells[0]
		case strings.Trim(cells[0], "-") != "":
			tables[head] = append(tables[head], cells)
		}
	}
	return tables
}

// TestManual holds docs/REWRITING.md true: what it says of a text becomes of it.
func TestManual(t *testing.T) {
	m := parseMap(t, manualMap)
	found := manualTables(t)
	ran := 0
	for head, r := range map[string]*Replacer{
		"the origin says":                  m.ToPublic(),
		"with bare, the origin says":       m.ToPublic().withBare,
		"with such names, the origin says": parseMap(t, manualUnicode).ToPublic(),
	} {
		if len(found[head]) == 0 {
			t.Errorf("there is no table %q", head)
		}
		for _, row := range found[head] {
			ran++
			in, want := row[0], row[1]
			if !strings.HasPrefix(want, "`") { // the reason why it stays
				want = in
			}
			if got := r.String(in); got != want {
				t.Errorf("%s becomes\n%s, and not\n%s", in, got, want)
			}
			if back := r.back.String(want); want != in && r.String(back) != want {
				t.Errorf("%s comes back as %s", want, back)
			}
		}
	}
	if ran < 20 {
		t.Errorf("only %d rows", ran)
	}
}

// TestManualFields holds its tables of header fields complete.
func TestManualFields(t *testing.T) {
	found := manualTables(t)
	for head, want := range map[string][]string{
		"field of an answer": slices.Sorted(maps.Keys(responseFields)),
		"field of a request": slices.Sorted(slices.Values(requestFields)),
	} {
		var got []string
		for _, row := range found[head] {
			for name := range strings.SplitSeq(row[0], ",") {
				got = append(got, http.CanonicalHeaderKey(strings.Trim(strings.TrimSpace(name), "`")))
			}
		}
		slices.Sort(got)
		for _, name := range want {
			if !slices.Contains(got, name) {
				t.Errorf("the table %q lacks %s", head, name)
			}
		}
		for _, name := range got {
			if !slices.Contains(want, name) && !slices.Contains(otherFields, name) {
				t.Errorf("the table %q has %s, and the code has not", head, name)
			}
		}
	}
}

// otherFields are mapped, but not by a table: by the relay, with the body, or by tags.
var otherFields = []string{
	"Host", "Cookie", "If-Match", "If-None-Match", "If-Range", "Range", "Content-Length",
	"Etag", "Content-Encoding", "Vary", "Accept-Ranges", "Content-Md5", "Digest", "Repr-Digest", "Content-Digest",
	"Strict-Transport-Security", "Clear-Site-Data",
}
