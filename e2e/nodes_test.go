package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestStrangerOnTheLink: a relay lets in the edges that the file names, by the
// certificates of its own authority, and says whom it refused.
func TestStrangerOnTheLink(t *testing.T) {
	c, _ := newShop(t, spec{layout: edgeAndRelay}, "whole")
	relay := c.relays["relay-1"]
	refusals := func() int { return strings.Count(relay.stderrText(), "link refused a peer") }

	// The same file, and the edge's name, but an authority of its own.
	stranger := strings.NewReplacer(c.https, freeAddress(t), c.http, freeAddress(t), c.edge.admin, freeAddress(t), "pki: pki", "pki: other").Replace(c.text(t))
	mustRun(t, binary, "link-ca", "--dir", filepath.Join(c.dir, "other"), "edge-1", "relay-1")
	file := writeFile(t, c.dir, "other.yaml", stranger)
	edge := launchNode(t, "", "run", "--config", file, "--node", "edge-1")
	eventually(t, "the relay refused a certificate of another authority", func() bool { return refusals() > 0 })
	eventually(t, "the stranger says why it has no link", func() bool { return strings.Contains(edge.stderrText(), "link is down") })
	edge.kill()

	// The right authority, but a node that the relay's file does not name.
	stranger = strings.NewReplacer("pki: other", "pki: pki", "edge-1", "edge-2").Replace(stranger)
	mustRun(t, binary, "link-ca", "--dir", filepath.Join(c.dir, "pki"), "edge-2")
	file = writeFile(t, c.dir, "another.yaml", stranger)
	before := refusals()
	edge = launchNode(t, "", "run", "--config", file, "--node", "edge-2")
	eventually(t, "the relay refused a node that it does not know", func() bool { return refusals() > before })
	edge.kill()

	// Nobody at all: no certificate.
	link := strings.Split(strings.Split(c.text(t), "link: \"")[1], `"`)[0]
	before = refusals()
	if conn, err := tls.Dial("tcp", link, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}); err == nil {
		_, err = conn.Read(make([]byte, 1)) // in TLS 1.3 the refusal comes after the client is done
		if conn.Close(); err == nil {
			t.Error("a client without a certificate was let in")
		}
	}
	eventually(t, "the relay refused a client without a certificate", func() bool { return refusals() > before })

	if a := get(t, c.client(t, 2), "https://example.cn/"); a.StatusCode != 200 {
		t.Errorf("the right edge: %s", a.Status)
	}
}

// TestSilentRelay: a relay that takes requests and falls silent does not keep
// visitors waiting, and hears that nobody waits any more.
func TestSilentRelay(t *testing.T) {
	c, _ := newShop(t, spec{layout: edgeAndRelay, more: "limits: {connect_timeout: 1s, origin_timeout: 1s, origin_idle_timeout: 1s}"}, "whole")
	c.relays["relay-1"].kill()
	canceled := make(chan string, 10)
	fake := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Causeway-Hello") != "" {
			w.Header().Set("Causeway-Hello", "1")
			return
		}
		if r.URL.Path == "/half" {
			text("text/html", half)(w, r)
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
		canceled <- r.URL.Path
	})}
	pki := filepath.Join(c.dir, "pki")
	pair, err := tls.LoadX509KeyPair(filepath.Join(pki, "relay-1.pem"), filepath.Join(pki, "relay-1.key"))
	if err != nil {
		t.Fatal(err)
	}
	fake.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	ln, err := net.Listen("tcp", strings.Split(strings.Split(c.text(t), "link: \"")[1], `"`)[0])
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = fake.ServeTLS(ln, "", "") }()
	defer fake.Close()
	linkUp(t, c, "relay-1", 4)

	var visitors sync.WaitGroup
	for _, major := range []int{1, 2} {
		client := c.client(t, major)
		client.Timeout = 2 * patience
		visitors.Go(func() {
			a := get(t, client, fmt.Sprint("https://example.cn/silent", major))
			if a.StatusCode != 504 || !strings.Contains(string(a.body), "Request <code>") {
				t.Errorf("HTTP %d: %s %q", major, a.Status, a.body)
			}
		})
		visitors.Go(func() {
			a := do(t, client, newRequest(t, "POST", fmt.Sprint("https://example.cn/form", major), strings.NewReader("a=1")))
			if a.StatusCode != 504 {
				t.Errorf("HTTP %d: a form: %s %q", major, a.Status, a.body)
			}
		})
	}
	visitors.Go(func() {
		client := c.client(t, 1)
		client.Timeout = 2 * patience
		res, err := client.Do(newRequest(t, "GET", "https://example.cn/half", nil))
		if err != nil {
			t.Error(err)
			return
		}
		defer res.Body.Close()
		if got, err := io.ReadAll(res.Body); err == nil || string(got) != half {
			t.Errorf("half a page: %q, %v", got, err)
		}
	})
	visitors.Wait()
	for range 5 {
		select {
		case <-canceled:
		case <-time.After(patience):
			t.Fatal("the relay was not told that its request is over")
		}
	}
	for _, path := range []string{"/silent1", "/silent2", "/form1", "/form2", "/half"} {
		if r := c.edge.record(t, path); r.Kind != "link_slow" || !strings.Contains(r.Err, "relay relay-1") {
			t.Errorf("record %+v", r)
		}
	}
	if up := c.edge.metric(t, `causeway_link_connections{relay="relay-1"}`); up != "4" {
		t.Errorf("%s connections of the link are left", up)
	}
}

// TestStay: a route that stays is answered on the edge's side and never crosses,
// in whatever spelling it is asked for.
func TestStay(t *testing.T) {
	ca := newAuthority(t)
	kept := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { text("text/html", "kept "+r.Method+" "+r.URL.Path)(w, r) })
	local := strings.Replace(freeAddress(t), "127.0.0.1", "127.0.0.2", 1) // another host than the overseas one
	startNginx(t, local, fmt.Sprintf(`server { listen %s; location / { return 200 "kept here"; } }`, local))
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(newOrigin(t, ca, kept)) + fmt.Sprintf(`
    routes:
      - {path: /api/entries*, methods: [POST], stay: cn, origin: "http://%s"}
`, local)})
	for _, major := range []int{1, 2} {
		client := c.client(t, major)
		for path, stays := range map[string]bool{
			"/api/entries": true, "/api/entries/7?q": true, "/api%2Fentries": true, "/%61pi/entries": true, "/x/../api/entries": true, "/.//api/entries": true,
			"/api/other": false, "/other": false,
		} {
			req := newRequest(t, "POST", "https://example.cn/", strings.NewReader("personal"))
			req.URL.Opaque = path
			a := do(t, client, req)
			if got := string(a.body) == "kept here"; got != stays {
				t.Errorf("HTTP %d, POST %s: %s %q", major, path, a.Status, a.body)
			}
		}
	}
	for _, r := range c.relays["relay-1"].records(t) {
		if strings.Contains(r.Path, "entries") {
			t.Errorf("it crossed: %+v", r)
		}
	}
	// Nor does the relay fetch it when asked by an edge that knows no better.
	wrong := strings.Replace(c.text(t), "path: /api/entries*", "path: /never*", 1)
	relay := c.relays["relay-1"]
	c.write(t, wrong)
	if !c.edge.reload(t) {
		t.Fatal("the reload failed")
	}
	if a := do(t, c.client(t, 1), newRequest(t, "POST", "https://example.cn/api/entries", nil)); a.StatusCode == 200 {
		t.Errorf("the relay fetched it: %q", a.body)
	}
	if r := relay.record(t, "/api/entries"); r.Kind != "stays" {
		t.Errorf("record %+v", r)
	}
}
