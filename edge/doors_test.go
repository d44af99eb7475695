package edge_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"causeway/cache"
	"causeway/config"
	"causeway/edge"
	"causeway/outcome"
)

// issuer signs certificates of a test.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	file string // PEM
}

func newIssuer(t *testing.T, name string) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &issuer{cert, key, pool, file}
}

// issue makes a certificate of a server and a client, good until a time.
func (i *issuer) issue(t *testing.T, until time.Time, names ...string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.cert, key.Public(), i.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// doors is an edge whose sites all have one certificate.
type doors struct {
	t       *testing.T
	address string
	ca      *issuer
	clients *issuer
	recs    *records
	server  *edge.Server
	cert    *tls.Certificate

	over http.RoundTripper
}

const doorsFile = `
listen: {http: "127.0.0.1:0", https: "127.0.0.1:1"}
sites:
  - {name: open, hosts: {open.cn: https://open.com}, tls: {cert: a, key: a}}
  - {name: also, hosts: {also.cn: https://also.com}, tls: {cert: a, key: a}}
  - {name: new, hosts: {new.cn: https://new.com}, tls: {cert: a, key: a, min: "1.3"}}
  - {name: few, hosts: {few.cn: https://few.com}, tls: {cert: a, key: a, suites: [ECDHE-ECDSA-AES256-GCM-SHA384], curves: [secp384r1]}}
  - {name: shut, hosts: {shut.cn: https://shut.com}, tls: {cert: a, key: a, clients: CLIENTS}}
  - {name: ajar, hosts: {ajar.cn: https://ajar.com}, tls: {cert: a, key: a, clients: {ca: CLIENTS, require: false}}}
`

func newDoors(t *testing.T, options edge.Options) *doors {
	t.Helper()
	d := &doors{t: t, ca: newIssuer(t, "public"), clients: newIssuer(t, "clients"), recs: &records{}, over: echo{"over"}}
	d.cert = d.ca.issue(t, time.Now().Add(time.Hour), "open.cn", "also.cn", "new.cn", "few.cn", "shut.cn", "ajar.cn")
	options.Sink, options.Log = d.recs, slog.New(slog.DiscardHandler)
	crossing := d.crossing(doorsFile, d.clients)
	d.server = edge.New(crossing, options)
	server := d.server.HTTPS(crossing.Config.Limits)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.address = ln.Addr().String()
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ServeTLS(ln, "", "") }()
	t.Cleanup(func() { server.Close(); <-done; d.server.Close() })
	return d
}

func (d *doors) crossing(file string, clients *issuer) edge.Crossing {
	d.t.Helper()
	cfg, err := config.Parse("causeway.yaml", []byte(strings.ReplaceAll(file, "CLIENTS", clients.file)))
	if err != nil {
		d.t.Fatal(err)
	}
	made, err := edge.NewDoors(cfg, func(*config.Site) bool { return true })
	if err != nil {
		d.t.Fatal(err)
	}
	return edge.Crossing{Config: cfg, Doors: made, Over: d.over, Certificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if _, _, ok := cfg.LookupName(hello.ServerName); !ok && hello.ServerName != "" {
			return nil, nil
		}
		return d.cert, nil
	}}
}

// dial shakes hands and reads what the server says of it: in TLS 1.3 a client
// is done before the server has looked at its certificate.
func (d *doors) dial(name string, set func(*tls.Config)) (*tls.Conn, error) {
	d.t.Helper()
	settings := &tls.Config{RootCAs: d.ca.pool, ServerName: name}
	if set != nil {
		set(settings)
	}
	raw, err := net.Dial("tcp", d.address)
	if err != nil {
		d.t.Fatal(err)
	}
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Client(raw, settings)
	d.t.Cleanup(func() { c.Close() })
	return c, c.Handshake()
}

// ask sends a request over HTTP/1.1 on a connection, and gives the status and
// the body.
func (d *doors) ask(c *tls.Conn, host string, fields ...string) (int, string, http.Header, error) {
	d.t.Helper()
	req, err := http.NewRequest(http.MethodGet, "https://"+host+"/", nil)
	if err != nil {
		d.t.Fatal(err)
	}
	transport := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		req.Header.Set(name, value)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), res.Header, err
}

// must is dial and ask for what has to succeed with a status.
func (d *doors) must(status int, name, host string, set func(*tls.Config)) (*tls.Conn, string) {
	d.t.Helper()
	c, err := d.dial(name, set)
	if err != nil {
		d.t.Fatalf("dial %s: %v", name, err)
	}
	got, body, _, err := d.ask(c, host)
	if err != nil || got != status {
		d.t.Fatalf("%s on a connection for %q: status %d, %v, want %d; record %+v", host, name, got, err, status, d.recs.last())
	}
	return c, body
}

func TestDoorSettings(t *testing.T) {
	d := newDoors(t, edge.Options{})
	at := func(version uint16, suites []uint16, curves ...tls.CurveID) func(*tls.Config) {
		return func(c *tls.Config) {
			c.MinVersion, c.MaxVersion, c.CipherSuites, c.CurvePreferences = tls.VersionTLS10, version, suites, curves
		}
	}
	ecdsaGCM256 := []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}
	for _, test := range []struct {
		name, host string
		set        func(*tls.Config)
		alert      string // "" is a handshake that succeeds
	}{
		{"1.3", "open.cn", at(tls.VersionTLS13, nil), ""},
		{"1.2", "open.cn", at(tls.VersionTLS12, nil), ""},
		{"1.1", "open.cn", at(tls.VersionTLS11, nil), "protocol version not supported"},
		{"CBC", "open.cn", at(tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}), "handshake failure"},
		{"no forward secrecy", "open.cn", at(tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}), "handshake failure"},
		{"1.3 where it is the least", "new.cn", at(tls.VersionTLS13, nil), ""},
		{"1.2 where 1.3 is the least", "new.cn", at(tls.VersionTLS12, nil), "protocol version not supported"},
		{"its suite and curve", "few.cn", at(tls.VersionTLS12, ecdsaGCM256, tls.CurveP384), ""},
		{"another suite", "few.cn", at(tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, tls.CurveP384), "handshake failure"},
		{"another curve", "few.cn", at(tls.VersionTLS13, nil, tls.X25519), "handshake failure"},
		{"no site", "none.cn", nil, "unrecognized name"},
	} {
		c, err := d.dial(test.host, test.set)
		switch {
		case test.alert == "" && err != nil:
			t.Errorf("%s: %v", test.name, err)
		case test.alert == "":
			if status, _, _, err := d.ask(c, test.host); err != nil || status != 200 {
				t.Errorf("%s: status %d, %v", test.name, status, err)
			}
		case err == nil || !strings.Contains(err.Error(), test.alert):
			t.Errorf("%s: %v, want %s", test.name, err, test.alert)
		}
	}
	c, _ := d.must(200, "open.cn", "open.cn", nil)
	if state := c.ConnectionState(); state.CurveID != tls.X25519MLKEM768 {
		t.Errorf("key exchange %v, want the hybrid one", state.CurveID)
	}
}

// TestDoorOfOthers holds that a connection made for one name does not reach a
// site that asks for more, over HTTP/1.1 and HTTP/2.
func TestDoorOfOthers(t *testing.T) {
	d := newDoors(t, edge.Options{})
	for _, host := range []string{"new.cn", "few.cn", "shut.cn", "ajar.cn"} {
		for _, name := range []string{"open.cn", ""} {
			d.must(421, name, host, func(c *tls.Config) { c.InsecureSkipVerify = name == "" })
		}
	}
	d.must(200, "", "open.cn", func(c *tls.Config) { c.InsecureSkipVerify = true })
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	dials := 0
	transport := &http.Transport{Protocols: protocols, DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
		dials++
		return d.dial("open.cn", func(c *tls.Config) { c.NextProtos = []string{"h2"} })
	}}
	defer transport.CloseIdleConnections()
	for host, status := range map[string]int{"open.cn": 200, "shut.cn": 421, "ajar.cn": 421, "also.cn": 421} {
		req, _ := http.NewRequest(http.MethodGet, "https://open.cn/", nil)
		req.Host = host // one connection for all, as a client that coalesces
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != status || res.ProtoMajor != 2 {
			t.Errorf("%s over HTTP/2 on a connection for open.cn: %s", host, res.Status)
		}
	}
	if dials != 1 {
		t.Fatalf("%d connections, want one", dials)
	}
}

func TestClientCertificate(t *testing.T) {
	d := newDoors(t, edge.Options{})
	known := d.clients.issue(t, time.Now().Add(time.Hour), "li@example.cn")
	with := func(cert *tls.Certificate) func(*tls.Config) {
		return func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		}
	}
	field := "Client-Cert: :" + base64.StdEncoding.EncodeToString(known.Certificate[0]) + ":\n"
	for _, host := range []string{"shut.cn", "ajar.cn"} {
		if _, body := d.must(200, host, host, with(known)); !strings.Contains(body, field) {
			t.Errorf("%s: the origin was not told of the certificate:\n%s", host, body)
		}
	}
	d.must(403, "shut.cn", "shut.cn", nil)
	if rec := d.recs.last(); rec.Kind != outcome.ClientUnknown {
		t.Errorf("kind %q", rec.Kind)
	}
	if _, body := d.must(200, "ajar.cn", "ajar.cn", nil); strings.Contains(body, "Client-Cert") {
		t.Errorf("the origin was told of a certificate that there is not:\n%s", body)
	}
	if _, body := d.must(200, "open.cn", "open.cn", with(known)); strings.Contains(body, "Client-Cert") {
		t.Errorf("a site without clients asked for a certificate:\n%s", body)
	}
	strangers := newIssuer(t, "strangers")
	for what, cert := range map[string]*tls.Certificate{
		"another authority": strangers.issue(t, time.Now().Add(time.Hour), "li@example.cn"),
		"expired":           d.clients.issue(t, time.Now().Add(-time.Minute), "li@example.cn"),
	} {
		for _, host := range []string{"shut.cn", "ajar.cn"} {
			c, err := d.dial(host, with(cert))
			if err == nil {
				_, _, _, err = d.ask(c, host)
			}
			if err == nil || !strings.Contains(err.Error(), "remote error: tls:") {
				t.Errorf("%s, %s: %v, want an alert", host, what, err)
			}
		}
	}
}

// TestClientClaims holds that nobody but the edge says that a certificate was
// seen.
func TestClientClaims(t *testing.T) {
	d := newDoors(t, edge.Options{})
	for _, host := range []string{"open.cn", "ajar.cn"} {
		c, err := d.dial(host, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, body, _, err := d.ask(c, host, "Client-Cert: :AAAA:", "Client-Cert-Chain: :AAAA:", "X-SSL-Client-Verify: SUCCESS", "X-Forwarded-Client-Cert: a",
			"Client_Cert: :AAAA:", "Connection: Client-Cert")
		if err != nil {
			t.Fatal(err)
		}
		if lower := strings.ToLower(body); strings.Contains(lower, "client-cert") || strings.Contains(lower, "client_cert") || strings.Contains(lower, "ssl") {
			t.Errorf("%s: what a client claims crossed:\n%s", host, body)
		}
	}
	known := d.clients.issue(t, time.Now().Add(time.Hour), "li@example.cn")
	c, err := d.dial("shut.cn", func(c *tls.Config) { c.Certificates = []tls.Certificate{*known} })
	if err != nil {
		t.Fatal(err)
	}
	_, body, _, err := d.ask(c, "shut.cn", "Client-Cert: :AAAA:", "Connection: Client-Cert")
	if err != nil || strings.Contains(body, ":AAAA:") || !strings.Contains(body, "Client-Cert: :M") {
		t.Errorf("the field is not the edge's own: %v\n%s", err, body)
	}
}

// sessions is a client's cache that has one session for all names.
type sessions struct{ tls.ClientSessionCache }

func (s sessions) Get(string) (*tls.ClientSessionState, bool)  { return s.ClientSessionCache.Get("") }
func (s sessions) Put(_ string, state *tls.ClientSessionState) { s.ClientSessionCache.Put("", state) }

// resumes gets a session at one name and says whether it is resumed at another.
func (d *doors) resumes(version uint16, first, second string, set func(*tls.Config), between func()) bool {
	d.t.Helper()
	cache := sessions{tls.NewLRUClientSessionCache(1)}
	settings := func(c *tls.Config) {
		if set != nil {
			set(c)
		}
		c.MaxVersion, c.ClientSessionCache = version, cache
	}
	c, err := d.dial(first, settings)
	if err != nil {
		d.t.Fatal(err)
	}
	if status, _, _, err := d.ask(c, first); status == 0 { // with the answer the tickets of TLS 1.3 have come
		d.t.Fatal(err)
	}
	if c.ConnectionState().DidResume {
		d.t.Fatal("the first connection resumed")
	}
	if between != nil {
		between()
	}
	c, err = d.dial(second, settings)
	if err != nil {
		return false
	}
	return c.ConnectionState().DidResume
}

// TestTickets holds that a session is resumed for its own site alone, as long as
// that is what it was.
func TestTickets(t *testing.T) {
	tickets := &fixedTickets{secrets: [][32]byte{{1}}}
	d := newDoors(t, edge.Options{Tickets: tickets})
	known := d.clients.issue(t, time.Now().Add(time.Hour), "li@example.cn")
	with := func(c *tls.Config) { c.Certificates = []tls.Certificate{*known} }
	swap := func(file string, clients *issuer) func() {
		return func() { d.server.Swap(d.crossing(file, clients)) }
	}
	back := swap(doorsFile, d.clients)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, test := range []struct {
			what          string
			first, second string
			between       func()
			resumes       bool
		}{
			{"the same site", "open.cn", "open.cn", nil, true},
			{"another site with the same settings", "open.cn", "also.cn", nil, false},
			{"a site that asks for a certificate", "open.cn", "shut.cn", nil, false},
			{"a site that asks for a lot, from one that asks less", "ajar.cn", "shut.cn", nil, false},
			{"a certificate that was shown", "shut.cn", "shut.cn", nil, true},
			{"after a reload", "open.cn", "open.cn", back, true},
			{"after a reload that asks for a certificate", "open.cn", "open.cn", swap(strings.Replace(doorsFile, "{cert: a, key: a}", "{cert: a, key: a, clients: CLIENTS}", 1), d.clients), false},
			{"after a reload with another authority", "shut.cn", "shut.cn", swap(doorsFile, newIssuer(t, "others")), false},
			{"after a rotation", "open.cn", "open.cn", func() { tickets.add([32]byte{2}) }, true},
			{"after the last rotation", "open.cn", "open.cn", func() { tickets.set([32]byte{3}) }, false},
		} {
			if got := d.resumes(version, test.first, test.second, with, test.between); got != test.resumes {
				t.Errorf("%s, %s: resumed %v, want %v", tls.VersionName(version), test.what, got, test.resumes)
			}
			back()
		}
	}
	if d.resumes(tls.VersionTLS13, "few.cn", "few.cn", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP384} }, nil) != true {
		t.Error("few.cn does not resume")
	}
}

// TestResumedClient holds that a resumed session has the certificate that was
// shown when it began.
func TestResumedClient(t *testing.T) {
	d := newDoors(t, edge.Options{})
	known := d.clients.issue(t, time.Now().Add(time.Hour), "li@example.cn")
	cache := tls.NewLRUClientSessionCache(1)
	for i := range 2 {
		c, body := d.must(200, "shut.cn", "shut.cn", func(c *tls.Config) {
			c.Certificates, c.ClientSessionCache = []tls.Certificate{*known}, cache
		})
		if c.ConnectionState().DidResume != (i == 1) || !strings.Contains(body, "Client-Cert: ") {
			t.Errorf("connection %d: resumed %v\n%s", i, c.ConnectionState().DidResume, body)
		}
	}
}

// TestReloadedClients holds that a connection of before does not outlive what its
// certificate was good for.
func TestReloadedClients(t *testing.T) {
	d := newDoors(t, edge.Options{})
	known := d.clients.issue(t, time.Now().Add(time.Hour), "li@example.cn")
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	shut := &http.Transport{Protocols: protocols, DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
		return d.dial("shut.cn", func(c *tls.Config) { c.NextProtos, c.Certificates = []string{"h2"}, []tls.Certificate{*known} })
	}}
	open := &http.Transport{Protocols: protocols, DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
		return d.dial("open.cn", func(c *tls.Config) { c.NextProtos, c.MaxVersion = []string{"h2"}, tls.VersionTLS12 })
	}}
	defer shut.CloseIdleConnections()
	defer open.CloseIdleConnections()
	ask := func(what string, transport *http.Transport, host string, status int) {
		t.Helper()
		res, err := transport.RoundTrip(&http.Request{Method: http.MethodGet, URL: mustURL(t, "https://"+host+"/"), Header: http.Header{}})
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != status {
			t.Errorf("%s: %s, want %d", what, res.Status, status)
		}
	}
	ask("at first", shut, "shut.cn", 200)
	ask("at first", open, "open.cn", 200)
	d.server.Swap(d.crossing(doorsFile, newIssuer(t, "others")))
	ask("the authority is trusted no more", shut, "shut.cn", 421)
	d.server.Swap(d.crossing(strings.Replace(doorsFile, "{cert: a, key: a}", "{cert: a, key: a, clients: CLIENTS}", 1), d.clients))
	ask("certificates are asked for now", open, "open.cn", 403)
	d.server.Swap(d.crossing(strings.Replace(doorsFile, "{cert: a, key: a}", `{cert: a, key: a, min: "1.3"}`, 1), d.clients))
	ask("TLS 1.3 is the least now", open, "open.cn", 421)
}

func TestNewDoorsErrors(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty.pem": "", "broken.pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"empty.pem": "holds no certificate", "broken.pem": "malformed certificate", "missing.pem": "no such file"} {
		file := strings.ReplaceAll(doorsFile, "CLIENTS", filepath.Join(dir, name))
		cfg, err := config.Parse("causeway.yaml", []byte(file))
		if err != nil {
			t.Fatal(err)
		}
		_, err = edge.NewDoors(cfg, func(*config.Site) bool { return true })
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "tls.clients of site shut") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err = edge.NewDoors(cfg, func(*config.Site) bool { return false }); err != nil {
			t.Errorf("%s, of a site that ends elsewhere: %v", name, err)
		}
	}
}

// TestChallengeDoor holds that an authority that validates is shown what
// Certificate chooses, and no site's settings.
func TestChallengeDoor(t *testing.T) {
	d := newDoors(t, edge.Options{})
	c, err := d.dial("shut.cn", func(c *tls.Config) { c.NextProtos, c.MaxVersion = []string{"acme-tls/1"}, tls.VersionTLS12 })
	if err != nil || c.ConnectionState().NegotiatedProtocol != "acme-tls/1" {
		t.Fatalf("%v, %q", err, c.ConnectionState().NegotiatedProtocol)
	}
	if _, err := d.dial("shut.cn", func(c *tls.Config) { c.NextProtos = []string{"h3"} }); err == nil || !strings.Contains(err.Error(), "no application protocol") {
		t.Errorf("h3: %v", err)
	}
}

// TestStrictTransport holds what becomes of the origin's field and of the file's.
func TestStrictTransport(t *testing.T) {
	d := newDoors(t, edge.Options{})
	origin := ""
	d.over = roundTrip(func(req *http.Request) (*http.Response, error) {
		res := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}
		if origin != "" {
			res.Header["Strict-Transport-Security"] = []string{origin, "max-age=5"}
		}
		return res, nil
	})
	const wide = "max-age=31536000; includeSubDomains; preload"
	for _, test := range []struct{ settings, origin, want string }{
		{"{cert: a, key: a}", "", ""},
		{"{cert: a, key: a}", "max-age=60", "max-age=60"},
		{"{cert: a, key: a}", wide, "max-age=31536000"},
		{"{cert: a, key: a}", "nonsense", ""},
		{"{cert: a, key: a}, http: serve", wide, ""},
		{"{cert: a, key: a, hsts: {max_age: 24h}}", "", "max-age=86400"},
		{"{cert: a, key: a, hsts: {max_age: 24h}}", wide, "max-age=86400"},
		{"{cert: a, key: a, hsts: {max_age: 0s}}", wide, "max-age=0"},
		{"{cert: a, key: a, hsts: {max_age: 8760h, include_subdomains: true, preload: true}}", "", wide},
	} {
		d.server.Swap(d.crossing(strings.Replace(doorsFile, "{cert: a, key: a}", test.settings, 1), d.clients))
		origin = test.origin
		c, err := d.dial("open.cn", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _, header, err := d.ask(c, "open.cn")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(header["Strict-Transport-Security"], " | "); got != test.want {
			t.Errorf("%s, the origin says %q: %q, want %q", test.settings, test.origin, got, test.want)
		}
	}
	// A page of ours says it too.
	d.over = roundTrip(func(*http.Request) (*http.Response, error) { return nil, outcome.Errorf(outcome.LinkDown, "down") })
	d.server.Swap(d.crossing(strings.Replace(doorsFile, "{cert: a, key: a}", "{cert: a, key: a, hsts: {max_age: 1h}}", 1), d.clients))
	c, err := d.dial("open.cn", nil)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, header, err := d.ask(c, "open.cn"); err != nil || status != 502 || header.Get("Strict-Transport-Security") != "max-age=3600" {
		t.Errorf("status %d, %v, %v", status, header, err)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func mustURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// fixedTickets are secrets that the test changes.
type fixedTickets struct {
	mu      sync.Mutex // guards the rest
	epoch   int64
	secrets [][32]byte
}

func (f *fixedTickets) Secrets(time.Time) (int64, [][32]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.epoch, f.secrets
}

// add puts a secret before the others.
func (f *fixedTickets) add(secret [32]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch++
	f.secrets = append([][32]byte{secret}, f.secrets...)
}

// set leaves one secret.
func (f *fixedTickets) set(secret [32]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch++
	f.secrets = [][32]byte{secret}
}

// TestKeptForClients holds that what one with a certificate got is not kept for
// those without, nor the other way round, unless the origin says so.
func TestKeptForClients(t *testing.T) {
	d := newDoors(t, edge.Options{})
	known := d.clients.issue(t, time.Now().Add(time.Hour), "li@example.cn")
	asked := 0
	d.over = roundTrip(func(req *http.Request) (*http.Response, error) {
		asked++
		who := "nobody"
		if req.Header.Get("Client-Cert") != "" {
			who = "li"
		}
		h := http.Header{"Cache-Control": {"max-age=60"}, "Content-Type": {"text/plain"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}}
		switch req.Host {
		case "ajar.cn":
			h["Vary"] = []string{"Client-Cert"}
		case "shut.cn":
			h["Cache-Control"] = []string{"public, max-age=60"}
		}
		return &http.Response{StatusCode: 200, Header: h, Body: io.NopCloser(strings.NewReader(who)), ContentLength: int64(len(who)), Request: req}, nil
	})
	store, err := cache.OpenTiers(cache.TiersOptions{Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	keeps := cache.New(cache.Options{Store: store, Codings: edge.Codings{}})
	t.Cleanup(func() { keeps.Close(); _ = store.Close() })
	crossing := d.crossing(doorsFile, d.clients)
	crossing.Cache = keeps
	d.server.Swap(crossing)
	with := func(c *tls.Config) { c.Certificates = []tls.Certificate{*known} }
	for i, test := range []struct {
		host  string
		set   func(*tls.Config)
		says  string
		asked int // so far
	}{
		{"ajar.cn", nil, "nobody", 1},
		{"ajar.cn", nil, "nobody", 1},
		{"ajar.cn", with, "li", 2},
		{"ajar.cn", with, "li", 3}, // it does not say that others may have it
		{"ajar.cn", nil, "nobody", 3},
		{"shut.cn", with, "li", 4},
		{"shut.cn", with, "li", 4}, // public
	} {
		if _, body := d.must(200, test.host, test.host, test.set); body != test.says || asked != test.asked {
			t.Errorf("%d: %s got %q, asked %d times, want %q, %d", i, test.host, body, asked, test.says, test.asked)
		}
	}
}
