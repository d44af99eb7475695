package daemon

// Which certificate a hello gets: certificates.GetCertificate → those of the site
// that the name leads to, from files or ordered.

import (
	"context"
	"crypto/tls"
	"net"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"causeway/admin"
	"causeway/cert"
	"causeway/config"
	"causeway/link"
)

// certificates are those of the sites whose TLS ends at this node.
type certificates struct {
	config *config.Config
	files  *cert.Store
	acme   *cert.ACME  // nil where nothing is ordered
	group  *link.Group // whose relays know of other challenges; nil on a node without links
}

// prepareCertificates reads those of cfg; of what is served, files that have not
// changed are not read again. What fails here leaves the node as it was.
func (d *Daemon) prepareCertificates(cfg *config.Config, node *config.Node) (*certificates, error) {
	var sources []cert.Source
	for _, site := range cfg.Sites {
		if !site.EndsTLS(node) {
			continue
		}
		want := cfg.Want(site)
		for _, f := range site.TLS.Files() {
			sources = append(sources, cert.Source{Site: site.Name, Files: f.Pair(), Want: want})
		}
	}
	var before *cert.Store
	if served := d.certs.Load(); served != nil {
		before = served.files
	}
	store, err := cert.Load(sources, before, d.log)
	if err != nil {
		return nil, err
	}
	return &certificates{config: cfg, files: store}, nil
}

// changeCertificates has certs follow their files, in the place of those before.
// d.mu is held.
func (d *Daemon) changeCertificates(certs *certificates) {
	if d.unfollow != nil {
		d.unfollow()
	}
	ctx, stop := context.WithCancel(d.base)
	d.unfollow = stop
	d.certs.Store(certs)
	d.tasks.Go(func() {
		if certs.files.Len() >= manyCertificates {
			debug.FreeOSMemory()
		}
		certs.files.Run(ctx)
	})
}

// manyCertificates leave several times their size behind when they are read, which
// tuneGC would have stay, and which is given back at once: a node with 10,000
// rests at 154 MB (BenchmarkManyCertificates).
const manyCertificates = 1000

// GetCertificate is for tls.Config.
func (c *certificates) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if cert.IsChallenge(hello) {
		return c.proofOfName(hello)
	}
	var local net.Addr
	if hello.Conn != nil {
		local = hello.Conn.LocalAddr()
	}
	of := "" // of any site: for a name of none, or of two on two ports
	if site, ok := c.config.LookupHello(hello.ServerName, local); ok {
		if site.TLS.UsesACME() {
			if c.acme == nil {
				return nil, nil
			}
			return c.acme.GetCertificate(hello)
		}
		of = site.Name
	}
	found := c.files.Find(of, hello)
	if found == nil && of == "" && c.acme != nil {
		return c.acme.GetCertificate(hello)
	}
	return found, nil
}

// orDefault is GetCertificate, and for names that no site has the certificate of
// the site that they pass through to.
func (c *certificates) orDefault(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	found, err := c.GetCertificate(hello)
	if found != nil || err != nil || cert.IsChallenge(hello) {
		return found, err
	}
	if _, _, ours := c.config.LookupName(hello.ServerName); ours && hello.ServerName != "" {
		return nil, nil // it has a site, and no certificate yet
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
func (c *certificates) State() []cert.State {
	all := c.files.State()
	if c.acme != nil {
		all = append(all, c.acme.State()...)
	}
	return all
}

// Certificates is what the node shows now.
func (d *Daemon) Certificates() admin.Certificates {
	said := admin.Certificates{Node: d.options.Node, Time: time.Now(), Certificates: []cert.State{}}
	if certs := d.certs.Load(); certs != nil {
		said.Certificates = append(said.Certificates, certs.State()...)
	}
	return said
}

// certCollector gives the metrics of certificates when asked.
type certCollector struct{ state func() []cert.State }

var certExpiry = prometheus.NewDesc("causeway_certificate_expiry_timestamp_seconds",
	"When the first of a site's certificates expires, Unix time.", []string{"site", "source"}, nil)

var certFailing = prometheus.NewDesc("causeway_certificate_failing",
	"1 while something is wrong with one of a site's certificates: see causeway cert list.", []string{"site", "source"}, nil)

// Describe is prometheus.Collector.
func (c *certCollector) Describe(to chan<- *prometheus.Desc) { to <- certExpiry; to <- certFailing }

// Collect is prometheus.Collector.
func (c *certCollector) Collect(to chan<- prometheus.Metric) {
	type key struct{ site, source string }
	first, failing := map[key]time.Time{}, map[key]float64{}
	for _, s := range c.state() {
		of := key{s.Site, s.Source}
		failing[of] += 0
		if s.Err != "" {
			failing[of] = 1
		}
		if before, ok := first[of]; !s.NotAfter.IsZero() && (!ok || s.NotAfter.Before(before)) {
			first[of] = s.NotAfter
		}
	}
	for of, at := range first {
		to <- prometheus.MustNewConstMetric(certExpiry, prometheus.GaugeValue, float64(at.Unix()), of.site, of.source)
	}
	for of, is := range failing {
		to <- prometheus.MustNewConstMetric(certFailing, prometheus.GaugeValue, is, of.site, of.source)
	}
}
