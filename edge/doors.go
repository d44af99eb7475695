package edge

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"causeway/config"
	"causeway/outcome"
)

// A handshake is made by the settings of the site that the client asks for:
//
//  1. Doors, made once a file, hold a tls.Config for each site, and one for the
//     names of no site, which have no certificate: crypto/tls refuses them with
//     the alert unrecognized_name,
//  2. doorFor finds the site by the server name, and without one by the local
//     address, as the certificate is found,
//  3. the session tickets of a door are sealed with keys of its own (tickets.go),
//     so that none resumes a session that another site's settings made: neither
//     a lower version nor a missing client certificate comes in by it,
//  4. for each request fits says whether its connection came in by a door that
//     the site has now: HTTP/2 clients use a connection for other names that its
//     certificate covers, and connections outlive a reload.

// acmeALPN is the protocol of a certificate authority that looks whether the
// name is ours (RFC 8737). It is no client of a site, and shows no certificate.
const acmeALPN = "acme-tls/1"

// Doors are the TLS settings of a file's sites.
type Doors struct {
	sites     map[*config.Site]*door
	other     *door // names of no site
	challenge *door // acmeALPN
}

// door is the TLS of one site.
type door struct {
	config  *tls.Config
	name    string          // what its settings are: another text is another door
	clients map[string]bool // the authorities of client certificates, in DER; nil asks for none

	mu    sync.Mutex   // held while keys change
	epoch atomic.Int64 // of config's ticket keys; -1 before the first
}

// NewDoors reads the files of tls.clients and makes the settings of the sites
// that ends says are ended here.
func NewDoors(cfg *config.Config, ends func(*config.Site) bool) (*Doors, error) {
	var none *config.TLS
	doors := &Doors{
		sites:     make(map[*config.Site]*door, len(cfg.Sites)),
		other:     newDoor("", none.Front()),
		challenge: newDoor(acmeALPN, none.Front()),
	}
	doors.challenge.config.NextProtos = []string{acmeALPN}
	doors.challenge.config.SessionTicketsDisabled = true
	for _, site := range cfg.Sites {
		if site.TLS == nil || !ends(site) {
			continue
		}
		d := newDoor(site.Name, site.TLS.Front())
		if clients := site.TLS.Clients; clients != nil {
			if err := d.ask(clients.CA); err != nil {
				return nil, fmt.Errorf("read tls.clients of site %s: %w", site.Name, err)
			}
		}
		doors.sites[site] = d
	}
	return doors, nil
}

// newDoor makes a door that asks for no client certificate.
func newDoor(name string, front config.Front) *door {
	d := &door{name: fmt.Sprint(name, "\x00", front), config: &tls.Config{
		MinVersion:       front.Min,
		CipherSuites:     front.Suites,
		CurvePreferences: front.Curves,
		NextProtos:       []string{"h2", "http/1.1"},
	}}
	d.epoch.Store(-1)
	return d
}

// ask has the door ask for certificates of the authorities in a PEM file. One
// that does not verify ends the handshake; whether there must be one is asked of
// each request (fits), where the visitor can be told.
func (d *door) ask(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	d.clients = make(map[string]bool)
	d.config.ClientAuth, d.config.ClientCAs = tls.VerifyClientCertIfGiven, x509.NewCertPool()
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		one, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		d.config.ClientCAs.AddCert(one)
		d.clients[string(one.Raw)] = true
	}
	if len(d.clients) == 0 {
		return fmt.Errorf("%s holds no certificate", file)
	}
	sum := sha256.Sum256(data)
	d.name += fmt.Sprintf("\x00%x", sum)
	return nil
}

// serve has the doors show what certificate chooses.
func (doors *Doors) serve(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) {
	for _, d := range doors.sites {
		d.config.GetCertificate = certificate
	}
	doors.other.config.GetCertificate = certificate
	doors.challenge.config.GetCertificate = certificate
}

// of is the door of a site, nil for none.
func (doors *Doors) of(site *config.Site) *door {
	if d := doors.sites[site]; d != nil {
		return d
	}
	return doors.other
}

// open gives the door's settings, with the ticket keys of now.
func (d *door) open(tickets TicketSecrets) *tls.Config {
	epoch, secrets := tickets.Secrets(time.Now())
	if d.epoch.Load() != epoch {
		d.mu.Lock()
		if d.epoch.Load() != epoch {
			d.config.SetSessionTicketKeys(ticketKeys(secrets, d.name))
			d.epoch.Store(epoch)
		}
		d.mu.Unlock()
	}
	return d.config
}

// doorFor is tls.Config.GetConfigForClient.
func (s *Server) doorFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	x := s.now.Load()
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmeALPN {
		return x.Doors.challenge.config, nil
	}
	return x.Doors.of(x.siteAt(hello.ServerName, hello.Conn.LocalAddr(), s.options.Passed)).open(s.options.Tickets), nil
}

// siteAt is the site for which a connection is made: by the server name, without
// one by the address that it came to. nil is none.
func (c *Crossing) siteAt(name string, local net.Addr, passed bool) *config.Site {
	if site, ok := c.Config.LookupHello(name, local); ok {
		return site
	}
	if passed {
		site, _ := c.Config.Passed(name)
		return site
	}
	return nil
}

// fits says whether the connection of x may be used for its site; the error is
// nil then.
func (x *exchange) fits(site *config.Site) error {
	state := x.r.TLS
	if state == nil {
		if site.TLS != nil && site.TLS.Clients != nil && site.TLS.Clients.Require { // config refuses http: serve beside it
			return outcome.Errorf(outcome.HostUnknown, "plain HTTP for site %s, whose visitors show a certificate", site.Name)
		}
		return nil
	}
	local, _ := x.r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	of := x.siteAt(state.ServerName, local, x.server.options.Passed)
	switch {
	case of == site:
	case of != nil && state.ServerName != "":
		return outcome.Errorf(outcome.HostUnknown, "host %q on a connection made for %q", x.r.Host, state.ServerName)
	case site.TLS.Strict():
		return outcome.Errorf(outcome.HostUnknown, "host %q on a connection made for no name of site %s, whose TLS has settings of its own", x.r.Host, site.Name)
	}
	if !site.TLS.Strict() {
		return nil
	}
	front := site.TLS.Front()
	if state.Version < front.Min || state.Version == tls.VersionTLS12 && !slices.Contains(front.Suites, state.CipherSuite) ||
		front.Curves != nil && !slices.Contains(front.Curves, state.CurveID) {
		return outcome.Errorf(outcome.HostUnknown, "host %q on a connection made before the tls of site %s changed", x.r.Host, site.Name)
	}
	return x.knownClient(site)
}

// knownClient looks at the client certificate of the connection.
func (x *exchange) knownClient(site *config.Site) error {
	if site.TLS.Clients == nil {
		return nil
	}
	state := x.r.TLS
	if len(state.PeerCertificates) == 0 {
		if site.TLS.Clients.Require {
			return outcome.Errorf(outcome.ClientUnknown, "host %q without a client certificate", x.r.Host)
		}
		return nil
	}
	now, trusted := time.Now(), x.Doors.of(site).clients
	for _, chain := range state.VerifiedChains {
		if trusted[string(chain[len(chain)-1].Raw)] && !slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return now.After(c.NotAfter) }) {
			return nil
		}
	}
	return outcome.Errorf(outcome.HostUnknown, "host %q with a client certificate that was good when the connection was made", x.r.Host)
}

// clientCert is the field in which the origin learns of the client's certificate
// (RFC 9440 section 2.1), "" for none.
func (x *exchange) clientCert() string {
	if x.r.TLS == nil || x.site.TLS == nil || x.site.TLS.Clients == nil || len(x.r.TLS.VerifiedChains) == 0 {
		return ""
	}
	var field bytes.Buffer
	field.WriteByte(':')
	encoder := base64.NewEncoder(base64.StdEncoding, &field)
	_, _ = encoder.Write(x.r.TLS.PeerCertificates[0].Raw)
	_ = encoder.Close()
	field.WriteByte(':')
	return field.String()
}
