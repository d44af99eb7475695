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
	options.HTTPPort, options.TLSPort = port(t, c.http), port(t, c.https)
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
