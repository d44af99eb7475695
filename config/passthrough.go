package config

import "fmt"

// checkEntry refuses what a site that passes through can't have: the edge does
// not see its requests, and its relay ends its TLS.
func (c *Config) checkEntry(r *report, path string, s *Site) {
	if s.Default && s.Entry != Passthrough {
		r.value(path+".default", "add entry: passthrough, or take it out", "a name that no site has can only be passed through: no certificate is for it")
	}
	if s.Entry != Passthrough || !r.good(path+".entry") {
		return
	}
	if _, written := r.places["nodes"]; !written {
		r.value(path+".entry", "write the nodes, or entry: terminate", "a file without nodes has no relay to pass connections to")
	}
	if s.TLS == nil && r.good(path+".tls") {
		r.value(path+".entry", "add tls: {cert: example.cn.pem, key: example.cn.key}, whose files lie on the relays alone", "the relay ends the TLS of a site that passes through, and the site has no tls")
	}
	for i, route := range s.Routes {
		if at := fmt.Sprintf("%s.routes[%d].stay", path, i); route.Stay != "" && r.good(at) {
			r.value(at, "write entry: terminate, or give the route's paths a site of their own", "the edge does not see the requests of a site that passes through, so nothing of it can stay")
		}
	}
}

// checkDefaultOnce refuses two sites for the names that no site has.
func checkDefaultOnce(r *report, sites []*Site) {
	first := ""
	for i, s := range sites {
		switch {
		case !s.Default:
		case first == "":
			first = s.Name
		default:
			r.value(fmt.Sprintf("sites[%d].default", i), "keep one of them", "site %s is the default already", first)
		}
	}
}

// entries is how the sites of a file are entered over https.
type entries struct {
	passes, terminates bool  // any site does
	fallback           *Site // for names that no site has
}

func entriesOf(sites []*Site) (e entries) {
	for _, s := range sites {
		switch {
		case s.TLS == nil:
		case s.Entry == Passthrough:
			e.passes = true
			if s.Default {
				e.fallback = s
			}
		default:
			e.terminates = true
		}
	}
	return e
}

// PassesThrough says whether any site has entry passthrough.
func (c *Config) PassesThrough() bool { return c.entries.passes }

// Terminates says whether edges end the TLS of any site.
func (c *Config) Terminates() bool { return c.entries.terminates }

// Passed is the site that a connection for a TLS server name passes through to;
// false when it does not. "" is a client that said no name.
func (c *Config) Passed(name string) (*Site, bool) {
	if name != "" {
		if site, _, ok := c.LookupName(name); ok {
			return site, site.Entry == Passthrough
		}
	}
	return c.entries.fallback, c.entries.fallback != nil
}

// EndsTLS says whether node n ends the TLS of the site, and so needs its
// certificate.
func (s *Site) EndsTLS(n *Node) bool {
	if s.TLS == nil {
		return false
	}
	if s.Entry == Passthrough {
		return n.IsRelay()
	}
	return n.IsEdge()
}
