package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// defaultListen is what a file without nodes and listen listens on.
var defaultListen = Listen{HTTP: ":80", HTTPS: ":443", Admin: "127.0.0.1:9900"}

// forwardListen is that where there are no sites.
var forwardListen = Listen{Admin: defaultListen.Admin}

func nodePath(i int) string { return "nodes[" + strconv.Itoa(i) + "]" }

// checkNodes looks at the nodes, or makes the one node of a file without.
func (c *Config) checkNodes(r *report) {
	if _, written := r.places["nodes"]; !written {
		c.oneNode(r)
		return
	}
	if !r.good("nodes") {
		return
	}
	if c.Listen != nil {
		r.key("listen", "move it into the nodes", "a file with nodes has a listen in each node")
	}
	crosses := !c.onlyForwards(r) || slices.ContainsFunc(c.Nodes, func(n *Node) bool { return n.Role == RoleRelay })
	if c.PKI == "" && r.good("pki") && crosses {
		at := r.places["nodes"]
		r.add("pki", at.keyLine, at.keyColumn, "make one with: causeway link-ca --dir pki NAME…, and add pki: pki", "nodes need a pki to know each other by")
	}
	names := map[string]int{}
	edges, relays := 0, 0
	for i, n := range c.Nodes {
		at := nodePath(i)
		if n.Name != "" {
			checkNodeName(r, at+".name", n.Name, names, i)
		}
		checkRegion(r, at+".region", n.Region)
		checkClashes(r, at+".listen", &n.Listen)
		switch {
		case !r.good(at+".role") || n.Role == "":
			edges, relays = edges+1, relays+1 // it may be either
		case n.IsEdge():
			edges++
			c.checkEdge(r, at, n)
		case n.IsRelay():
			relays++
			checkRelay(r, at, n)
		}
	}
	if edges == 0 {
		r.key("nodes", "add {name: shanghai-1, role: edge, region: cn, listen: {http: \":80\", https: \":443\"}}, or leave nodes out for one process", "there is no edge among the nodes")
	}
	if relays == 0 && crosses {
		r.key("nodes", "add {name: virginia-1, role: relay, listen: {link: \":7443\"}, address: \"10.1.0.5:7443\"}, or leave nodes out for one process", "there is no relay among the nodes")
	}
}

// oneNode makes the node of a file without nodes: edge and relay in one.
func (c *Config) oneNode(r *report) {
	if c.Listen == nil {
		listen := defaultListen
		if c.onlyForwards(r) {
			listen = forwardListen
		}
		c.Listen = &listen
	}
	c.Nodes = []*Node{{Role: RoleBoth, Listen: *c.Listen}}
	if _, written := r.places["links"]; written {
		r.key("links", "take the links out, or write the nodes", "links are between nodes, and the file has none")
		c.Links = nil
	}
	if !r.good("listen") {
		return
	}
	if c.Listen.Link != "" {
		r.key("listen.link", "take it out, or write the nodes", "a file without nodes has no links to listen for")
	}
	if c.Listen.HTTP == "" && c.Listen.HTTPS == "" && r.good("listen.http") && r.good("listen.https") && !c.onlyForwards(r) && len(c.Forwards) == 0 {
		r.value("listen", "add http: \":80\" or https: \":443\"", "nothing listens for clients")
	}
	checkClashes(r, "listen", c.Listen)
	c.checkH3(r, "listen.h3", c.Listen)
}

// checkH3 looks at what HTTP/3 needs at an edge.
func (c *Config) checkH3(r *report, at string, listen *Listen) {
	if !listen.H3 {
		return
	}
	if listen.HTTPS == "" {
		r.value(at, "add https: \":443\"", "HTTP/3 goes with https, on its port")
		return
	}
	if len(c.Sites) > 0 && !slices.ContainsFunc(c.Sites, func(s *Site) bool { return s.TLS != nil && s.Entry != Passthrough }) {
		r.value(at, "take it out, or write entry: terminate", "no site's TLS ends at an edge, so that nothing would be served over HTTP/3")
	}
}

func checkNodeName(r *report, at, name string, names map[string]int, i int) {
	if name == "ca" {
		r.value(at, "choose another name", "ca.pem and ca.key are the authority's files in the pki folder")
		return
	}
	if !hostLabel(name) || strings.Contains(name, "_") {
		r.value(at, "write small letters, digits and - only, at most 63", "%q cannot name a node", name)
		return
	}
	if first, ok := names[name]; ok {
		r.value(at, "give each node a name of its own", "%s has the name %q too", nodePath(first), name)
		return
	}
	names[name] = i
}

func checkRegion(r *report, at, region string) {
	if region != "" && r.good(at) && !hostLabel(region) {
		r.value(at, "write small letters, digits and - only, such as cn", "%q cannot name a region", region)
	}
}

// checkEdge looks at what only an edge has.
func (c *Config) checkEdge(r *report, at string, n *Node) {
	if n.Address != "" {
		r.key(at+".address", "take it out", "an edge has no address: it dials the relays")
	}
	if !r.good(at + ".listen") {
		return
	}
	if n.Listen.Link != "" {
		r.key(at+".listen.link", "take it out", "an edge does not listen for links: it dials the relays")
	}
	if n.Listen.HTTP == "" && n.Listen.HTTPS == "" && r.good(at+".listen.http") && r.good(at+".listen.https") && len(c.ForwardsOf(n)) == 0 {
		r.value(at+".listen", "add http: \":80\" or https: \":443\"", "an edge needs http or https to listen on")
	}
	if r.good(at+".listen.https") && r.good(at+".listen.h3") {
		c.checkH3(r, at+".listen.h3", &n.Listen)
	}
}

// checkRelay looks at what only a relay has.
func checkRelay(r *report, at string, n *Node) {
	if n.Address == "" && r.good(at+".address") {
		r.key(at, "add address: \"10.1.0.5:7443\"", "a relay needs the address where edges reach it")
	}
	if !r.good(at + ".listen") {
		return
	}
	for _, client := range []struct{ name, address string }{{"http", n.Listen.HTTP}, {"https", n.Listen.HTTPS}} {
		if client.address != "" {
			r.key(at+".listen."+client.name, "take it out", "a relay does not listen for clients")
		}
	}
	if n.Listen.H3 {
		r.key(at+".listen.h3", "take it out", "a relay does not listen for clients")
	}
	if n.Listen.Link == "" && r.good(at+".listen.link") {
		r.value(at+".listen", "add link: \":7443\"", "a relay needs link to listen on")
	}
}

// checkClashes refuses two listeners of a node on one address.
func checkClashes(r *report, at string, listen *Listen) {
	type listener struct{ name, address string }
	var before []listener
	for _, l := range []listener{{"http", listen.HTTP}, {"https", listen.HTTPS}, {"link", listen.Link}, {"admin", listen.Admin}} {
		if l.address == "" || !r.good(at+"."+l.name) {
			continue
		}
		for _, other := range before {
			if clash(l.address, other.address) {
				r.value(at+"."+l.name, "give each a port of its own", "%s listens on %s already", other.name, other.address)
				break
			}
		}
		before = append(before, l)
	}
}

// clash says whether two addresses cannot both be listened on.
func clash(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	return portA == portB && portA != "0" && (hostA == hostB || everyAddress(hostA) || everyAddress(hostB))
}

func everyAddress(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || err == nil && addr.IsUnspecified()
}

// checkLinks looks at the links, or makes them: every edge to every relay.
func (c *Config) checkLinks(r *report) {
	if _, written := r.places["links"]; !written {
		c.everyLink()
		return
	}
	nodes, known := map[string]*Node{}, r.good("nodes")
	for i, n := range c.Nodes {
		nodes[n.Name] = n
		known = known && r.good(nodePath(i)+".name") && r.good(nodePath(i)+".role") && n.Role != RoleBoth
	}
	if !known || !r.good("links") {
		return
	}
	first, linked, whole := map[[3]string]int{}, map[string]bool{}, true
	for i, l := range c.Links {
		at := fmt.Sprintf("links[%d]", i)
		if !r.good(at) {
			whole = false
			continue
		}
		checkPrice(r, at+".price", l.Price)
		from := checkEnd(r, at+".from", l.From, nodes, RoleEdge)
		to := checkEnd(r, at+".to", l.To, nodes, RoleRelay)
		linked[l.From] = true
		whole = whole && r.good(at) && r.good(at+".from")
		if !from || !to {
			continue
		}
		if l.Via == "" {
			l.Via = nodes[l.To].Address
		}
		ends := [3]string{l.From, l.To, l.Via}
		if before, ok := first[ends]; ok {
			r.value(at, "keep one of them, or give each a via of its own", "links[%d] links %s and %s already, over %s", before, l.From, l.To, l.Via)
			continue
		}
		first[ends] = i
	}
	for i, n := range c.Nodes {
		if whole && n.IsEdge() && n.Name != "" && !linked[n.Name] {
			r.value(nodePath(i)+".name", "add {from: "+n.Name+", to: a relay} to links, or leave links out for every edge to every relay", "the edge %s has no link", n.Name)
		}
	}
}

// checkEnd looks at one end of a link.
func checkEnd(r *report, at, name string, nodes map[string]*Node, role Role) bool {
	if name == "" || !r.good(at) {
		return false
	}
	n, ok := nodes[name]
	if !ok {
		var known []string
		for other, n := range nodes {
			if n.Role == role {
				known = append(known, other)
			}
		}
		mend := "add it to nodes"
		if near := nearest(name, known); near != "" {
			mend = "did you mean " + near + "?"
		}
		r.value(at, mend, "there is no node %q", name)
		return false
	}
	if n.Role != role {
		r.value(at, "a link goes from an edge to a relay", "%s is the name of %s", name, map[Role]string{RoleEdge: "an edge", RoleRelay: "a relay"}[n.Role])
		return false
	}
	return true
}

// everyLink links every edge to every relay.
func (c *Config) everyLink() {
	for _, from := range c.Nodes {
		for _, to := range c.Nodes {
			if from.Role == RoleEdge && to.Role == RoleRelay {
				c.Links = append(c.Links, &Link{From: from.Name, To: to.Name, Via: to.Address, Prefer: 1, Weight: 1, Hedge: HedgeOff})
			}
		}
	}
}

// Node is the node called name. "" is the only node of a file without nodes.
func (c *Config) Node(name string) (*Node, error) {
	var names []string
	if len(c.Nodes) == 1 && name == "" {
		return c.Nodes[0], nil
	}
	for _, n := range c.Nodes {
		if n.Name == name {
			return n, nil
		}
		names = append(names, n.Name)
	}
	switch {
	case c.Nodes[0].Role == RoleBoth:
		return nil, fmt.Errorf("%s has no nodes, so none is called %q: leave --node out", c.Path, name)
	case name == "":
		return nil, fmt.Errorf("%s has several nodes: say which with --node, one of %s", c.Path, strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("%s has no node %q: it has %s", c.Path, name, strings.Join(names, ", "))
}
