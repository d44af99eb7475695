package e2e

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// seen is what the origin saw of a request.
type seen struct {
	Method, Target, Host, Proto string
	Header                      http.Header
	Sum                         string // SHA-256 of the body
	Trailer                     http.Header
}

// mirror answers with what it saw, as bytes that nobody rewrites.
func mirror(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	if _, err := io.Copy(sum, r.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_ = json.NewEncoder(w).Encode(seen{r.Method, r.RequestURI, r.Host, r.Proto, r.Header, fmt.Sprintf("%x", sum.Sum(nil)), r.Trailer})
}

func (a answer) seen(t *testing.T) (s seen) {
	t.Helper()
	if err := json.Unmarshal(a.body, &s); err != nil {
		t.Fatalf("%s: %v in %q", a.Status, err, a.body)
	}
	return s
}

// TestRequestReachesTheOrigin holds what the origin sees against what was sent.
func TestRequestReachesTheOrigin(t *testing.T) {
	everyWay(t, http.HandlerFunc(mirror), func(t *testing.T, w way) {
		// Path and query as received; names in the query mapped.
		for sent, want := range map[string]string{
			"/":                       "/",
			"/a%2Fb/%e4%b8%ad;v=1":    "/a%2Fb/%e4%b8%ad;v=1",
			"/a//b/../c/.":            "/a//b/../c/.",
			"/?":                      "/?",
			"/?a=1;b=%2F&c[]=|\"'":    "/?a=1;b=%2F&c[]=|\"'",
			"/?to=https%3A%2F%2FHOST": "/?to=https%3A%2F%2FORIGIN",
		} {
			req := newRequest(t, http.MethodGet, w.url("/"), nil)
			path, query, found := strings.Cut(strings.ReplaceAll(sent, "HOST", w.public), "?")
			req.URL.Opaque, req.URL.RawQuery, req.URL.ForceQuery = path, query, found && query == "" // as it stands
			if got := do(t, w.client, req).seen(t).Target; got != strings.ReplaceAll(want, "ORIGIN", w.origin) {
				t.Errorf("target %s became %s", sent, got)
			}
		}

		// Who the client is comes from the edge, and from nobody else.
		claims := []string{
			"X-Forwarded-For: 6.6.6.6", "X-Real-Ip: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: gopher",
			"X-Original-Url: /admin", "Causeway-Upgrade: websocket",
			"Origin: https://" + w.public, "Referer: https://" + w.public + "/from?x=https://" + w.public,
		}
		if w.major == 1 {
			claims = append(claims, "Connection: X-Mine", "X-Mine: of this connection")
		}
		got := get(t, w.client, w.url("/"), claims...).seen(t)
		wantFields := map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Real-Ip": "127.0.0.1", "X-Forwarded-Host": w.public, "X-Forwarded-Proto": "https",
			"Forwarded": "for=127.0.0.1;host=" + w.public + ";proto=https",
			"Origin":    "https://" + w.origin, "Referer": "https://" + w.origin + "/from?x=https://" + w.origin,
			"X-Original-Url": "", "Causeway-Upgrade": "", "X-Mine": "",
		}
		for name, want := range wantFields {
			if values := strings.Join(got.Header[name], ", "); values != want {
				t.Errorf("%s: %q, want %q", name, values, want)
			}
		}
		if got.Host != w.origin {
			t.Errorf("Host %s, want %s", got.Host, w.origin)
		}
		wantProto := "HTTP/2.0"
		if w.h1 {
			wantProto = "HTTP/1.1"
		}
		if got.Proto != wantProto {
			t.Errorf("the origin saw %s, want %s", got.Proto, wantProto)
		}

		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "QUERY", "x-mine"} {
			a := do(t, w.client, newRequest(t, method, w.url("/"), nil))
			if a.StatusCode != 200 || (method != "HEAD" && a.seen(t).Method != method) {
				t.Errorf("%s: %s %s", method, a.Status, a.body)
			}
			if method == "HEAD" && len(a.body) != 0 {
				t.Errorf("HEAD has a body: %q", a.body)
			}
		}

		// Bodies are the bytes that were sent, however they are framed; but for names in a form.
		noise := make([]byte, 1<<20+17)
		_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
		for name, body := range map[string][]byte{"empty": {}, "form": []byte("to=https%3A%2F%2F" + w.public + "&x=+"), "noise": noise} {
			want := fmt.Sprintf("%x", sha256.Sum256(body))
			mapped := fmt.Sprintf("%x", sha256.Sum256(bytes.ReplaceAll(body, []byte(w.public), []byte(w.origin))))
			known := do(t, w.client, newRequest(t, http.MethodPost, w.url("/"), bytes.NewReader(body), "Content-Type: application/x-www-form-urlencoded"))
			chunked := do(t, w.client, newRequest(t, http.MethodPost, w.url("/"), struct{ io.Reader }{bytes.NewReader(body)}))
			if known.seen(t).Sum != mapped || chunked.seen(t).Sum != want {
				t.Errorf("%s: the body changed", name)
			}
		}
	})
}

// TestAnswerFields holds the fields of an answer against the origin's.
func TestAnswerFields(t *testing.T) {
	fields := []struct{ name, origin, public string }{
		{"Location", "https://login.example.com/?return=https%3A%2F%2Fexample.com%2Fa", "https://login.example.cn/?return=https%3A%2F%2Fexample.cn%2Fa"},
		{"Set-Cookie", "a=1; Domain=example.com; Path=/; Secure", "a=1; Domain=example.cn; Path=/; Secure"},
		{"Set-Cookie", "b=2; HttpOnly", "b=2; HttpOnly"},
		{"Content-Security-Policy", "default-src 'self' https://static.example.com *.example.com; connect-src wss://example.com", "default-src 'self' https://static.example.cn *.example.cn; connect-src wss://example.cn"},
		{"Access-Control-Allow-Origin", "https://example.com", "https://example.cn"},
		{"Link", "<https://example.com/a.css>; rel=preload", "<https://example.cn/a.css>; rel=preload"},
		{"Refresh", "5; url=https://example.com/", "5; url=https://example.cn/"},
		{"X-Other", "kept", "kept"},
		{"Keep-Alive", "timeout=9", ""},
		{"Causeway-Legs", "1 1", ""},
	}
	handler := serve(map[string]http.HandlerFunc{"/fields": func(w http.ResponseWriter, _ *http.Request) {
		for _, f := range fields {
			w.Header().Add(f.name, f.origin)
		}
		w.WriteHeader(http.StatusFound)
	}})
	everyWay(t, handler, func(t *testing.T, w way) {
		got := get(t, w.client, w.url("/fields"))
		for _, f := range fields {
			values := got.Header.Values(f.name)
			if f.public == "" && len(values) > 0 || f.public != "" && !slices.Contains(values, f.public) {
				t.Errorf("%s: %q, want %q", f.name, values, f.public)
			}
		}
		if r := w.edge.record(t, "/fields"); r.Status != 302 || r.Method != "GET" || r.Site != "site" || len(r.ID) != 32 {
			t.Errorf("record %+v", r)
		}
	})
}

const page = `<a href="https://example.com/">a</a> "https:\/\/example.com\/" //example.com/ https%3A%2F%2Fexample.com notexample.com`

var publicPage = strings.NewReplacer("notexample.com", "notexample.com", "example.com", "example.cn").Replace(page)

// TestAnswerWithoutBody is HEAD, 204 and 304.
func TestAnswerWithoutBody(t *testing.T) {
	handler := serve(map[string]http.HandlerFunc{
		"/page": text("text/html", page),
		"/204":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"/205":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusResetContent) },
		"/tagged": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Etag", `"v1"`)
			w.Header().Set("Content-Type", "text/html")
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(page))
		},
	})
	everyWay(t, handler, func(t *testing.T, w way) {
		for path, status := range map[string]int{"/page": 200, "/204": 204, "/205": 205} {
			method := http.MethodGet
			if status == 200 {
				method = http.MethodHead
			}
			if a := do(t, w.client, newRequest(t, method, w.url(path), nil)); a.StatusCode != status || len(a.body) != 0 || a.err != nil {
				t.Errorf("%s %s: %s, body %q, %v", method, path, a.Status, a.body, a.err)
			}
		}
		first := get(t, w.client, w.url("/tagged"))
		tag := first.Header.Get("Etag")
		if string(first.body) != publicPage || tag == "" || tag == `"v1"` {
			t.Fatalf("tag %s, body %q", tag, first.body)
		}
		for name, send := range map[string]string{"same": tag, "list": `"other", ` + tag} {
			again := get(t, w.client, w.url("/tagged"), "If-None-Match: "+send)
			if again.StatusCode != 304 || len(again.body) != 0 || again.Header.Get("Etag") != tag {
				t.Errorf("%s: %s with tag %s and %d bytes, want 304 with %s", name, again.Status, again.Header.Get("Etag"), len(again.body), tag)
			}
		}
		stale := strings.Replace(tag, "-cw.", "-cw.other", 1) // from before the file named other hosts
		if other := get(t, w.client, w.url("/tagged"), "If-None-Match: "+stale); other.StatusCode != 200 || string(other.body) != publicPage {
			t.Errorf("%s, a tag of another map: %s", stale, other.Status)
		}
	})
}

// TestRange: parts of what is not rewritten are the right bytes, parts of what
// is are never offsets into another text.
func TestRange(t *testing.T) {
	noise := make([]byte, 100_000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	long := strings.Repeat(page+"\n", 100)
	content := func(kind string, body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Etag", `"v1"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
		}
	}
	handler := serve(map[string]http.HandlerFunc{"/noise": content("image/jpeg", noise), "/text": content("text/html", []byte(long))})
	everyWay(t, handler, func(t *testing.T, w way) {
		part := get(t, w.client, w.url("/noise"), "Range: bytes=70000-70099")
		if part.StatusCode != 206 || part.Header.Get("Content-Range") != "bytes 70000-70099/100000" || !bytes.Equal(part.body, noise[70000:70100]) {
			t.Errorf("%s %s, %d bytes", part.Status, part.Header.Get("Content-Range"), len(part.body))
		}
		if end := get(t, w.client, w.url("/noise"), "Range: bytes=-5", `If-Range: "v1"`); end.StatusCode != 206 || !bytes.Equal(end.body, noise[99995:]) {
			t.Errorf("%s, %d bytes", end.Status, len(end.body))
		}
		if none := get(t, w.client, w.url("/noise"), "Range: bytes=200000-"); none.StatusCode != 416 {
			t.Errorf("a range behind the end: %s", none.Status)
		}
		// What is rewritten is fetched whole; when the cache has the whole, its
		// parts are those of what visitors see.
		text := get(t, w.client, w.url("/text"), "Range: bytes=10-20")
		want := strings.Repeat(publicPage+"\n", 100)
		whole := text.StatusCode == 200 && text.Header.Get("Content-Range") == "" && string(text.body) == want
		some := text.StatusCode == 206 && text.Header.Get("Content-Range") == fmt.Sprintf("bytes 10-20/%d", len(want)) && string(text.body) == want[10:21]
		if !whole && !some {
			t.Errorf("%s %s, %q", text.Status, text.Header.Get("Content-Range"), text.body)
		}
	})
}

// encode compresses text with a content coding.
func encode(coding, text string) []byte {
	var b bytes.Buffer
	var z io.WriteCloser
	switch coding {
	case "gzip":
		z = gzip.NewWriter(&b)
	case "br":
		z = brotli.NewWriter(&b)
	case "zstd":
		z, _ = zstd.NewWriter(&b)
	default:
		return []byte(text)
	}
	_, _ = io.WriteString(z, text)
	z.Close()
	return b.Bytes()
}

// decoder opens a content coding.
func decoder(t *testing.T, coding string, r io.Reader) io.Reader {
	t.Helper()
	var err error
	switch coding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "deflate":
		r, err = zlib.NewReader(r)
	case "br":
		r = brotli.NewReader(r)
	case "zstd":
		r, err = zstd.NewReader(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// decode is the other way.
func decode(t *testing.T, coding string, body []byte) string {
	t.Helper()
	text, err := io.ReadAll(decoder(t, coding, bytes.NewReader(body)))
	if err != nil {
		t.Fatalf("decode %q: %v", coding, err)
	}
	return string(text)
}

// TestCodings: text is rewritten in every coding an origin sends, for every
// client.
func TestCodings(t *testing.T) {
	long := strings.Repeat(page+"\n", 400)
	want := strings.Repeat(publicPage+"\n", 400)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		coding := r.URL.Path[1:]
		if !strings.Contains(r.Header.Get("Accept-Encoding"), coding) {
			coding = ""
		} else {
			w.Header().Set("Content-Encoding", coding)
		}
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Vary", "Accept-Encoding")
		_, _ = w.Write(encode(coding, long))
	})
	everyWay(t, handler, func(t *testing.T, w way) {
		for _, coding := range []string{"gzip", "br", "zstd"} {
			a := get(t, w.client, w.url("/"+coding), "Accept-Encoding: "+coding)
			if got := a.Header.Get("Content-Encoding"); got != coding || len(a.body) > len(want)/4 {
				t.Errorf("%s: answered with %q, %d bytes", coding, got, len(a.body))
			}
			if decode(t, a.Header.Get("Content-Encoding"), a.body) != want {
				t.Errorf("%s: the text is wrong", coding)
			}
			plain := get(t, w.client, w.url("/"+coding), "Accept-Encoding: identity")
			if plain.Header.Get("Content-Encoding") != "" || string(plain.body) != want {
				t.Errorf("%s for a client without: %q", coding, plain.Header.Get("Content-Encoding"))
			}
		}
	})
}

// TestEarlyHints: a 103 comes before the answer, with public names.
func TestEarlyHints(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			hinted := make(chan struct{})
			handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Link", "<https://example.com/a.css>; rel=preload")
				w.WriteHeader(http.StatusEarlyHints)
				w.Header().Del("Link")
				select {
				case <-hinted: // the client has it
				case <-r.Context().Done():
				}
				text("text/html", page)(w, r)
			})
			ca := newAuthority(t)
			c := newCrossing(t, spec{layout: layout, ca: ca, sites: siteOf(newOrigin(t, ca, handler))})
			for _, major := range []int{1, 2} {
				for _, host := range []string{"example.cn", "h1.example.cn"} {
					var hint string
					req := newRequest(t, http.MethodGet, "https://"+host+"/", nil)
					req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
						Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
							hint = fmt.Sprint(status, " ", h.Get("Link"))
							hinted <- struct{}{}
							return nil
						}}))
					a := do(t, c.client(t, major), req)
					if hint != "103 <https://example.cn/a.css>; rel=preload" || a.StatusCode != 200 || a.Header.Get("Link") != "" {
						t.Errorf("HTTP %d, %s: hint %q, then %s, Link %q", major, host, hint, a.Status, a.Header.Get("Link"))
					}
				}
			}
		})
	}
}

// TestTrailers go both ways.
func TestTrailers(t *testing.T) {
	handler := serve(map[string]http.HandlerFunc{
		"/mirror": mirror,
		"/sum": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, page)
			w.Header().Set("X-Sum", "abc")
		},
		"/empty": func(w http.ResponseWriter, _ *http.Request) { // as gRPC's refusals are
			w.Header().Set("Trailer", "X-Sum")
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			w.Header().Set("X-Sum", "abc")
		},
	})
	everyWay(t, handler, func(t *testing.T, w way) {
		req := newRequest(t, http.MethodPost, w.url("/mirror"), struct{ io.Reader }{strings.NewReader("body")})
		req.Trailer = http.Header{"X-Sum": {"def"}}
		if got := do(t, w.client, req).seen(t).Trailer; got.Get("X-Sum") != "def" {
			t.Errorf("the origin got the trailer %v", got)
		}
		for path, body := range map[string]string{"/sum": publicPage, "/empty": ""} {
			if a := get(t, w.client, w.url(path), "Te: trailers"); a.Trailer.Get("X-Sum") != "abc" || string(a.body) != body {
				t.Errorf("%s: trailer %v, body %q", path, a.Trailer, a.body)
			}
		}
	})
}
