package daemon_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"causeway/admin"
	"causeway/cert"
	"causeway/config"
	"causeway/daemon"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a daemon under test and the file it reads.
type node struct {
	*daemon.Daemon
	file   string
	access *syncBuffer
	log    *syncBuffer
	stop   func() error // ends it and gives Run's error
}

// syncBuffer is a buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start runs a node and waits until it listens.
func start(t *testing.T, file, name string) *node {
	t.Helper()
	n := &node{file: file, access: new(syncBuffer), log: new(syncBuffer)}
	var err error
	n.Daemon, err = daemon.New(daemon.Options{
		Load: func() (*config.Config, error) { return config.Load(file) },
		Node: name, Access: n.access, Log: slog.New(slog.NewTextHandler(n.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx, func() { close(ready) }) }()
	n.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { n.stop() })
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("did not start: %v", err)
	}
	return n
}

// freeAddress is a loopback address that nobody listened on a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func newOrigin(t *testing.T, text string) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }))
	t.Cleanup(server.Close)
	return server
}

// client asks with a Host of its own over kept-alive connections.
func client(t *testing.T) func(address, host, path string) (int, string, error) {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return func(address, host, path string) (int, string, error) {
		req, err := http.NewRequest(http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			return 0, "", err
		}
		req.Host = host
		res, err := transport.RoundTrip(req)
		if err != nil {
			return 0, "", err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return res.StatusCode, string(body), err
	}
}

const oneSite = `
listen: {http: %q, admin: %q}
sites:
  - {name: shop, hosts: {example.cn: %q}, http: serve}
%s`

// A reload is seen by new requests, on connections that stay open; a bad file
// changes nothing and is reported everywhere.
func TestReload(t *testing.T) {
	first, second := newOrigin(t, "first"), newOrigin(t, "second")
	file := filepath.Join(t.TempDir(), "causeway.yaml")
	address, adminAddress := freeAddress(t), freeAddress(t)
	text := func(origin *httptest.Server, more string) string {
		return fmt.Sprintf(oneSite, address, adminAddress, origin.URL, more)
	}
	write(t, file, text(first, ""))
	n := start(t, file, "")
	get := client(t)
	expect := func(want string) {
		t.Helper()
		if status, body, err := get(address, "example.cn", "/"); err != nil || status != 200 || body != want {
			t.Fatalf("got %d %q %v, want %q", status, body, err, want)
		}
	}
	metric := func(line string) {
		t.Helper()
		if _, body, err := get(adminAddress, adminAddress, "/metrics"); err != nil || !strings.Contains(body, line+"\n") {
			t.Errorf("the metrics lack %q (%v)", line, err)
		}
	}
	expect("first")
	write(t, file, text(second, ""))
	if err := n.Reload(); err != nil {
		t.Fatal(err)
	}
	expect("second")
	metric("causeway_config_last_reload_successful 1")

	write(t, file, text(first, "limits: {header_bytes: lots}"))
	var bad config.Errors
	if err := n.Reload(); !errors.As(err, &bad) {
		t.Fatalf("a bad file gave %v", err)
	}
	expect("second")
	metric("causeway_config_last_reload_successful 0")
	if log := n.log.String(); !strings.Contains(log, "reload failed") || !strings.Contains(log, "header_bytes") {
		t.Errorf("the log does not say what is wrong: %s", log)
	}

	// Other limits need another server on the same socket.
	write(t, file, text(first, "limits: {idle_timeout: 5s, body_bytes: 1000}"))
	if err := n.Reload(); err != nil {
		t.Fatal(err)
	}
	expect("first")

	// An address that can't be had, nothing changes.
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	write(t, file, fmt.Sprintf(oneSite, busy.Addr(), adminAddress, second.URL, ""))
	if err := n.Reload(); err == nil {
		t.Error("a busy address was taken")
	}
	expect("first")

	// Another address: the new one serves, the old one is closed.
	moved := freeAddress(t)
	write(t, file, fmt.Sprintf(oneSite, moved, adminAddress, second.URL, ""))
	if err := n.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, body, err := get(moved, "example.cn", "/"); err != nil || body != "second" {
		t.Errorf("on the new address: %q %v", body, err)
	}
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Error("the old address still takes connections")
	}
}

// Reloads while requests come on fresh and kept-alive connections: none fails.
func TestReloadUnderLoad(t *testing.T) {
	origin := newOrigin(t, "here")
	file := filepath.Join(t.TempDir(), "causeway.yaml")
	address, adminAddress := freeAddress(t), freeAddress(t)
	write(t, file, fmt.Sprintf(oneSite, address, adminAddress, origin.URL, ""))
	n := start(t, file, "")
	stop := make(chan struct{})
	var load sync.WaitGroup
	for _, fresh := range []bool{true, false} {
		load.Go(func() {
			transport := &http.Transport{DisableKeepAlives: fresh}
			defer transport.CloseIdleConnections()
			for {
				select {
				case <-stop:
					return
				default:
				}
				req, _ := http.NewRequest(http.MethodGet, "http://"+address+"/", nil)
				req.Host = "example.cn"
				res, err := transport.RoundTrip(req)
				if err != nil {
					t.Errorf("fresh %v: %v", fresh, err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || string(body) != "here" {
					t.Errorf("fresh %v: %q %v", fresh, body, err)
					return
				}
			}
		})
	}
	for i := range 20 {
		// Every second time with other limits: another server on the socket.
		write(t, file, fmt.Sprintf(oneSite, address, adminAddress, origin.URL, fmt.Sprintf("limits: {body_bytes: %d}", 1000+i/2)))
		if err := n.Reload(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	load.Wait()
	if t.Failed() {
		for line := range strings.Lines(n.access.String()) {
			if !strings.Contains(line, `"status":200`) || strings.Contains(line, `"kind"`) {
				t.Log(line)
			}
		}
	}
}

// Stopping lets the request under way finish, refuses new connections, and says
// so on the admin address.
func TestDrain(t *testing.T) {
	asked, finish := make(chan struct{}), make(chan struct{})
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "begun, ")
		_ = http.NewResponseController(w).Flush()
		close(asked)
		<-finish
		fmt.Fprint(w, "done")
	}))
	defer origin.Close()
	file := filepath.Join(t.TempDir(), "causeway.yaml")
	address, adminAddress := freeAddress(t), freeAddress(t)
	write(t, file, fmt.Sprintf(oneSite, address, adminAddress, origin.URL, ""))
	n := start(t, file, "")
	answer := make(chan string, 1)
	get := client(t)
	go func() {
		_, body, err := get(address, "example.cn", "/")
		answer <- fmt.Sprint(body, " ", err)
	}()
	<-asked
	stopped := make(chan error, 1)
	go func() { stopped <- n.stop() }()
	other := client(t)
	for ready := 200; ready == 200; { // the drain begins
		ready, _, _ = other(adminAddress, adminAddress, "/readyz")
	}
	for { // and the listener closes
		conn, err := net.Dial("tcp", address)
		if err != nil {
			break
		}
		conn.Close()
	}
	close(finish)
	if got := <-answer; got != "begun, done <nil>" {
		t.Errorf("the request under way got %q", got)
	}
	if err := <-stopped; err != nil {
		t.Errorf("stopping: %v", err)
	}
}

// What does not end within the limit is cut, visibly.
func TestDrainHasALimit(t *testing.T) {
	asked := make(chan struct{})
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "begun")
		_ = http.NewResponseController(w).Flush()
		close(asked)
		<-r.Context().Done()
	}))
	defer origin.Close()
	file := filepath.Join(t.TempDir(), "causeway.yaml")
	address := freeAddress(t)
	write(t, file, fmt.Sprintf(oneSite, address, freeAddress(t), origin.URL, "limits: {drain_timeout: 50ms}"))
	n := start(t, file, "")
	failed := make(chan error, 1)
	get := client(t)
	go func() { _, _, err := get(address, "example.cn", "/"); failed <- err }()
	<-asked
	if err := n.stop(); err != nil {
		t.Error(err)
	}
	if err := <-failed; err == nil {
		t.Error("a cut answer looked whole")
	}
}

// Two nodes over a real link: the record of each names its part.
func TestTwoNodes(t *testing.T) {
	origin := newOrigin(t, "over there")
	dir := t.TempDir()
	authority, err := cert.OpenAuthority(filepath.Join(dir, "pki"), "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"edge-1", "relay-1"} {
		if err := authority.Issue(filepath.Join(dir, "pki"), name, nil); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "causeway.yaml")
	address, linkAddress, adminAddress := freeAddress(t), freeAddress(t), freeAddress(t)
	write(t, file, fmt.Sprintf(`
sites:
  - {name: shop, hosts: {example.cn: %q}, http: serve}
pki: pki
nodes:
  - {name: edge-1, role: edge, region: cn, listen: {http: %q, admin: %q}}
  - {name: relay-1, role: relay, region: us, listen: {link: %q}, address: %q}
`, origin.URL, address, adminAddress, linkAddress, linkAddress))
	edge := start(t, file, "edge-1")
	get := client(t)
	if status, _, _ := get(adminAddress, adminAddress, "/readyz"); status != 503 {
		t.Errorf("an edge without a relay is ready: %d", status)
	}
	relay := start(t, file, "relay-1")
	if status, body, err := get(address, "example.cn", "/"); err != nil || status != 200 || body != "over there" {
		t.Fatalf("%d %q %v", status, body, err)
	}
	if status, _, _ := get(adminAddress, adminAddress, "/readyz"); status != 200 {
		t.Errorf("the edge is not ready: %d", status)
	}
	relay.stop()
	edge.stop()
	for _, want := range []string{`"node":"edge-1"`, `"role":"edge"`, `"relay":"relay-1"`, `"site":"shop"`, `"status":200`} {
		if !strings.Contains(edge.access.String(), want) {
			t.Errorf("the edge's line lacks %s: %s", want, edge.access)
		}
	}
	for _, want := range []string{`"node":"relay-1"`, `"role":"relay"`, `"client":"127.0.0.1"`} {
		if !strings.Contains(relay.access.String(), want) {
			t.Errorf("the relay's line lacks %s: %s", want, relay.access)
		}
	}
}

// Strangers that hold the link's places, and come again as soon as they are put
// out, keep no node of ours out.
func TestStrangersOnTheLink(t *testing.T) {
	origin := newOrigin(t, "over there")
	dir := t.TempDir()
	authority, err := cert.OpenAuthority(filepath.Join(dir, "pki"), "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"edge-1", "relay-1"} {
		if err := authority.Issue(filepath.Join(dir, "pki"), name, nil); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "causeway.yaml")
	address, linkAddress := freeAddress(t), freeAddress(t)
	write(t, file, fmt.Sprintf(`
sites:
  - {name: shop, hosts: {example.cn: %q}, http: serve}
pki: pki
nodes:
  - {name: edge-1, role: edge, region: cn, listen: {http: %q}}
  - {name: relay-1, role: relay, region: us, listen: {link: %q}, address: %q}
limits: {connections: 8}
`, origin.URL, address, linkAddress, linkAddress))
	start(t, file, "relay-1")
	ctx, cancel := context.WithCancel(t.Context())
	var strangers sync.WaitGroup
	defer strangers.Wait()
	defer cancel()
	const many = 800 // more than the relay has places for
	in := make(chan struct{}, many)
	for i := range many {
		from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i%16))}}
		strangers.Go(func() {
			for ctx.Err() == nil {
				conn, err := from.DialContext(ctx, "tcp", linkAddress)
				if err != nil {
					return
				}
				select {
				case in <- struct{}{}:
				default:
				}
				leave := context.AfterFunc(ctx, func() { conn.Close() })
				_, _ = conn.Read(make([]byte, 1)) // until it is put out
				leave()
				conn.Close()
			}
		})
	}
	for range many {
		<-in
	}
	start(t, file, "edge-1")
	get := client(t)
	for end := time.Now().Add(10 * time.Second); ; {
		status, body, err := get(address, "example.cn", "/")
		if status == 200 && body == "over there" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the edge has no link: %d %q %v", status, body, err)
		}
	}
}

// A node whose address is taken does not start, and leaves nothing behind.
func TestBusyAddress(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	file := filepath.Join(t.TempDir(), "causeway.yaml")
	write(t, file, fmt.Sprintf(oneSite, busy.Addr(), freeAddress(t), "http://127.0.0.1:1", ""))
	d, err := daemon.New(daemon.Options{Load: func() (*config.Config, error) { return config.Load(file) }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := d.Run(ctx, nil); err == nil || !strings.Contains(err.Error(), busy.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

// A node says of a forward that one of its targets is dead, that this cost nobody a
// connection, and who asked for no forward that there is.
func TestForwards(t *testing.T) {
	origin := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "tea") }))
	t.Cleanup(origin.Close)
	live, dead, listen := origin.Listener.Addr().String(), freeAddress(t), freeAddress(t)
	file := filepath.Join(t.TempDir(), "causeway.yaml")
	write(t, file, fmt.Sprintf(`forwards:
  - {name: app, listen: %[1]q, sni: [app.cn], targets: [%[2]q, %[3]q]}
  - {name: other, listen: %[1]q, sni: [other.cn], targets: [%[3]q]}
`, listen, dead, live))
	n := start(t, file, "")
	ask := func(name string) error {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{ServerName: name, InsecureSkipVerify: true}}}
		res, err := client.Get("https://" + listen)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		return err
	}
	for range 4 {
		if err := ask("app.cn"); err != nil {
			t.Error(err)
		}
	}
	if ask("evil.cn") == nil {
		t.Error("there is a forward for another name")
	}
	var said admin.Forwards
	until(t, "all is said", func() bool {
		said = n.Forwards()
		return said.Ends["name_unknown"] == 1 && *said.Forwards[0].Open == 0 && said.Forwards[0].Targets[0].Addresses[0].State == "down"
	})
	app, other := said.Forwards[0], said.Forwards[1]
	ended := app.Ends["done"] + app.Ends["reset_target"] // by whether it takes the client's goodbye
	if app.Connections != 4 || ended != 4 || app.InBytes == 0 || app.OutBytes == 0 || other.Connections != 0 || other.Ends != nil {
		t.Errorf("%+v\n%+v", app, other)
	}
	lost, well := app.Targets[0], app.Targets[1]
	if lost.DialErrors == 0 || lost.DialErrors != lost.Dials || lost.ChecksFailed < 2 || well.Dials != 4 || well.DialErrors != 0 || well.Addresses[0].State != "up" {
		t.Errorf("%+v\n%+v", lost, well)
	}
	if at := lost.Addresses[0]; at.Share != 0 || well.Addresses[0].Share != 1 || at.Since.IsZero() || at.Check == nil || at.Check.Err != at.Why || !strings.Contains(at.Why, "refused") {
		t.Errorf("%+v", at)
	}
}
