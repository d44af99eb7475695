package rewrite

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// dripping gives a line every so often.
type dripping struct {
	lines []string
	every time.Duration
}

func (d *dripping) Read(p []byte) (int, error) {
	if len(d.lines) == 0 {
		return 0, io.EOF
	}
	time.Sleep(d.every)
	n := copy(p, d.lines[0])
	d.lines = d.lines[1:]
	return n, nil
}

// TestPageThatStreams: a policy with a hash that the page has no text for keeps it waiting for a
// moment, and not for its end.
func TestPageThatStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := parseMap(t, fuzzMaps[0])
		line := "<p>https://example.com/</p>" + inline(ownScript)
		body := &dripping{strings.Split(strings.Repeat(line+"\n", 20), "\n")[:20], 400 * time.Millisecond}
		start := time.Now()
		res := answer(body, -1, "Content-Type: text/html", csp+": "+allowing(ownScript)+" "+allowing("console.log(1)"), integrityPolicy+": blocked-destinations=(script)")
		m.Response(res, Options{})
		if waited := time.Since(start); waited < maxWait || waited > 2*maxWait {
			t.Errorf("waited for %v", waited)
		}
		if got := res.Header.Get(csp); !strings.Contains(got, allowing(publicScript)) {
			t.Errorf("policy %s", got)
		}
		if got := res.Header.Get(integrityPolicy); got != "" {
			t.Errorf("the rest of the page may lose an integrity attribute, and yet %s", got)
		}
		first := make([]byte, 4<<10)
		n, err := res.Body.Read(first)
		if took := time.Since(start); err != nil || took > 2*maxWait || !strings.HasPrefix(string(first[:n]), "<p>https://example.cn/</p>") {
			t.Errorf("%q, %v after %v", first[:n], err, took)
		}
		rest, err := io.ReadAll(res.Body)
		if got, want := string(first[:n])+string(rest), strings.ReplaceAll(strings.Repeat(line, 20), "example.com", "example.cn"); err != nil || got != want {
			t.Errorf("%v\n got %s\nwant %s", err, got, want)
		}
	})
}

// TestPageThatStreamsItsPolicy: the same of a policy in the page.
func TestPageThatStreamsItsPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := parseMap(t, fuzzMaps[0])
		lines := []string{`<meta http-equiv="Content-Security-Policy" content="` + allowing(ownScript) + " " + allowing("console.log(1)") + `">`, inline(ownScript)}
		for range 20 {
			lines = append(lines, "<p>text")
		}
		start := time.Now()
		res := answer(&dripping{lines, 400 * time.Millisecond}, -1, "Content-Type: text/html")
		m.Response(res, Options{})
		first := make([]byte, 4<<10)
		n, err := res.Body.Read(first)
		if took := time.Since(start); err != nil || took > 2*maxWait || !strings.Contains(string(first[:n]), allowing(publicScript)) {
			t.Errorf("%q, %v after %v", first[:n], err, took)
		}
		res.Body.Close()
	})
}

// TestManyPagesWait: what all pages that wait hold is bounded; one too many goes on with what it has.
func TestManyPagesWait(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	text := inline(ownScript) + strings.Repeat("<p>text ", maxPage/8) // read in pieces of 10 000 bytes
	open := func() (reads int, res *http.Response) {
		origin := &waiting{text: text}
		res = answer(origin, -1, "Content-Type: text/html", csp+": "+allowing(ownScript)+" "+allowing("console.log(1)"))
		m.Response(res, Options{})
		return origin.reads, res
	}
	var all []*http.Response
	const most = maxPages / maxPage
	for i := range most + 5 {
		reads, res := open()
		all = append(all, res)
		if i < most && reads < maxPage/10_000 || i > most && reads != 1 {
			t.Errorf("page %d: %d reads before its header", i, reads)
		}
		if got := res.Header.Get(csp); !strings.HasPrefix(got, allowing(publicScript)) {
			t.Errorf("page %d: policy %s", i, got)
		}
	}
	if held := pagesHeld.Load(); held < maxPages || held > maxPages+maxPage {
		t.Errorf("%d bytes held", held)
	}
	var closing sync.WaitGroup
	for i, res := range all {
		closing.Go(func() {
			if i%2 == 0 {
				io.Copy(io.Discard, res.Body)
			}
			res.Body.Close()
		})
	}
	closing.Wait()
	if held := pagesHeld.Load(); held != 0 {
		t.Errorf("%d bytes held at the end", held)
	}
	if reads, res := open(); reads < maxPage/10_000 {
		t.Errorf("%d reads after that", reads)
	} else {
		res.Body.Close()
	}
}
