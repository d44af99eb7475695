package rewrite

import (
	"io"
	"strings"
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
