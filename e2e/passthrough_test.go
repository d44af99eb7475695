package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestPassThroughCurl: curl, over HTTP/2 and HTTP/1.1, loads and sends much
// through an edge that ends no TLS, several at a time, and every byte is right;
// the origin hears of curl's own address.
func TestPassThroughCurl(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcde\n"), 3<<16) // 3 MiB
	ca := newAuthority(t)
	origin := newOrigin(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("X-Client", r.Header.Get("X-Forwarded-For"))
		if r.Method == http.MethodGet {
			_, _ = w.Write(big)
			return
		}
		sum := sha256.New()
		_, _ = io.Copy(sum, r.Body)
		fmt.Fprintf(w, "%x", sum.Sum(nil))
	}))
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(origin) + "    entry: passthrough\n"})
	_, port, _ := net.SplitHostPort(c.https)
	dir := t.TempDir()
	upload := writeFile(t, dir, "upload", string(big))
	common := []string{"--cacert", ca.file(), "--interface", "127.0.0.9", "--connect-to", "example.cn:443:127.0.0.1:" + port}
	var clients sync.WaitGroup
	for _, version := range []string{"--http2", "--http1.1"} {
		for i := range 3 {
			clients.Go(func() {
				got := filepath.Join(dir, fmt.Sprint("got", version, i))
				head := curl(t, slices.Concat(common, []string{version, "-D", "-", "-o", got, "https://example.cn/big"})...)
				if data, err := os.ReadFile(got); err != nil || !bytes.Equal(data, big) {
					t.Errorf("%s: %d bytes came: %v\n%s%s", version, len(data), err, head.stdout, head.stderr)
				}
				if !strings.Contains(strings.ToLower(head.stdout), "x-client: 127.0.0.9") {
					t.Errorf("%s: the origin heard of another client:\n%s", version, head.stdout)
				}
				sum := curl(t, slices.Concat(common, []string{version, "-T", upload, "https://example.cn/up"})...)
				if want := fmt.Sprintf("%x", sha256.Sum256(big)); sum.stdout != want {
					t.Errorf("%s: another file came up: %s %s", version, sum.stdout, sum.stderr)
				}
			})
		}
	}
	clients.Wait()
}

// TestPassThroughOpenSSL: openssl is told why it is refused, and sees the
// relay's certificate where it is not.
func TestPassThroughOpenSSL(t *testing.T) {
	require(t, "openssl")
	ca := newAuthority(t)
	origin := newOrigin(t, ca, text("text/plain", "here"))
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(origin) + "    entry: passthrough\n"})
	ask := func(args ...string) string {
		r := runProgram(t, "timeout", append([]string{"10", "openssl", "s_client", "-connect", c.https, "-CAfile", ca.file(), "-verify_return_error"}, args...)...)
		return r.stdout + r.stderr
	}
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		if said := ask("-servername", "example.cn", version); !strings.Contains(said, "Verify return code: 0 (ok)") {
			t.Errorf("%s:\n%s", version, said)
		}
	}
	for _, name := range [][]string{{"-servername", "example.cn.evil.test"}, {"-servername", "a b.example.cn"}, {"-noservername"}} {
		if said := ask(name...); !strings.Contains(said, "unrecognized name") && !strings.Contains(said, "alert number 112") {
			t.Errorf("%q:\n%s", name, said)
		}
	}
}

// TestPassThroughFlood: of twice as many connections as limits.connections the
// half is served and the rest waits, until there is room; when all are gone
// nothing is left of them, on the edge or on the relay.
func TestPassThroughFlood(t *testing.T) {
	const most, coming = 200, 400
	ca := newAuthority(t)
	origin := newOrigin(t, ca, text("text/plain", "here"))
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(origin) + "    entry: passthrough\n", more: fmt.Sprintf("limits: {connections: %d}", most)})
	held := func(n *node) int {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.pid()))
		if err != nil {
			t.Fatal(err)
		}
		goroutines, err := strconv.Atoi(n.metric(t, "go_goroutines"))
		if err != nil {
			t.Fatal(err)
		}
		return len(files) + goroutines
	}
	before := map[*node]int{}
	for _, n := range c.nodes() {
		before[n] = held(n)
	}
	served := make(chan net.Conn, coming)
	var visitors sync.WaitGroup
	for range coming {
		visitors.Go(func() {
			dialer := tls.Dialer{Config: &tls.Config{ServerName: "example.cn", RootCAs: ca.pool(t), NextProtos: []string{"http/1.1"}}}
			conn, err := dialer.DialContext(t.Context(), "tcp", c.https)
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: example.cn\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || res.StatusCode != http.StatusOK {
				t.Error(res, err)
			}
			served <- conn
		})
	}
	var open []net.Conn
	for range most {
		open = append(open, <-served)
	}
	if n := len(served); n > 0 {
		t.Errorf("%d more than %d were served", n, most)
	}
	for _, conn := range open { // each makes room for one that waits
		conn.Close()
	}
	for range coming - most {
		(<-served).Close()
	}
	visitors.Wait()
	for _, n := range c.nodes() {
		eventually(t, "nothing is left", func() bool { return held(n) < before[n]+most/2 })
	}
}

// TestPassThroughDrain: a connection that passes through and is under way when
// the edge is told to stop gets all of its answer.
func TestPassThroughDrain(t *testing.T) {
	ca := newAuthority(t)
	began := make(chan struct{})
	origin := newOrigin(t, ca, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, "first, ")
		_ = http.NewResponseController(w).Flush()
		close(began)
		time.Sleep(2 * time.Second)
		_, _ = io.WriteString(w, "last")
	}))
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(origin) + "    entry: passthrough\n"})
	client := c.client(t, 1)
	var body []byte
	var err error
	var asking sync.WaitGroup
	asking.Go(func() {
		var res *http.Response
		if res, err = client.Get("https://example.cn/"); err == nil {
			body, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
	})
	<-began
	c.edge.signal(t, syscall.SIGTERM)
	asking.Wait()
	if err != nil || string(body) != "first, last" {
		t.Errorf("%q came: %v", body, err)
	}
}
