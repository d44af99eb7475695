package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// deceived are the paths that lead a victim to his account under the name of a file
// ("web cache deception", Gil 2017; with delimiters and encodings, Kettle 2024).
var deceived = []string{
	"/account/x.css", "/account/x.CSS", "/account/x%2ecss", "/account/x.js", "/account/logo.png", "/account/data.json", "/account;x.css",
	"/account%3bx.css", "/account%2fx.css", "/account%0ax.css", "/account%23x.css", "/account/x.css?utm=1", "/account/..%2fx.css", "/account//x.css", "/account/x.woff2", "/account/%e8%8c%b6.ico",
}

// TestCacheDeception: an origin gives the account of whoever asks under any name
// below it, and lets all that is called as a file be kept. With match_extension nobody
// gets the account of another; without, this test's attack is one that succeeds.
func TestCacheDeception(t *testing.T) {
	for _, guarded := range []bool{true, false} {
		t.Run(fmt.Sprint("match_extension ", guarded), func(t *testing.T) {
			ca := newAuthority(t)
			origin := newOrigin(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "public, max-age=600")
				if strings.HasPrefix(r.URL.Path, "/assets/") { // a true file
					w.Header().Set("Content-Type", "text/css")
					_, _ = io.WriteString(w, "a{}")
					return
				}
				who := "nobody"
				if cookie, err := r.Cookie("session"); err == nil {
					who = cookie.Value
				}
				w.Header().Set("Content-Type", "text/html; charset=utf-8")
				_, _ = fmt.Fprintf(w, "<p>the account of %s", who)
			}))
			sites := strings.TrimRight(siteOf(origin), "\n") + fmt.Sprintf("\n    cache: {match_extension: %t}\n", guarded)
			c := newCrossing(t, spec{layout: oneProcess, ca: ca, sites: sites})
			client := c.client(t, 1)
			stolen := 0
			for _, path := range deceived {
				victim := get(t, client, "https://example.cn"+path, "Cookie: session=lin")
				if victim.StatusCode != 200 || !strings.Contains(string(victim.body), "the account of lin") {
					t.Fatalf("%s: the victim gets %s %q", path, victim.Status, victim.body)
				}
				time.Sleep(5 * time.Millisecond) // it would be kept by then
				if attacker := get(t, client, "https://example.cn"+path); strings.Contains(string(attacker.body), "lin") {
					stolen++
					if guarded {
						t.Errorf("%s: the attacker gets %q %q", path, attacker.body, attacker.Header["Cache-Status"])
					}
				}
			}
			if !guarded && stolen == 0 {
				t.Error("the attack does not work without the guard: it shows nothing")
			}
			get(t, client, "https://example.cn/assets/x.css")
			eventually(t, "a true file is kept", func() bool {
				return strings.Contains(get(t, client, "https://example.cn/assets/x.css").Header.Get("Cache-Status"), "hit")
			})
		})
	}
}

// TestCacheOfABomb: a body of 300 KB that opens to 300 MB is kept as it came, and
// given so; who takes no coding has it opened as he reads, in little memory, however
// many they are; and what others ask for is given meanwhile.
func TestCacheOfABomb(t *testing.T) {
	const opens = 300 << 20
	var packed bytes.Buffer
	w, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if _, err := io.CopyN(w, zeros{}, opens); err != nil {
		t.Fatal(err)
	}
	w.Close()
	ca := newAuthority(t)
	origin := newOrigin(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=600")
		if r.URL.Path == "/bomb" {
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(packed.Bytes())
			return
		}
		_, _ = io.WriteString(w, "tea")
	}))
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(origin), more: "cache: {memory: 32MiB}"})
	for _, path := range []string{"/bomb", "/tea"} {
		get(t, c.client(t, 1), "https://example.cn"+path, "Accept-Encoding: gzip")
		eventually(t, path+" is kept", func() bool {
			return strings.Contains(get(t, c.client(t, 1), "https://example.cn"+path, "Accept-Encoding: gzip").Header.Get("Cache-Status"), "hit")
		})
	}
	if a := get(t, c.client(t, 2), "https://example.cn/bomb", "Accept-Encoding: gzip"); !bytes.Equal(a.body, packed.Bytes()) || a.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("as it came: %d bytes of %d, %v", len(a.body), packed.Len(), a.Header)
	}
	before := c.edge.peakMemory(t)
	client := c.client(t, 1)
	var opening sync.WaitGroup
	for i := range 12 {
		opening.Go(func() {
			accept := []string{"identity", "br", "zstd", ""}[i%4]
			res, err := client.Do(newRequest(t, "GET", "https://example.cn/bomb", nil, "Accept-Encoding: "+accept))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			_, _ = io.CopyN(io.Discard, res.Body, 20<<20) // and leaves
		})
	}
	hits := c.client(t, 1)
	for range 20 {
		if a := get(t, hits, "https://example.cn/tea"); string(a.body) != "tea" || !strings.Contains(a.Header.Get("Cache-Status"), "hit") {
			t.Errorf("meanwhile: %s %v", a.Status, a.Header)
		}
	}
	opening.Wait()
	if grown := c.edge.peakMemory(t) - before; grown > opens/2 {
		t.Errorf("the edge took %d MB more for them", grown>>20)
	}
	if kept, err := strconv.ParseFloat(c.edge.metric(t, `causeway_cache_bytes{tier="memory"}`), 64); err != nil || kept > 32<<20 {
		t.Errorf("%v bytes are kept, %v", kept, err)
	}
}

// TestCacheOfResets: streams of HTTP/2 that are reset as soon as they have asked, each
// for another page that would be kept ("rapid reset", CVE-2023-44487), are not as many
// requests to the origin at a time; who asks for what is kept gets it meanwhile.
func TestCacheOfResets(t *testing.T) {
	const most = 64 + 250 // cache.Options.MostFetches, and the streams of one connection
	ca := newAuthority(t)
	var now, peak, asked atomic.Int64
	origin := newOrigin(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=600")
		if r.URL.Path != "/tea" {
			asked.Add(1)
			if n := now.Add(1); n > peak.Load() {
				peak.Store(n)
			}
			defer now.Add(-1)
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush() // it will be kept: the fetch goes on without the client
			select {
			case <-time.After(time.Second):
			case <-r.Context().Done():
			}
		}
		_, _ = io.WriteString(w, "tea")
	}))
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(origin)})
	get(t, c.client(t, 2), "https://example.cn/tea")
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	var attacking sync.WaitGroup
	for range 4 {
		attacking.Go(func() {
			for ctx.Err() == nil {
				f := dialFrames(t, c)
				_ = f.SetDeadline(time.Now().Add(10 * time.Second))
				go func() { // what it is told
					for {
						if _, err := f.ReadFrame(); err != nil {
							return
						}
					}
				}()
				for stream := uint32(1); stream < 400 && ctx.Err() == nil; stream += 2 {
					if f.tryAsk(stream, "/"+strconv.Itoa(rand.Int())) != nil || f.WriteRSTStream(stream, http2.ErrCodeCancel) != nil {
						break // the edge has had enough of it
					}
				}
				f.Close()
			}
		})
	}
	hits := c.client(t, 2)
	for ctx.Err() == nil {
		if a := get(t, hits, "https://example.cn/tea"); string(a.body) != "tea" || !strings.Contains(a.Header.Get("Cache-Status"), "hit") {
			t.Errorf("meanwhile: %s %v", a.Status, a.Header)
		}
		time.Sleep(20 * time.Millisecond)
	}
	attacking.Wait()
	t.Logf("the origin was asked %d times, %d at a time", asked.Load(), peak.Load())
	if peak.Load() > 4*most {
		t.Errorf("%d requests at a time", peak.Load())
	}
	eventually(t, "nothing of it is left", func() bool { return now.Load() == 0 })
}

// summed is a body with its checksum before it.
func summed(path string, size int) []byte {
	body := bytes.Repeat([]byte(path+"\n"), size/(len(path)+1)+1)[:size]
	sum := sha256.Sum256(body)
	return append(append([]byte(hex.EncodeToString(sum[:])), '\n'), body...)
}

// right reports whether all of a summed body is there, and is that of path.
func right(path string, got []byte) bool {
	sum, body, ok := bytes.Cut(got, []byte("\n"))
	is := sha256.Sum256(body)
	return ok && string(sum) == hex.EncodeToString(is[:]) && bytes.HasPrefix(body, []byte(path+"\n"))
}

// TestCacheUnderCuts: the relay is killed again and again, under load, in the middle of
// bodies: what looks whole has the right checksum, what was kept is given all the time,
// and nothing that was cut is kept.
func TestCacheUnderCuts(t *testing.T) {
	ca := newAuthority(t)
	origin := newOrigin(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Cache-Control", "max-age=2, stale-if-error=3600")
		if strings.HasPrefix(r.URL.Path, "/kept") {
			w.Header().Set("Cache-Control", "max-age=600")
		}
		body := summed(r.URL.Path, 300_000)
		if n := len(r.URL.Path); n%2 == 0 {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		}
		for len(body) > 0 {
			n := min(len(body), 30_000)
			if _, err := w.Write(body[:n]); err != nil {
				return
			}
			body = body[n:]
			time.Sleep(3 * time.Millisecond) // so that it is cut in the middle
		}
	}))
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(origin), more: "cache: {memory: 8MiB, disk: 64MiB, dir: kept}"})
	kept := []string{"/kept/a", "/kept/bb", "/kept/ccc"}
	for _, path := range kept {
		get(t, c.client(t, 1), "https://example.cn"+path)
		eventually(t, path+" is kept", func() bool {
			return strings.Contains(get(t, c.client(t, 1), "https://example.cn"+path).Header.Get("Cache-Status"), "hit")
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	var whole, cut, refused atomic.Int64
	var visiting sync.WaitGroup
	for i := range 8 {
		client := c.client(t, 1+i%2)
		visiting.Go(func() {
			for ctx.Err() == nil {
				path := kept[rand.IntN(len(kept))]
				must := rand.IntN(2) == 0
				if !must {
					path = fmt.Sprintf("/%d", rand.IntN(200))
				}
				res, err := client.Do(newRequest(t, "GET", "https://example.cn"+path, nil))
				if err != nil {
					t.Errorf("%s: %v", path, err)
					continue
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				switch {
				case err == nil && res.StatusCode == 200:
					if whole.Add(1); !right(path, body) {
						t.Errorf("%s: wrong bytes: %d, %v", path, len(body), res.Header)
					}
				case must:
					t.Errorf("%s is kept: %s %v", path, res.Status, err)
				case err != nil:
					cut.Add(1)
				case res.StatusCode >= 500:
					refused.Add(1)
				default:
					t.Errorf("%s: %s", path, res.Status)
				}
			}
		})
	}
	for range 4 {
		time.Sleep(700 * time.Millisecond)
		c.relays["relay-1"].kill()
		time.Sleep(300 * time.Millisecond)
		c.restart(t, "relay-1")
	}
	time.Sleep(time.Second)
	stop()
	visiting.Wait()
	t.Logf("%d whole, %d cut, %d refused", whole.Load(), cut.Load(), refused.Load())
	if whole.Load() < 100 || cut.Load() == 0 {
		t.Errorf("%d whole, %d cut: that shows nothing", whole.Load(), cut.Load())
	}
	restartOf := c.edge
	restartOf.kill()
	restartEdge(t, c)
	for i := range 200 { // what is on the disk is whole
		path := fmt.Sprintf("/%d", i)
		if a := get(t, c.client(t, 1), "https://example.cn"+path); a.StatusCode != 200 || !right(path, a.body) {
			t.Errorf("after a start: %s: %s, %d bytes, %v", path, a.Status, len(a.body), a.Header)
		}
	}
	if corrupt := c.edge.metric(t, "causeway_cache_corrupt_total"); corrupt != "0" {
		t.Errorf("%s files were corrupt", corrupt)
	}
}

// tryAsk is ask where the edge may have closed the connection.
func (f framed) tryAsk(stream uint32, path string) error {
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: requestBlock("example.cn", path), EndHeaders: true, EndStream: true})
}
