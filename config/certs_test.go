package config

import (
	"slices"
	"testing"
)

func TestCertFiles(t *testing.T) {
	c := parse(t, "valid-certs.yaml")
	if got := c.Sites[0].TLS.Files(); !slices.Equal(got, []CertFiles{
		{Cert: "/etc/causeway/a.pem", Key: "/etc/causeway/a.key"},
		{Cert: "/etc/causeway/a.rsa.pem", Key: "/etc/causeway/a.rsa.key", Secret: "/etc/causeway/a.pass"},
	}) {
		t.Errorf("several: %+v", got)
	}
	if got := c.Sites[1].TLS.Files(); !slices.Equal(got, []CertFiles{{Cert: "/etc/causeway/b.P12", Secret: "/etc/causeway/b.pass"}}) {
		t.Errorf("pkcs12: %+v", got)
	}
	var none *TLS
	if none.Files() != nil {
		t.Error("no TLS has files")
	}
	if !c.ApprovedIssuers.Refuse() || !slices.Equal(c.ApprovedIssuers.Names, []string{"CFCA", "DigiCert Inc"}) {
		t.Errorf("approved: %+v", c.ApprovedIssuers)
	}
}
