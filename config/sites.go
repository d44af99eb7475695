package config

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"causeway/rewrite"
)

// check is every rule that looks at more than one value, in the order of the
// file. It also fills in what follows from other values.
func (c *Config) check(r *report) {
	c.checkNodes(r)
	c.checkLinks(r)
	if _, written := r.places["sites"]; !written && !c.onlyForwards(r) {
		r.key("", "write sites: [{name: shop, hosts: {example.cn: https://example.com}}]", "the key %q is missing", "sites")
	} else if written && len(c.Sites) == 0 && r.good("sites") {
		r.value("sites", "write - {name: shop, hosts: {example.cn: https://example.com}, …}", "there is no site")
	}
	names := map[string]int{}
	for i, s := range c.Sites {
		path := fmt.Sprintf("sites[%d]", i)
		if r.good(path+".name") && s.Name != "" {
			checkSiteName(r, path+".name", s.Name, names, i)
		}
		c.checkCerts(r, path, s)
		c.checkHTTP(r, path, s)
		c.checkEntry(r, path, s)
		checkHealth(r, path, s)
		checkBases(r, path, s)
		checkOneWayBack(r, path, s)
	}
	c.checkApproved(r)
	c.checkACME(r)
	checkPublicOnce(r, c.Sites)
	checkDefaultOnce(r, c.Sites)
	c.checkPending(r)
	for i, s := range c.Sites {
		c.checkFront(r, fmt.Sprintf("sites[%d]", i), s)
	}
	c.checkLoops(r)
	for i, s := range c.Sites {
		checkRewrite(r, fmt.Sprintf("sites[%d].rewrite", i), &s.Rewrite)
		checkCaching(r, fmt.Sprintf("sites[%d].cache", i), s, s.Cache)
		c.checkRoutes(r, fmt.Sprintf("sites[%d].routes", i), s)
	}
	c.checkForwards(r)
	c.checkCache(r)
	if len(r.errs) == 0 {
		makeMaps(r, c.Sites)
		makePolicies(c)
	}
}

// onlyForwards says whether the file has forwards and no sites.
func (c *Config) onlyForwards(r *report) bool {
	_, sites := r.places["sites"]
	_, forwards := r.places["forwards"]
	return forwards && !sites
}

// checkHealth looks at what an edge asks the origin of a site for.
func checkHealth(r *report, path string, s *Site) {
	h := s.Origin.Health
	if h == nil || !r.good(path+".origin.health") {
		return
	}
	at := path + ".origin.health"
	if !strings.HasPrefix(h.Path, "/") && r.good(at+".path") && h.Path != "" {
		r.value(at+".path", "write a path such as /healthz", "%q does not begin with /", h.Path)
	}
	if h.Status != 0 && h.Status < 200 && r.good(at+".status") {
		r.value(at+".status", "write 200 to 599", "%d is the status of no answer", h.Status)
	}
	if s.CheckHost() == "" && r.good(path+".hosts") {
		r.value(at, "add a host without a wildcard", "there is no public host to ask")
	}
}

// CheckHost is the public host that stands for the site: its first without a
// wildcard; "" when there is none.
func (s *Site) CheckHost() string {
	for _, h := range s.Hosts {
		if h.Public.Host != "" && !strings.HasPrefix(h.Public.Host, "*.") {
			return h.Public.Authority()
		}
	}
	return ""
}

func checkSiteName(r *report, path, name string, names map[string]int, i int) {
	if !plainName(name) {
		r.value(path, "write letters, digits, - _ and . only, at most 63, a letter or digit first", "%q cannot name a site", name)
		return
	}
	if first, ok := names[name]; ok {
		r.value(path, "give each site a name of its own", "sites[%d] has the name %q too", first, name)
		return
	}
	names[name] = i
}

func plainName(s string) bool {
	if len(s) > 63 || strings.ContainsRune("-_.", rune(s[0])) {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// checkHTTP fits entry, tls, http and the listeners of the edges together.
func (c *Config) checkHTTP(r *report, path string, s *Site) {
	if !r.good(path+".tls") || !r.good(path+".http") {
		return
	}
	switch {
	case s.TLS == nil && s.HTTP == "" && s.Pending.On:
		s.HTTP = HTTPServe // the page
	case s.TLS == nil && s.HTTP == "":
		r.key(path, "add tls: {cert: example.cn.pem, key: example.cn.key}, or http: serve", "the site has no tls, so nobody can reach it over https")
		r.bad[path+".http"] = true
	case s.TLS == nil && s.HTTP != HTTPServe:
		r.value(path+".http", "add tls: {cert: example.cn.pem, key: example.cn.key}, or write http: serve", "http: %s needs a site with tls", s.HTTP)
	case s.TLS != nil && s.HTTP == "":
		s.HTTP = HTTPRedirect
	}
	c.checkListeners(r, path, s)
}

// checkListeners refuses a site that no edge listens for.
func (c *Config) checkListeners(r *report, path string, s *Site) {
	if !r.good("nodes") {
		return
	}
	https, plain := false, false
	for i, n := range c.Nodes {
		listen := nodePath(i) + ".listen"
		if n.Role == RoleBoth {
			listen = "listen"
		}
		if !r.good(nodePath(i)) || !r.good(nodePath(i)+".role") || !r.good(listen) || !r.good(listen+".http") || !r.good(listen+".https") {
			return
		}
		https = https || n.IsEdge() && n.Listen.HTTPS != ""
		plain = plain || n.IsEdge() && n.Listen.HTTP != ""
	}
	if s.TLS != nil && !https {
		r.key(path+".tls", "add https: \":443\" to the listen of an edge", "no edge listens on https")
	}
	if s.HTTP == HTTPServe && !plain && r.good(path+".http") {
		r.value(path+".http", "add http: \":80\" to the listen of an edge", "no edge listens on http")
	}
}

// checkBases completes the bases and dial addresses of a site's hosts, and
// refuses wildcards on one side only.
func checkBases(r *report, path string, s *Site) {
	scheme := "https"
	if s.TLS == nil {
		scheme = "http"
	}
	for i := range s.Hosts {
		h := &s.Hosts[i]
		at := hostPath(path+".hosts", h.written)
		h.completePublic(r, at, scheme)
		h.completeConnect(s.Origin.Connect)
		if h.Public.Host == "" || h.To.Host == "" || !r.good(at) || !r.good(at+".to") {
			continue
		}
		switch from, to := isWild(h.Public.Host), isWild(h.To.Host); {
		case from && !to:
			r.value(at, "write the origin as "+h.To.Scheme+"://*."+h.To.Host+", or each public host by itself", "a wildcard public host needs a wildcard origin")
		case to && !from:
			r.value(at, "write the public host as *."+h.Public.Host+", or the origin host in full", "a wildcard origin needs a wildcard public host")
		}
	}
}

// completePublic sets the scheme of the public base and drops its default port.
func (h *Host) completePublic(r *report, path, scheme string) {
	if h.Public.Host == "" {
		return
	}
	h.Public.Scheme = scheme
	switch {
	case h.Public.Port == defaultPort(scheme):
		h.Public.Port = ""
	case scheme == "https" && h.Public.Port == "80":
		r.key(path, "leave the port out: http says what port 80 answers", "port 80 is plain HTTP, and the site has tls")
	case scheme == "http" && h.Public.Port == "443":
		r.key(path, "leave the port out, or add tls", "port 443 is HTTPS, and the site has no tls")
	}
}

// completeConnect takes the site's addresses when the host has none, and adds
// the ports.
func (h *Host) completeConnect(site []string) {
	connect := h.Connect
	if connect == nil {
		connect = site
	}
	h.Connect = nil
	for _, address := range connect {
		if address != "" && !hasPort(address) {
			address = net.JoinHostPort(address, defaultPort(h.To.Scheme))
		}
		h.Connect = append(h.Connect, address)
	}
}

func isWild(host string) bool { return strings.HasPrefix(host, "*.") }

// spot is a host and port as it is compared: 80 and 443 count as no port,
// because a name with either is one service to those who read it.
type spot struct{ host, port string }

func spotOf(b rewrite.Base) spot {
	if b.Port == "80" || b.Port == "443" {
		b.Port = ""
	}
	return spot{b.Host, b.Port}
}

// inside says whether the wildcard takes in host.
func inside(host, wildcard string) bool {
	suffix, wild := strings.CutPrefix(wildcard, "*")
	return wild && strings.HasSuffix(host, suffix)
}

// checkOneWayBack refuses two public hosts of a site with one origin host: an
// address of the origin could become either.
func checkOneWayBack(r *report, path string, s *Site) {
	first := map[spot]string{}
	for _, h := range s.Hosts {
		at := hostPath(path+".hosts", h.written)
		if h.Public.Host == "" || h.To.Host == "" || !r.good(at) || !r.good(at+".to") {
			continue
		}
		if before, ok := first[spotOf(h.To)]; ok {
			r.value(at, "give "+h.written+" a site of its own", "%s is the origin host of %s too, so its links could become either", h.To.Authority(), before)
			continue
		}
		first[spotOf(h.To)] = h.written
	}
}

// checkPublicOnce refuses a public host that is in the file twice.
func checkPublicOnce(r *report, sites []*Site) {
	first := map[spot]string{}
	for i, s := range sites {
		for _, h := range s.Hosts {
			at := hostPath(fmt.Sprintf("sites[%d].hosts", i), h.written)
			if h.Public.Host == "" || !r.good(at) {
				continue
			}
			if before, ok := first[spotOf(h.Public)]; ok {
				r.key(at, "keep one of them", "%s is a public host at %s already", h.Public.Authority(), before)
				continue
			}
			first[spotOf(h.Public)] = at
		}
	}
}

// checkLoops refuses a public host that is an origin host somewhere in the
// file: a request for it would come back, and its address be mapped twice.
func (c *Config) checkLoops(r *report) {
	origins := c.originNames()
	for i, s := range c.Sites {
		for _, h := range s.Hosts {
			at := hostPath(fmt.Sprintf("sites[%d].hosts", i), h.written)
			if h.Public.Host == "" || !r.good(at) {
				continue
			}
			if o, ok := origins.meets(spotOf(h.Public)); ok {
				r.key(at, "a public host and an origin host must differ: give one of them another name or port",
					"%s would loop: %s has the origin host %s", h.Public.Authority(), o.path, o.name)
			}
		}
	}
}

// originName is an origin host and where it is in the file.
type originName struct{ name, path string }

// originNames finds the origin host that a public host overlaps. Each map
// keeps the first of the file.
type originNames struct {
	exact map[spot]originName // hosts that are no wildcard
	wild  map[spot]originName // wildcards, by their domain
	below map[spot]originName // all, by each domain they are below of
}

// originNames indexes every origin host of the file, those of routes too.
func (c *Config) originNames() originNames {
	x := originNames{map[spot]originName{}, map[spot]originName{}, map[spot]originName{}}
	for i, s := range c.Sites {
		for _, h := range s.Hosts {
			x.add(h.To, hostPath(fmt.Sprintf("sites[%d].hosts", i), h.written))
		}
		for j, route := range s.Routes {
			if route.Origin != nil {
				x.add(*route.Origin, fmt.Sprintf("sites[%d].routes[%d].origin", i, j))
			}
		}
	}
	return x
}

func (x originNames) add(b rewrite.Base, path string) {
	if b.Host == "" {
		return
	}
	o, at := originName{b.Authority(), path}, spotOf(b)
	keep := func(m map[spot]originName, host string) {
		if _, ok := m[spot{host, at.port}]; !ok {
			m[spot{host, at.port}] = o
		}
	}
	if domain, ok := strings.CutPrefix(b.Host, "*."); ok {
		keep(x.wild, domain)
	} else {
		keep(x.exact, b.Host)
	}
	for domain, ok := afterDot(b.Host); ok; domain, ok = afterDot(domain) {
		keep(x.below, domain)
	}
}

// meets finds an origin host that has a name in common with a public host.
func (x originNames) meets(public spot) (originName, bool) {
	if o, ok := x.exact[public]; ok {
		return o, true
	}
	if domain, ok := strings.CutPrefix(public.host, "*."); ok {
		if o, ok := x.below[spot{domain, public.port}]; ok {
			return o, true
		}
	}
	for domain, ok := afterDot(public.host); ok; domain, ok = afterDot(domain) {
		if o, ok := x.wild[spot{domain, public.port}]; ok {
			return o, true
		}
	}
	return originName{}, false
}

// makeMaps makes the map of each site once everything else is right.
func makeMaps(r *report, sites []*Site) {
	for i, s := range sites {
		err := s.makeMap()
		if err == nil && s.Test != nil {
			err = s.Test.makeMap()
		}
		if err == nil {
			continue
		}
		at := "sites[" + strconv.Itoa(i) + "].hosts"
		var pair *rewrite.PairError
		if errors.As(err, &pair) && pair.Index < len(s.Hosts) {
			at = hostPath(at, s.Hosts[pair.Index].written)
		}
		r.value(at, "change the public host or the origin", "cannot be mapped: %v", err)
	}
}

// makeMap makes the map of the site's hosts.
func (s *Site) makeMap() error {
	pairs := make([]rewrite.Pair, len(s.Hosts))
	for i, h := range s.Hosts {
		pairs[i] = rewrite.Pair{Public: h.Public, Origin: h.To}
	}
	m, err := rewrite.NewMap(pairs)
	if err == nil {
		s.Map = m
		s.name()
	}
	return err
}

// name puts the rules of the site and of its routes into the map.
func (s *Site) name() {
	s.maps, s.others = newRuledMaps(s.Map, &s.Rewrite), others(s.Hosts)
	s.Map = s.maps.ruled
	for i := range s.Routes {
		if route := &s.Routes[i]; route.Rewrite != nil {
			route.maps = newRuledMaps(s.Map, route.Rewrite)
		}
	}
}
