package daemon_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"causeway/cert"
	"causeway/daemon"
)

// crossingOf starts edges and a relay of a file in which the relay's part of the
// links stands at the end, and gives the file without it.
func crossingOf(t *testing.T, origin, limits string) (head, file string, addresses [2]string) {
	t.Helper()
	dir := t.TempDir()
	authority, err := cert.OpenAuthority(filepath.Join(dir, "pki"), "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"edge-1", "edge-2", "relay-1"} {
		if err := authority.Issue(filepath.Join(dir, "pki"), name, nil); err != nil {
			t.Fatal(err)
		}
	}
	addresses = [2]string{freeAddress(t), freeAddress(t)}
	linkAddress := freeAddress(t)
	file = filepath.Join(dir, "causeway.yaml")
	head = fmt.Sprintf(`
sites:
  - {name: shop, hosts: {example.cn: %q}, http: serve}
pki: pki
limits: {%s}
nodes:
  - {name: relay-1, role: relay, region: us, listen: {link: %q}, address: %q}
  - {name: edge-1, role: edge, region: cn, listen: {http: %q}}
`, origin, limits, linkAddress, linkAddress, addresses[0])
	write(t, file, head+fmt.Sprintf("  - {name: edge-2, role: edge, region: cn, listen: {http: %q}}\n", addresses[1]))
	return head, file, addresses
}

// An edge that a file names no more is let go, without a restart of the relay,
// and no other is.
func TestReloadLetsAnEdgeGo(t *testing.T) {
	head, file, addresses := crossingOf(t, newOrigin(t, "over there").URL, "")
	relay := start(t, file, "relay-1")
	start(t, file, "edge-1")
	edge := start(t, file, "edge-2")
	get := client(t)
	for _, address := range addresses {
		if status, body, err := get(address, "example.cn", "/"); err != nil || status != 200 {
			t.Fatalf("%d %q %v", status, body, err)
		}
	}
	write(t, file, head)
	if err := relay.Reload(); err != nil {
		t.Fatal(err)
	}
	until(t, "the edge is let go", func() bool { return connectionsOf(relay.Daemon, "edge-2") == 0 })
	if n := connectionsOf(relay.Daemon, "edge-1"); n == 0 {
		t.Error("the other edge has no connection")
	}
	if status, _, _ := get(addresses[0], "example.cn", "/"); status != 200 {
		t.Errorf("the other edge: %d", status)
	}
	until(t, "its edge says so", func() bool { return strings.Contains(edge.log.String(), "link is down") })
	relay.stop()
	if log := relay.log.String(); strings.Contains(log, "closed connections of a node") {
		t.Errorf("a reload and a stop are taken for madness:\n%s", log)
	}
}

// A header that limits.header_bytes allows crosses the link, both ways.
func TestLongHeadersCross(t *testing.T) {
	const long = 3 << 20
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Long", r.Header.Get("X-Long"))
	}))
	origin.Config.MaxHeaderBytes = 8 << 20
	t.Cleanup(origin.Close)
	_, file, addresses := crossingOf(t, origin.URL, "header_bytes: 4MiB")
	start(t, file, "relay-1")
	start(t, file, "edge-1")
	req, err := http.NewRequest(http.MethodGet, "http://"+addresses[0]+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "example.cn"
	req.Header.Set("X-Long", strings.Repeat("x", long))
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode != 200 || len(res.Header.Get("X-Long")) != long {
		t.Errorf("%s, %d bytes came back: %s", res.Status, len(res.Header.Get("X-Long")), body)
	}
}

func connectionsOf(d *daemon.Daemon, edge string) (n int) {
	for _, path := range d.Links().Paths {
		if path.Edge == edge {
			n += len(path.Connections)
		}
	}
	return n
}

// until waits for what must come.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so: %s", what)
		}
	}
}
