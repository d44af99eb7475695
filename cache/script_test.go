package cache

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The scripts in testdata are cases, each with a cache of its own; the first of
// them, testdata/fresh.txt, says how they are written.

// script is one case.
type script struct {
	what  string
	line  int
	lines []line
}

type line struct {
	n    int
	text string
}

func readScripts(t *testing.T, file string) []*script {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []*script
	for i, text := range strings.Split(string(content), "\n") {
		switch {
		case text == "" || strings.HasPrefix(text, "##"):
		case strings.HasPrefix(text, "#"):
			all = append(all, &script{what: strings.TrimSpace(text[1:]), line: i + 1})
		case len(all) == 0:
			t.Fatalf("%s:%d: begin with # and what the case shows", file, i+1)
		default:
			s := all[len(all)-1]
			s.lines = append(s.lines, line{i + 1, text})
		}
	}
	return all
}

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		for _, s := range readScripts(t, file) {
			t.Run(fmt.Sprintf("%s:%d", filepath.Base(file), s.line), func(t *testing.T) {
				if !strings.Contains(s.what, "§") && !strings.Contains(s.what, "(policy)") && !strings.Contains(s.what, "(ours)") {
					t.Errorf("%s: name the section, (policy) or (ours)", s.what)
				}
				synctest.Test(t, func(t *testing.T) { s.run(t, file) })
			})
		}
	}
}

// play is a case as it runs.
type play struct {
	*rig
	file    string
	what    string
	policy  Policy
	answers []*answered // that the origin has still to give
}

// answered is an answer of the origin, and what its request must be.
type answered struct {
	line   int
	status int
	header http.Header
	body   strings.Builder
	fails  error // in place of an answer
	cut    error // at the end of the body
	undate bool
	length bool // as Content-Length says
	sent   []line
}

// exchange is one request of a client, and what must become of it.
type exchange struct {
	req     *http.Request
	line    int
	expects []line
}

func (s *script) run(t *testing.T, file string) {
	p := &play{file: file, what: s.what}
	p.rig = newRig(t, Policy{}, p.origin)
	p.Transport.Policy = func(*http.Request) *Policy { policy := p.policy; return &policy }
	defer p.Cache.Close() // in the bubble
	var x *exchange
	for _, l := range s.lines {
		mark, rest, _ := strings.Cut(l.text, " ")
		rest = p.times(rest)
		switch {
		case mark == ">" && (x == nil || x.expects != nil || len(p.answers) > 0 || x.req != nil && strings.HasPrefix(rest, "GET /")):
			p.finish(x)
			method, target, _ := strings.Cut(rest, " ")
			x = &exchange{req: request(method, target), line: l.n}
		case mark == ">":
			name, value, _ := strings.Cut(rest, ": ")
			if name == "Host" {
				x.req.Host, x.req.URL.Host = value, value
			} else {
				x.req.Header.Add(name, value)
			}
		case mark == ">|":
			x.req.Body, x.req.ContentLength = io.NopCloser(strings.NewReader(rest)), int64(len(rest))
		case strings.HasPrefix(mark, "o"):
			p.script(l, mark, rest)
		case mark == "<" || mark == "<!" || mark == "<~" || mark == "<|" || mark == "=" || mark == "<cut" || mark == "<fails":
			x.expects = append(x.expects, line{l.n, mark + " " + rest})
		default:
			p.finish(x)
			x = nil
			p.command(l, mark, rest)
		}
	}
	p.finish(x)
}

// script takes a line of what the origin does.
func (p *play) script(l line, mark, rest string) {
	if code, err := strconv.Atoi(rest); mark == "o<" && err == nil {
		p.answers = append(p.answers, &answered{line: l.n, status: code, header: http.Header{}})
		return
	}
	if mark == "ofails" {
		p.answers = append(p.answers, &answered{line: l.n, fails: errors.New(rest)})
		return
	}
	if len(p.answers) == 0 {
		p.t.Fatalf("%s:%d: begin with o< and a status", p.file, l.n)
	}
	a := p.answers[len(p.answers)-1]
	switch mark {
	case "o<":
		name, value, _ := strings.Cut(rest, ": ")
		a.length = a.length || name == "Content-Length"
		a.header.Add(name, value)
	case "o<|":
		a.body.WriteString(rest)
	case "o<!":
		a.undate = true
	case "ocut":
		a.cut = errors.New(rest)
	case "o>", "o>!":
		a.sent = append(a.sent, line{l.n, mark + " " + rest})
	default:
		p.t.Fatalf("%s:%d: what is %s?", p.file, l.n, mark)
	}
}

// origin gives the next answer.
func (p *play) origin(req *http.Request) (*http.Response, error) {
	if len(p.answers) == 0 {
		p.t.Errorf("%s: %s: the origin was asked for %s with %v, and is not to be", p.file, p.what, req.URL, req.Header)
		return nil, errors.New("the script has no answer")
	}
	a := p.answers[0]
	p.answers = p.answers[1:]
	for _, l := range a.sent {
		mark, want, _ := strings.Cut(l.text, " ")
		name, value, isField := strings.Cut(want, ": ")
		switch {
		case !isField && mark == "o>" && strings.Contains(want, " "):
			if got := req.Method + " " + req.URL.RequestURI(); got != want {
				p.t.Errorf("%s:%d: asked for %s", p.file, l.n, got)
			}
		case mark == "o>!" && len(req.Header.Values(want)) > 0, mark == "o>" && !slices.Contains(req.Header.Values(name), value):
			p.t.Errorf("%s:%d: want %s %s, asked with %v", p.file, l.n, mark, want, req.Header)
		}
	}
	if a.fails != nil {
		return nil, a.fails
	}
	res := text(a.status, a.body.String())
	if maps.Copy(res.Header, a.header); !a.undate && res.Header.Get("Date") == "" {
		res.Header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	if a.length {
		res.ContentLength, _ = strconv.ParseInt(a.header.Get("Content-Length"), 10, 64)
	}
	if a.cut != nil {
		res.Body = io.NopCloser(io.MultiReader(strings.NewReader(a.body.String()), failing{a.cut}))
		res.ContentLength = -1
	}
	return res, nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// finish sends the request and holds what comes against the script.
func (p *play) finish(x *exchange) {
	p.t.Helper()
	if x == nil {
		return
	}
	var trace Trace
	res, err := p.RoundTrip(x.req.WithContext(WithTrace(x.req.Context(), &trace)))
	body, cut := "", error(nil)
	if err == nil {
		all, failed := io.ReadAll(res.Body)
		res.Body.Close()
		body, cut = string(all), failed
		if n := res.ContentLength; n >= 0 && x.req.Method != "HEAD" && cut == nil && n != int64(len(all)) {
			p.t.Errorf("%s:%d: ContentLength is %d, the body has %d", p.file, x.line, n, len(all))
		}
	} else {
		res = &http.Response{}
	}
	synctest.Wait()
	got := fmt.Sprintf("%d %v %q, %v %v, %+v", res.StatusCode, res.Header, body, err, cut, trace)
	failed, cutSeen := false, false
	for _, l := range x.expects {
		mark, want, _ := strings.Cut(l.text, " ")
		ok := false
		switch name, value, isField := strings.Cut(want, ": "); mark {
		case "<":
			if isField {
				ok = slices.Contains(res.Header.Values(name), value)
			} else {
				ok = want == strconv.Itoa(res.StatusCode)
			}
		case "<!":
			ok = len(res.Header.Values(want)) == 0
		case "<~":
			ok = strings.Contains(strings.Join(res.Header.Values(name), ", "), value)
		case "<|":
			ok = body == want
		case "<cut":
			ok, cutSeen = cut != nil && cut.Error() == want, true
		case "<fails":
			ok, failed = err != nil && err.Error() == want, true
		case "=":
			words := strings.Fields(want)
			ok = words[0] == string(trace.Result) && (len(words) == 1 || words[1] == trace.Reason || words[1] == trace.Kept)
			if words[0] == "objects" {
				n := 0
				p.store.List(Match{}, func(Listed) bool { n++; return true })
				ok = words[1] == strconv.Itoa(n)
			}
		}
		if !ok {
			p.t.Errorf("%s:%d: %s\nwant %s\ngot  %s", p.file, l.n, p.what, l.text, got)
		}
	}
	if err != nil && !failed || cut != nil && !cutSeen {
		p.t.Errorf("%s:%d: %s: failed: %v %v", p.file, x.line, p.what, err, cut)
	}
	for _, a := range p.answers {
		p.t.Errorf("%s:%d: %s: the origin was not asked for this", p.file, a.line, p.what)
	}
	p.answers = nil
}

// command is a line that is no part of an exchange.
func (p *play) command(l line, mark, rest string) {
	switch mark {
	case "wait":
		d, err := time.ParseDuration(rest)
		if err != nil {
			p.t.Fatalf("%s:%d: %v", p.file, l.n, err)
		}
		time.Sleep(d)
	case "purge":
		var match Match
		soft := false
		for _, word := range strings.Fields(rest) {
			switch name, value, _ := strings.Cut(word, "="); name {
			case "soft":
				soft = true
			case "url":
				match.URL = value
			case "prefix":
				match.Prefix = value
			case "host":
				match.Host = value
			case "tag":
				match.Tag = value
			}
		}
		p.Cache.Purge(match, soft)
	case "policy":
		for _, word := range strings.Fields(rest) {
			if err := p.set(strings.Cut(word, "=")); err != nil {
				p.t.Fatalf("%s:%d: %v", p.file, l.n, err)
			}
		}
	default:
		p.t.Fatalf("%s:%d: what is %s?", p.file, l.n, mark)
	}
}

// set changes one field of the policy.
func (p *play) set(name, value string, _ bool) (err error) {
	duration := func(to *time.Duration) { *to, err = time.ParseDuration(value) }
	list := strings.Split(value, ",")
	switch name {
	case "off":
		p.policy.Off = true
	case "ttl":
		duration(&p.policy.TTL)
	case "default_ttl":
		duration(&p.policy.DefaultTTL)
	case "heuristic":
		p.policy.Heuristic = true
	case "negative_ttl":
		duration(&p.policy.Negative)
	case "statuses":
		for _, one := range list {
			var n int
			if n, err = strconv.Atoi(one); err == nil {
				p.policy.Statuses = append(p.policy.Statuses, n)
			}
		}
	case "stale_while_revalidate":
		duration(&p.policy.StaleWhileRevalidate)
	case "stale_if_error":
		duration(&p.policy.StaleIfError)
	case "query_only":
		p.policy.Query.Only = list
	case "query_ignore":
		p.policy.Query.Ignore = list
	case "query_none":
		p.policy.Query.None = true
	case "key_headers":
		p.policy.KeyHeaders = list
	case "key_cookies":
		p.policy.KeyCookies = list
	case "ignore_headers":
		p.policy.IgnoreHeaders = list
	case "bypass_cookies":
		p.policy.BypassCookies = list
	case "object_bytes":
		p.policy.MostBytes, err = strconv.ParseInt(value, 10, 64)
	case "match_extension":
		p.policy.Extensions = true
	case "status_key":
		p.policy.ShowKey = true
	case "no_vary_search":
		p.policy.Search = true
	default:
		err = fmt.Errorf("no such policy: %s", name)
	}
	return err
}

var timePattern = regexp.MustCompile(`\{now([+-][0-9a-z]+)?\}`)

// times puts HTTP-dates in the place of {now}, {now+1h}, {now-30s}.
func (p *play) times(s string) string {
	return timePattern.ReplaceAllStringFunc(s, func(match string) string {
		offset := strings.TrimSuffix(strings.TrimPrefix(match, "{now"), "}")
		d := time.Duration(0)
		if offset != "" {
			var err error
			if d, err = time.ParseDuration(offset); err != nil {
				p.t.Fatal(err)
			}
		}
		return time.Now().Add(d).UTC().Format(http.TimeFormat)
	})
}
