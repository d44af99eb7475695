package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"causeway/testca"
)

// ordering is a crossing whose certificates are ordered from an authority of the
// test's.
type ordering struct {
	*crossing
	issuer *testca.CA
}

// port is that of an address.
func port(t testing.TB, address string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return number
}

// newOrdering starts a crossing. In sites ORIGIN is an origin's address, and in
// acme CA the directory; before, when not nil, sees the authority before the nodes
// start.
func newOrdering(t testing.TB, l layout, sites, acme string, options testca.Options, before func(*testca.CA)) *ordering {
	t.Helper()
	c := &crossing{dir: t.TempDir(), ca: newAuthority(t), https: freeAddress(t), http: freeAddress(t), relays: map[string]*node{}, args: map[string][]string{}}
	options.TLSPort = port(t, c.https)
	if options.HTTPPort == 0 {
		options.HTTPPort = port(t, c.http)
	}
	o := &ordering{c, testca.New(t, options)}
	if before != nil {
		before(o.issuer)
	}
	origin := newOrigin(t, c.ca, text("text/plain", "here"))
	root := writeFile(t, c.dir, "ca-root.pem", string(o.issuer.Root))
	values := strings.NewReplacer("%ORIGIN", origin, "%ROOTS", c.ca.file(), "%CA", o.issuer.URL, "%TRUST", root, "%DNS", o.issuer.DNS)
	admin := freeAddress(t)
	if l == oneProcess {
		c.write(t, values.Replace(fmt.Sprintf("listen: {http: %q, https: %q, admin: %q}\nacme: {%s}\nsites:\n%s\n", c.http, c.https, admin, acme, sites)))
		c.args[""] = []string{"run", "--config", c.file}
		c.edge = startNode(t, admin, c.args[""]...)
		return o
	}
	link, relayAdmin := freeAddress(t), freeAddress(t)
	c.write(t, values.Replace(fmt.Sprintf("acme: {%s}\nsites:\n%s\npki: pki\nnodes:\n  - {name: edge-1, role: edge, region: cn, listen: {http: %q, https: %q, admin: %q}}\n  - {name: relay-1, role: relay, region: us, listen: {link: %q, admin: %q}, address: %q}\n",
		acme, sites, c.http, c.https, admin, link, relayAdmin, link)))
	mustRun(t, binary, "link-ca", "--dir", filepath.Join(c.dir, "pki"), "edge-1", "relay-1")
	c.args["edge-1"] = []string{"run", "--config", c.file, "--node", "edge-1"}
	c.edge = launchNode(t, admin, c.args["edge-1"]...)
	c.args["relay-1"] = []string{"run", "--config", c.file, "--node", "relay-1"}
	c.relays["relay-1"] = launchNode(t, relayAdmin, c.args["relay-1"]...)
	c.relays["relay-1"].ready(t)
	c.edge.ready(t)
	return o
}

// shown is the certificate that the edge shows for name, nil for none.
func (o *ordering) shown(name string) *x509.Certificate {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", o.https, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		return nil
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

// got waits for a certificate of the authority's for name, and asks for a page by
// it.
func (o *ordering) got(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	var leaf *x509.Certificate
	eventually(t, "a certificate for "+name, func() bool {
		leaf = o.shown(name)
		return leaf != nil
	})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(o.issuer.IssuerRoot())
	transport := o.client(t, 2).Transport.(*http.Transport)
	transport.TLSClientConfig.RootCAs = roots
	if a := get(t, &http.Client{Transport: transport}, "https://"+name+"/"); a.StatusCode != http.StatusOK || string(a.body) != "here" {
		t.Errorf("%s: %d %q", name, a.StatusCode, a.body)
	}
	return leaf
}

// ordered is a site whose certificates are ordered.
func ordered(name, host, acme, more string) string {
	return fmt.Sprintf("  - {name: %s, hosts: {%q: %q}, origin: {connect: [%q], tls: {ca: %%ROOTS}}, tls: {acme: {%s}}%s}\n",
		name, host, "https://"+strings.Replace(host, "shop.example", "example.com", 1), "%ORIGIN", acme, more)
}

// TestACMEChallenges: a site is served with a certificate had by each challenge,
// in one process and, passed through, from the relay; plain HTTP says what it said.
func TestACMEChallenges(t *testing.T) {
	for _, kind := range []string{"http-01", "tls-alpn-01"} {
		for _, l := range layouts {
			for _, more := range []string{"", ", entry: passthrough", ", http: off"} {
				if l == oneProcess && strings.Contains(more, "passthrough") || l == edgeAndRelay && more == ", http: off" {
					continue
				}
				t.Run(kind+" "+string(l)+strings.TrimPrefix(more, ","), func(t *testing.T) {
					start := time.Now()
					o := newOrdering(t, l, ordered("shop", "www.shop.example", "", more), "ca: \"%CA\", trust: %TRUST, challenges: ["+kind+"]", testca.Options{}, nil)
					o.got(t, "www.shop.example")
					t.Logf("from nothing to a page: %v", time.Since(start).Round(time.Millisecond))
					if o.issuer.Orders() != 1 {
						t.Errorf("%d orders", o.issuer.Orders())
					}
					owner := o.edge
					if strings.Contains(more, "passthrough") {
						owner = o.relays["relay-1"]
						if files, _ := filepath.Glob(filepath.Join(o.dir, "acme", "certificates", "*", "*")); len(files) != 1 {
							t.Errorf("%v", files)
						}
					}
					if _, metrics := owner.ask("/metrics"); !strings.Contains(metrics, `causeway_certificate_expiry_timestamp_seconds{site="shop",source="acme"}`) {
						t.Error("no metric of it")
					}
					if a := get(t, o.client(t, 1), "http://www.shop.example/.well-known/acme-challenge/unknown"); a.StatusCode == http.StatusOK {
						t.Errorf("an unknown token: %d %q", a.StatusCode, a.body)
					}
				})
			}
		}
	}
}

// TestACMEReloadAddsSite: a site that a reload adds gets its certificate while a
// download of another goes on, and a name that is not in the file gets none.
func TestACMEReloadAddsSite(t *testing.T) {
	o := newOrdering(t, oneProcess, ordered("shop", "www.shop.example", "", ""), `ca: "%CA", trust: %TRUST`, testca.Options{}, nil)
	first := o.got(t, "www.shop.example")
	kept, err := tls.Dial("tcp", o.https, &tls.Config{ServerName: "www.shop.example", InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	file := o.text(t)
	site := strings.Split(file[strings.Index(file, "sites:\n")+7:], "\n")[0]
	more := strings.NewReplacer("name: shop", "name: new", "www.", "new.").Replace(site)
	o.write(t, strings.Replace(file, site, site+"\n"+more, 1))
	if !o.edge.reload(t) {
		t.Fatal(o.edge.stderrText())
	}
	o.got(t, "new.shop.example")
	if o.shown("www.shop.example") == nil || !o.shown("www.shop.example").Equal(first) || o.shown("other.shop.example") != nil {
		t.Error("another certificate changed")
	}
	if o.issuer.Orders() != 2 {
		t.Errorf("%d orders", o.issuer.Orders())
	}
	fmt.Fprint(kept, "GET / HTTP/1.1\r\nHost: www.shop.example\r\nConnection: close\r\n\r\n")
	if answer, err := io.ReadAll(kept); err != nil || !strings.HasSuffix(string(answer), "here") {
		t.Errorf("a connection of before: %q", answer)
	}
}

// TestACMEAuthorityDown: the node starts and serves plain HTTP while the authority
// is down, is told of in the log, and has its certificate when it is back.
func TestACMEAuthorityDown(t *testing.T) {
	o := newOrdering(t, oneProcess, ordered("shop", "www.shop.example", "", ""), `ca: "%CA", trust: %TRUST`, testca.Options{}, func(ca *testca.CA) { ca.Stop() })
	if o.shown("www.shop.example") != nil {
		t.Error("a certificate of nobody")
	}
	eventually(t, "the log says it", func() bool { return strings.Contains(o.edge.stderrText(), "can't be reached from this node") })
	o.issuer.Start(t)
	o.got(t, "www.shop.example")
}

// TestACMEVerbs: cert test keeps nothing, cert renew drops no connection, cert list
// shows it, and each says what it can't do.
func TestACMEVerbs(t *testing.T) {
	o := newOrdering(t, edgeAndRelay, ordered("shop", "www.shop.example", "", ", entry: passthrough")+ordered("here", "here.shop.example", "", ""), `ca: "%CA", trust: %TRUST`, testca.Options{}, nil)
	first := o.got(t, "here.shop.example")
	passed := o.got(t, "www.shop.example")
	edge := []string{"--config", o.file, "--node", "edge-1"}
	relay := []string{"--config", o.file, "--node", "relay-1"}
	run := func(args ...string) ran { return runProgram(t, binary, append([]string{"cert"}, args...)...) }

	if r := run(append([]string{"test", "here", "--ca", o.issuer.URL}, edge...)...); r.code != 0 || !strings.Contains(r.stdout, "here.shop.example") || !strings.Contains(r.stdout, "Pebble Intermediate CA") {
		t.Errorf("test: %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if o.issuer.Orders() != 3 || !o.shown("here.shop.example").Equal(first) {
		t.Errorf("test changed something: %d orders", o.issuer.Orders())
	}
	if r := run(append([]string{"test"}, edge...)...); r.code != 1 || !strings.Contains(r.stdout, "no staging directory of "+o.issuer.URL+" is known") {
		t.Errorf("test without a directory: %d\n%s%s", r.code, r.stdout, r.stderr)
	}

	kept, err := tls.Dial("tcp", o.https, &tls.Config{ServerName: "here.shop.example", InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	if r := run(append([]string{"renew", "here"}, edge...)...); r.code != 0 || !strings.Contains(r.stdout, "here.shop.example") {
		t.Errorf("renew: %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if o.got(t, "here.shop.example").Equal(first) {
		t.Error("renew: it is the same certificate")
	}
	fmt.Fprint(kept, "GET / HTTP/1.1\r\nHost: here.shop.example\r\nConnection: close\r\n\r\n")
	if answer, err := io.ReadAll(kept); err != nil || !strings.HasSuffix(string(answer), "here") {
		t.Errorf("a connection of before the renewal: %q, %v", answer, err)
	}
	if r := run(append([]string{"renew", "--json"}, relay...)...); r.code != 0 || !strings.Contains(r.stdout, `"name": "www.shop.example"`) || strings.Contains(r.stdout, "here.shop") {
		t.Errorf("renew at the relay: %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if o.got(t, "www.shop.example").Equal(passed) {
		t.Error("renew at the relay: it is the same certificate")
	}
	for site, want := range map[string]string{"shop": "the relays do, so ask there", "nobody": "there is no such site"} {
		if r := run(append([]string{"renew", site}, edge...)...); r.code != 1 || !strings.Contains(r.stderr, want) {
			t.Errorf("renew %s: %d\n%s%s", site, r.code, r.stdout, r.stderr)
		}
	}
	if r := run("test", "--ca", "http://ca.example/dir"); r.code != 2 {
		t.Errorf("test with a wrong --ca: %d %s", r.code, r.stderr)
	}
	if r := run(append([]string{"list"}, edge...)...); r.code != 0 || !strings.Contains(r.stdout, "here.shop.example") || !strings.Contains(r.stdout, "acme") {
		t.Errorf("list: %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// TestACMESharedFolder: two processes that share a folder order once; the CA comes
// to the first, whichever ordered.
func TestACMESharedFolder(t *testing.T) {
	o := newOrdering(t, oneProcess, ordered("shop", "www.shop.example", "", ""), `ca: "%CA", trust: %TRUST`, testca.Options{}, func(ca *testca.CA) { ca.Stop() })
	file := strings.NewReplacer(o.http, freeAddress(t), o.https, freeAddress(t), o.edge.admin, freeAddress(t)).Replace(o.text(t))
	other := writeFile(t, o.dir, "other.yaml", file)
	admin := regexp.MustCompile(`admin: "([^"]+)"`).FindStringSubmatch(file)[1]
	https := regexp.MustCompile(`https: "([^"]+)"`).FindStringSubmatch(file)[1]
	startNode(t, admin, "run", "--config", other)
	o.issuer.Start(t)
	first := o.got(t, "www.shop.example")
	eventually(t, "the other node shows it too", func() bool {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", https, &tls.Config{ServerName: "www.shop.example", InsecureSkipVerify: true})
		if err != nil {
			return false
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Equal(first)
	})
	if o.issuer.Orders() != 1 {
		t.Errorf("%d orders", o.issuer.Orders())
	}
}

// TestACMESeveral: a second edge, and for what passes through a second relay, which
// shares no folder with the first, has its own certificate, though the CA comes to
// the first edge.
func TestACMESeveral(t *testing.T) {
	for _, kind := range []string{"http-01", "tls-alpn-01"} {
		for _, role := range []string{"edge", "relay"} {
			t.Run(kind+" "+role, func(t *testing.T) {
				more := ""
				if role == "relay" {
					more = ", entry: passthrough"
				}
				o := newOrdering(t, edgeAndRelay, ordered("shop", "www.shop.example", "", more), `ca: "%CA", trust: %TRUST, challenges: [`+kind+`]`, testca.Options{}, nil)
				first := o.got(t, "www.shop.example")
				second, admin := fmt.Sprintf("  - {name: edge-2, role: edge, region: cn, listen: {http: %q, https: %q, admin: %%q}}\n", freeAddress(t), freeAddress(t)), freeAddress(t)
				if role == "relay" {
					link := freeAddress(t)
					second = fmt.Sprintf("  - {name: relay-2, role: relay, region: us, listen: {link: %q, admin: %%q}, address: %q}\n", link, link)
				}
				file := o.text(t) + fmt.Sprintf(second, admin)
				o.write(t, file)
				mustRun(t, binary, "link-ca", "--dir", filepath.Join(o.dir, "pki"), role+"-2")
				if !o.edge.reload(t) || !o.relays["relay-1"].reload(t) {
					t.Fatal(o.edge.stderrText())
				}
				other := writeFile(t, o.dir, "other.yaml", strings.Replace(file, "acme: {", "acme: {dir: other, ", 1))
				added := startNode(t, admin, "run", "--config", other, "--node", role+"-2")
				eventually(t, "a certificate of its own", func() bool {
					_, metrics := added.ask("/metrics")
					return strings.Contains(metrics, `causeway_certificate_expiry_timestamp_seconds{site="shop",source="acme"}`)
				})
				if o.issuer.Orders() != 2 {
					t.Errorf("%d orders; %s", o.issuer.Orders(), added.stderrText())
				}
				if role == "edge" && !o.shown("www.shop.example").Equal(first) {
					t.Error("the first edge shows another certificate")
				}
			})
		}
	}
}

// TestACMEPending: a certificate is there before the site is open.
func TestACMEPending(t *testing.T) {
	o := newOrdering(t, oneProcess, ordered("shop", "www.shop.example", "", ", pending: true"), `ca: "%CA", trust: %TRUST, challenges: [http-01]`, testca.Options{}, nil)
	eventually(t, "a certificate", func() bool { return o.shown("www.shop.example") != nil })
}

// TestACMEBlocked: the provider answers plain HTTP in the place of the node, as
// before an ICP filing. The log, cert list and cert test say so.
func TestACMEBlocked(t *testing.T) {
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "<html>Non-compliance ICP Filing</html>", http.StatusForbidden)
	}))
	defer provider.Close()
	o := newOrdering(t, oneProcess, ordered("shop", "www.shop.example", "", ""), `ca: "%CA", trust: %TRUST, challenges: [http-01]`, testca.Options{HTTPPort: port(t, provider.Listener.Addr().String())}, nil)
	const want = "http-01: the CA got 403 from someone else at http://www.shop.example"
	const filing = "the provider blocks a name until its ICP filing is through; use dns-01 or wait"
	eventually(t, "the log says it", func() bool {
		return strings.Contains(o.edge.stderrText(), want) && strings.Contains(o.edge.stderrText(), filing)
	})
	for _, args := range [][]string{{"list"}, {"test", "--ca", o.issuer.URL}} {
		r := runProgram(t, binary, append(append([]string{"cert"}, args...), "--config", o.file)...)
		if r.code != 1 || !strings.Contains(r.stdout, want) || !strings.Contains(r.stdout, filing) {
			t.Errorf("%v: %d\n%s%s", args, r.code, r.stdout, r.stderr)
		}
	}
}

// TestACMEDNS: a wildcard's certificate is had by dns-01, with a real named that
// takes updates (RFC 2136), and with a hook; nothing is left in the zone.
func TestACMEDNS(t *testing.T) {
	wild := ordered("shop", "*.shop.example", "", "") // and the name itself
	wild = strings.Replace(wild, "hosts: {", "hosts: {shop.example: https://example.com, ", 1)
	t.Run("rfc2136", func(t *testing.T) {
		named := startNamed(t, "shop.example")
		dir := t.TempDir()
		secret := writeFile(t, dir, "tsig.secret", namedSecret)
		dns := fmt.Sprintf("provider: rfc2136, server: %q, key: causeway., secret: %q, resolvers: [%q]", named, secret, named)
		o := newOrdering(t, oneProcess, wild, `ca: "%CA", trust: %TRUST, dns: {`+dns+`}`, testca.Options{Resolver: named}, nil)
		o.got(t, "any.shop.example")
		o.got(t, "shop.example")
		if names := o.shown("any.shop.example").DNSNames; len(names) != 1 || names[0] != "*.shop.example" {
			t.Errorf("%v", names)
		}
		eventually(t, "the records are gone", func() bool {
			left := mustRun(t, "dig", "+short", "@127.0.0.1", "-p", fmt.Sprint(port(t, named)), "_acme-challenge.shop.example", "TXT")
			return strings.TrimSpace(left.stdout) == ""
		})
	})
	t.Run("hook", func(t *testing.T) {
		var issuer atomic.Pointer[testca.CA]
		var calls atomic.Int64
		zone := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			ca, q := issuer.Load(), r.URL.Query()
			if r.URL.Path == "/present" {
				ca.AddTXT(q.Get("name"), q.Get("value"))
			} else {
				ca.RemoveTXT(q.Get("name"), q.Get("value"))
			}
		}))
		defer zone.Close()
		hook := filepath.Join(t.TempDir(), "hook")
		script := fmt.Sprintf("#!/bin/sh\nexec curl -fsS --get --data-urlencode name=\"$2\" --data-urlencode value=\"$3\" %s/$1\n", zone.URL)
		if err := os.WriteFile(hook, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		o := newOrdering(t, edgeAndRelay, strings.Replace(wild, "}\n", ", entry: passthrough}\n", 1),
			`ca: "%CA", trust: %TRUST, dns: {provider: hook, command: [`+hook+`], resolvers: ["%DNS"]}`, testca.Options{}, func(ca *testca.CA) { issuer.Store(ca) })
		o.got(t, "any.shop.example")
		o.got(t, "shop.example")
		eventually(t, "the records are gone", func() bool { return len(o.issuer.TXT("_acme-challenge.shop.example")) == 0 && calls.Load() == 4 })
	})
}

// namedSecret is the TSIG key of startNamed's.
const namedSecret = "c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXMhISE="

// startNamed starts BIND's named as the primary of a zone, which takes updates, and
// gives its address.
func startNamed(t testing.TB, zone string) string {
	t.Helper()
	require(t, "named", "dig")
	dir, address := t.TempDir(), freeAddress(t)
	data := writeFile(t, dir, "zone", "$TTL 1\n@ SOA ns root 1 60 60 60 1\n@ NS ns\nns A 127.0.0.1\n@ A 127.0.0.1\n* A 127.0.0.1\n")
	conf := writeFile(t, dir, "named.conf", fmt.Sprintf(`options { directory %q; pid-file none; session-keyfile none; listen-on port %d { 127.0.0.1; }; listen-on-v6 { none; }; recursion no; notify no; dnssec-validation no; };
controls { };
key "causeway" { algorithm hmac-sha256; secret %q; };
zone %q { type primary; file %q; allow-update { key causeway; }; };
`, dir, port(t, address), namedSecret, zone, data))
	process := startProcess(t, "named", "-g", "-n", "1", "-c", conf)
	eventually(t, "named answers", func() bool {
		if process.ended() {
			t.Fatal("named ended: " + process.stderrText())
		}
		return strings.Contains(runProgram(t, "dig", "+short", "+time=1", "+tries=1", "@127.0.0.1", "-p", fmt.Sprint(port(t, address)), zone, "SOA").stdout, "root")
	})
	return address
}
