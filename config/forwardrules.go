package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

const (
	// mostPorts of a forward in user space: each is a socket of its own.
	mostPorts = 1024
	// mostForwards, and their entries of listen and of targets in all, so that
	// holding all against all takes no time.
	mostForwards, mostSpans, mostTargets = 1000, 4096, 4096
)

func forwardPath(i int) string { return "forwards[" + strconv.Itoa(i) + "]" }

// checkForwards looks at the forwards: each by itself, then those of each node
// together.
func (c *Config) checkForwards(r *report) {
	if _, written := r.places["forwards"]; written && len(c.Forwards) == 0 && r.good("forwards") {
		r.value("forwards", "write - {name: app, listen: \":8443\", targets: [\"203.0.113.10:443\"]}, or take it out", "there is no forward")
	}
	if !c.fewForwards(r) {
		return
	}
	names := map[string]int{}
	for i, f := range c.Forwards {
		at := forwardPath(i)
		checkForwardName(r, at+".name", f.Name, names, i)
		c.checkForwardNodes(r, at+".nodes", f)
		f.checkListen(r, at+".listen")
		f.checkProtocols(r, at+".protocols")
		f.checkKernel(r, at)
		f.checkNames(r, at+".sni")
		f.checkTargets(r, at+".targets")
		f.checkHealth(r, at+".health")
		f.allow, f.accept = prefixes(f.Allow), prefixes(f.Proxy.Accept)
	}
	for i, n := range c.Nodes {
		c.checkShared(r, n, i)
	}
	c.checkCircles(r)
}

// fewForwards says whether the forwards can be held against each other.
func (c *Config) fewForwards(r *report) bool {
	spans, targets := 0, 0
	for _, f := range c.Forwards {
		spans, targets = spans+len(f.Listen), targets+len(f.Targets)
	}
	if len(c.Forwards) > mostForwards || spans > mostSpans || targets > mostTargets {
		r.value("forwards", fmt.Sprintf("write at most %d forwards, with %d entries of listen and %d targets in all", mostForwards, mostSpans, mostTargets), "these are too many")
		return false
	}
	return true
}

func checkForwardName(r *report, at, name string, names map[string]int, i int) {
	if name == "" || !r.good(at) {
		return
	}
	if !plainName(name) {
		r.value(at, "write letters, digits, - _ and . only, at most 63, a letter or digit first", "%q cannot name a forward", name)
		return
	}
	if first, ok := names[name]; ok {
		r.value(at, "give each forward a name of its own", "%s has the name %q too", forwardPath(first), name)
		return
	}
	names[name] = i
}

// checkForwardNodes looks at who does a forward.
func (c *Config) checkForwardNodes(r *report, at string, f *Forward) {
	if f.Nodes == nil || !r.good(at) || !r.good("nodes") {
		return
	}
	if c.Nodes[0].Role == RoleBoth {
		r.key(at, "take it out, or write the nodes", "the file has no nodes to choose from")
		return
	}
	if len(f.Nodes) == 0 {
		r.value(at, "name an edge, or leave it out for every edge", "no node does the forward")
	}
	seen := map[string]bool{}
	for i, name := range f.Nodes {
		one := at + "[" + strconv.Itoa(i) + "]"
		if name == "" || !r.good(one) {
			continue
		}
		if seen[name] {
			r.value(one, "keep one of them", "%s is named twice", name)
			continue
		}
		seen[name] = true
		c.checkForwardNode(r, one, name)
	}
}

func (c *Config) checkForwardNode(r *report, at, name string) {
	var edges []string
	for i, n := range c.Nodes {
		if n.Name == name && n.Role == RoleRelay {
			r.value(at, "name an edge", "%s is a relay, and forwards are done by edges", name)
			return
		}
		if n.Name == name || !r.good(nodePath(i)+".name") {
			return
		}
		if n.IsEdge() {
			edges = append(edges, n.Name)
		}
	}
	mend := "add it to nodes"
	if near := nearest(name, edges); near != "" {
		mend = "did you mean " + near + "?"
	}
	r.value(at, mend, "there is no node %q", name)
}

// checkListen makes the spans of a forward.
func (f *Forward) checkListen(r *report, at string) {
	if !r.good(at) {
		return
	}
	if f.Listen != nil && len(f.Listen) == 0 {
		r.value(at, "write an address such as \":8443\"", "the forward listens nowhere")
	}
	ports := 0
	for i, text := range f.Listen {
		one := at + "[" + strconv.Itoa(i) + "]"
		if text == "" || !r.good(one) {
			continue
		}
		s, wrong := parseSpan(text)
		if wrong != nil {
			r.value(one, wrong.mend, "%s", wrong.msg)
			continue
		}
		if before := slices.IndexFunc(f.spans, s.overlaps); before >= 0 {
			r.value(one, "write each port once", "%s has ports of %s", text, f.spans[before])
			continue
		}
		f.spans = append(f.spans, s)
		ports += s.high - s.low + 1
	}
	if ports > mostPorts && f.Entry != ForwardKernel {
		r.value(at, fmt.Sprintf("write at most %d, in several forwards if need be", mostPorts), "%d ports are too many for one forward", ports)
	}
}

// parseSpan reads :port, host:port and host:low-high.
func parseSpan(s string) (span, *fault) {
	wrong := &fault{strconv.Quote(s) + " is not an address to listen on", "write :8443, 192.0.2.1:8443, or a range of ports :9000-9010"}
	host, ports, hasPort, ok := splitAuthority(s)
	if !ok || !hasPort {
		return span{}, wrong
	}
	if host != "" {
		addr, err := netip.ParseAddr(host)
		if err != nil || addr.Zone() != "" {
			return span{}, &fault{strconv.Quote(s) + " has no address to listen on before the port", "write an address of this machine, or the port alone: :" + ports}
		}
		host = addr.Unmap().String()
	}
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	low, okLow := parsePort(first)
	high, okHigh := parsePort(last)
	if !okLow || !okHigh {
		return span{}, wrong
	}
	made := span{host: host}
	made.low, _ = strconv.Atoi(low)
	made.high, _ = strconv.Atoi(high)
	if made.low > made.high {
		return span{}, &fault{"the range of " + strconv.Quote(s) + " ends before it begins", "write :" + high + "-" + low}
	}
	return made, nil
}

// String is the span as it is written.
func (s span) String() string {
	text := net.JoinHostPort(s.host, strconv.Itoa(s.low))
	if s.host == "" {
		text = ":" + strconv.Itoa(s.low)
	}
	if s.high > s.low {
		text += "-" + strconv.Itoa(s.high)
	}
	return text
}

// overlaps says whether two spans cannot both be listened on.
func (s span) overlaps(o span) bool {
	return s.low <= o.high && o.low <= s.high && (s.host == o.host || everyAddress(s.host) || everyAddress(o.host))
}

func (f *Forward) checkProtocols(r *report, at string) {
	if !r.good(at) {
		return
	}
	switch {
	case f.Protocols == nil:
		f.Protocols = []string{"tcp"}
	case len(f.Protocols) == 0:
		r.value(at, "write [tcp], or leave it out", "nothing is forwarded")
	}
	for i, protocol := range f.Protocols {
		one := at + "[" + strconv.Itoa(i) + "]"
		switch {
		case !r.good(one):
		case slices.Contains(f.Protocols[:i], protocol):
			r.value(one, "keep one of them", "%s is written twice", protocol)
		case protocol == "udp" && f.Entry == ForwardPassthrough:
			r.value(one, "write entry: kernel, or take udp out", "entry: passthrough forwards TCP alone")
		}
	}
}

// checkKernel refuses what only one kind of entry can do.
func (f *Forward) checkKernel(r *report, at string) {
	written := func(key string) bool { _, ok := r.places[at+"."+key]; return ok }
	if f.Entry != ForwardKernel {
		if written("masquerade") {
			r.key(at+".masquerade", "take it out, or write entry: kernel", "masquerade is for entry: kernel: targets of entry: passthrough always see this node, and proxy: {send: v2} tells them the client")
		}
		return
	}
	for i, s := range f.spans {
		if one := at + ".listen[" + strconv.Itoa(i) + "]"; s.host != "" && !isAddress(s.host) {
			if len(f.spans) == 1 {
				one = at + ".listen"
			}
			r.value(one, "write an address, or the port alone", "the kernel takes addresses, and %s is a name", s.host)
		}
	}
	for _, key := range []struct{ name, why string }{
		{"sni", "the kernel sees no names"},
		{"proxy", "the kernel can't put a PROXY header into a connection; with masquerade: false targets see the client"},
		{"slow_start", "the kernel's choice has no slow start"},
		{"limits", "the kernel's connections have the limits of its tracking of connections"},
	} {
		if written(key.name) {
			r.key(at+"."+key.name, "take it out, or write entry: passthrough", "%s", key.why)
		}
	}
	f.checkFamilies(r, at)
	if f.Balance == BalanceLeast {
		r.value(at+".balance", "write weighted or hash", "the kernel does not count connections for its choice")
	}
}

// checkFamilies refuses targets that the kernel would never choose: it does not turn IPv4
// into IPv6.
func (f *Forward) checkFamilies(r *report, at string) {
	for i, target := range f.Targets {
		one := at + ".targets[" + strconv.Itoa(i) + "]"
		host, _ := target.Split()
		to, err := netip.ParseAddr(host)
		if err != nil || !r.good(one) {
			continue
		}
		reached := slices.ContainsFunc(f.spans, func(s span) bool {
			own, err := netip.ParseAddr(s.host)
			return err != nil || own.Is4() == to.Is4() || own == netip.IPv6Unspecified()
		})
		if !reached {
			r.value(one, "write an address of the family that it listens on, or listen on the port alone", "the kernel does not pass IPv4 on as IPv6, or the other way, and %s is of another family than what it listens on", to)
		}
	}
}

func (f *Forward) checkNames(r *report, at string) {
	if f.SNI == nil || !r.good(at) {
		return
	}
	if len(f.SNI) == 0 {
		r.value(at, "write names such as app.example.cn, or leave it out for every connection", "no name is forwarded")
	}
	f.names = map[string]bool{}
	for i, name := range f.SNI {
		one := at + "[" + strconv.Itoa(i) + "]"
		if name != "" && r.good(one) && f.names[name] {
			r.value(one, "keep one of them", "%s is written twice", name)
		}
		f.names[name] = true
	}
}

func (f *Forward) checkTargets(r *report, at string) {
	if !r.good(at) {
		return
	}
	if f.Targets != nil && len(f.Targets) == 0 {
		r.value(at, "write an address such as \"203.0.113.10:443\"", "there is no target")
		return
	}
	first, weight := map[string]int{}, 0
	for i, t := range f.Targets {
		one := at + "[" + strconv.Itoa(i) + "]"
		if !r.good(one) || !r.good(one+".to") || !r.good(one+".weight") {
			return
		}
		weight += t.Weight
		if t.To == "" {
			continue
		}
		if _, twice := first[t.To]; twice {
			r.value(one, "keep one of them, with the weight of both", "%s is a target already", t.To)
		}
		first[t.To] = i
	}
	if weight == 0 && len(f.Targets) > 0 {
		r.value(at, "give one a weight", "every target has weight 0")
	}
}

// checkHealth refuses what a kind of check does not look at.
func (f *Forward) checkHealth(r *report, at string) {
	if !r.good(at) || !r.good(at+".check") {
		return
	}
	h := &f.Health
	isHTTP := h.Check == CheckHTTP || h.Check == CheckHTTPS
	isTLS := h.Check == CheckTLS || h.Check == CheckHTTPS
	for _, key := range []struct {
		name, needs string
		fits        bool
	}{
		{"path", "check: http or https", isHTTP},
		{"status", "check: http or https", isHTTP},
		{"host", "check: tls, http or https", isHTTP || isTLS},
		{"verify", "check: tls or https", isTLS},
		{"ca", "check: tls or https", isTLS},
	} {
		if _, written := r.places[at+"."+key.name]; written && !key.fits {
			r.key(at+"."+key.name, "take it out, or write "+key.needs, "check: %s has no %s", h.Check, key.name)
		}
	}
	if h.Path != "" && !strings.HasPrefix(h.Path, "/") && r.good(at+".path") {
		r.value(at+".path", "write a path such as /healthz", "%q does not begin with /", h.Path)
	}
	if h.Status != nil && len(h.Status) == 0 && r.good(at+".status") {
		r.value(at+".status", "write statuses such as [200, 204], or leave it out", "no status is that of a target that is well")
	}
	if h.CA != "" && !h.Verify && isTLS {
		r.key(at+".ca", "take one of them out", "with verify: false no authority is asked")
	}
	if isHTTP && h.Path == "" {
		h.Path = "/"
	}
	if !isTLS || !h.Verify {
		return
	}
	for _, t := range f.Targets {
		if t.To != "" && f.CheckName(t) == "" {
			r.value(at+".check", "add host: the name in the certificate, or verify: false", "nothing says whom the certificate of %s must be for", t.To)
			return
		}
	}
}

func prefixes(list []string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range list {
		if prefix, err := netip.ParsePrefix(text); err == nil { // what is none is reported
			all = append(all, prefix)
		}
	}
	return all
}

// parsePrefix reads an address or a prefix.
func parsePrefix(s string) (string, *fault) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()).String(), nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return "", &fault{strconv.Quote(s) + " is not an address or a prefix", "write 198.51.100.7, 198.51.100.0/24 or 2001:db8::/32"}
	}
	if prefix != prefix.Masked() {
		return "", &fault{s + " has bits behind the prefix", "write " + prefix.Masked().String() + ", or " + prefix.Addr().String() + " for that address alone"}
	}
	return prefix.String(), nil
}

// parseSNI reads a name that TLS clients may ask for.
func parseSNI(s string) (string, *fault) {
	if isAddress(strings.Trim(s, "[]")) {
		return "", &fault{strconv.Quote(s) + " is an address, which no TLS client asks for (RFC 6066 section 3)", "write names, or leave sni out for every connection"}
	}
	if strings.Contains(s, ":") {
		return "", &fault{strconv.Quote(s) + " is not a host name", "write the name without a port"}
	}
	return parseHost(s)
}

// parseCheckHost reads the name that a check asks for.
func parseCheckHost(s string) (string, *fault) {
	host, wrong := parseHost(s)
	if wrong == nil && isWild(host) {
		return "", &fault{strconv.Quote(s) + " is not one name", "write a name such as example.com"}
	}
	return host, wrong
}

func parseProtocol(s string) (string, *fault) {
	if s == "tcp" || s == "udp" {
		return s, nil
	}
	return "", &fault{strconv.Quote(s) + " is not tcp or udp", "write tcp or udp"}
}

// taken is a span of a node that something listens on.
type taken struct {
	span
	what    string   // for messages: "https"
	forward *Forward // nil for a listener of the node itself
	path    string   // of the forward
}

// checkShared refuses what cannot listen together on node n.
func (c *Config) checkShared(r *report, n *Node, i int) {
	at := nodePath(i)
	if n.Role == RoleBoth {
		at = ""
	}
	var before []taken
	for _, l := range []struct{ name, address string }{{"http", n.Listen.HTTP}, {"https", n.Listen.HTTPS}, {"link", n.Listen.Link}, {"admin", n.Listen.Admin}} {
		if s, wrong := parseSpan(l.address); wrong == nil && r.good(join(at, "listen."+l.name)) {
			before = append(before, taken{span: s, what: strings.TrimSuffix(l.name+" of "+n.Name, " of ")})
		}
	}
	for j, f := range c.Forwards {
		if !slices.Contains(c.ForwardsOf(n), f) {
			continue
		}
		path := forwardPath(j)
		for k, s := range f.spans {
			one := taken{s, "forward " + f.Name, f, path}
			for _, other := range before {
				if other.forward != f && s.overlaps(other.span) && !r.shares(other, one, k) {
					break
				}
			}
			before = append(before, one)
		}
	}
}

// shares says whether the forward of one may listen where other does, and
// reports it when not.
func (r *report) shares(other, one taken, k int) bool {
	at := one.path + ".listen"
	if len(one.forward.Listen) == len(one.forward.spans) {
		at += "[" + strconv.Itoa(k) + "]"
	}
	if !r.good(at) || other.forward != nil && disjointProtocols(other.forward, one.forward) {
		return true
	}
	switch f := one.forward; {
	case other.forward == nil:
		r.value(at, "give each a port of its own", "%s listens on %s already", other.what, other.span)
	case f.Entry == ForwardKernel || other.forward.Entry == ForwardKernel:
		r.value(at, "give each a port of its own", "%s has %s already", other.what, other.span)
	case other.host != one.host:
		r.value(at, "write the address in the same way in both", "%s listens on %s, which has ports of this", other.what, other.span)
	case f.SNI == nil || other.forward.SNI == nil:
		r.value(at, "give each a port of its own, or both sni", "%s listens on %s already, and without sni nothing tells their connections apart", other.what, other.span)
	case !slices.Equal(f.accept, other.forward.accept):
		r.value(at, "write the same proxy: {accept: …} in both, or give each a port of its own", "%s listens on %s with another proxy.accept, and who may send a PROXY header is known before the name", other.what, other.span)
	default:
		return r.sharesNames(other, one)
	}
	return false
}

// disjointProtocols says whether two forwards have no protocol in common.
func disjointProtocols(a, b *Forward) bool {
	return !slices.ContainsFunc(a.Protocols, func(p string) bool { return slices.Contains(b.Protocols, p) })
}

// sharesNames refuses a name of two forwards on one address.
func (r *report) sharesNames(other, one taken) bool {
	for i, name := range one.forward.SNI {
		at := one.path + ".sni[" + strconv.Itoa(i) + "]"
		if name != "" && r.good(at) && other.forward.names[name] {
			r.value(at, "keep one of them, or give each forward a port of its own", "%s has %s on %s already", other.what, name, other.span)
			return false
		}
	}
	return true
}

// checkCircles refuses a target that leads back to where its connection came
// from, as far as the file can tell: an address of the node's own.
func (c *Config) checkCircles(r *report) {
	for _, n := range c.Nodes {
		mine := c.ForwardsOf(n)
		for i, f := range c.Forwards {
			if !slices.Contains(mine, f) {
				continue
			}
			for j, t := range f.Targets {
				at := forwardPath(i) + ".targets[" + strconv.Itoa(j) + "]"
				if through, round := f.comesRound(t, mine); round && r.good(at) && r.good(at+".to") {
					r.value(at, "write where the service itself listens", "%s leads back to %s", t.To, through)
				}
			}
		}
	}
}

// comesRound says whether what goes to t comes to f again, and through which
// listener it does first.
func (f *Forward) comesRound(t Target, mine []*Forward) (span, bool) {
	through, next := f.pointsAt(t, mine)
	seen := map[*Forward]bool{}
	for len(next) > 0 {
		g := next[0]
		next = next[1:]
		if g == f {
			return through, true
		}
		if seen[g] {
			continue
		}
		seen[g] = true
		for _, t := range g.Targets {
			_, more := g.pointsAt(t, mine)
			next = append(next, more...)
		}
	}
	return span{}, false
}

// pointsAt gives the forwards that listen where a target of f leads.
func (f *Forward) pointsAt(t Target, mine []*Forward) (first span, forwards []*Forward) {
	host, port := t.Split()
	for _, g := range mine {
		for _, s := range g.spans {
			if leadsTo(host, s.host) && f.mayCome(port, s) {
				if forwards == nil {
					first = s
				}
				forwards = append(forwards, g)
				break
			}
		}
	}
	return first, forwards
}

// mayCome says whether port, 0 for any that f listens on, is of s.
func (f *Forward) mayCome(port int, s span) bool {
	if port != 0 {
		return s.low <= port && port <= s.high
	}
	return slices.ContainsFunc(f.spans, func(own span) bool { return own.low <= s.high && s.low <= own.high })
}

// leadsTo says whether a connection to host comes to who listens on listen.
func leadsTo(host, listen string) bool {
	addr, err := netip.ParseAddr(host)
	local := host == "localhost" || err == nil && (addr.IsLoopback() || addr.IsUnspecified())
	if everyAddress(listen) {
		return local
	}
	own := netip.MustParseAddr(listen)
	return err == nil && addr == own || host == "localhost" && own.IsLoopback()
}
