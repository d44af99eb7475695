package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// codedOrigin has a body of each sort: what is rewritten, what is excluded from
// that, what is no text, in gzip and not, with a strong entity tag, a length and
// ranges as files have them.
func codedOrigin(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/octet-stream")
		fmt.Fprintf(w, "%d %q %q %s %s", r.ContentLength, r.TransferEncoding, r.Header["Content-Encoding"], r.Header.Get("Forwarded"), body)
		return
	}
	text := strings.Repeat(page+"\n", 400)
	kinds := map[string]string{"html": "text/html", "wasm": "application/wasm", "png": "image/png", "bin": "application/octet-stream", "json": "application/json"}
	base, ending, _ := strings.Cut(path.Base(r.URL.Path), ".")
	h := w.Header()
	h.Set("Content-Type", kinds[ending])
	h.Set("Vary", "Accept-Encoding")
	h.Set("Etag", `"one"`)
	switch base {
	case "small":
		text = page
	case "no-transform":
		h.Set("Cache-Control", "no-transform")
	case "gzip":
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			text = string(encode("gzip", text))
			h.Set("Content-Encoding", "gzip")
		}
	case "stream":
		for i := range 40 {
			_, _ = io.WriteString(w, text[i*len(text)/40:(i+1)*len(text)/40])
			w.(http.Flusher).Flush()
		}
		return
	case "cut":
		_, _ = io.WriteString(w, text)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	if r.Header.Get("If-None-Match") == `"one"` {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if first, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && ending != "html" {
		from, _, _ := strings.Cut(first, "-")
		n, _ := strconv.Atoi(from)
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", n, len(text)-1, len(text)))
		h.Set("Content-Length", strconv.Itoa(len(text)-n))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = io.WriteString(w, text[n:])
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(text)))
	_, _ = io.WriteString(w, text)
}

const codedSite = `
  - name: shop
    hosts: {example.cn: https://example.com}
    origin: {connect: [%q], tls: {ca: CA}}
    tls: {cert: CERT, key: KEY}
    routes:
      - {path: /raw/*, rewrite: {bodies: false}}
`

// TestBodiesCross: in whatever coding a body crosses the link, the client gets
// what one process would have given it, and fewer bytes cross.
func TestBodiesCross(t *testing.T) {
	ca := newAuthority(t)
	origin := newOrigin(t, ca, http.HandlerFunc(codedOrigin))
	one := newCrossing(t, spec{layout: oneProcess, ca: ca, sites: fmt.Sprintf(codedSite, origin), more: "cache: off"})
	two := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: fmt.Sprintf(codedSite, origin), more: "cache: off"})
	for _, major := range []int{1, 2} {
		straight, crossing := one.client(t, major), two.client(t, major)
		for _, accept := range []string{"", "gzip", "gzip, deflate, br, zstd", "br;q=0.5, gzip", "identity", "deflate"} {
			for _, path := range []string{"/big.html", "/small.html", "/gzip.html", "/stream.html", "/no-transform.html", "/gzip.wasm", "/big.wasm", "/small.wasm", "/stream.wasm", "/big.png", "/big.bin", "/raw/big.html", "/raw/gzip.json", "/raw/no-transform.html"} {
				for _, more := range []string{"", "Range: bytes=100-", `If-None-Match: "one"`, `HEAD`} {
					method, fields := http.MethodGet, []string{"Accept-Encoding: " + accept}
					if more == "HEAD" {
						method = more
					} else if more != "" {
						fields = append(fields, more)
					}
					what := fmt.Sprintf("HTTP/%d %s %s, Accept-Encoding %q, %s", major, method, path, accept, more)
					want := do(t, straight, newRequest(t, method, "https://example.cn"+path, nil, fields...))
					got := do(t, crossing, newRequest(t, method, "https://example.cn"+path, nil, fields...))
					sameAnswer(t, what, got, want)
				}
			}
		}
	}
	for path, most := range map[string]int{"/again/big.html": 2500, "/again/big.wasm": 2500, "/again/stream.html": 4000} {
		a := get(t, two.client(t, 2), "https://example.cn"+path)
		record := two.edge.record(t, path)
		if record.Link.Out > int64(most) || record.Link.Out == 0 || record.Out != int64(len(a.body)) {
			t.Errorf("%s: %d bytes crossed for %d", path, record.Link.Out, len(a.body))
		}
	}
	for _, n := range append(two.nodes(), one.nodes()...) {
		for _, r := range n.records(t) {
			if r.Kind != "" {
				t.Errorf("record %+v", r)
			}
		}
	}
	if a := do(t, two.client(t, 1), newRequest(t, "GET", "https://example.cn/cut.html", nil)); a.err == nil && a.StatusCode != 502 {
		t.Errorf("a body that was cut looks whole: %s, %d bytes", a.Status, len(a.body))
	}
}

// sameAnswer wants of got what want is: the header, the length if it is the
// same coding, the text.
func sameAnswer(t *testing.T, what string, got, want answer) {
	t.Helper()
	if got.err != nil || want.err != nil || got.StatusCode != want.StatusCode {
		t.Fatalf("%s: %d (%v), straight %d (%v)", what, got.StatusCode, got.err, want.StatusCode, want.err)
	}
	coding := got.Header.Get("Content-Encoding")
	at := got.Request.URL.Path // what streams has a length when all came within hop's patience
	streams := strings.HasPrefix(at, "/stream") || strings.HasSuffix(at, ".html") && !strings.HasPrefix(at, "/raw/") && !strings.HasPrefix(at, "/small")
	if (coding == "") != (want.Header.Get("Content-Encoding") == "") {
		t.Errorf("%s: in coding %q, straight %q", what, coding, want.Header.Get("Content-Encoding"))
	}
	for name := range want.Header {
		if name == "Date" || name == "Content-Encoding" || name == "Content-Length" || name == "Etag" {
			continue
		}
		if !slicesEqual(got.Header[name], want.Header[name]) {
			t.Errorf("%s: %s is %q, straight %q", what, name, got.Header[name], want.Header[name])
		}
	}
	for name := range got.Header {
		if _, known := want.Header[name]; !known && name != "Content-Length" {
			t.Errorf("%s: %s is %q, straight there is none", what, name, got.Header[name])
		}
	}
	if tag(got) != tag(want) {
		t.Errorf("%s: entity tag %q, straight %q", what, got.Header.Get("Etag"), want.Header.Get("Etag"))
	}
	if got.Request.Method == http.MethodHead || len(got.body) == 0 && len(want.body) == 0 {
		return
	}
	if (coding == "" || got.StatusCode == http.StatusPartialContent) && (!bytes.Equal(got.body, want.body) || !streams && got.ContentLength != want.ContentLength) {
		t.Errorf("%s: %d bytes, length %d, straight %d and %d", what, len(got.body), got.ContentLength, len(want.body), want.ContentLength)
	}
	if got.StatusCode == http.StatusPartialContent {
		return
	}
	if a, b := decode(t, coding, got.body), decode(t, want.Header.Get("Content-Encoding"), want.body); a != b {
		t.Errorf("%s: another text, %d bytes and %d", what, len(a), len(b))
	}
}

// tag is an answer's entity tag without the map's version, which has the
// addresses of the crossing in it.
func tag(a answer) string {
	before, version, marked := strings.Cut(a.Header.Get("Etag"), "-cw.")
	if marked {
		return before + "-cw." + strconv.FormatBool(version != "")
	}
	return before
}

func slicesEqual(a, b []string) bool { return strings.Join(a, "\n") == strings.Join(b, "\n") }

// TestRequestBodiesCross: a text that a client sends crosses in a coding, and
// reaches the origin as the client sent it.
func TestRequestBodiesCross(t *testing.T) {
	ca := newAuthority(t)
	origin := newOrigin(t, ca, http.HandlerFunc(codedOrigin))
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: fmt.Sprintf(codedSite, origin), more: "cache: off"})
	text := strings.Repeat(`{"name": "Longjing", "at": "elsewhere"}`, 200)
	noise := make([]byte, 0, 8000)
	for i := range 1000 {
		noise = fmt.Appendf(noise, "%08x", uint32(i*0x9e3779b1))
	}
	for _, path := range []string{"/a", "/raw/a"} {
		for i, c1 := range []struct {
			kind, body string
			length     bool
			more       string
			crosses    int64 // at most
		}{
			{"application/json", text, true, "", 500},
			{"application/json", text, false, "", int64(len(text))},
			{"application/json", text[:300], true, "", 300},
			{"text/plain; charset=utf-8", text, true, "", 500},
			{"application/x-www-form-urlencoded", strings.Repeat("a=b&", 1000), true, "", 500},
			{"application/json", text, true, "Expect: 100-continue", int64(len(text))},
			{"image/png", string(noise), true, "", int64(len(noise))},
		} {
			at := fmt.Sprintf("%s%d", path, i)
			var body io.Reader = strings.NewReader(c1.body)
			if !c1.length {
				body = io.MultiReader(body)
			}
			fields := []string{"Content-Type: " + c1.kind}
			if c1.more != "" {
				fields = append(fields, c1.more)
			}
			a := do(t, c.client(t, 1), newRequest(t, "POST", "https://example.cn"+at, body, fields...))
			length, transfer := strconv.Itoa(len(c1.body)), "[]"
			if !c1.length {
				length, transfer = "-1", `["chunked"]`
			}
			want := fmt.Sprintf("%s %s [] for=127.0.0.1;host=example.cn;proto=https %s", length, transfer, c1.body)
			if c1.length && string(a.body) != want || !strings.HasSuffix(string(a.body), c1.body) {
				t.Errorf("%s: %.200q, want %.200q", at, a.body, want)
			}
			r := c.edge.record(t, at)
			if r.In != int64(len(c1.body)) || r.Link.In > c1.crosses || r.Link.In == 0 || c1.crosses == r.In && r.Link.In != r.In {
				t.Errorf("%s: %d bytes came and %d crossed, at most %d should", at, r.In, r.Link.In, c1.crosses)
			}
		}
	}
	_, metrics := c.edge.ask("/metrics")
	if found := regexp.MustCompile(`causeway_link_body_bytes_total\{direction="to",relay="relay-1",site="shop",via="127\.0\.0\.1:\d+"\} [1-9]`).FindString(metrics); found == "" {
		t.Error("no metric of the bytes")
	}
}

// TestBodiesTrickle: what the origin has sent of a body is there before it sends
// more, in whatever coding it crosses: behind a little and behind a buffer full.
func TestBodiesTrickle(t *testing.T) {
	took := make(chan struct{})
	ca := newAuthority(t)
	origin := newOrigin(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", strings.ReplaceAll(r.URL.Path[1:], "_", "/"))
		for _, size := range []int{2000, 10, 64 << 10, 200_000} {
			_, _ = io.WriteString(w, strings.Repeat("a", size-1)+"\n")
			w.(http.Flusher).Flush()
			select {
			case <-took:
			case <-r.Context().Done():
			}
		}
	}))
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: fmt.Sprintf(codedSite, origin), more: "cache: off"})
	for _, kind := range []string{"text_plain", "application_wasm"} {
		for _, coding := range []string{"", "gzip", "zstd"} { // brotli's reader in this test would wait itself
			a, err := c.client(t, 1).Do(newRequest(t, "GET", "https://example.cn/"+kind, nil, "Accept-Encoding: "+coding))
			if err != nil {
				t.Fatal(err)
			}
			waits := time.AfterFunc(patience, func() { a.Body.Close() })
			text := decoder(t, a.Header.Get("Content-Encoding"), a.Body)
			for _, size := range []int{2000, 10, 64 << 10, 200_000} {
				piece := make([]byte, size)
				if _, err := io.ReadFull(text, piece); err != nil || piece[size-1] != '\n' {
					t.Fatalf("%s in %q: a piece of %d did not come: %v", kind, coding, size, err)
				}
				took <- struct{}{}
			}
			if rest, err := io.ReadAll(text); len(rest) > 0 || err != nil {
				t.Errorf("%s in %q: behind the last piece: %q, %v", kind, coding, rest, err)
			}
			waits.Stop()
			a.Body.Close()
		}
	}
}
