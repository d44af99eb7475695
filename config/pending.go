package config

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"causeway/rewrite"
)

// Pending is what is seen of a site before it is open.
type Pending struct {
	// On says that the site is pending.
	On bool `yaml:"-"`

	// An HTML file in UTF-8 of at most 1 MiB, to be shown in place of the
	// page that Causeway has, in Chinese and English. Read by edges; for a site
	// that passes through by relays, too.
	Page string `yaml:"page,omitempty" kind:"path" example:"holding.html"`

	// A name under which the site itself is served, by plain HTTP and nothing
	// else, to try it out. It takes the place of the site's first public host,
	// and `www.preview.example.net` that of a host `www.example.cn` below it; hosts
	// that are elsewhere stay the origin's own. It is in no cache, and search
	// engines are told to leave it out. Whoever knows the name can see the site.
	TestHost string `yaml:"test_host,omitempty" kind:"testhost" example:"preview.example.net"`
}

// MaxPage is the largest holding page, in bytes.
const MaxPage = 1 << 20

// parseTestHost reads pending.test_host: host or host:port.
func parseTestHost(s string) (string, *fault) {
	base, wrong := parsePublic(s)
	switch {
	case wrong != nil:
		return "", wrong
	case isWild(base.Host):
		return "", &fault{strconv.Quote(s) + " stands for many hosts", "write one name, such as preview.example.net"}
	}
	base.Scheme = "http"
	if base.Port == "80" {
		base.Port = ""
	}
	return base.Authority(), nil
}

// checkPending completes the sites under test hosts, and refuses what they
// can't be.
func (c *Config) checkPending(r *report) {
	first := map[spot]string{}
	for i, s := range c.Sites {
		for _, h := range s.Hosts {
			if h.Public.Host != "" {
				first[spotOf(h.Public)] = hostPath(fmt.Sprintf("sites[%d].hosts", i), h.written)
			}
		}
	}
	origins := c.originNames()
	for i, s := range c.Sites {
		at := fmt.Sprintf("sites[%d].pending.test_host", i)
		if s.Pending.TestHost == "" || !r.good(at) || len(s.Hosts) == 0 || s.Hosts[0].Public.Host == "" {
			continue
		}
		if isWild(s.Hosts[0].Public.Host) {
			r.value(at, "write a host without a wildcard first in hosts", "it takes the place of the first public host, which is a wildcard")
			continue
		}
		if s.TLS != nil && s.TLS.Clients != nil {
			r.value(at, "leave one of the two out", "it is served on plain HTTP, where nobody shows the certificate that tls.clients wants")
			continue
		}
		if !c.listensPlain(r) {
			r.value(at, "add http: \":80\" to the listen of an edge", "it is served on plain HTTP, and no edge listens on http")
			continue
		}
		s.Test = s.test()
		for _, h := range s.Test.Hosts {
			if before, ok := first[spotOf(h.Public)]; ok {
				r.value(at, "give the site a name of its own to be tried under", "%s is at %s already", h.Public.Authority(), before)
				break
			}
			first[spotOf(h.Public)] = at
			if o, ok := origins.meets(spotOf(h.Public)); ok {
				r.value(at, "give the site a name of its own to be tried under", "%s would loop: %s has the origin host %s", h.Public.Authority(), o.path, o.name)
				break
			}
		}
	}
}

// listensPlain says whether an edge listens on http; true where that is not known.
func (c *Config) listensPlain(r *report) bool {
	return !r.good("nodes") || !r.good("listen") || slices.ContainsFunc(c.Nodes, func(n *Node) bool { return n.IsEdge() && n.Listen.HTTP != "" })
}

// test is the site under its test host.
func (s *Site) test() *Site {
	base, _ := parsePublic(s.Pending.TestHost)
	t := &Site{
		Name: s.Name, Tests: true, Entry: Terminate, HTTP: HTTPServe,
		Origin: s.Origin, Rewrite: s.Rewrite, Headers: s.Headers, Cache: &Caching{Off: true},
		Routes: slices.Clone(s.Routes),
	}
	t.Origin.Health = nil // the site's own tells
	for i := range t.Routes {
		t.Routes[i].Cache, t.Routes[i].maps = nil, ruledMaps{}
	}
	above := "." + s.Hosts[0].Public.Host
	for i, h := range s.Hosts {
		below, ok := strings.CutSuffix(h.Public.Host, above)
		switch {
		case i == 0:
			h.Public = rewrite.Base{Scheme: "http", Host: base.Host, Port: base.Port}
		case ok:
			h.Public = rewrite.Base{Scheme: "http", Host: below + "." + base.Host, Port: base.Port}
		default:
			continue
		}
		t.Hosts = append(t.Hosts, h)
	}
	return t
}

// withTests are sites and those under their test hosts.
func withTests(sites []*Site) []*Site {
	all := slices.Clone(sites)
	for _, s := range sites {
		if s.Test != nil {
			all = append(all, s.Test)
		}
	}
	return all
}

// Served are the sites of the file and those under their test hosts.
func (c *Config) Served() []*Site { return withTests(c.Sites) }

// page looks at a holding page.
func (f *filesCheck) page(path, file string) {
	if info, err := os.Stat(file); err == nil && info.Size() > MaxPage {
		f.value(path, "make it smaller", "%s is larger than 1 MiB", file)
		return
	}
	f.read(path, file, "")
}
