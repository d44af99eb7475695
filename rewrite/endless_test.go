package rewrite

import (
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
)

// repeated gives text again and again, n bytes in all, and then the end.
type repeated struct {
	text string
	n    int
	end  string
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.n == 0 {
		if r.end == "" {
			return 0, io.EOF
		}
		n := copy(p, r.end)
		r.end = r.end[n:]
		return n, nil
	}
	n := 0
	for n < len(p) && r.n > 0 {
		c := copy(p[n:min(len(p), n+r.n)], r.text)
		n, r.n = n+c, r.n-c
	}
	return n, nil
}

// TestEndlessLine: a line of a gigabyte, of whatever may be held back, takes no more memory than
// any other, and a URL behind it is found.
func TestEndlessLine(t *testing.T) {
	size := 1 << 30
	if testing.Short() || raceEnabled {
		size = 1 << 26
	}
	m := parseMap(t, fuzzMaps[0]).WithRules(Rules{Bare: true})
	for _, text := range []string{strings.Repeat("a", 64<<10), strings.Repeat(`\`, 64<<10), strings.Repeat("https://", 8<<10), strings.Repeat(`"a.`, 8<<10)} {
		const end = ` "https://example.com/`
		res := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, ContentLength: -1,
			Body: io.NopCloser(&repeated{text: text, n: size, end: end})}
		m.Response(res, Options{})
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var last [40]byte
		got, buf := 0, make([]byte, 64<<10)
		for {
			n, err := res.Body.Read(buf)
			got += n
			copy(last[:], last[min(n, len(last)):])
			copy(last[max(0, len(last)-n):], buf[max(0, n-len(last)):n])
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		if want := size + len(end) - 1; got != want || !strings.HasSuffix(string(last[:]), `"https://example.cn/`) {
			t.Errorf("%.8q…: %d bytes of %d, ending in %q", text, got, want, last)
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
			t.Errorf("%.8q…: %d bytes allocated", text, grown)
		}
		size = min(size, 1<<27) // once is enough
	}
}
