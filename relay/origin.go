package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"causeway/config"
	"causeway/rewrite"
)

// keptAlive is how long an idle connection to an origin is kept: below the
// 60–75 s after which nginx, Apache and the clouds' balancers close theirs.
const keptAlive = 55 * time.Second

// origin is how one site's origins are reached: shared by all requests of the
// site, and kept over a reload that does not change it.
type origin struct {
	fingerprint string // what the transport is made of
	transport   *http.Transport
	upgrades    *http.Transport // HTTP/1.1 alone: HTTP/2 has no Upgrade (RFC 9113 §8.6)
	dialer      *dialer
	routes      map[routeHost]*rewrite.Map // immutable
}

// routeHost is a route at one of its site's public hosts.
type routeHost struct {
	route *config.Route
	host  string
}

// newOrigin reads the site's CA file and makes its transport.
func newOrigin(site *config.Site, limits config.Limits, names *resolver) (*origin, error) {
	roots, pem, err := readRoots(site.Origin.TLS.CA)
	if err != nil {
		return nil, fmt.Errorf("site %s: origin.tls.ca: %w", site.Name, err)
	}
	o := &origin{routes: routeMaps(site)}
	targets := make(map[string][]string) // authority with port -> where to dial
	for _, host := range site.Hosts {
		targets[hostPort(host.To)] = host.Connect
	}
	o.fingerprint = fmt.Sprintf("%v %x %v %v %v", targets, pem, limits.ConnectTimeout, limits.OriginTimeout, limits.HeaderBytes)
	o.dialer = newDialer(targets, names, limits.ConnectTimeout)
	verify := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(64)}
	o.transport = o.newTransport(limits, verify, true)
	o.upgrades = o.newTransport(limits, verify, false)
	o.dialer.changed = o.closeIdle
	return o, nil
}

// newTransport makes a transport over the dialer, with HTTP/2 or without.
func (o *origin) newTransport(limits config.Limits, verify *tls.Config, http2 bool) *http.Transport {
	verify = verify.Clone()
	verify.NextProtos = []string{"http/1.1"}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	if http2 {
		verify.NextProtos = []string{"h2", "http/1.1"}
		protocols.SetHTTP2(true)
	}
	return &http.Transport{
		Proxy:       nil, // the environment has no say in where an origin is
		Protocols:   protocols,
		DialContext: o.dialer.dial,
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return o.dialer.dialTLS(ctx, addr, verify)
		},
		DisableCompression:     true,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        keptAlive,
		ResponseHeaderTimeout:  limits.OriginTimeout,
		ExpectContinueTimeout:  time.Second, // an origin that does not know 100 gets the body after it (RFC 9110 §10.1.1)
		MaxResponseHeaderBytes: int64(limits.HeaderBytes),
		ReadBufferSize:         16 << 10,
		WriteBufferSize:        16 << 10,
	}
}

// closeIdle drops the connections that no request uses.
func (o *origin) closeIdle() {
	o.transport.CloseIdleConnections()
	o.upgrades.CloseIdleConnections()
}

// send makes one round trip.
func (o *origin) send(req *http.Request, upgrade bool) (*http.Response, error) {
	if upgrade {
		return o.upgrades.RoundTrip(req)
	}
	return o.transport.RoundTrip(req)
}

// over is o with the connections of same, which dials and trusts alike.
func (o *origin) over(same *origin) *origin {
	return &origin{fingerprint: o.fingerprint, transport: same.transport, upgrades: same.upgrades, dialer: same.dialer, routes: o.routes}
}

// routeMap is the host map for answers of a route's own origin to requests for
// host, a Host field in whatever spelling; nil when there is none.
func (o *origin) routeMap(site *config.Site, route *config.Route, host string) *rewrite.Map {
	to, _ := site.Map.OriginOf(host)
	public, ok := site.Map.PublicOf(to.Scheme, to.Authority())
	if !ok {
		return nil
	}
	if m := o.routes[routeHost{route, public.Authority()}]; m != nil {
		return m
	}
	// A host below a wildcard. Clients choose its labels: it is not kept.
	m, err := site.Map.With(rewrite.Pair{Public: public, Origin: *route.Origin})
	if err != nil {
		return nil
	}
	return m
}

// routeMaps makes, for each route with an origin of its own and each exact
// public host, the site's map in which that origin too is the public host.
func routeMaps(site *config.Site) map[routeHost]*rewrite.Map {
	maps := make(map[routeHost]*rewrite.Map)
	for i := range site.Routes {
		route := &site.Routes[i]
		if route.Origin == nil {
			continue
		}
		for _, host := range site.Hosts {
			if m, err := site.Map.With(rewrite.Pair{Public: host.Public, Origin: *route.Origin}); err == nil {
				maps[routeHost{route, host.Public.Authority()}] = m
			}
		}
	}
	return maps
}

// readRoots reads a PEM file of authorities; "" is the system's (nil).
func readRoots(file string) (*x509.CertPool, []byte, error) {
	if file == "" {
		return nil, nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("%s holds no certificate", file)
	}
	return roots, slices.Clip(pem), nil
}

// hostPort is the address net/http dials for a base URL.
func hostPort(b rewrite.Base) string {
	port := b.Port
	if port == "" {
		port = "443"
		if b.Scheme == "http" {
			port = "80"
		}
	}
	return net.JoinHostPort(b.Host, port)
}
