package cache

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// titles are what sections are about, in the words of their RFC; a section that is
// not here is counted with the one that it is in.
var titles = map[string]string{
	"RFC 5861 §3":     "stale-while-revalidate",
	"RFC 5861 §4":     "stale-if-error",
	"RFC 8246 §2":     "immutable",
	"RFC 9110 §4":     "identifiers",
	"RFC 9110 §5":     "fields",
	"RFC 9110 §6":     "message abstraction (Date)",
	"RFC 9110 §7":     "routing, Upgrade",
	"RFC 9110 §8":     "representation data and validators",
	"RFC 9110 §9":     "methods",
	"RFC 9110 §12":    "content negotiation",
	"RFC 9110 §13":    "conditional requests",
	"RFC 9110 §14":    "range requests",
	"RFC 9110 §15":    "status codes",
	"RFC 9111 §1":     "delta-seconds",
	"RFC 9111 §2":     "overview",
	"RFC 9111 §3":     "storing responses",
	"RFC 9111 §3.1":   "storing header and trailer fields",
	"RFC 9111 §3.2":   "updating stored header fields",
	"RFC 9111 §3.3":   "storing incomplete responses",
	"RFC 9111 §3.4":   "combining partial content",
	"RFC 9111 §3.5":   "authenticated requests",
	"RFC 9111 §4":     "constructing responses",
	"RFC 9111 §4.1":   "Vary",
	"RFC 9111 §4.2":   "freshness, age, stale responses",
	"RFC 9111 §4.3":   "validation",
	"RFC 9111 §4.4":   "invalidation",
	"RFC 9111 §5.1":   "Age",
	"RFC 9111 §5.2":   "Cache-Control",
	"RFC 9111 §5.3":   "Expires",
	"RFC 9111 §5.4":   "Pragma",
	"RFC 9112 §8":     "incomplete messages",
	"RFC 9211 §2":     "Cache-Status",
	"RFC 9213 §1":     "targeted fields",
	"RFC 9213 §2":     "CDN-Cache-Control",
	"RFC 9530 §3":     "Repr-Digest",
	"RFC 9651 §3":     "structured fields",
	"RFC 9651 §4":     "parsing of structured fields",
	"Fetch §3":        "CORS",
	"RFC 9111 §5.2.1": "Cache-Control of requests",
	"RFC 9111 §5.2.2": "Cache-Control of responses",
	"RFC 9111 §5.2.3": "extensions of Cache-Control",
}

// ground is the section that a case names, or the RFC of those behind it.
var ground = regexp.MustCompile(`(RFC \d+|Fetch)|§(\d+(?:\.\d+)*)`)

// TestConformancePage counts the cases of the scripts by the sections that they name,
// and fails unless docs/CONFORMANCE.md says the same. UPDATE=1 writes it there.
func TestConformancePage(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	cases, byRFC, policy, ours := 0, 0, 0, 0
	count := map[string]int{}
	for _, file := range files {
		for _, s := range readScripts(t, file) {
			cases++
			why := s.what[strings.LastIndexByte(s.what, '('):]
			if strings.Contains(why, "(policy") {
				policy++
			}
			if strings.Contains(why, "(ours") {
				ours++
			}
			of, named := "", map[string]bool{}
			for _, m := range ground.FindAllStringSubmatch(why, -1) {
				if m[1] != "" {
					of = m[1]
					continue
				}
				section := of + " §" + m[2]
				for titles[section] == "" {
					end := strings.LastIndexByte(section, '.')
					if end < 0 {
						t.Fatalf("%s:%d: %s: give the section its title", file, s.line, section)
					}
					section = section[:end]
				}
				named[section] = true
			}
			for section := range named {
				count[section]++
			}
			if len(named) > 0 {
				byRFC++
			}
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%d cases: %d of sections of RFCs or of Fetch (a case of two sections is counted at both), %d of the keys of the file, %d of what Causeway does of its own.\n\n", cases, byRFC, policy, ours)
	text.WriteString("| section | about | cases |\n|---|---|---|\n")
	for _, section := range slices.SortedFunc(maps.Keys(count), bySection) {
		fmt.Fprintf(&text, "| %s | %s | %d |\n", section, titles[section], count[section])
	}
	fmt.Fprintf(&text, "\nBeside them `TestModel` plays %d sequences drawn at random, the same in each run (%d with the race detector), against a slow and plain model of RFC 9111 (`cache/model_test.go`), which judges every answer.\n", modelSequences, fewSequences)
	heldPage(t, "CONFORMANCE.md", text.String())
}

// heldPage sees that a page of docs has a text that the test makes, at its place there,
// or with UPDATE puts it there.
func heldPage(t *testing.T, name, text string) {
	t.Helper()
	page, command := "../docs/"+name, "UPDATE=1 go test ./cache -run "+t.Name()
	begin, end := "<!-- made by "+command+" -->\n", "<!-- end -->"
	is, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(is), begin)
	old, after, ends := strings.Cut(rest, end)
	if !found || !ends {
		t.Fatalf("%s has no place for it: %s…%s", page, begin, end)
	}
	if old == text {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("%s says something else: %s", page, command)
	}
	if err := os.WriteFile(page, []byte(before+begin+text+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// bySection orders "RFC 9111 §4.2" by its numbers.
func bySection(a, b string) int {
	numbers := func(s string) (all []int) {
		for _, n := range regexp.MustCompile(`\d+`).FindAllString(s, -1) {
			n, _ := strconv.Atoi(n)
			all = append(all, n)
		}
		return all
	}
	nameA, _, _ := strings.Cut(a, " ")
	nameB, _, _ := strings.Cut(b, " ")
	return cmp.Or(-cmp.Compare(nameA, nameB), slices.Compare(numbers(a), numbers(b)))
}
