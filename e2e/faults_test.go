package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// newShop is a crossing to an nginx that answers every path with text.
func newShop(t *testing.T, s spec, body string) (*crossing, *nginx) {
	t.Helper()
	s.ca = newAuthority(t)
	cert, key := s.ca.issue(t, "origin", "example.com", "*.example.com")
	address := freeAddress(t)
	origin := startNginx(t, address, fmt.Sprintf(`server {
		listen %s ssl http2; server_name example.com;
		ssl_certificate %s; ssl_certificate_key %s;
		default_type text/html;
		location / { return 200 %q; }
	}`, address, cert, key, body))
	s.sites = siteOf(address)
	return newCrossing(t, s), origin
}

// TestOriginKilled: 502 with a page while the origin is dead, and at once the
// origin again when it is back.
func TestOriginKilled(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			c, origin := newShop(t, spec{layout: layout}, "https://example.com/")
			client := c.client(t, 2)
			for range 3 {
				if a := get(t, client, "https://example.cn/"); a.StatusCode != 200 || string(a.body) != "https://example.cn/" {
					t.Fatalf("%s %q", a.Status, a.body)
				}
				origin.kill() // with its kept-alive connections
				for range 3 {
					if a := get(t, client, "https://example.cn/"); a.StatusCode != 502 || !strings.Contains(string(a.body), "Request <code>") {
						t.Errorf("the origin is dead: %s %q", a.Status, a.body)
					}
				}
				origin.start(t)
			}
			if a := get(t, client, "https://example.cn/"); a.StatusCode != 200 {
				t.Errorf("the origin is back: %s", a.Status)
			}
		})
	}
}

// TestOriginKilledUnderWay: an answer under way when the origin dies is cut for
// the client too.
func TestOriginKilledUnderWay(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			ca := newAuthority(t)
			cert, key := ca.issue(t, "origin", "example.com")
			address := freeAddress(t)
			origin := startNginx(t, address, fmt.Sprintf(`server {
				listen %s ssl; server_name example.com;
				ssl_certificate %s; ssl_certificate_key %s; root DIR/www; limit_rate 100k;
			}`, address, cert, key))
			writeFile(t, origin.dir, "www/large.bin", strings.Repeat("x", 10<<20))
			writeFile(t, origin.dir, "www/large.html", strings.Repeat(page, 10<<20/len(page)))
			c := newCrossing(t, spec{layout: layout, ca: ca, sites: siteOf(address)})
			for i, file := range []string{"/large.bin", "/large.html"} {
				res, err := c.client(t, i+1).Do(newRequest(t, "GET", "https://example.cn"+file, nil))
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if _, err := io.ReadFull(res.Body, make([]byte, 1000)); err != nil {
					t.Fatal(err)
				}
				origin.kill()
				if n, err := io.Copy(io.Discard, res.Body); err == nil {
					t.Errorf("%s: a clean end after %d bytes", file, n)
				}
				origin.start(t)
			}
		})
	}
}

// linkUp waits until every warm connection of the edge to a relay is open.
func linkUp(t *testing.T, c *crossing, relay string, connections int) {
	t.Helper()
	eventually(t, "the link to "+relay+" is up", func() bool {
		return c.edge.metric(t, fmt.Sprintf("causeway_link_connections{relay=%q}", relay)) == fmt.Sprint(connections)
	})
}

// TestRelayKilled: with another relay what may be repeated goes on without a
// failure; with none it is 502 until the relay is back, and the edge needs no
// restart.
func TestRelayKilled(t *testing.T) {
	t.Run("one of two", func(t *testing.T) {
		c, _ := newShop(t, spec{layout: edgeAndRelay, relays: []string{"relay-1", "relay-2"}}, "whole")
		linkUp(t, c, "relay-1", 4)
		linkUp(t, c, "relay-2", 4)
		l := startLoad(t, c, is("whole"))
		l.some(t, 200)
		for _, relay := range []string{"relay-1", "relay-2"} {
			c.relays[relay].kill()
			l.some(t, 500)
			c.restart(t, relay)
			linkUp(t, c, relay, 4)
		}
		l.cutAtMost(t, 2)
	})
	t.Run("the only one", func(t *testing.T) {
		c, _ := newShop(t, spec{layout: edgeAndRelay, more: "limits: {connect_timeout: 200ms}"}, "whole")
		l := startLoad(t, c, func(status int, body string) error {
			if status != 200 && status != 502 {
				return fmt.Errorf("status %d", status)
			}
			return nil
		})
		l.some(t, 100)
		c.relays["relay-1"].kill()
		if a := get(t, c.client(t, 1), "https://example.cn/"); a.StatusCode != 502 || !strings.Contains(string(a.body), "Request <code>") {
			t.Errorf("the relay is dead: %s %q", a.Status, a.body)
		}
		if status, why := c.edge.ask("/readyz"); status != 503 {
			t.Errorf("the edge says it is ready: %d %s", status, why)
		}
		c.restart(t, "relay-1")
		c.edge.ready(t)
		if a := get(t, c.client(t, 1), "https://example.cn/"); a.StatusCode != 200 {
			t.Errorf("the relay is back: %s", a.Status)
		}
		l.cutAtMost(t, 1)
	})
}

// TestRelayRestarted: a relay that is told to stop lets its requests end, and
// the edge takes the other: nothing at all fails.
func TestRelayRestarted(t *testing.T) {
	c, _ := newShop(t, spec{layout: edgeAndRelay, relays: []string{"relay-1", "relay-2"}}, "whole")
	linkUp(t, c, "relay-1", 4)
	linkUp(t, c, "relay-2", 4)
	l := startLoad(t, c, is("whole"))
	for _, relay := range []string{"relay-1", "relay-2", "relay-1"} {
		l.some(t, 200)
		c.relays[relay].signal(t, syscall.SIGTERM)
		if code := c.relays[relay].wait(t); code != 0 {
			t.Errorf("%s ended with %d", relay, code)
		}
		c.restart(t, relay)
		linkUp(t, c, relay, 4)
	}
	l.none(t)
}

// TestReload: SIGHUP under load drops nothing, and what comes after it sees the
// new file, whatever in it changed.
func TestReload(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			c, first := newShop(t, spec{layout: layout, more: "limits: {idle_timeout: 60s}"}, "first")
			cert, key := c.ca.issue(t, "origin", "example.com", "*.example.com")
			second := freeAddress(t)
			startNginx(t, second, fmt.Sprintf(`server {
				listen %s ssl http2; ssl_certificate %s; ssl_certificate_key %s; default_type text/html;
				location / { return 200 "second"; }
			}`, second, cert, key))
			one := c.text(t)
			two := strings.ReplaceAll(one, first.address, second)
			files := map[string]string{
				"second": strings.ReplaceAll(two, "idle_timeout: 60s", "idle_timeout: 61s"), // other servers on the same sockets
				"first":  one,
			}
			l := startLoad(t, c, func(status int, body string) error {
				if status != 200 || (body != "first" && body != "second") {
					return fmt.Errorf("status %d, body %q", status, body)
				}
				return nil
			})
			for i := range 10 {
				l.some(t, 50)
				want := []string{"second", "first"}[i%2]
				c.write(t, files[want])
				for _, n := range c.nodes() {
					if !n.reload(t) {
						t.Fatal("the reload failed")
					}
				}
				for _, major := range []int{1, 2} {
					if a := get(t, c.client(t, major), "https://example.cn/"); string(a.body) != want {
						t.Errorf("after the reload: %s %q, want %q", a.Status, a.body, want)
					}
				}
			}
			l.none(t)
		})
	}
}

// TestReloadWhileUnderWay: requests that began before a reload finish as they
// began.
func TestReloadWhileUnderWay(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			o := newSlowOrigin(t)
			c := newCrossing(t, spec{layout: layout, ca: o.ca, sites: siteOf(o.address), more: "limits: {idle_timeout: 60s}"})
			var under []*download
			for _, major := range []int{1, 2} {
				under = append(under, o.begin(t, c, major))
			}
			c.write(t, strings.NewReplacer(o.address, freeAddress(t), "idle_timeout: 60s", "idle_timeout: 61s").Replace(c.text(t)))
			for _, n := range c.nodes() {
				if !n.reload(t) {
					t.Fatal("the reload failed")
				}
			}
			if a := get(t, c.client(t, 1), "https://example.cn/"); a.StatusCode != 502 {
				t.Errorf("the new file's origin is dead, and the answer is %s", a.Status)
			}
			close(o.release)
			for _, d := range under {
				d.whole(t)
			}
		})
	}
}

// TestBadReload: a file with a fault changes nothing and is reported in the
// log, by the verb and by the gauge.
func TestBadReload(t *testing.T) {
	c, _ := newShop(t, spec{layout: oneProcess}, "whole")
	good := c.text(t)
	gauge := func() string { return c.edge.metric(t, "causeway_config_last_reload_successful") }
	if gauge() != "1" {
		t.Errorf("the gauge is %s at the start", gauge())
	}
	l := startLoad(t, c, is("whole"))
	for name, bad := range map[string]struct{ file, says string }{
		"unknown key":      {good + "\nextra: 1\n", "extra"},
		"no yaml":          {"sites: [", "causeway.yaml"},
		"no certificate":   {strings.Replace(good, "site.pem", "gone.pem", 1), "gone.pem"},
		"taken address":    {strings.Replace(good, c.http, c.edge.admin, 1), "listen"},
		"another's socket": {strings.Replace(good, c.http, newOrigin(t, c.ca, http.NotFoundHandler()), 1), "address already in use"},
	} {
		c.write(t, bad.file)
		if c.edge.reload(t) {
			t.Errorf("%s: the reload went through", name)
		}
		if !strings.Contains(c.edge.stderrText(), bad.says) {
			t.Errorf("%s: the log does not say %q:\n%s", name, bad.says, c.edge.stderrText())
		}
		if gauge() != "0" {
			t.Errorf("%s: the gauge is %s", name, gauge())
		}
		verb := runProgram(t, binary, "reload", "--admin", c.edge.admin)
		if verb.code == 0 || !strings.Contains(verb.stderr, bad.says) {
			t.Errorf("%s: causeway reload: exit %d, %s", name, verb.code, verb.stderr)
		}
	}
	c.write(t, good+"\nextra: 1\n") // the verb itself reads the file for its admin address
	if verb := runProgram(t, binary, "reload", "--config", c.file); verb.code != 2 || !strings.Contains(verb.stderr, "extra") {
		t.Errorf("causeway reload with a bad file: exit %d, %s", verb.code, verb.stderr)
	}
	c.write(t, good)
	if verb := runProgram(t, binary, "reload", "--config", c.file); verb.code != 0 {
		t.Errorf("the good file: exit %d, %s", verb.code, verb.stderr)
	}
	if gauge() != "1" {
		t.Errorf("the good file: the gauge is %s", gauge())
	}
	l.none(t)
}

// slowOrigin answers with a first and a second half; the second waits for
// release.
type slowOrigin struct {
	ca      *authority
	address string
	release chan struct{}
}

const half = "https://example.com/ is half\n"

func newSlowOrigin(t *testing.T) *slowOrigin {
	t.Helper()
	o := &slowOrigin{ca: newAuthority(t), release: make(chan struct{})}
	o.address = newOrigin(t, o.ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text("text/html", half)(w, r)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-o.release:
			_, _ = io.WriteString(w, half)
		case <-r.Context().Done():
		}
	}))
	return o
}

// download is an answer under way.
type download struct {
	body io.ReadCloser
}

// begin fetches the first half.
func (o *slowOrigin) begin(t *testing.T, c *crossing, major int) *download {
	t.Helper()
	res, err := c.client(t, major).Do(newRequest(t, "GET", "https://example.cn/", nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if _, err := io.ReadFull(res.Body, make([]byte, len(half)-1)); err != nil {
		t.Fatal(err)
	}
	return &download{res.Body}
}

// whole reads the rest, which must come.
func (d *download) whole(t *testing.T) {
	t.Helper()
	rest, err := io.ReadAll(d.body)
	if want := strings.ReplaceAll(half, "example.com", "example.cn"); err != nil || string(rest) != want {
		t.Errorf("the second half: %q, %v", rest, err)
	}
}

// TestDrain: SIGTERM refuses new connections, lets requests finish, and ends
// with 0.
func TestDrain(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			o := newSlowOrigin(t)
			c := newCrossing(t, spec{layout: layout, ca: o.ca, sites: siteOf(o.address)})
			under := []*download{o.begin(t, c, 1), o.begin(t, c, 2)}
			for _, n := range c.nodes() {
				n.signal(t, syscall.SIGTERM)
			}
			eventually(t, "new connections are refused", func() bool {
				conn, err := net.Dial("tcp", c.https)
				if err == nil {
					conn.Close()
				}
				return errors.Is(err, syscall.ECONNREFUSED)
			})
			if status, why := c.edge.ask("/readyz"); status != 503 || !strings.Contains(why, "stopping") {
				t.Errorf("/readyz says %d %s", status, why)
			}
			for _, n := range c.nodes() {
				if n.ended() {
					t.Fatal("it did not wait for the downloads")
				}
			}
			close(o.release)
			for _, d := range under {
				d.whole(t)
			}
			for _, n := range c.nodes() {
				if code := n.wait(t); code != 0 {
					t.Errorf("exit status %d", code)
				}
			}
		})
	}
}

// TestDrainLimit: what does not finish in limits.drain_timeout is cut, visibly.
func TestDrainLimit(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			o := newSlowOrigin(t)
			c := newCrossing(t, spec{layout: layout, ca: o.ca, sites: siteOf(o.address), more: "limits: {drain_timeout: 300ms}"})
			under := []*download{o.begin(t, c, 1), o.begin(t, c, 2)}
			c.edge.signal(t, syscall.SIGTERM)
			if code := c.edge.wait(t); code != 0 {
				t.Errorf("exit status %d", code)
			}
			for _, d := range under {
				if rest, err := io.ReadAll(d.body); err == nil {
					t.Errorf("a clean end after %q", rest)
				}
			}
			for name, relay := range c.relays {
				relay.signal(t, syscall.SIGTERM)
				if code := relay.wait(t); code != 0 {
					t.Errorf("%s: exit status %d", name, code)
				}
			}
		})
	}
}

// TestSecondSignal: a second signal ends at once what is draining, also one
// that comes together with the first.
func TestSecondSignal(t *testing.T) {
	o := newSlowOrigin(t)
	for name, second := range map[string]func(c *crossing){
		"while it drains": func(c *crossing) {
			eventually(t, "it drains", func() bool { status, _ := c.edge.ask("/readyz"); return status == 503 })
			c.edge.signal(t, syscall.SIGTERM)
		},
		// The system would make one of two that are the same.
		"with the first": func(c *crossing) { c.edge.signal(t, syscall.SIGINT) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCrossing(t, spec{layout: oneProcess, ca: o.ca, sites: siteOf(o.address)})
			o.begin(t, c, 1)
			c.edge.signal(t, syscall.SIGTERM)
			second(c)
			if code := c.edge.wait(t); code != -1 {
				t.Errorf("it ended with %d, and not by the signal", code)
			}
		})
	}
}
