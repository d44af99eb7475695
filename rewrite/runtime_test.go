package rewrite

import (
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// inserterOf is the stage that the tables of testdata/runtime are for, by the name of the file.
func inserterOf(t testing.TB, tag, file string) *inserter {
	t.Helper()
	switch file {
	case "open":
		return newInserter(tag, htmlType, aimOpen)
	case "unknown":
		return newInserter(tag, htmlType, aimUnknown)
	case "xhtml":
		return newInserter(tag, xhtmlType, aimOpen)
	}
	t.Fatalf("testdata/runtime/%s.txt: no such kind of page", file)
	return nil
}

// insertIn puts a text through the stage in chunks of one size.
func insertIn(s *inserter, text string, size int) string {
	var out []byte
	for len(text) > size {
		out = s.Append(out, []byte(text[:size]), false)
		text = text[size:]
	}
	return string(s.Append(out, []byte(text), true))
}

func TestInserter(t *testing.T) {
	written := strings.NewReplacer(`\n`, "\n", `\ufeff`, "\ufeff")
	for _, c := range tables(t, "runtime") {
		in, want := written.Replace(c.in), written.Replace(c.want)
		file, _, _ := strings.Cut(filepath.Base(c.where), ".")
		for size := 1; size <= max(len(in), 1); size++ {
			if got := insertIn(inserterOf(t, "TAG", file), in, size); got != want {
				t.Errorf("%s: in chunks of %d\n got %q\nwant %q", c.where, size, got, want)
				break
			}
		}
	}
}

// FuzzInserter: however a page is cut, the tag is put in the same place, once, and nothing else
// changes; no more than a tag that has begun is held back.
func FuzzInserter(f *testing.F) {
	for _, c := range tables(f, "runtime") {
		f.Add(c.in, 3)
	}
	const tag = "\x00TAG\x00"
	f.Fuzz(func(t *testing.T, page string, size int) {
		if size = max(1, min(size, len(page))); strings.Contains(page, tag) {
			t.Skip()
		}
		for _, kind := range []string{"open", "unknown", "xhtml"} {
			want := insertIn(inserterOf(t, tag, kind), page, max(1, len(page)))
			if strings.Replace(want, tag, "", 1) != page {
				t.Fatalf("%s: %q became %q", kind, page, want)
			}
			if got := insertIn(inserterOf(t, tag, kind), page, size); got != want {
				t.Fatalf("%s: in chunks of %d %q became\n%q, at once\n%q", kind, size, page, got, want)
			}
			s, given := inserterOf(t, tag, kind), 0
			for i := range len(page) {
				given += len(s.Append(nil, []byte{page[i]}, false))
				if i+1-given > len(s.held) {
					t.Fatalf("%s: %q: %d bytes held back", kind, page[:i+1], i+1-given)
				}
			}
		}
	})
}

// runtimeSite is example.com with Rules.Runtime.
func runtimeSite(t testing.TB) *Map {
	t.Helper()
	return parseMap(t, "https://example.cn https://example.com\nhttps://*.example.cn https://*.example.com").WithRules(Rules{Runtime: true})
}

// openPage is the answer to one who opens a page, unless the fields say otherwise.
func openPage(t testing.TB, m *Map, body string, fields ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequest("GET", "https://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Sec-Fetch-Dest", "document")
	req.Header.Set("Sec-Fetch-Mode", "navigate")
	res := answer(strings.NewReader(body), int64(len(body)), "Content-Type: text/html")
	res.Request = req
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		switch asked, ok := strings.CutPrefix(name, "> "); {
		case ok && value == "":
			req.Header.Del(asked)
		case ok:
			req.Header.Set(asked, value)
		default:
			res.Header.Set(name, value)
		}
	}
	m.Request(req)
	m.Response(res, Options{})
	return res
}

func textOf(t testing.TB, res *http.Response) string {
	t.Helper()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRuntimePolicies(t *testing.T) {
	m := runtimeSite(t)
	files := m.runtime()
	names := strings.NewReplacer("SCRIPT", "example.cn"+files.scriptPath(), "WORKER", "example.cn"+files.workerPath(), "HASH", files.integrity)
	for _, c := range tables(t, "policies") {
		want, element, _ := strings.Cut(c.want, " |")
		req, _ := http.NewRequest("GET", "https://example.com/", nil)
		res := answer(strings.NewReader("<head>"), 6, "Content-Type: text/html")
		res.Request = req
		req.Header.Set("Sec-Fetch-Dest", "document")
		fields := func(text string) http.Header {
			h := http.Header{}
			for policy := range strings.SplitSeq(text, " + ") {
				if value, ok := strings.CutPrefix(policy, "report-only "); ok {
					h.Add("Content-Security-Policy-Report-Only", value)
				} else {
					h.Add("Content-Security-Policy", policy)
				}
			}
			return h
		}
		for name, values := range fields(c.in) {
			res.Header[name] = values
		}
		m.Response(res, Options{})
		for name, values := range fields(names.Replace(want)) {
			if got := strings.Join(res.Header[name], " + "); got != strings.Join(values, " + ") {
				t.Errorf("%s: %s\n  in %s\n got %s\nwant %s", c.where, name, c.in, got, strings.Join(values, " + "))
			}
		}
		wanted := `<head><script src="` + files.scriptPath() + `"` + names.Replace(element) + "></script>"
		if element == " no element" {
			wanted = "<head>"
		}
		if got := textOf(t, res); got != wanted {
			t.Errorf("%s: %s\n got %s\nwant %s", c.where, c.in, got, wanted)
		}
	}
}

// FuzzPolicy: no policy breaks anything, and without what the rule adds it is what it was.
func FuzzPolicy(f *testing.F) {
	for _, c := range tables(f, "policies") {
		f.Add(c.in)
	}
	source := runtimeSource{host: "example.cn", script: "\x01S", worker: "\x01W", hash: "\x01H"}
	added := strings.NewReplacer(" \x01S", "", " \x01W", "", " '\x01H'", "", " causeway", "")
	f.Fuzz(func(t *testing.T, policy string) {
		if strings.Contains(policy, "\x01") || strings.Contains(policy, "causeway") || strings.Contains(strings.ToLower(policy), "'none'") {
			t.Skip()
		}
		h := http.Header{"Content-Security-Policy": {policy}}
		source.admit(h)
		apart := strings.NewReplacer(";", " ; ", ",", " , ")
		words := func(text string) string {
			return strings.ToLower(strings.Join(strings.Fields(apart.Replace(text)), " "))
		}
		if got := h.Get("Content-Security-Policy"); words(added.Replace(got)) != words(policy) {
			t.Fatalf("%q became %q", policy, got)
		}
	})
}

// Which answers get the element.
func TestRuntimeAnswers(t *testing.T) {
	for _, c := range []struct {
		name   string
		fields []string
		want   bool
	}{
		{"a page", nil, true},
		{"a frame", []string{"> Sec-Fetch-Dest: iframe"}, true},
		{"a page through the site's own worker", []string{"> Sec-Fetch-Dest: empty"}, true},
		{"a browser that does not say", []string{"> Sec-Fetch-Dest: ", "> Sec-Fetch-Mode: "}, true},
		{"XHTML", []string{"Content-Type: application/xhtml+xml; charset=utf-8"}, true},
		{"what a script fetched", []string{"> Sec-Fetch-Dest: empty", "> Sec-Fetch-Mode: cors"}, false},
		{"what an element without a page asked for", []string{"> Sec-Fetch-Dest: image", "> Sec-Fetch-Mode: no-cors"}, false},
		{"what is to be saved", []string{"Content-Disposition: Attachment; filename=a.html"}, false},
		{"another type", []string{"Content-Type: application/json"}, false},
		{"no type", []string{"Content-Type: "}, true},
		{"no type, and not to be guessed", []string{"Content-Type: ", "X-Content-Type-Options: NoSniff"}, false},
	} {
		const page = "<!doctype html><html><head></head></html>"
		res := openPage(t, runtimeSite(t), page, c.fields...)
		got := textOf(t, res)
		if strings.Contains(got, "<head><script src=\"/.causeway/runtime-") != c.want || !c.want && got != page {
			t.Errorf("%s: %s", c.name, got)
		}
		if vary := strings.Join(res.Header["Vary"], ", "); strings.Contains(vary, "Sec-Fetch-Dest, Sec-Fetch-Mode") == (c.name == "another type" || strings.Contains(c.name, "not to be guessed")) {
			t.Errorf("%s: Vary: %s", c.name, vary)
		}
	}
	for name, m := range map[string]*Map{
		"off":       parseMap(t, "https://example.cn https://example.com"),
		"untouched": runtimeSite(t).WithRules(Rules{Runtime: true, Untouched: true}),
	} {
		if res := openPage(t, m, "<head>"); textOf(t, res) != "<head>" || strings.Contains(strings.Join(res.Header["Vary"], ""), "Sec-Fetch") {
			t.Errorf("%s: changed, Vary %q", name, res.Header["Vary"])
		}
	}
}

// A page with the element and one without have other entity tags, and a 304 speaks of the one that
// the client has.
func TestRuntimeTags(t *testing.T) {
	m := runtimeSite(t)
	tags := map[string]string{}
	asked := map[string][]string{
		"open": nil, "use": {"> Sec-Fetch-Dest: empty", "> Sec-Fetch-Mode: cors"}, "unknown": {"> Sec-Fetch-Dest: ", "> Sec-Fetch-Mode: "},
	}
	for name, fields := range asked {
		tags[name] = openPage(t, m, "<head>", append(fields, `Etag: "a"`)...).Header.Get("Etag")
	}
	for name, fields := range asked {
		for other, tag := range tags {
			res := openPage(t, m, "<head>", append(fields, "> If-None-Match: "+tag)...)
			if got, same := res.Request.Header.Get("If-None-Match"), name == other; (got == `"a"`) != same || !same && got != "" {
				t.Errorf("%s, If-None-Match of %s: the origin gets %q", name, other, got)
			}
		}
	}
	const policy = "script-src https://cdn.net"
	page := openPage(t, m, "<head>", `Etag: "a"`, "Content-Security-Policy: "+policy).Header
	for _, condition := range []string{"> If-None-Match: " + tags["open"], "> If-Modified-Since: Sun, 22 Nov 2026 16:00:00 GMT"} {
		req, _ := http.NewRequest("GET", "https://example.com/", nil)
		name, value, _ := strings.Cut(strings.TrimPrefix(condition, "> "), ": ")
		req.Header.Set(name, value)
		req.Header.Set("Sec-Fetch-Dest", "document")
		m.Request(req)
		res := &http.Response{StatusCode: 304, Request: req, Body: http.NoBody, Header: http.Header{"Etag": {`"a"`}, "Content-Security-Policy": {policy}}}
		m.Response(res, Options{})
		if got, want := res.Header.Get("Content-Security-Policy"), page.Get("Content-Security-Policy"); got != want || want == policy {
			t.Errorf("304 to %s: the policy is %q, that of the page %q", condition, got, want)
		}
		if vary := strings.Join(res.Header["Vary"], ", "); !strings.Contains(vary, "Sec-Fetch-Dest") {
			t.Errorf("304 to %s: Vary: %s", condition, vary)
		}
	}
}

// TestOwn: the files, and nothing else, are answered without the origin.
func TestOwn(t *testing.T) {
	m := runtimeSite(t)
	files := m.runtime()
	const immutable, year, short, never = "public, max-age=31536000, immutable", "public, max-age=31536000", "public, max-age=60", "no-cache"
	for _, c := range []struct {
		method, path string
		on, looking  bool // looking for a worker
		body, cache  string
	}{
		{"GET", files.scriptPath(), true, false, string(files.script), immutable},
		{"HEAD", files.scriptPath(), true, false, "", immutable},
		{"GET", files.workerPath(), true, true, string(files.worker), year},
		{"GET", runtimeFolder + "runtime-aaaaaaaa.js", true, false, string(files.script), short},
		{"GET", runtimeFolder + "worker-aaaaaaaa.js", true, true, string(files.worker), short},
		{"GET", files.workerPath(), false, true, runtimeGone, never},
		{"GET", files.workerPath(), false, false, "", ""},
		{"GET", files.scriptPath(), false, false, "", ""},
		{"GET", files.scriptPath(), false, true, "", ""},
		{"POST", files.scriptPath(), true, false, "", ""},
		{"GET", runtimeFolder, true, false, "", ""},
		{"GET", runtimeFolder + "runtime-aaaaaaaa.js.map", true, false, "", ""},
		{"GET", runtimeFolder + "runtime-AAAAAAAA.js", true, false, "", ""},
		{"GET", "/a" + files.scriptPath(), true, false, "", ""},
	} {
		req, _ := http.NewRequest(c.method, "https://example.cn"+c.path, nil)
		if c.looking {
			req.Header.Set("Service-Worker", "script")
		}
		res := m.Own(req, c.on)
		if (res == nil) != (c.cache == "") {
			t.Errorf("%+v: answered: %t", c, res != nil)
			continue
		}
		if res == nil {
			continue
		}
		if got := textOf(t, res); got != c.body || c.body != "" && res.ContentLength != int64(len(got)) {
			t.Errorf("%s %s: %d bytes said, body %s", c.method, c.path, res.ContentLength, got)
		}
		if res.Header.Get("Cache-Control") != c.cache || res.Header.Get("Content-Type") != "text/javascript; charset=utf-8" ||
			(res.Header.Get("Service-Worker-Allowed") == "/") != strings.Contains(c.path, "worker") {
			t.Errorf("%s %s: %q", c.method, c.path, res.Header)
		}
	}
	for coding := range closers {
		if coding == "raw" {
			continue
		}
		req, _ := http.NewRequest("GET", "https://example.cn"+files.scriptPath(), nil)
		req.Header.Set("Accept-Encoding", coding)
		res := m.Own(req, true)
		text, err := openFrom(coding, res.Body)
		if err != nil || text != string(files.script) || res.Header.Get("Content-Encoding") != coding {
			t.Errorf("%s: %q, %v", coding, res.Header, err)
		}
	}
}

// The names of the files are those of the host map: other rules, and a route with an origin of its
// own, have the same ones, so that a browser does not change between two workers.
func TestRuntimeVersions(t *testing.T) {
	m := runtimeSite(t)
	wider, err := m.With(Pair{parseBase(t, "https://example.cn"), parseBase(t, "http://10.0.0.1:3000")})
	if err != nil {
		t.Fatal(err)
	}
	turned, err := NewMap([]Pair{m.pairs[1], m.pairs[0]})
	if err != nil {
		t.Fatal(err)
	}
	version := m.runtime().version
	for name, other := range map[string]*Map{"another route": wider, "another order": turned, "other rules": m.WithRules(Rules{Bare: true})} {
		if other.runtime().version != version {
			t.Errorf("%s: %s, and not %s", name, other.runtime().version, version)
		}
	}
	if strings.Contains(string(wider.runtime().script), "10.0.0.1") {
		t.Error("the script names a route's own origin")
	}
	if parseMap(t, "https://example.cn https://example.com").runtime().version == version {
		t.Error("another map has the same version")
	}
	if len(version) != 8 || !runtimeName.MatchString(m.runtime().scriptPath()) || !runtimeName.MatchString(m.runtime().workerPath()) {
		t.Errorf("%s and %s are not names of the files", m.runtime().scriptPath(), m.runtime().workerPath())
	}
	if off := m.WithRules(Rules{}); off.Version() == m.Version() {
		t.Error("pages with and without the element have one version")
	}
}
