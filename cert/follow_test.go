package cert

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"causeway/keypair"
)

// lines is a log of a test.
type lines struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// take is what was said since the last time.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

// followed is a store of one site whose files are changed.
type followed struct {
	*Store
	t     *testing.T
	ca    *Authority
	dir   string
	files Files
	log   *lines
}

func newFollowed(t *testing.T, want keypair.Want) *followed {
	f := &followed{t: t, dir: t.TempDir(), log: new(lines)}
	f.ca = newAuthority(t, t.TempDir())
	f.files = issue(t, f.ca, f.dir, "one", "example.cn")
	var err error
	f.Store, err = Load([]Source{{Site: "shop", Files: f.files, Want: want}}, nil, slog.New(slog.NewTextHandler(f.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// served is the common name of what a client gets.
func (f *followed) served() string {
	c, err := f.GetCertificate(&tls.ClientHelloInfo{ServerName: "example.cn"})
	if err != nil {
		f.t.Fatal(err)
	}
	return subject(c)
}

// put writes a file of the pair anew, as a copy does: not all at once.
func (f *followed) put(file string, text []byte) {
	f.t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		f.t.Fatal(err)
	}
	later := time.Now().Add(time.Duration(time.Now().UnixNano()%1e9) * time.Nanosecond) // another time for sure
	if err := os.Chtimes(file, later, later); err != nil {
		f.t.Fatal(err)
	}
}

// another is a new certificate for the same name.
func (f *followed) another(name string) (cert, key []byte) {
	f.t.Helper()
	files := issue(f.t, f.ca, f.t.TempDir(), name, "example.cn")
	return readFile(f.t, files.Cert), readFile(f.t, files.Key)
}

func readFile(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// What some will not like about a certificate is told of once, and again only when
// it is another.
func TestWarnings(t *testing.T) {
	f := newFollowed(t, keypair.Want{Hosts: []string{"example.cn"}, Approved: []string{"CFCA"}})
	f.warn(time.Now())
	if said := f.log.take(); strings.Count(said, "level=WARN msg=certificate site=shop") != 1 || !strings.Contains(said, "which approved_issuers does not name: CFCA") {
		t.Error(said)
	}
	f.warn(time.Now())
	again, err := Load([]Source{{Site: "shop", Files: f.files, Want: f.entries[0].source.Want}}, f.Store, slog.New(slog.NewTextHandler(f.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	again.warn(time.Now()) // after a reload
	if said := f.log.take(); said != "" {
		t.Errorf("told again: %s", said)
	}
}

// A certificate that clients may refuse where they took the one before is taken up,
// and the log says so; a private authority's is nothing of the kind.
func TestChangedChain(t *testing.T) {
	for _, trusted := range []bool{true, false} {
		f := newFollowed(t, keypair.Want{Hosts: []string{"example.cn"}})
		pool := x509.NewCertPool()
		if trusted {
			pool.AddCert(readCert(t, f.ca.CertFile()))
		}
		f.roots = func() (*x509.CertPool, error) { return pool, nil }
		other := issue(t, newAuthority(t, t.TempDir()), t.TempDir(), "two", "example.cn")
		f.put(f.files.Cert, readFile(t, other.Cert))
		f.put(f.files.Key, readFile(t, other.Key))
		f.look()
		f.look()
		said := f.log.take()
		if !strings.Contains(said, "msg=\"certificate changed\"") || strings.Contains(said, "clients may refuse it") != trusted {
			t.Errorf("trusted %v: %s", trusted, said)
		}
	}
}

// A pair that changes is served from the next look on; half of one never is, and
// the log says why, once.
func TestFilesAreFollowed(t *testing.T) {
	f := newFollowed(t, keypair.Want{Hosts: []string{"example.cn"}})
	f.look()
	if f.served() != "one" || f.log.take() != "" {
		t.Fatal("what did not change was read again")
	}
	cert, key := f.another("two")
	f.put(f.files.Cert, cert[:len(cert)/2]) // a copy is under way
	f.look()
	if f.served() != "one" || f.log.take() != "" {
		t.Fatal("half a file is served, or spoken of at once")
	}
	f.put(f.files.Cert, cert) // the key has not come yet
	f.look()
	if f.served() != "one" {
		t.Fatal("a certificate without its key is served")
	}
	f.put(f.files.Key, key)
	f.look()
	if said := f.log.take(); f.served() != "two" || !strings.Contains(said, `msg="certificate changed" site=shop`) || strings.Contains(said, "ERROR") {
		t.Fatalf("%s is served; the log: %s", f.served(), said)
	}

	other, _ := f.another("three")
	f.put(f.files.Cert, other) // and its key never comes
	for range 5 {
		f.look()
	}
	said := f.log.take()
	if f.served() != "two" || strings.Count(said, "\n") != 1 || !strings.Contains(said, "certificate changed and can't be used, the one before stays") || !strings.Contains(said, f.files.Key+" is not the key of") {
		t.Fatalf("%s is served; the log: %s", f.served(), said)
	}
	if state := f.State()[0]; !strings.Contains(state.Err, "is not the key of") || state.Site != "shop" || state.Key != "ECDSA P-256" {
		t.Errorf("the state says %+v", state)
	}
	if err := os.Remove(f.files.Cert); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f.look()
	}
	if f.served() != "two" {
		t.Fatal("a file that is gone takes the certificate with it")
	}
	f.put(f.files.Cert, cert)
	f.look()
	f.look()
	if f.served() != "two" || f.State()[0].Err != "" {
		t.Errorf("%s is served: %q", f.served(), f.State()[0].Err)
	}
}

// As certbot does it: a link that is put to other files.
func TestFollowedThroughLinks(t *testing.T) {
	f := newFollowed(t, keypair.Want{})
	link := func(name string, cert, key []byte) {
		for _, of := range []struct {
			file string
			text []byte
		}{{f.files.Key, key}, {f.files.Cert, cert}} {
			archived := filepath.Join(f.dir, name+filepath.Ext(of.file))
			f.put(archived, of.text)
			next := of.file + ".next"
			if err := os.Symlink(archived, next); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(next, of.file); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"two", "three"} {
		cert, key := f.another(name)
		link(name, cert, key)
		f.look()
		if f.served() != name {
			t.Errorf("%s is served, not %s", f.served(), name)
		}
	}
}

// What the owner does not want takes no one's place.
func TestFollowedAsWanted(t *testing.T) {
	f := newFollowed(t, keypair.Want{Hosts: []string{"example.cn"}, Approved: []string{"Causeway test CA"}, Refuse: true})
	for _, test := range []struct {
		what, says string
		by         *Authority
		host       string
	}{
		{"another name", "does not cover example.cn: it is for www.example.cn", f.ca, "www.example.cn"},
		{"another issuer", "which approved_issuers does not name", nil, "example.cn"},
	} {
		by := test.by
		if by == nil {
			var err error
			if by, err = OpenAuthority(t.TempDir(), "Somebody else"); err != nil {
				t.Fatal(err)
			}
		}
		files := issue(t, by, t.TempDir(), "next", test.host)
		f.put(f.files.Key, readFile(t, files.Key))
		f.put(f.files.Cert, readFile(t, files.Cert))
		for range 3 {
			f.look()
		}
		if said := f.log.take(); f.served() != "one" || !strings.Contains(said, test.says) {
			t.Errorf("%s: %s is served; the log: %s", test.what, f.served(), said)
		}
		if state := f.State()[0]; !strings.Contains(state.Err, test.says) {
			t.Errorf("%s: the state says %q", test.what, state.Err)
		}
	}
}

// One that has expired takes no one's place that is in force; what is in its place
// when that has expired too is better than nothing.
func TestFollowedInForce(t *testing.T) {
	f := newFollowed(t, keypair.Want{})
	expired := func(name string, ago time.Duration) {
		t.Helper()
		template, err := leafTemplate(name, []string{"example.cn"})
		if err != nil {
			t.Fatal(err)
		}
		template.NotBefore, template.NotAfter = time.Now().Add(-240*time.Hour), time.Now().Add(-ago)
		key, der, err := sign(template, f.ca.cert, f.ca.key)
		if err != nil {
			t.Fatal(err)
		}
		text, err := keypair.EncodeKey(key, nil)
		if err != nil {
			t.Fatal(err)
		}
		f.put(f.files.Key, text)
		f.put(f.files.Cert, certPEM(der))
		for range 3 {
			f.look()
		}
	}
	expired("old", time.Hour)
	if said := f.log.take(); f.served() != "one" || strings.Count(said, "expired on") != 1 {
		t.Errorf("%s is served; the log: %s", f.served(), said)
	}
	f.mu.Lock()
	past := *f.entries[0].cert
	leaf := *past.Leaf
	leaf.NotAfter = time.Now().Add(-time.Minute)
	past.Leaf = &leaf
	f.entries[0].cert = &past
	f.mu.Unlock()
	expired("older", 2*time.Hour)
	if state := f.State()[0]; f.served() != "older" || !strings.Contains(state.Err, "expired on") {
		t.Errorf("%s is served, the state says %q", f.served(), state.Err)
	}
}

// Of several certificates of a site each has hosts of its own, and keeps them.
func TestFollowedSome(t *testing.T) {
	f := newFollowed(t, keypair.Want{Hosts: []string{"example.cn", "www.example.cn", "m.example.cn"}, Some: true})
	for _, test := range []struct{ name, host, more, says string }{
		{"www", "www.example.cn", "", "does not cover example.cn any more"},
		{"none", "example.org", "", "does not cover example.cn, www.example.cn, m.example.cn"},
		{"both", "example.cn", "m.example.cn", ""},
	} {
		hosts := []string{test.host}
		if test.more != "" {
			hosts = append(hosts, test.more)
		}
		files := issue(t, f.ca, t.TempDir(), test.name, hosts...)
		f.put(f.files.Key, readFile(t, files.Key))
		f.put(f.files.Cert, readFile(t, files.Cert))
		for range 3 {
			f.look()
		}
		if said := f.log.take(); (f.served() == test.name) != (test.says == "") || !strings.Contains(said, test.says) {
			t.Errorf("%s: %s is served; the log: %s", test.name, f.served(), said)
		}
	}
}

// The owner hears of the end of a certificate at each mark, once.
func TestEndsAreTold(t *testing.T) {
	f := newFollowed(t, keypair.Want{})
	c, _ := f.GetCertificate(&tls.ClientHelloInfo{ServerName: "example.cn"})
	end := c.Leaf.NotAfter
	for _, test := range []struct {
		before time.Duration
		says   string
	}{
		{31 * 24 * time.Hour, ""},
		{30 * 24 * time.Hour, "30 days are left"},
		{29 * 24 * time.Hour, ""},
		{14 * 24 * time.Hour, "14 days are left"},
		{7 * 24 * time.Hour, "7 days are left"},
		{6 * 24 * time.Hour, ""},
		{24 * time.Hour, "level=ERROR"},
		{time.Hour, ""},
		{-time.Hour, "it has expired"},
		{-2 * time.Hour, ""},
	} {
		f.countDays(end.Add(-test.before))
		said := f.log.take()
		if (said == "") != (test.says == "") || !strings.Contains(said, test.says) {
			t.Errorf("%v before the end: %q, want %q", test.before, said, test.says)
		}
	}
}

// A reload reads again what changed, and nothing else.
func TestLoadKeepsWhatIsTheSame(t *testing.T) {
	f := newFollowed(t, keypair.Want{})
	second := issue(t, f.ca, f.dir, "second", "www.example.cn")
	log := slog.New(slog.DiscardHandler)
	next, err := Load([]Source{{Site: "shop", Files: f.files}, {Site: "www", Files: second}}, f.Store, log)
	if err != nil {
		t.Fatal(err)
	}
	if next.entries[0].cert != f.entries[0].cert {
		t.Error("what did not change was read again")
	}
	cert, key := f.another("two")
	f.put(f.files.Cert, cert)
	f.put(f.files.Key, key)
	if next, err = Load([]Source{{Site: "shop", Files: f.files}}, next, log); err != nil || subject(next.entries[0].cert) != "two" {
		t.Errorf("%v: %s is served", err, subject(next.entries[0].cert))
	}
}

// responder answers for a certificate as an authority does (RFC 6960).
type responder struct {
	by     *x509.Certificate
	key    crypto.Signer
	status int
	broken bool
	next   time.Duration
	asked  int
}

func (r *responder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.asked++
	question, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	asked, err := ocsp.ParseRequest(question)
	if err != nil || r.broken {
		http.Error(w, "no", http.StatusInternalServerError)
		return
	}
	answer, err := ocsp.CreateResponse(r.by, r.by, ocsp.Response{
		Status: r.status, SerialNumber: asked.SerialNumber, ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(r.next), RevokedAt: time.Now(),
	}, r.key)
	if err != nil {
		return
	}
	_, _ = w.Write(answer)
}

// A certificate that names a responder is served with its answer, when that is
// good; the handshake waits for none.
func TestStaples(t *testing.T) {
	authority := func(name string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	}
	root := authority("Root")
	rootKey, rootDER, err := sign(root, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if root, err = x509.ParseCertificate(rootDER); err != nil {
		t.Fatal(err)
	}
	between := authority("Between")
	betweenKey, betweenDER, err := sign(between, root, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	if between, err = x509.ParseCertificate(betweenDER); err != nil {
		t.Fatal(err)
	}
	r := &responder{by: between, key: betweenKey, next: time.Hour}
	server := httptest.NewServer(r)
	defer server.Close()
	dir := t.TempDir()
	template, err := leafTemplate("stapled", []string{"example.cn"})
	if err != nil {
		t.Fatal(err)
	}
	template.OCSPServer = []string{server.URL}
	key, der, err := sign(template, between, betweenKey)
	if err != nil {
		t.Fatal(err)
	}
	text, err := keypair.EncodeKey(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	files := Files{Cert: filepath.Join(dir, "a.pem"), Key: filepath.Join(dir, "a.key")}
	for file, text := range map[string][]byte{files.Cert: append(certPEM(der), certPEM(betweenDER)...), files.Key: text} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	said := new(lines)
	s, err := Load([]Source{{Site: "shop", Files: files}}, nil, slog.New(slog.NewTextHandler(said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	staple := func() []byte {
		t.Helper()
		state, _, err := handshake(t, &tls.Config{GetCertificate: s.GetCertificate}, &tls.Config{ServerName: "example.cn", RootCAs: pool})
		if err != nil {
			t.Fatal(err)
		}
		return state.OCSPResponse
	}
	at := time.Now()
	due := func() { t.Helper(); s.dueStaples(context.Background(), server.Client(), at) }
	if staple() != nil {
		t.Error("a staple from nowhere")
	}
	due()
	answer, err := ocsp.ParseResponseForCert(staple(), s.entries[0].cert.Leaf, between)
	if err != nil || answer.Status != ocsp.Good {
		t.Fatalf("%v: %v", answer, err)
	}
	due() // and is not asked for again before half its time is over
	if r.asked != 1 {
		t.Errorf("asked %d times", r.asked)
	}
	r.broken = true
	at = at.Add(45 * time.Minute)
	due()
	if r.asked != 2 || staple() == nil {
		t.Error("an answer that is good yet was given up")
	}
	if state := s.State()[0]; !strings.Contains(state.Err, "500 Internal Server Error") || strings.Count(said.take(), "no OCSP answer") != 1 {
		t.Errorf("the state says %q", state.Err)
	}
	at = at.Add(time.Hour)
	due()
	if staple() != nil {
		t.Error("an answer that is over is stapled")
	}
	r.broken, r.status = false, ocsp.Revoked
	at = at.Add(time.Hour)
	due()
	if state := s.State()[0]; staple() != nil || !strings.Contains(state.Err, "was revoked on") {
		t.Errorf("revoked: the state says %q", state.Err)
	}
	r.status = ocsp.Good
	at = at.Add(3 * time.Hour)
	r.next = 24 * time.Hour
	due()
	if staple() == nil || s.State()[0].Err != "" {
		t.Errorf("well again: %q", s.State()[0].Err)
	}
}

// heap is what is in use after a collection, in bytes.
func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// BenchmarkLoad is what a hundred and ten thousand certificates take, and a look-up
// among them.
func BenchmarkLoad(b *testing.B) {
	for _, many := range []int{100, 10_000} {
		b.Run(fmt.Sprint(many), func(b *testing.B) { benchLoad(b, many) })
	}
}

func benchLoad(b *testing.B, many int) {
	dir := b.TempDir()
	a, err := OpenAuthority(dir, "bench")
	if err != nil {
		b.Fatal(err)
	}
	sources := make([]Source, many)
	hellos := make([]*tls.ClientHelloInfo, many)
	for i := range sources {
		name := fmt.Sprintf("site-%d", i)
		host := name + ".example.cn"
		if err := a.Issue(dir, name, []string{host}); err != nil {
			b.Fatal(err)
		}
		sources[i] = Source{Site: name, Files: Files{Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+".key")}, Want: keypair.Want{Hosts: []string{host}}}
		hellos[i] = &tls.ClientHelloInfo{ServerName: host}
	}
	log := slog.New(slog.DiscardHandler)
	var s *Store
	before := heap()
	for b.Loop() {
		if s, err = Load(sources, nil, log); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(heap()-before)/1e6, "MB")
	const lookups = 1_000_000
	began := time.Now()
	for i := range lookups {
		if c, _ := s.GetCertificate(hellos[i%many]); c == nil {
			b.Fatal("not found")
		}
	}
	b.ReportMetric(float64(time.Since(began).Nanoseconds())/lookups, "ns/lookup")
	began = time.Now()
	s.look()
	b.ReportMetric(float64(time.Since(began).Microseconds())/1e3, "ms/look")
}
