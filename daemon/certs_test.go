package daemon

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"causeway/cert"
	"causeway/config"
	"causeway/keypair"
)

// A name that has a site is never shown the certificate of another name, also while
// it has none; names of no site get that of the default one.
func TestOrDefault(t *testing.T) {
	dir := t.TempDir()
	authority, err := cert.OpenAuthority(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Issue(dir, "one", []string{"one.example"}); err != nil {
		t.Fatal(err)
	}
	store, err := cert.Load([]cert.Source{{Site: "one", Files: keypair.Files{Cert: filepath.Join(dir, "one.pem"), Key: filepath.Join(dir, "one.key")}}}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse("causeway.yaml", []byte(`
pki: pki
sites:
  - {name: one, entry: passthrough, default: true, hosts: {one.example: https://one.test, "*.one.example": "https://*.one.test"}, tls: {cert: one.pem, key: one.key}}
  - {name: two, entry: passthrough, hosts: {two.example: https://two.test, "*.two.example": "https://*.two.test"}, tls: {cert: two.pem, key: two.key}}
nodes:
  - {name: edge-1, role: edge, listen: {http: ":80", https: ":443"}}
  - {name: relay-1, role: relay, listen: {link: ":7443"}, address: "192.0.2.9:7443"}
`))
	if err != nil {
		t.Fatal(err)
	}
	c := &certificates{config: cfg, files: store}
	for name, want := range map[string]bool{"one.example": true, "any.one.example": false, "two.example": false, "any.two.example": false, "three.example": true, "": true} {
		got, err := c.orDefault(&tls.ClientHelloInfo{ServerName: name})
		if err != nil || (got != nil) != want {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
}

// A site is shown its own certificate, though one of another site's carries the name
// too, and none of a file where its own is ordered; one host that two sites have on
// two ports is shown what there is.
func TestCertificateOfSite(t *testing.T) {
	dir := t.TempDir()
	authority, err := cert.OpenAuthority(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	var sources []cert.Source
	for _, name := range []string{"a", "b"} {
		if err := authority.Issue(dir, name, []string{"*.example.cn"}); err != nil {
			t.Fatal(err)
		}
		sources = append(sources, cert.Source{Site: name, Files: keypair.Files{Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+".key")}})
	}
	store, err := cert.Load(sources, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse("causeway.yaml", []byte(`
sites:
  - {name: a, hosts: {a.example.cn: https://a.example.com}, tls: {cert: a.pem, key: a.key}}
  - {name: b, hosts: {b.example.cn: https://b.example.com}, tls: {cert: b.pem, key: b.key}}
  - {name: c, hosts: {c.example.cn: https://c.example.com}, tls: {acme: {}}}
  - {name: d, hosts: {"d.example.net": https://d.example.com}, tls: {acme: {}}}
  - {name: e, hosts: {"d.example.net:8443": https://e.example.com}, tls: {acme: {}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(dir, "acme", "certificates", "ca.test-dir")
	if err := errors.Join(authority.Issue(dir, "d", []string{"d.example.net"}), os.MkdirAll(kept, 0o700)); err != nil {
		t.Fatal(err)
	}
	key, keyErr := os.ReadFile(filepath.Join(dir, "d.key"))
	chain, chainErr := os.ReadFile(filepath.Join(dir, "d.pem"))
	if err := errors.Join(keyErr, chainErr, os.WriteFile(filepath.Join(kept, "d.example.net.pem"), append(key, chain...), 0o600)); err != nil {
		t.Fatal(err)
	}
	c := &certificates{config: cfg, files: store, acme: cert.NewACME(cert.FileStorage(filepath.Join(dir, "acme")), slog.New(slog.DiscardHandler), nil)}
	defer c.acme.Close()
	shown := func(name string) *tls.Certificate {
		got, err := c.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return got
	}
	if a, b := shown("a.example.cn"), shown("B.example.cn."); a == nil || b == nil || a == b {
		t.Errorf("a and b are shown %v and %v", a, b)
	}
	if got := shown("c.example.cn"); got != nil {
		t.Errorf("c is shown a file's: %v", got)
	}
	c.acme.Set([]cert.ACMENames{{Site: "d", Names: []string{"d.example.net"}, ACMESettings: cert.ACMESettings{Directory: "https://ca.test/dir"}}})
	if got := shown("d.example.net"); got == nil {
		t.Error("d is shown nothing")
	}
}
