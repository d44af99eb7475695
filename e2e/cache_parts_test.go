package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCacheOfParts: of a range of a file at nginx of which the edge keeps a part only
// the rest is fetched, on condition that it is of the same file; and when that was
// changed, what comes is of the new one alone.
func TestCacheOfParts(t *testing.T) {
	ca := newAuthority(t)
	address := freeAddress(t)
	certFile, key := ca.issue(t, "origin", "example.com")
	files := t.TempDir()
	made := func(seed uint64) []byte {
		body := make([]byte, 1<<20)
		_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(body)
		writeFile(t, files, "file.bin", string(body))
		return body
	}
	old := made(1)
	origin := startNginx(t, address, fmt.Sprintf(`log_format ranges '$http_range $http_if_range $status $body_bytes_sent';
	server {
		listen %s ssl http2; server_name example.com;
		ssl_certificate %s; ssl_certificate_key %s;
		access_log DIR/ranges.log ranges;
		root %s; add_header Cache-Control max-age=600;
	}`, address, certFile, key, files))
	asked := func() []string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(origin.dir, "ranges.log"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(address)})
	client := c.client(t, 2)
	part := func(from, to int, body []byte, fetched string) {
		t.Helper()
		a := get(t, client, "https://example.cn/file.bin", fmt.Sprintf("Range: bytes=%d-%d", from, to))
		want := fmt.Sprintf("bytes %d-%d/%d", from, to, len(body))
		if a.StatusCode != 206 || a.Header.Get("Content-Range") != want || !bytes.Equal(a.body, body[from:to+1]) {
			t.Fatalf("%d-%d: %s %v, %d bytes", from, to, a.Status, a.Header, len(a.body))
		}
		eventually(t, "nginx was asked for "+fetched, func() bool {
			all := asked()
			return strings.HasPrefix(all[len(all)-1], fetched)
		})
	}
	kept := func(from, to int, body []byte) {
		t.Helper()
		eventually(t, "it is kept", func() bool {
			a := get(t, client, "https://example.cn/file.bin", fmt.Sprintf("Range: bytes=%d-%d", from, to))
			return strings.Contains(a.Header.Get("Cache-Status"), "hit") && bytes.Equal(a.body, body[from:to+1])
		})
	}
	part(0, 99_999, old, "bytes=0-99999 - 206 100000")
	kept(0, 99_999, old)
	part(50_000, 199_999, old, "bytes=100000-199999 \\x22")
	if all := asked(); !strings.HasSuffix(all[len(all)-1], " 206 100000") {
		t.Errorf("nginx sent %s", all[len(all)-1])
	}
	kept(0, 199_999, old)
	part(300_000, 399_999, old, "bytes=300000-399999 - 206 100000")
	kept(300_000, 399_999, old)
	part(150_000, 349_999, old, "bytes=200000-299999 \\x22")
	kept(0, 399_999, old)

	fresh, then := made(2), time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(files, "file.bin"), then, then); err != nil { // another tag
		t.Fatal(err)
	}
	part(350_000, 449_999, fresh, "bytes=400000-449999 \\x22")
	if all := asked(); !strings.HasSuffix(all[len(all)-1], fmt.Sprintf(" 200 %d", len(fresh))) {
		t.Errorf("nginx sent %s", all[len(all)-1])
	}
	kept(0, len(fresh)-1, fresh)
}
