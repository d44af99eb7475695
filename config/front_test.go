package config

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFront(t *testing.T) {
	c := parse(t, "valid-front.yaml")
	strict, some := c.Sites[0].TLS, c.Sites[1].TLS
	if f := strict.Front(); f.Min != tls.VersionTLS13 || !slices.Equal(f.Curves, []tls.CurveID{tls.X25519MLKEM768, tls.CurveP256}) || len(f.Suites) != len(suites) {
		t.Errorf("strict: %+v", f)
	}
	if f := some.Front(); f.Min != tls.VersionTLS12 || f.Curves != nil || !slices.Equal(f.Suites, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384}) {
		t.Errorf("some: %+v", f)
	}
	if got := *strict.Clients; got != (Clients{CA: "/etc/causeway/ca.pem", Require: true}) {
		t.Errorf("clients of strict: %+v", got)
	}
	if got := *some.Clients; got != (Clients{CA: "/etc/causeway/ca.pem", Require: false}) {
		t.Errorf("clients of some: %+v", got)
	}
	if got := strict.HSTS.Field(); got != "max-age=31536000; includeSubDomains; preload" {
		t.Errorf("hsts of strict: %q", got)
	}
	if got := some.HSTS.Field(); got != "max-age=0" {
		t.Errorf("hsts of some: %q", got)
	}
	var none *TLS
	if f := none.Front(); f.Min != tls.VersionTLS12 || len(f.Suites) != len(suites) || none.Strict() {
		t.Errorf("none: %+v", f)
	}
	if !strict.Strict() || !some.Strict() || (&TLS{Cert: "a", Key: "b", HSTS: &HSTS{}}).Strict() {
		t.Error("strict is who asks for more of a connection")
	}
}

// TestSuites holds that nothing weak can be written: each suite that may be has
// forward secrecy and is not one that crypto/tls calls insecure.
func TestSuites(t *testing.T) {
	for name, id := range suites {
		if tls.CipherSuiteName(id) != name {
			t.Errorf("%s is %s", name, tls.CipherSuiteName(id))
		}
		if slices.ContainsFunc(tls.InsecureCipherSuites(), func(s *tls.CipherSuite) bool { return s.ID == id }) {
			t.Errorf("%s is insecure", name)
		}
	}
	if len(opensslSuites) != len(suites) {
		t.Error("a suite has no OpenSSL name")
	}
	for _, name := range opensslSuites {
		if suites[name] == 0 {
			t.Errorf("%s is no suite", name)
		}
	}
}

// TestFrontFiles holds what is said of the authorities of visitors, and of suites
// that no certificate is for.
func TestFrontFiles(t *testing.T) {
	dir := t.TempDir()
	(*issuer)(nil).write(t, dir+"/a", testNow.Add(-time.Hour), testNow.Add(time.Hour), "a.cn")
	(*issuer)(nil).write(t, dir+"/ca", testNow.Add(-time.Hour), testNow.Add(time.Hour))
	write(t, dir+"/text.pem", "not PEM")
	for more, want := range map[string]string{
		"": "", "clients: ca.pem": "", "suites: [ECDHE-ECDSA-AES128-GCM-SHA256]": "", "suites: [ECDHE-RSA-AES128-GCM-SHA256, ECDHE-ECDSA-AES128-GCM-SHA256]": "",
		"clients: none.pem":                     "sites[0].tls.clients: DIR/none.pem does not exist; put the file there, or change the path",
		"clients: {ca: text.pem}":               "sites[0].tls.clients.ca: DIR/text.pem is not PEM; write the authorities as PEM: -----BEGIN CERTIFICATE-----",
		"suites: [ECDHE-RSA-AES128-GCM-SHA256]": "sites[0].tls.suites: no suite is for the ECDSA key of DIR/a.pem; add a suite for its key, or leave suites out",
	} {
		if more != "" {
			more = ", " + more
		}
		c, err := Parse(dir+"/causeway.yaml", []byte("sites:\n  - {name: a, hosts: {a.cn: https://a.com}, tls: {cert: a.pem, key: a.key"+more+"}}\n"))
		if err != nil {
			t.Fatal(err)
		}
		node, _ := c.Node("")
		errs := c.checkFiles(node, testNow).errs
		if want == "" && len(errs) == 0 {
			continue
		}
		if want = strings.ReplaceAll(want, "DIR", dir); len(errs) != 1 || !strings.HasSuffix(errs[0].Error(), ": "+want) {
			t.Errorf("%s: %v, want %s", more, errs, want)
		}
	}
}
