package rewrite

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestHostilePages: no page keeps a core busy by tags that never end, or end badly, however often
// the words that matter stand in them.
func TestHostilePages(t *testing.T) {
	const size = 1 << 20
	hash := "'sha256-" + strings.Repeat("A", 43) + "='"
	for name, text := range map[string]string{
		"open":     "<script" + strings.Repeat(" integrity", 6000),
		"broken":   "<link" + strings.Repeat(" integrity", 1500) + "<",
		"policies": "<meta" + strings.Repeat(" security-policy", 900) + "<",
		"quoted":   `<script a="` + strings.Repeat(" integrity", 6000),
		"short":    "<script src=a integrity=sha256-" + strings.Repeat("A", 43) + ">",
		"meta":     `<meta http-equiv=content-security-policy content="script-src ` + hash + `">`,
		"less":     "<",
		"word":     " integrity",
		"frames":   `<iframe csp="img-src example.com">`,
		"frame":    "<iframe" + strings.Repeat(" csp=", 3000),
		"map":      "<script type=importmap>{" + strings.Repeat(` "integrity":{},`, 3000),
		"maps":     `<script type=importmap>{"integrity":{}}</script>`,
	} {
		text = strings.Repeat(text, size/len(text))
		for _, policy := range []string{"", "script-src " + hash} {
			for _, chunk := range []int{1 << 10, 1 << 20} {
				m := parseMap(t, fuzzMaps[0])
				res := answer(&repeatedly{[]byte(text), chunk}, -1, "Content-Type: text/html", "Content-Security-Policy: "+policy)
				start := time.Now()
				m.Response(res, Options{})
				if _, err := io.Copy(io.Discard, res.Body); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took > 5*time.Second { // some 20 ms, 1 s with the race detector on a busy machine; 10 s and more when each word reads its tag anew
					t.Errorf("%s, policy %q, chunks of %d: %v", name, policy, chunk, took)
				}
			}
		}
	}
}

// repeatedly gives a text in pieces of one size.
type repeatedly struct {
	rest []byte
	size int
}

func (r *repeatedly) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), r.size)], r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// TestPageCutInTags: a page whose chunks end in what may become a tag that matters makes no memory
// grow.
func TestPageCutInTags(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	piece := append(bytes.Repeat([]byte("x"), chunkSize-2), "<m"...)
	text, buf := bytes.Repeat(append(piece, bytes.Repeat([]byte("x"), chunkSize)...), 12), make([]byte, chunkSize)
	cut := func() {
		res := answer(&source{origin: bytes.NewReader(text)}, -1, "Content-Type: text/html")
		m.Response(res, Options{})
		n := 0
		for {
			more, err := res.Body.Read(buf)
			if n += more; err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if n != len(text) {
			t.Fatalf("%d bytes of %d", n, len(text))
		}
	}
	if n := testing.AllocsPerRun(20, cut); n > 16 && !raceEnabled { // the race detector empties the pools now and then
		t.Errorf("%v allocations for 24 chunks", n)
	}
}

// TestEndlessPolicies: a page that goes on with policies is read with bounded memory.
func TestEndlessPolicies(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	res := answer(strings.NewReader(""), -1, csp+": "+allowing(ownScript))
	d := m.newDocument(res, "text/html")
	n := 0
	for range 8 {
		var page strings.Builder
		for page.Len() < maxPage {
			n++
			page.WriteString(`<meta http-equiv="Content-Security-Policy" content="` + allowing(strconv.Itoa(n)) + `">`)
		}
		d.Append(nil, []byte(page.String()), false)
	}
	if len(d.policy.set) > maxHashes {
		t.Errorf("%d hashes are kept of %d", len(d.policy.set), n)
	}
	d.free()
}
