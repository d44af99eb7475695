package rewrite

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// parseBase reads "https://*.example.com:8443".
func parseBase(t testing.TB, text string) Base {
	t.Helper()
	scheme, authority, ok := strings.Cut(text, "://")
	host, port, ok2 := splitAuthority(authority)
	if !ok || !ok2 {
		t.Fatalf("base %q", text)
	}
	return Base{scheme, host, port}
}

// parseMap reads "public origin" lines.
func parseMap(t testing.TB, text string) *Map {
	t.Helper()
	var pairs []Pair
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		public, origin, _ := strings.Cut(strings.TrimSpace(line), " ")
		pairs = append(pairs, Pair{parseBase(t, public), parseBase(t, strings.TrimSpace(origin))})
	}
	m, err := NewMap(pairs)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// testCase is one line of a table in testdata.
type testCase struct {
	where    string // file:line
	m        *Map
	back     bool // to the origin
	bare     bool // hosts alone in quotes too
	name     string
	in, want string
}

// tables reads testdata/*.txt of a folder; the format is in testdata/README.
func tables(t testing.TB, folder string) []testCase {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", folder, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tables in %s: %v", folder, err)
	}
	var cases []testCase
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		cases = append(cases, parseTable(t, file, string(data))...)
	}
	return cases
}

func parseTable(t testing.TB, file, text string) []testCase {
	t.Helper()
	var cases []testCase
	var m *Map
	var back, bare bool
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		verb, rest, _ := strings.Cut(lines[i], " ")
		at := file + ":" + itoa(i+1)
		switch {
		case lines[i] == "" || verb == "#":
		case verb == "map":
			var pairs []string
			for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "\t") {
				i++
				pairs = append(pairs, lines[i])
			}
			m, back = parseMap(t, strings.Join(pairs, "\n")), false
			bare = false
		case verb == "back":
			back = true
		case verb == "bare":
			bare = true
		case verb == "cookies":
			m = m.WithRules(Rules{Cookies: strings.Fields(rest)})
		case verb == "keep":
			cases = append(cases, testCase{at, m, back, bare, "", rest, rest})
		case verb == "from" && i+1 < len(lines):
			i++
			want, ok := strings.CutPrefix(lines[i], "  to")
			if !ok {
				t.Fatalf("%s: no to line behind from", at)
			}
			cases = append(cases, testCase{at, m, back, bare, "", rest, strings.TrimPrefix(want, " ")})
		default:
			t.Fatalf("%s: %q is not map, back, bare, cookies, keep or from", at, lines[i])
		}
	}
	return cases
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

// TestManyPairs: thousands of pairs are compiled in the time that they take, not in its square.
func TestManyPairs(t *testing.T) {
	var list []Pair
	for i := range 12000 {
		name := "w" + itoa(i)
		list = append(list, Pair{Base{"https", "*." + name + ".cn", ""}, Base{"https", "*." + name + ".com", ""}})
	}
	list = append(list, Pair{Base{"https", "a.w7.cn", ""}, Base{"https", "other.org", ""}})
	m, err := NewMap(list)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"https://x.w11999.com/": "https://x.w11999.cn/",
		"https://other.org/":    "https://a.w7.cn/",
		"https://a.w7.com/":     "https://a.w7.com/", // it would lead to the other pair's origin
		"https://b.w7.com/":     "https://b.w7.cn/",
	} {
		if got := m.ToPublic().String(text); got != want {
			t.Errorf("%s became %s", text, got)
		}
	}
}
