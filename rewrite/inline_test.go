package rewrite

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

const csp = "Content-Security-Policy"

// allowing is a policy for one inline script.
func allowing(text string) string { return "script-src '" + sha256Hash.of([]byte(text)).String() + "'" }

func inline(text string) string { return "<script>" + text + "</script>" }

// TestPolicyRounds: the first page is read before its header goes out, the next not any more.
func TestPolicyRounds(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	text := "<html>" + inline(ownScript) + strings.Repeat("<p>text ", 10_000)
	for round := range 2 {
		origin := &waiting{text: text}
		res := answer(origin, -1, "Content-Type: text/html", csp+": "+allowing(ownScript), csp+"-Report-Only: "+allowing(ownScript))
		m.Response(res, Options{})
		if read := origin.reads > 0; read != (round == 0) {
			t.Errorf("round %d: read before the header: %v", round, read)
		}
		if got := res.Header.Get(csp); got != allowing(publicScript) || res.Header.Get(csp+"-Report-Only") != got {
			t.Errorf("round %d: %v", round, res.Header)
		}
		if want := int64(len(text) - len(ownScript) + len(publicScript)); round == 0 && res.ContentLength != want {
			t.Errorf("length %d, want %d", res.ContentLength, want)
		}
		got, err := io.ReadAll(res.Body)
		if want := strings.Replace(text, ownScript, publicScript, 1); err != nil || string(got) != want {
			t.Errorf("round %d: %v, %.200s", round, err, got)
		}
		res.Body.Close()
	}
}

// waiting counts how often it is read.
type waiting struct {
	text  string
	reads int
}

func (w *waiting) Read(p []byte) (int, error) {
	w.reads++
	if w.text == "" {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 10_000)], w.text)
	w.text = w.text[n:]
	return n, nil
}

// TestPolicyInEveryCoding: a page that was read ahead is whole in any coding.
func TestPolicyInEveryCoding(t *testing.T) {
	filler, _ := sampleText(200_000)
	text := filler + inline(ownScript) + filler
	for _, came := range []string{"", "gzip", "br"} {
		for _, accept := range []string{"", "gzip", "br", "zstd"} {
			m := parseMap(t, fuzzMaps[0])
			want := m.ToPublic().String(text)
			lines := []string{"Content-Type: text/html", csp + ": " + allowing(ownScript)}
			if came != "" {
				lines = append(lines, "Content-Encoding: "+came)
			}
			res := answer(strings.NewReader(closeIn(came, text)), -1, lines...)
			m.Response(res, Options{AcceptEncoding: accept})
			counted := &lengthReader{r: res.Body}
			got, err := openFrom(accept, counted)
			if _, restErr := io.Copy(io.Discard, counted); err != nil || restErr != nil || got != want {
				t.Errorf("%q for %q: %v, %v, %d bytes, want %d", came, accept, err, restErr, len(got), len(want))
			}
			if res.Header.Get(csp) != allowing(publicScript) || res.ContentLength != counted.n {
				t.Errorf("%q for %q: %v, length %d, want %d", came, accept, res.Header, res.ContentLength, counted.n)
			}
			res.Body.Close()
		}
	}
}

type lengthReader struct {
	r io.Reader
	n int64
}

func (l *lengthReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.n += int64(n)
	return n, err
}

// TestPolicyBeyondMaxPage: no more is read ahead than maxPage; what stands behind needs a page that
// came before.
func TestPolicyBeyondMaxPage(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	late := ownScript + "//late"
	text := inline(ownScript) + strings.Repeat("<p>text ", maxPage/8) + inline(late) + strings.Repeat("x", maxPage)
	policy := allowing(ownScript) + " '" + sha256Hash.of([]byte(late)).String() + "'"
	ask := func() (string, string) {
		origin := &waiting{text: text}
		res := answer(origin, -1, "Content-Type: text/html", csp+": "+policy)
		m.Response(res, Options{})
		if most := maxPage/10_000 + 10; origin.reads > most {
			t.Errorf("%d reads before the header, want %d at most", origin.reads, most)
		}
		got, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return string(got), res.Header.Get(csp)
	}
	want := strings.ReplaceAll(text, "https://example.com", "https://example.cn")
	got, header := ask()
	if got != want || !strings.Contains(header, allowing(publicScript)) || !strings.Contains(header, policy[len(allowing("")):]) {
		t.Errorf("policy %s, %d bytes of %d", header, len(got), len(want))
	}
	fetch(t, m, "https://example.com/small", "text/html", inline(late), 0, csp+": "+policy)
	got, header = ask()
	if public := allowing(publicScript) + " '" + sha256Hash.of([]byte(publicScript+"//late")).String() + "'"; got != want || header != public {
		t.Errorf("policy %s, want %s", header, public)
	}
}

// TestPolicyWithoutBody: HEAD says what is known; a 304 leaves alone what the client has.
func TestPolicyWithoutBody(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	ask := func(method string, status int, lines ...string) http.Header {
		res := answer(iotest.ErrReader(errors.New("was read")), -1, append(lines, "Content-Type: text/html")...)
		res.Request.Method, res.StatusCode = method, status
		m.Response(res, Options{})
		return res.Header
	}
	if got := ask("HEAD", 200, csp+": "+allowing(ownScript)).Get(csp); got != allowing(ownScript) {
		t.Errorf("HEAD before GET: %s", got)
	}
	fetch(t, m, "https://example.com/", "text/html", inline(ownScript), 0, csp+": "+allowing(ownScript))
	if got := ask("HEAD", 200, csp+": "+allowing(ownScript)).Get(csp); got != allowing(publicScript) {
		t.Errorf("HEAD: %s", got)
	}
	for _, status := range []int{301, 302, 307} { // nobody waits for the page of a redirect
		ask("GET", status, csp+": "+allowing("unknown"))
	}
	h := ask("GET", 304, csp+": "+allowing(ownScript), csp+"-Report-Only: img-src example.com", "Integrity-Policy: blocked-destinations=(script)")
	if _, found := h[csp]; found || h.Get(csp+"-Report-Only") != "img-src example.cn" || h.Get("Integrity-Policy") != "" {
		t.Errorf("304: %v", h)
	}
}

// TestIntegrityPolicy: what would stop a script that lost its hash goes, and stays when none did.
func TestIntegrityPolicy(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	ask := func(wantPage, want string) {
		t.Helper()
		page, h := fetch(t, m, "https://example.com/", "text/html", withHash(ownScript), 0, "Integrity-Policy: blocked-destinations=(script)")
		if got := h.Get("Integrity-Policy"); got != want || page != wantPage {
			t.Errorf("got %q with %s, want %q with %s", got, page, want, wantPage)
		}
	}
	ask(withoutHash, "")
	fetch(t, m, "https://example.com/a.js", "text/javascript", ownScript, 0)
	ask(withHash(publicScript), "blocked-destinations=(script)")
}

// TestPolicyOfAnotherMap: what a text becomes is a matter of the map.
func TestPolicyOfAnotherMap(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	other, err := m.With(Pair{Base{"https", "example.cn", ""}, Base{"https", "h.ws", ""}})
	if err != nil {
		t.Fatal(err)
	}
	text := ownScript + `+"https://h.ws"`
	_, first := fetch(t, m, "https://example.com/", "text/html", inline(text), 0, csp+": "+allowing(text))
	_, second := fetch(t, other, "https://h.ws/", "text/html", inline(text), 0, csp+": "+allowing(text))
	if first.Get(csp) != allowing(publicScript+`+"https://h.ws"`) || second.Get(csp) != allowing(publicScript+`+"https://example.cn"`) {
		t.Errorf("%v, %v", first, second)
	}
}

// TestPolicyOfFiles: a policy's hash of a script with an address is not waited for once the page has
// named the script, whoever it belongs to; one of nothing at all always is.
func TestPolicyOfFiles(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	const theirs, same = "their script", "nothing to map"
	at := func(url, text string) string {
		return `<script src="` + url + `" integrity="` + sha256Hash.of([]byte(text)).String() + `"></script>`
	}
	text := at("https://other.net/a.js", theirs) + at("/a.js", ownScript) + at("/same.js", same) + strings.Repeat("<p>text ", 10_000)
	ask := func(policy, want string, waits bool) {
		t.Helper()
		origin := &waiting{text: text}
		res := answer(origin, -1, "Content-Type: text/html", csp+": "+policy)
		res.Request, _ = http.NewRequest("GET", "https://example.com/", nil)
		m.Response(res, Options{})
		if waited := origin.reads > 0; waited != waits || res.Header.Get(csp) != want {
			t.Errorf("waited: %v for %s, which became %s, want %s", waited, policy, res.Header.Get(csp), want)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Error(err)
		}
		res.Body.Close()
	}
	ask(allowing(theirs), allowing(theirs), true)
	ask(allowing(theirs), allowing(theirs), false)

	both, public := allowing(ownScript)+"; "+allowing(same), allowing(publicScript)+"; "+allowing(same)
	ask(both, both, true)
	fetch(t, m, "https://example.com/same.js", "application/octet-stream", same, 0)
	fetch(t, m, "https://example.com/a.js", "text/javascript", ownScript, 0)
	ask(both, public, true) // it passes, and may not for ever
	ask(both, public, true)
	ask(allowing(ownScript), allowing(publicScript), false)
	fetch(t, m, "https://example.com/same.js", "text/javascript", same, 0)
	ask(both, public, true)
	fetch(t, m, "https://example.com/same.js", "text/javascript", same, 0)
	ask(both, public, true)
	ask(both, public, false)

	ask(allowing("nobody's"), allowing("nobody's"), true)
	ask(allowing("nobody's"), allowing("nobody's"), true)
}
