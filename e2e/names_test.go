package e2e

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// census counts the names of an origin in what a visitor sees. It is slow and
// simple: every spelling of punctuation is undone first, then a name is a name.
type census struct {
	domain string
	name   *regexp.Regexp

	mu     sync.Mutex                // guards the rest
	looked map[string]int            // how many things were looked at, by where
	fields map[string]bool           // names of header fields that were looked at
	found  map[string]map[string]int // where: a name with what is around it, and how often
	faults []string                  // what could not be looked at
}

// Where a name can be. Only those in visible and addresses may stay.
const (
	inBodies   = "bodies"
	inPages    = "pages" // the document after its scripts ran
	inHeaders  = "headers"
	inCookies  = "cookies"
	inRequests = "requests"
	inProse    = "prose" // of bodies and pages: not a URL, not a whole string
	inMail     = "mail"  // an address, me@example.com
)

func newCensus(domain string) *census {
	return &census{
		domain: domain,
		name:   regexp.MustCompile(`(?i)(?:[a-z0-9_-]+\\*\.)*` + strings.ReplaceAll(domain, ".", `\\*\.`)),
		looked: map[string]int{},
		fields: map[string]bool{},
		found:  map[string]map[string]int{},
	}
}

// spelled is a character of a URL in any spelling but its own.
var spelled = regexp.MustCompile(`(?i)\\+u00(2f|3a|2e|40)|\\+x(2f|3a|2e|40)|%(?:25)*(2f|3a|2e|40)|&#x0*(2f|3a|2e|40);|&#0*(47|58|46|64);|&(sol|colon|period|commat);|\\+([/:])`)

var meant = map[string]string{
	"2f": "/", "3a": ":", "2e": ".", "40": "@", "47": "/", "58": ":", "46": ".", "64": "@",
	"sol": "/", "colon": ":", "period": ".", "commat": "@", "/": "/", ":": ":",
}

// unspell writes URL punctuation plainly.
func unspell(text string) string {
	return spelled.ReplaceAllStringFunc(text, func(one string) string {
		for _, group := range spelled.FindStringSubmatch(one)[1:] {
			if group != "" {
				return meant[strings.ToLower(group)]
			}
		}
		return one
	})
}

// mention is one place where a text has a name.
type mention struct {
	kind string
	text string // with a little of what is around it
}

// What a name in a text is.
const (
	isURL    = "URL"
	isString = "string" // "example.com", the whole of it, in a program or in JSON
	isMail   = "mail"   // me@example.com
	isProse  = "prose"  // or a pattern, example\.com
)

// mentions finds the names in a text.
func (c *census) mentions(text string) []mention {
	var all []mention
	label, _, _ := strings.Cut(c.domain, ".")
	if !strings.Contains(strings.ToLower(text), label) {
		return nil
	}
	text = unspell(text)
	for _, at := range c.name.FindAllStringIndex(text, -1) {
		before, after := text[:at[0]], text[at[1]:]
		if nameGoesOn.MatchString(after) || nameBegan.MatchString(before) {
			continue // example.com.evil.net, notexample.com
		}
		m := mention{isProse, before[max(0, len(before)-60):] + text[at[0]:at[1]] + after[:min(len(after), 30)]}
		switch {
		case strings.Contains(text[at[0]:at[1]], `\`):
			// a pattern of regular expressions, example\.com
		case strings.HasSuffix(before, "@"):
			m.kind = isMail
		case strings.HasSuffix(before, "//"):
			m.kind = isURL
		case wholeString(before, after):
			m.kind = isString
		}
		all = append(all, m)
	}
	return all
}

// What makes a name a part of another.
var (
	nameGoesOn = regexp.MustCompile(`^(?i)(?:[a-z0-9_-]|\.[a-z0-9])`)
	nameBegan  = regexp.MustCompile(`(?i)[a-z0-9_.-]$`)
)

// wholeString says whether a name is a whole string of a program or of JSON.
func wholeString(before, after string) bool {
	return before != "" && after != "" && strings.Contains("\"'`", before[len(before)-1:]) && after[0] == before[len(before)-1]
}

func (c *census) note(where, what string) {
	if c.found[where] == nil {
		c.found[where] = map[string]int{}
	}
	c.found[where][what]++
}

// text counts in a text; URLs and whole strings in it count for where.
func (c *census) text(where, of, text string, err error) {
	found := c.mentions(text)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked[where]++
	if err != nil {
		c.faults = append(c.faults, fmt.Sprintf("%s of %s: %v", where, of, err))
	}
	for _, m := range found {
		place := where
		if m.kind == isProse {
			place = inProse
		} else if m.kind == isMail {
			place = inMail
		}
		c.note(place, fmt.Sprintf("%s: %q", of, m.text))
	}
}

func (c *census) body(of string, body []byte, err error) { c.text(inBodies, of, string(body), err) }

func (c *census) page(of, html string, err error) { c.text(inPages, of, html, err) }

// header counts in a field. There, every name counts: the answer of a site says
// nothing in prose in its header.
func (c *census) header(of, name, value string) {
	c.mu.Lock()
	c.fields[strings.ToLower(name)] = true
	c.mu.Unlock()
	c.any(inHeaders, fmt.Sprintf("%s: %s: %s", of, name, value), value)
}

func (c *census) cookie(name, domain, value string) {
	c.any(inCookies, fmt.Sprintf("%s=%s; Domain=%s", name, value, domain), domain+" "+value)
}

func (c *census) any(where, what, value string) {
	found := c.mentions(value)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked[where]++
	for _, m := range found {
		if m.kind != isMail {
			c.note(where, what)
		}
	}
}

// request counts what leaves for the origin.
func (c *census) request(address string) {
	u, err := url.Parse(address)
	if err != nil || !strings.HasPrefix(u.Scheme, "http") {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked[inRequests]++
	if host := u.Hostname(); host == c.domain || strings.HasSuffix(host, "."+c.domain) {
		c.note(inRequests, address)
	}
}

// count is how many names there are.
func (c *census) count(where string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, times := range c.found[where] {
		n += times
	}
	return n
}

// list is what was found, and how often.
func (c *census) list(where string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, what := range slices.Sorted(maps.Keys(c.found[where])) {
		all = append(all, fmt.Sprintf("%d× %s", c.found[where][what], what))
	}
	return all
}

// mustBeClean fails the test when a visitor could have seen a name, or when
// nothing was looked at.
func (c *census) mustBeClean(t *testing.T, wheres ...string) {
	t.Helper()
	for _, where := range wheres {
		if c.looked[where] == 0 {
			t.Errorf("no %s were looked at", where)
		}
		for _, what := range c.list(where) {
			t.Errorf("%s name the origin: %s", where, what)
		}
	}
	for _, name := range []string{"set-cookie", "location", "content-type"} {
		if !c.fields[name] {
			t.Errorf("no field %s was looked at", name)
		}
	}
	for _, fault := range c.faults {
		t.Errorf("not looked at: %s", fault)
	}
}

// TestCensus: what counts as a name, and as what.
func TestCensus(t *testing.T) {
	for text, want := range map[string]string{
		`<a href="https://blog.example.com/">`: isURL,
		`{"u":"https:\/\/example.com\/"}`:      isURL,
		`?u=https%3A%2F%2Fexample.com`:         isURL,
		`?u=https%253A%252F%252Fexample.com`:   isURL,
		`"\u002f\u002FBLOG.example.com"`:       isURL,
		`&#x2F;&#47;example.com&sol;`:          isURL,
		`/^https?:\/\/blog\.example\.com/`:     isProse,
		`{"host":"blog.example.com"}`:          isString,
		`write to me@example.com, please`:      isMail,
		`me%40example.com`:                     isMail,
		`come to blog.example.com, please.`:    isProse,
		`this is example.com.`:                 isProse,
		`https://example.com.evil.net/ //notexample.com/ example.community example.com-x`: "",
	} {
		var got []string
		for _, m := range newCensus("example.com").mentions(text) {
			got = append(got, m.kind)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s is %q, want %q", text, got, want)
		}
	}
}

// mustBeExplained fails the test for names in prose that hold none of the texts.
func (c *census) mustBeExplained(t *testing.T, texts ...string) {
	t.Helper()
	for _, what := range c.list(inProse) {
		if !slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(what, text) }) {
			t.Errorf("prose names the origin: %s", what)
		}
	}
}

// tableRow is what one way to an application left.
type tableRow struct {
	way    string
	visit  *visit
	stored int // public names that the application keeps
}

// logTable prints what each way left, side by side.
func logTable(t *testing.T, rows ...tableRow) {
	t.Helper()
	text := fmt.Sprintf("%-26s %6s %7s | origin's names in %7s %6s %8s %8s %9s | public names stored\n",
		"", "steps", "broken", "bodies", "pages", "headers", "cookies", "requests")
	for _, r := range rows {
		seen := r.visit.seen
		text += fmt.Sprintf("%-26s %6d %7d | %25d %6d %8d %8d %9d | %d\n", r.way, r.visit.steps, len(r.visit.broken),
			seen.count(inBodies), seen.count(inPages), seen.count(inHeaders), seen.count(inCookies), seen.count(inRequests), r.stored)
	}
	t.Logf("\n%s", text)
	for _, r := range rows {
		for _, broken := range r.visit.broken {
			t.Logf("%s: %.700s", r.way, broken)
		}
	}
}

// missing skips for want of a Debian package, outside of CI.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed: make deps", what)
	}
	t.Skipf("%s is not installed: make deps", what)
}
