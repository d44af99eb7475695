package daemon

// Which certificate a hello gets: certificates.GetCertificate → the files'.

import (
	"crypto/tls"
	"strings"

	"causeway/cert"
	"causeway/config"
)

// certificates are those of the sites whose TLS ends at this node.
type certificates struct {
	config *config.Config
	files  *cert.Store
}

// prepareCertificates reads those of cfg. What fails here leaves the node as it
// was.
func prepareCertificates(cfg *config.Config, node *config.Node) (*certificates, error) {
	var files []cert.Files
	for _, site := range cfg.Sites {
		if site.EndsTLS(node) {
			files = append(files, cert.Files{Site: site.Name, Cert: site.TLS.Cert, Key: site.TLS.Key})
		}
	}
	store, err := cert.Load(files)
	if err != nil {
		return nil, err
	}
	return &certificates{config: cfg, files: store}, nil
}

// GetCertificate is for tls.Config.
func (c *certificates) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.files.GetCertificate(hello)
}

// orDefault is GetCertificate, and for names that no site has the certificate of
// the site that they pass through to.
func (c *certificates) orDefault(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	found, err := c.GetCertificate(hello)
	if found != nil || err != nil {
		return found, err
	}
	site, ok := c.config.Passed(hello.ServerName)
	if !ok {
		return nil, nil
	}
	named := *hello
	named.ServerName = strings.Replace(site.Hosts[0].Public.Host, "*", "default", 1)
	return c.GetCertificate(&named)
}

// State is every certificate of this node's, as it is shown now.
func (c *certificates) State() []cert.State { return c.files.State() }
