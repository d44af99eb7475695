package rewrite

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// htmlCase is one piece of a page in testdata/html.
type htmlCase struct {
	where, pairs, url      string
	fetched                [][2]string // URL and text of resources that were fetched before
	in, want               string
	policy, policyExpected string
}

// htmlTables reads testdata/html; the format is in testdata/README.
func htmlTables(t testing.TB) (cases []htmlCase) {
	t.Helper()
	files, err := filepath.Glob("testdata/html/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tables: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		cases = append(cases, htmlTable(t, file, string(data))...)
	}
	return cases
}

func htmlTable(t testing.TB, file, text string) (cases []htmlCase) {
	t.Helper()
	var c htmlCase
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		verb, rest, _ := strings.Cut(lines[i], " ")
		c.where = fmt.Sprintf("%s:%d", file, i+1)
		rest = expand(t, c.where, rest)
		next := func(prefix string) (string, bool) {
			if i+1 == len(lines) || !strings.HasPrefix(lines[i+1], prefix) {
				return "", false
			}
			i++
			return expand(t, c.where, strings.TrimPrefix(lines[i], prefix)), true
		}
		switch {
		case lines[i] == "" || verb == "#":
		case verb == "map":
			c = htmlCase{}
			for pair, ok := next("\t"); ok; pair, ok = next("\t") {
				c.pairs += pair + "\n"
			}
		case verb == "page":
			c.url, c.fetched = rest, nil
		case verb == "fetched":
			at, body, _ := strings.Cut(rest, " ")
			c.fetched = append(slices.Clip(c.fetched), [2]string{at, body})
		case verb == "policy":
			c.policy = rest
		case verb == "keep" || verb == "from":
			c.in, c.want, c.policyExpected = rest, rest, c.policy
			if want, ok := next("  to "); ok == (verb == "from") && ok {
				c.want = want
			} else if verb == "from" {
				t.Fatalf("%s: no to line behind from", c.where)
			}
			if policy, ok := next("  policy "); ok {
				c.policyExpected = policy
			}
			cases = append(cases, c)
			c.policy = ""
		default:
			t.Fatalf("%s: %q is none of map, page, fetched, policy, keep, from", c.where, lines[i])
		}
	}
	return cases
}

var hashForm = regexp.MustCompile(`\{(base64 |urlsafe )?(sha\d+):`)

// expand puts newlines in the place of \n, and hashes in that of {sha384:TEXT}.
func expand(t testing.TB, where, text string) string {
	t.Helper()
	text = strings.NewReplacer(`\n`, "\n", `\r`, "\r", `\t`, "\t").Replace(text)
	var out strings.Builder
	for {
		at := hashForm.FindStringSubmatchIndex(text)
		if at == nil {
			return out.String() + text
		}
		end, depth := at[1], 1
		for ; depth > 0; end++ {
			if end == len(text) {
				t.Fatalf("%s: no } behind %s", where, text[at[0]:])
			}
			depth += strings.Count(text[end:end+1], "{") - strings.Count(text[end:end+1], "}")
		}
		form := hashForm.FindStringSubmatch(text)
		a := slices.Index(algorithmNames[:], form[2])
		if a < 0 {
			t.Fatalf("%s: no hash function %s", where, form[2])
		}
		hash := algorithm(a).of([]byte(expand(t, where, text[at[1]:end-1])))
		out.WriteString(text[:at[0]])
		switch form[1] {
		case "base64 ":
			out.WriteString(base64.StdEncoding.EncodeToString([]byte(hash.sum)))
		case "urlsafe ":
			out.WriteString(form[2] + "-" + base64.RawURLEncoding.EncodeToString([]byte(hash.sum)))
		default:
			out.WriteString(hash.String())
		}
		text = text[end:]
	}
}

// fetch puts a text that the origin has at a URL through Response, read in pieces of a size, 0 for
// whole.
func fetch(t testing.TB, m *Map, at, kind, text string, size int, fields ...string) (got string, h http.Header) {
	t.Helper()
	var body io.Reader = strings.NewReader(text)
	if size > 0 {
		body = &pieces{[]byte(text), size}
	}
	res := answer(body, -1, append(fields, "Content-Type: "+kind)...)
	var err error
	if res.Request, err = http.NewRequest("GET", at, nil); err != nil {
		t.Fatal(err)
	}
	m.Response(res, Options{})
	out, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	res.Body.Close()
	return string(out), res.Header
}

// run is what a client gets, the page read in pieces of a size.
func (c htmlCase) run(t testing.TB, size int) (page, policy string) {
	t.Helper()
	m := parseMap(t, c.pairs)
	var fields []string
	if c.policy != "" {
		fields = []string{"Content-Security-Policy: " + c.policy}
	}
	if len(c.fetched) > 0 {
		fetch(t, m, c.url, "text/html", c.in, 0, fields...)
		for _, f := range c.fetched {
			fetch(t, m, f[0], "text/javascript", f[1], size)
		}
	}
	page, h := fetch(t, m, c.url, "text/html", c.in, size, fields...)
	return page, h.Get("Content-Security-Policy")
}

func TestHTMLTables(t *testing.T) {
	for _, c := range htmlTables(t) {
		for _, size := range []int{0, 1, 2, 3, 5, 7, 11, 16, 23, 31, 47, 64, 90, 130, 200} {
			page, policy := c.run(t, size)
			if page != c.want || policy != c.policyExpected {
				t.Errorf("%s: in pieces of %d\n  in %s\n got %s\nwant %s\npolicy %s\n   got %s\n  want %s",
					c.where, size, c.in, page, c.want, c.policy, policy, c.policyExpected)
				break
			}
		}
	}
}

// TestPageWithoutType: what browsers take for HTML is a page too.
func TestPageWithoutType(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	text := "<!DOCTYPE html>" + withHash(ownScript)
	if got, _ := fetch(t, m, "https://example.com/", "", text, 0); got != "<!DOCTYPE html>"+withoutHash {
		t.Errorf("got %s", got)
	}
	if got, _ := fetch(t, m, "https://example.com/", "text/plain", text, 0); got != text {
		t.Errorf("a text that is no page became %s", got)
	}
}
