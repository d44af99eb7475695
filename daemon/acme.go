package daemon

// Certificates that are ordered: prepareACME reads what the file names, changeACME
// has cert.ACME do it. An authority is answered by whichever node it comes to: an
// edge has its relays know what it waits for (tellChallenge), and asks them for what
// it does not know (proof).

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"causeway/admin"
	"causeway/cert"
	"causeway/config"
	"causeway/records"
)

// preparedACME is what a file wants ordered.
type preparedACME struct {
	dir   string
	names []cert.ACMENames
}

// prepareACME reads what the accounts of the sites that n orders for are made of.
func (d *Daemon) prepareACME(cfg *config.Config, node *config.Node) (*preparedACME, error) {
	p := &preparedACME{dir: cfg.ACME.Dir}
	for _, site := range cfg.Sites {
		if !site.EndsTLS(node) || !site.TLS.UsesACME() {
			continue
		}
		settings, err := d.acmeSettings(cfg, site)
		if err != nil {
			return nil, fmt.Errorf("prepare the orders for site %s: %w", site.Name, err)
		}
		wanted := cert.ACMENames{Site: site.Name, ACMESettings: settings}
		if site.Entry == config.Passthrough {
			wanted.Ready = d.edgesReady
		}
		for _, h := range site.Hosts {
			wanted.Names = append(wanted.Names, h.Public.Host)
		}
		p.names = append(p.names, wanted)
	}
	return p, nil
}

// acmeSettings reads the files of a site's ACME.
func (d *Daemon) acmeSettings(cfg *config.Config, site *config.Site) (cert.ACMESettings, error) {
	of, rsa := cfg.ACMEOf(site)
	want := cfg.Want(site)
	settings := cert.ACMESettings{Directory: of.Directory(), Email: of.Email, Challenges: of.Challenges, RSA: rsa, Profile: of.Profile, Approved: want.Approved, Refuse: want.Refuse}
	if of.Trust != "" {
		text, err := os.ReadFile(of.Trust)
		if err != nil {
			return settings, fmt.Errorf("read acme.trust: %w", err)
		}
		settings.TrustPEM = text
	}
	if of.EAB != nil {
		key, err := os.ReadFile(of.EAB.Key)
		if err != nil {
			return settings, fmt.Errorf("read acme.eab.key: %w", err)
		}
		settings.EABKeyID, settings.EABKey = of.EAB.ID, strings.TrimRight(strings.TrimSpace(string(key)), "=")
	}
	if slices.Contains(of.Challenges, config.ChallengeDNS) {
		made := records.Config{
			Provider: string(of.DNS.Provider), Zone: of.DNS.Zone,
			AccessKeyID: of.DNS.AccessKeyID, AccessKeySecret: of.DNS.AccessKeySecret, Region: of.DNS.Region, Endpoint: of.DNS.Endpoint,
			Server: of.DNS.Server, Key: of.DNS.Key, Secret: of.DNS.Secret, Algorithm: of.DNS.Algorithm, Command: of.DNS.Command, Timeout: of.DNS.Timeout,
		}
		settings.DNSText, settings.Resolvers = fmt.Sprintf("%+v", made), of.DNS.Resolvers
		made.Log = d.log
		provider, err := records.New(made)
		if err != nil {
			return settings, fmt.Errorf("acme.dns: %w", err)
		}
		settings.DNS = provider
	}
	return settings, nil
}

// changeACME has what is prepared managed, and gives what was managed before, to be
// closed, when that was kept elsewhere.
func (d *Daemon) changeACME(p *preparedACME) (old *cert.ACME) {
	if d.acme != nil && d.acmeDir != p.dir {
		old, d.acme = d.acme, nil
	}
	if d.acme == nil && len(p.names) > 0 {
		d.acme, d.acmeDir = cert.NewACME(cert.FileStorage(p.dir), d.log, d.tellChallenge), p.dir
	}
	if d.acme != nil {
		d.acme.Set(p.names)
	}
	return old
}

// edgesPatience is how long a relay waits for all its edges: about as long as they
// take to find it again after a restart.
const edgesPatience = 10 * time.Second

// edgesReady says whether an authority finds this relay: by whichever edge the name
// leads to, so by all of them, or by those there are after some time.
func (d *Daemon) edgesReady() error {
	connected := make(map[string]bool)
	for _, caller := range d.callers.State() {
		if len(caller.Conns) > 0 {
			connected[caller.Edge] = true
		}
	}
	most := d.most.Load()
	if most == nil || len(connected) == 0 || len(connected) < len(*most) && time.Since(d.began) < edgesPatience {
		return errors.New("no certificate is ordered before the edges are connected: the CA finds this relay through them alone")
	}
	return nil
}

// tellChallenge is cert.Tell: it has the relays know what an edge waits for, where
// the authority may come to another edge.
func (d *Daemon) tellChallenge(ctx context.Context, name, key, proof string) {
	group, certs := d.group.Load(), d.certs.Load()
	if group == nil || certs == nil {
		return
	}
	if site, _, ok := certs.config.LookupName(name); ok && certs.orderedElsewhere(site) {
		group.TellChallenge(ctx, name, key, proof)
	}
}

// orderedElsewhere says whether another node than this edge may wait for a challenge
// for a site.
func (c *certificates) orderedElsewhere(site *config.Site) bool {
	return site.TLS.UsesACME() && (site.Entry == config.Passthrough || c.config.Edges() > 1)
}

// proof answers an authority that asks an edge for a challenge of a site: with what
// this node knows, or its relays do.
func (c *certificates) proof(ctx context.Context, site *config.Site, key string) (string, bool) {
	if !site.TLS.UsesACME() {
		return "", false
	}
	if c.acme != nil {
		if proof, ok := c.acme.Proof(ctx, key); ok {
			return proof, true
		}
	}
	if c.group == nil || !c.orderedElsewhere(site) {
		return "", false
	}
	return c.group.Challenge(ctx, strings.TrimPrefix(site.Hosts[0].Public.Host, "*."), key)
}

// proves says whether an authority that asks by TLS-ALPN-01 for a name of a site can
// be answered here.
func (c *certificates) proves(ctx context.Context, site *config.Site, name string) bool {
	_, ok := c.proof(ctx, site, cert.HelloKey(name))
	return ok
}

// proofOfName is the certificate for an authority that asks by TLS-ALPN-01, nil
// where no challenge waits for the name.
func (c *certificates) proofOfName(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.acme != nil {
		if found, err := c.acme.GetCertificate(hello); err == nil {
			return found, nil
		}
	}
	site, _, ok := c.config.LookupName(hello.ServerName)
	if !ok {
		return nil, nil
	}
	proof, ok := c.proof(hello.Context(), site, cert.HelloKey(hello.ServerName))
	if !ok {
		return nil, nil
	}
	return cert.ChallengeCertificate(hello.ServerName, proof)
}

// linkChallenge answers an edge that an authority asked, and that no edge told of
// the challenge.
func (d *Daemon) linkChallenge(ctx context.Context, key string) (string, bool) {
	if certs := d.certs.Load(); certs != nil && certs.acme != nil {
		return certs.acme.Proof(ctx, key)
	}
	return "", false
}

// OrderCertificates renews the certificates of a site now, or has them issued for
// trial.
func (d *Daemon) OrderCertificates(ctx context.Context, order admin.Order) ([]admin.Ordered, error) {
	d.mu.Lock()
	cfg, node, orders := d.config, d.node, d.acme
	d.mu.Unlock()
	if err := mayOrder(cfg, node, order.Site); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.base, cancel)() // the node stops
	var outcomes []cert.Outcome
	if order.Test {
		outcomes = orders.Test(ctx, order.Site, func(directory string) (string, error) { return trialAt(order.CA, directory) })
	} else {
		outcomes = orders.Renew(ctx, order.Site)
	}
	done := make([]admin.Ordered, len(outcomes))
	for i, o := range outcomes {
		done[i] = admin.Ordered{Site: o.Site, Name: o.Name, CA: o.Directory, Issuer: o.Issuer, NotAfter: o.NotAfter}
		if o.Err != nil {
			done[i].Err = o.Err.Error()
		}
	}
	return done, nil
}

// trialAt is the directory for a trial of what is ordered at another.
func trialAt(asked, directory string) (string, error) {
	if asked != "" {
		return asked, nil
	}
	if staging, ok := config.StagingOf(directory); ok {
		return staging, nil
	}
	return "", fmt.Errorf("no staging directory of %s is known: name one with --ca, or that itself, where its limits are wide", directory)
}

// mayOrder says why the node orders nothing for a site, or for none with "".
func mayOrder(cfg *config.Config, node *config.Node, name string) error {
	known := false
	for _, site := range cfg.Sites {
		if name != "" && site.Name != name {
			continue
		}
		known = true
		switch {
		case site.TLS.UsesACME() && site.EndsTLS(node):
			return nil
		case name != "" && site.TLS.UsesACME():
			who := "the edges"
			if site.Entry == config.Passthrough {
				who = "the relays"
			}
			return fmt.Errorf("%w for site %s by this node: %s do, so ask there, with --node", admin.ErrNoOrders, name, who)
		}
	}
	switch {
	case name == "":
		return fmt.Errorf("%w by this node: no site whose TLS ends here has tls: {acme: {}}", admin.ErrNoOrders)
	case !known:
		return fmt.Errorf("%w for %s: there is no such site in %s", admin.ErrNoOrders, name, cfg.Path)
	}
	return fmt.Errorf("%w for site %s: it has no tls: {acme: {}}", admin.ErrNoOrders, name)
}
