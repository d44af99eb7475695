package daemon

import (
	"crypto/tls"
	"log/slog"
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
