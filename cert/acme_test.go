package cert_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"causeway/cert"
	"causeway/testca"
)

// node is a node with both listeners, as the authority sees it.
type node struct {
	*cert.ACME
	http, tls net.Listener
	before    atomic.Pointer[http.HandlerFunc] // somebody who stands before the plain listener
	logs      *lines
}

// lines is what was logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func portOf(listener net.Listener) int { return listener.Addr().(*net.TCPAddr).Port }

// newNode serves a node that keeps its things in dir.
func newNode(t *testing.T, dir string) *node {
	t.Helper()
	n := &node{http: listen(t), tls: listen(t), logs: &lines{}}
	n.serve(t, dir)
	return n
}

func (n *node) serve(t *testing.T, dir string) {
	n.ACME = cert.NewACME(cert.FileStorage(dir), slog.New(slog.NewTextHandler(n.logs, nil)), nil)
	plain := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before := n.before.Load(); before != nil {
			(*before)(w, r)
			return
		}
		token, _ := strings.CutPrefix(r.URL.Path, "/.well-known/acme-challenge/")
		answer, ok := n.Proof(r.Context(), token)
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, answer)
	})}
	secure := &http.Server{Handler: http.NotFoundHandler(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	var serving sync.WaitGroup
	serving.Go(func() { _ = plain.Serve(n.http) })
	serving.Go(func() {
		_ = secure.Serve(tls.NewListener(n.tls, &tls.Config{
			GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				config := &tls.Config{GetCertificate: n.GetCertificate, NextProtos: []string{"http/1.1"}}
				if cert.IsChallenge(hello) {
					config.NextProtos = hello.SupportedProtos
				}
				return config, nil
			},
		}))
	})
	t.Cleanup(func() {
		n.Close()
		plain.Close()
		secure.Close()
		serving.Wait()
	})
}

// authority is one that looks at n.
func (n *node) authority(t *testing.T, options testca.Options) *testca.CA {
	t.Helper()
	options.HTTPPort, options.TLSPort = portOf(n.http), portOf(n.tls)
	return testca.New(t, options)
}

func settings(ca *testca.CA, challenges ...string) cert.ACMESettings {
	if challenges == nil {
		challenges = []string{cert.ChallengeTLSALPN, cert.ChallengeHTTP}
	}
	return cert.ACMESettings{Directory: ca.URL, TrustPEM: ca.Root, Challenges: challenges, Email: "ops@shop.example"}
}

// shows gives the certificate that a client who asks for name is shown, nil for
// none.
func (n *node) shows(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	c, err := tls.Dial("tcp", n.tls.Addr().String(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		return nil
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

// until waits for something; the test ends by its own time if it never comes.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for start := time.Now(); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatal("it never came: " + what)
		}
	}
}

// got waits until name has a certificate.
func (n *node) got(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	var leaf *x509.Certificate
	until(t, "a certificate for "+name, func() bool {
		leaf = n.shows(t, name)
		return leaf != nil
	})
	return leaf
}

func (n *node) errOf(name string) string {
	for _, s := range n.State() {
		if s.Names[0] == name {
			return s.Err
		}
	}
	return ""
}

func TestACMEChallenges(t *testing.T) {
	for _, kind := range []string{cert.ChallengeHTTP, cert.ChallengeTLSALPN} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			n := newNode(t, dir)
			ca := n.authority(t, testca.Options{})
			n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example", "www.shop.example"}, ACMESettings: settings(ca, kind)}})
			leaf := n.got(t, "shop.example")
			n.got(t, "www.shop.example")
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(ca.IssuerRoot())
			if _, err := tls.Dial("tcp", n.tls.Addr().String(), &tls.Config{ServerName: "www.shop.example", RootCAs: roots}); err != nil {
				t.Errorf("the chain: %v", err)
			}
			state := n.State()
			if len(state) != 2 || state[0].Site != "shop" || state[0].Err != "" || state[0].Key != "ECDSA P-256" || !state[0].NotAfter.Equal(leaf.NotAfter) || state[0].Source != cert.SourceACME || state[0].Where != ca.URL {
				t.Errorf("state: %+v", state)
			}
			if n.shows(t, "other.example") != nil {
				t.Error("a name that is not ours is shown a certificate")
			}
			if got := ca.Orders(); got != 2 {
				t.Errorf("%d orders", got)
			}
			checkModes(t, dir)
		})
	}
}

// checkModes wants files and folders for their owner alone, and no challenge left.
func checkModes(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir || filepath.Dir(path) == filepath.Join(dir, "locks") {
			return err // a lock says nothing
		}
		info, err := entry.Info()
		want := fs.FileMode(0o600)
		if entry.IsDir() {
			want = 0o700
		}
		if err == nil && info.Mode().Perm() != want {
			t.Errorf("%s is %v", path, info.Mode().Perm())
		}
		if strings.Contains(path, "/challenges/") && !entry.IsDir() {
			t.Errorf("a challenge is left: %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestACMERestartOrdersNothing(t *testing.T) {
	dir := t.TempDir()
	n := newNode(t, dir)
	ca := n.authority(t, testca.Options{})
	wanted := []cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(ca)}}
	n.Set(wanted)
	leaf := n.got(t, "shop.example")
	n.Close()
	if found := cert.LookACME(t.Context(), dir, "shop", "shop.example", ca.URL); found.Err != "" || !found.NotAfter.Equal(leaf.NotAfter) {
		t.Errorf("while no node runs its folder shows %+v", found)
	}
	ca.Stop()
	again := newNode(t, dir)
	again.Set(wanted)
	if shown := again.shows(t, "shop.example"); shown == nil || !shown.Equal(leaf) {
		t.Error("after a restart the certificate is not there at once")
	}
	if ca.Orders() != 1 {
		t.Errorf("%d orders", ca.Orders())
	}
}

func TestACMERenew(t *testing.T) {
	n := newNode(t, t.TempDir())
	ca := n.authority(t, testca.Options{})
	n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(ca)}})
	first := n.got(t, "shop.example")
	before := ca.Requests()
	outcome := n.Renew(t.Context(), "shop")
	if len(outcome) != 1 || outcome[0].Err != nil {
		t.Fatalf("%+v", outcome)
	}
	if second := n.shows(t, "shop.example"); second == nil || second.Equal(first) {
		t.Error("it is the same certificate")
	}
	if ca.Requests() == before || ca.Orders() != 2 || ca.Accounts() != 1 {
		t.Errorf("%d orders, %d accounts", ca.Orders(), ca.Accounts())
	}
	if outcome := n.Renew(t.Context(), "nobody"); len(outcome) != 0 {
		t.Errorf("%+v", outcome)
	}
}

// A certificate of a minute's life whose window has begun is renewed by itself.
func TestACMERenewsWhenTheAuthoritySays(t *testing.T) {
	dir := t.TempDir()
	n := newNode(t, dir)
	ca := n.authority(t, testca.Options{})
	wanted := []cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(ca)}}
	n.Set(wanted)
	first := n.got(t, "shop.example")
	n.Close()
	files, err := filepath.Glob(filepath.Join(dir, "certificates", "*", "shop.example.pem"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	_, chain, _ := strings.Cut(string(text), "-----END EC PRIVATE KEY-----\n")
	window := fmt.Sprintf(`{"suggestedWindow": {"start": %q, "end": %q}}`, time.Now().Add(-2*time.Hour).Format(time.RFC3339), time.Now().Add(-time.Hour).Format(time.RFC3339))
	ca.SetRenewal(t, []byte(chain), window)
	again := &node{http: n.http, tls: n.tls, logs: n.logs}
	again.http, again.tls = relisten(t, n.http), relisten(t, n.tls)
	again.serve(t, dir)
	again.Set(wanted)
	until(t, "a renewal", func() bool {
		leaf := again.shows(t, "shop.example")
		return leaf != nil && !leaf.Equal(first)
	})
}

// A certificate is renewed before it ends, and not again and again.
func TestACMERenewsInTime(t *testing.T) {
	n := newNode(t, t.TempDir())
	ca := n.authority(t, testca.Options{Life: 15})
	n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(ca)}})
	first := n.got(t, "shop.example")
	var second *x509.Certificate
	until(t, "a renewal", func() bool {
		second = n.shows(t, "shop.example")
		return second != nil && !second.Equal(first)
	})
	if second.NotBefore.After(first.NotAfter) {
		t.Errorf("the first ended at %v, the second is from %v", first.NotAfter, second.NotBefore)
	}
	if ca.Orders() != 2 {
		t.Errorf("%d orders for two certificates", ca.Orders())
	}
}

// The end of a certificate that can't be renewed is told of at each mark, and that
// of one that is renewed in its time is not.
func TestACMEEnds(t *testing.T) {
	n := newNode(t, t.TempDir())
	ca := n.authority(t, testca.Options{Life: 15})
	n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(ca)}})
	n.got(t, "shop.example")
	if text := n.logs.String(); strings.Contains(text, "certificate ends") {
		t.Error(text)
	}
	ca.Stop()
	until(t, "its last hours, and its end", func() bool {
		text := n.logs.String()
		return strings.Contains(text, "level=ERROR msg=\"certificate ends, and could not be renewed\"") && strings.Contains(text, `left="it has expired"`)
	})
	if times := strings.Count(n.logs.String(), "certificate ends"); times > 2 {
		t.Errorf("told %d times", times)
	}
}

// What somebody else signed is not shown where that is to be refused, and not
// ordered again and again; when it is approved of, it is shown without an order.
func TestACMEApproved(t *testing.T) {
	dir := t.TempDir()
	n := newNode(t, dir)
	ca := n.authority(t, testca.Options{})
	of := settings(ca)
	of.Approved, of.Refuse = []string{"CFCA", "DigiCert"}, true
	set := func(of cert.ACMESettings) {
		n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: of}})
	}
	const why = "which approved_issuers does not name: CFCA, DigiCert; order at one of them, or change approved_issuers"
	set(of)
	until(t, "a refusal", func() bool { return strings.Contains(n.errOf("shop.example"), why) })
	if n.shows(t, "shop.example") != nil {
		t.Error("it is shown")
	}
	if said, _, failed := cert.ACMEFailure(t.Context(), dir, "shop.example", ca.URL); !failed || !strings.Contains(said, why) {
		t.Errorf("its folder says %q", said)
	}
	n.Close()
	n = newNode(t, dir)
	set(of)
	until(t, "the refusal after a restart", func() bool { return strings.Contains(n.errOf("shop.example"), why) })
	time.Sleep(2 * time.Second)
	if n.shows(t, "shop.example") != nil || ca.Orders() != 1 {
		t.Errorf("%d orders", ca.Orders())
	}

	of.Refuse = false
	set(of)
	until(t, "a warning", func() bool {
		return strings.Contains(n.logs.String(), "level=WARN msg=\"certificate of an issuer who is not approved\"")
	})
	first := n.got(t, "shop.example")
	of.Refuse = true
	set(of)
	until(t, "a refusal of what was shown", func() bool { return n.shows(t, "shop.example") == nil })
	of.Approved = []string{"Pebble"}
	set(of)
	if !n.got(t, "shop.example").Equal(first) || ca.Orders() != 1 {
		t.Errorf("%d orders", ca.Orders())
	}
}

// relisten opens the port of a listener that was closed, or closes it.
func relisten(t *testing.T, old net.Listener) net.Listener {
	t.Helper()
	old.Close()
	listener, err := net.Listen("tcp", old.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func TestACMEAccountBinding(t *testing.T) {
	n := newNode(t, t.TempDir())
	const key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	ca := n.authority(t, testca.Options{EAB: map[string]string{"kid-1": key}})
	without := settings(ca)
	n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: without}})
	until(t, "a refusal", func() bool { return n.errOf("shop.example") != "" })
	if err := n.errOf("shop.example"); !strings.Contains(err, "write acme.eab") {
		t.Error(err)
	}
	with := without
	with.EABKeyID, with.EABKey = "kid-1", key
	n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: with}})
	n.got(t, "shop.example")
}

func TestACMEBadNonces(t *testing.T) {
	n := newNode(t, t.TempDir())
	ca := n.authority(t, testca.Options{BadNonces: 30})
	n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(ca)}})
	n.got(t, "shop.example")
}

func TestACMEAuthorityDownAtStart(t *testing.T) {
	n := newNode(t, t.TempDir())
	ca := n.authority(t, testca.Options{})
	ca.Stop()
	n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(ca)}})
	if n.shows(t, "shop.example") != nil { // and the handshake ended at once
		t.Error("a certificate from nobody")
	}
	until(t, "an error", func() bool { return n.errOf("shop.example") != "" })
	if err := n.errOf("shop.example"); !strings.Contains(err, "can't be reached from this node") {
		t.Error(err)
	}
	ca.Start(t)
	n.got(t, "shop.example")
	until(t, "all well", func() bool { return n.errOf("shop.example") == "" }) // it is shown before it is said
}

func TestACMERateLimit(t *testing.T) {
	dir := t.TempDir()
	n := newNode(t, dir)
	ca := n.authority(t, testca.Options{})
	ca.Fault(func(w http.ResponseWriter, r *http.Request) bool {
		if !testca.NewOrder(r) {
			return false
		}
		w.Header().Set("Retry-After", "7200")
		testca.Problem(w, http.StatusTooManyRequests, "rateLimited", "too many certificates already issued")
		return true
	})
	wanted := []cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(ca)}}
	n.Set(wanted)
	until(t, "a refusal", func() bool { return n.errOf("shop.example") != "" })
	if err := n.errOf("shop.example"); !strings.Contains(err, "has a limit, and it is reached") {
		t.Error(err)
	}
	asked := ca.Requests()
	if out := n.Renew(t.Context(), "shop"); len(out) != 1 || out[0].Err == nil || !strings.Contains(out[0].Err.Error(), "wants to be asked again at") || ca.Requests() != asked {
		t.Errorf("somebody who asks: %+v, %d requests", out, ca.Requests()-asked)
	}
	if why, next, failed := cert.ACMEFailure(t.Context(), dir, "shop.example", ca.URL); !failed || !strings.Contains(why, "has a limit") || time.Until(next) < time.Hour {
		t.Error(why, next, failed)
	}
	n.Close()
	again := newNode(t, dir) // a restart is no reason to ask
	again.Set(wanted)
	until(t, "the error of before", func() bool { return again.errOf("shop.example") != "" })
	again.Close()
	if ca.Requests() != asked {
		t.Errorf("after a restart the authority was asked %d times", ca.Requests()-asked)
	}
	if !strings.Contains(n.logs.String(), "again="+time.Now().Add(2*time.Hour).Format("2006-01-02T15")) {
		t.Error("the log does not say when it is asked again: " + n.logs.String())
	}
}

// An authority that is overloaded is left alone with every name, and by who starts
// again.
func TestACMEAuthorityBusy(t *testing.T) {
	dir := t.TempDir()
	n := newNode(t, dir)
	ca := n.authority(t, testca.Options{})
	var asked atomic.Int64
	ca.Fault(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/dir") {
			return false
		}
		asked.Add(1)
		w.Header().Set("Retry-After", "3600")
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return true
	})
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("h%02d.shop.example", i))
	}
	wanted := []cert.ACMENames{{Site: "shop", Names: names, ACMESettings: settings(ca)}}
	n.Set(wanted)
	until(t, "a refusal", func() bool {
		return n.errOf(names[0]) != "" || strings.Contains(n.logs.String(), "no certificate could be had")
	})
	time.Sleep(time.Second) // the others had their turn
	n.Close()
	if failed := strings.Count(n.logs.String(), "no certificate could be had"); failed > 5 { // those that were under way
		t.Errorf("%d names were tried", failed)
	}
	before := asked.Load()
	again := newNode(t, dir)
	again.Set(wanted)
	time.Sleep(time.Second) // nothing comes that could be waited for
	again.Close()
	if asked.Load() != before {
		t.Errorf("after a restart the authority was asked %d times", asked.Load()-before)
	}
}

// What answers in the place of the directory is told of, whatever it is, and its
// like is not read for ever.
func TestACMEBadDirectory(t *testing.T) {
	const told = "does not answer as an ACME directory does"
	for _, test := range []struct {
		name, want string
		answer     http.HandlerFunc
	}{
		{"a page", told, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>log in to the network</html>")
		}},
		{"an empty one", told, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "{}")
		}},
		{"no JSON", told, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "{{")
		}},
		{"not there", told, func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }},
		{"without end", told, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for piece := []byte(strings.Repeat(" ", 64<<10)); ; {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		}},
		{"broken off", "EOF", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "{")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, t.TempDir())
			ca := n.authority(t, testca.Options{})
			ca.Fault(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/dir") {
					return false
				}
				test.answer(w, r)
				return true
			})
			n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(ca)}})
			until(t, "an error", func() bool { return n.errOf("shop.example") != "" })
			if err := n.errOf("shop.example"); !strings.Contains(err, test.want) || len(err) > 2000 {
				t.Errorf("%.3000s", err)
			}
			ca.Fault(nil)
			n.got(t, "shop.example")
		})
	}
}

// A clock that is wrong by days makes the authority's own certificate one that is
// not in force.
func TestACMEClockSkew(t *testing.T) {
	for _, skew := range []time.Duration{-72 * time.Hour, 72 * time.Hour} {
		n := newNode(t, t.TempDir())
		ca := n.authority(t, testca.Options{Skew: skew})
		n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(ca)}})
		until(t, "an error", func() bool { return n.errOf("shop.example") != "" })
		if err := n.errOf("shop.example"); !strings.Contains(err, "not in force by this machine's clock") || !strings.Contains(err, "set the clock by NTP") {
			t.Errorf("%v: %s", skew, err)
		}
		n.Close()
	}
}

// From the staging authority to another the certificate changes, and there is one
// all the time.
func TestACMEOtherAuthority(t *testing.T) {
	n := newNode(t, t.TempDir())
	staging, real := n.authority(t, testca.Options{}), n.authority(t, testca.Options{})
	n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(staging)}})
	first := n.got(t, "shop.example")
	n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(real)}})
	until(t, "the other's certificate", func() bool {
		shown := n.shows(t, "shop.example")
		if shown == nil {
			t.Fatal("there is none meanwhile")
		}
		return !shown.Equal(first)
	})
	rsa := settings(real)
	rsa.RSA = true
	n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: rsa}})
	until(t, "an RSA key", func() bool { return n.shows(t, "shop.example").PublicKeyAlgorithm == x509.RSA })
	if staging.Orders() != 1 || real.Orders() != 2 {
		t.Errorf("%d and %d orders", staging.Orders(), real.Orders())
	}
}

// Before the filing is through the provider answers in the place of the server.
func TestACMEBlockedByProvider(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   []string
	}{
		{"403", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "<html>Beian</html>", http.StatusForbidden)
		},
			[]string{"403 from someone else at http://shop.example", "/.well-known/acme-challenge/", "until its ICP filing is through", "use dns-01 or wait"}},
		{"reset", func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) },
			[]string{"was reset before this node answered", "ICP filing"}},
		{"page", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>Beian</html>") },
			[]string{"another server, or a page of the provider, answered", "ICP filing"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, t.TempDir())
			n.before.Store(&c.answer)
			ca := n.authority(t, testca.Options{})
			n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(ca, cert.ChallengeHTTP)}})
			until(t, "a refusal", func() bool { return n.errOf("shop.example") != "" })
			for _, want := range c.want {
				if err := n.errOf("shop.example"); !strings.Contains(err, want) {
					t.Errorf("%q is not in %q", want, err)
				}
				if !strings.Contains(n.logs.String(), want) {
					t.Errorf("%q is not in the log", want)
				}
			}
			outcome := n.Test(t.Context(), "shop", func(string) (string, error) { return ca.URL, nil })
			if len(outcome) != 1 || outcome[0].Err == nil || !strings.Contains(outcome[0].Err.Error(), "ICP filing") {
				t.Errorf("test: %+v", outcome)
			}
			var said *cert.ACMEError
			if !errors.As(outcome[0].Err, &said) || !said.Refused {
				t.Errorf("%#v", outcome[0].Err)
			}
		})
	}
}

// The kind that fails does not hide the kind that works.
func TestACMEOtherChallenge(t *testing.T) {
	n := newNode(t, t.TempDir())
	blocked := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	n.before.Store(&blocked)
	ca := n.authority(t, testca.Options{})
	n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(ca, cert.ChallengeHTTP, cert.ChallengeTLSALPN)}})
	n.got(t, "shop.example")
}

// An authority that does not offer the first challenge is shown the second.
func TestACMENotOffered(t *testing.T) {
	n := newNode(t, t.TempDir())
	ca := n.authority(t, testca.Options{Without: cert.ChallengeTLSALPN})
	n.Set([]cert.ACMENames{
		{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(ca)},
		{Site: "alpn", Names: []string{"alpn.example"}, ACMESettings: settings(ca, cert.ChallengeTLSALPN)},
	})
	n.got(t, "shop.example")
	until(t, "a failure", func() bool { return n.errOf("alpn.example") != "" })
	if err := n.errOf("alpn.example"); !strings.HasPrefix(err, "tls-alpn-01: the CA does not offer it: leave it out of challenges") {
		t.Error(err)
	}
}

// A visitor of a name whose certificate is not there is refused at once, and the
// log says why, once in a while.
func TestACMENotYet(t *testing.T) {
	n := newNode(t, t.TempDir())
	ca := n.authority(t, testca.Options{})
	ca.Stop()
	n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(ca)}})
	until(t, "a failure", func() bool { return n.errOf("shop.example") != "" })
	for range 3 {
		if n.shows(t, "shop.example") != nil {
			t.Error("a certificate from nowhere")
		}
	}
	if n.shows(t, "other.example") != nil {
		t.Error("a certificate for nobody")
	}
	if logged := n.logs.String(); strings.Count(logged, "visitors are refused") != 1 || !strings.Contains(logged, "can't be reached from this node") {
		t.Error(logged)
	}
}

func TestACMETestKeepsNothing(t *testing.T) {
	n := newNode(t, t.TempDir())
	ca := n.authority(t, testca.Options{})
	n.Set([]cert.ACMENames{{Site: "shop", Names: []string{"shop.example"}, ACMESettings: settings(ca)}})
	first := n.got(t, "shop.example")
	outcome := n.Test(t.Context(), "", func(string) (string, error) { return ca.URL, nil })
	if len(outcome) != 1 || outcome[0].Err != nil || !strings.HasPrefix(outcome[0].Issuer, "Pebble") {
		t.Fatalf("%+v", outcome)
	}
	if ca.Orders() != 2 || !n.shows(t, "shop.example").Equal(first) {
		t.Error("what is served changed")
	}
}

// Two nodes with one folder order once, and each answers for the other.
func TestACMETwoNodesOneFolder(t *testing.T) {
	dir := t.TempDir()
	first, second := newNode(t, dir), newNode(t, dir)
	// The authority reaches the second node alone, as a balancer may have it.
	ca := second.authority(t, testca.Options{})
	wanted := []cert.ACMENames{{Site: "shop", Names: []string{"shop.example", "www.shop.example"}, ACMESettings: settings(ca)}}
	first.Set(wanted)
	second.Set(wanted)
	for _, name := range wanted[0].Names {
		if !first.got(t, name).Equal(second.got(t, name)) {
			t.Error("the nodes have two certificates")
		}
	}
	if ca.Orders() != 2 {
		t.Errorf("%d orders for two names", ca.Orders())
	}
}

func TestACMEUnknownTokens(t *testing.T) {
	n := newNode(t, t.TempDir())
	for _, token := range []string{"", "unknown", "../certificates", "a/b", strings.Repeat("a", 200)} {
		if answer, ok := n.Proof(context.Background(), token); ok {
			t.Errorf("%q: %q", token, answer)
		}
	}
	_, err := tls.Dial("tcp", n.tls.Addr().String(), &tls.Config{ServerName: "shop.example", NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true})
	if err == nil {
		t.Error("a challenge certificate for nobody")
	}
}
