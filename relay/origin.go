package relay

import (
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"slices"

	"causeway/config"
	"causeway/resolve"
	"causeway/rewrite"
)

// origin is one site's origins: how they are reached, kept over a reload that
// does not change it, and the maps of the routes with origins of their own.
type origin struct {
	*reach
	routes map[routeHost]*rewrite.Map // immutable
}

// routeHost is a route at one of its site's public hosts, and the map with the
// rules that a request comes under.
type routeHost struct {
	names *rewrite.Map
	route *config.Route
	host  string
}

// newOrigin reads the site's CA file. It opens no connection.
func newOrigin(site *config.Site, limits config.Limits, names *resolve.Resolver) (*origin, error) {
	roots, pem, err := readRoots(site.Origin.TLS.CA)
	if err != nil {
		return nil, fmt.Errorf("site %s: origin.tls.ca: %w", site.Name, err)
	}
	targets := make(map[string][]string) // authority with port -> where to dial
	for _, host := range site.Hosts {
		targets[hostPort(host.To)] = host.Connect
	}
	r := newReach(newDialer(targets, names, limits.ConnectTimeout), roots, limits)
	r.fingerprint = fmt.Sprintf("%v %x %v %v %v", targets, pem, limits.ConnectTimeout, limits.OriginTimeout, limits.HeaderBytes)
	return &origin{reach: r, routes: routeMaps(site)}, nil
}

// over is o with the connections of same, which dials and trusts alike.
func (o *origin) over(same *origin) *origin { return &origin{reach: same.reach, routes: o.routes} }

// routeMap is names, a map of the site, for answers of a route's own origin to
// requests for host, a Host field in whatever spelling: that origin too is the
// public host.
func (o *origin) routeMap(names *rewrite.Map, route *config.Route, host string) *rewrite.Map {
	to, _ := names.OriginOf(host)
	public, ok := names.PublicOf(to.Scheme, to.Authority())
	if !ok {
		return names
	}
	if m := o.routes[routeHost{names, route, public.Authority()}]; m != nil {
		return m
	}
	// A host below a wildcard. Clients choose its labels: it is not kept.
	m, err := names.With(rewrite.Pair{Public: public, Origin: *route.Origin})
	if err != nil {
		return names
	}
	return m
}

// routeMaps makes the maps of each route with an origin of its own for each
// exact public host.
func routeMaps(site *config.Site) map[routeHost]*rewrite.Map {
	maps := make(map[routeHost]*rewrite.Map)
	for i := range site.Routes {
		route := &site.Routes[i]
		if route.Origin == nil {
			continue
		}
		for _, names := range site.AllNames(route) {
			for _, host := range site.Hosts {
				if m, err := names.With(rewrite.Pair{Public: host.Public, Origin: *route.Origin}); err == nil {
					maps[routeHost{names, route, host.Public.Authority()}] = m
				}
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
