package daemon

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"causeway/admin"
	"causeway/cert"
	"causeway/config"
	"causeway/edge"
	"causeway/link"
	"causeway/relay"
)

// linkPatience is how long a request waits for a relay when none has a
// connection: about as long as a relay takes to restart.
const linkPatience = 2 * time.Second

// linkKey is all that a link is made of: another key is another link.
type linkKey struct {
	relay, via, pki string
	settings        string
}

// runningLink is a transport and the end of its Run.
type runningLink struct {
	transport *link.Transport
	stop      context.CancelFunc
}

// change makes the node serve cfg: everything that can fail first, then the
// swap, then the end of what is no longer needed. d.mu is held.
func (d *Daemon) change(cfg *config.Config, node *config.Node) error {
	identity, err := d.identity(cfg, node)
	if err != nil {
		return err
	}
	certs, err := d.prepareCertificates(cfg, node)
	if err != nil {
		return err
	}
	orders, err := d.prepareACME(cfg, node)
	if err != nil {
		return err
	}
	doors, err := edge.NewDoors(cfg, func(site *config.Site) bool { return site.EndsTLS(node) })
	if err != nil {
		return err
	}
	pages, err := edge.ReadPages(cfg, node)
	if err != nil {
		return err
	}
	sockets, err := d.openSockets(cfg, node)
	if err != nil {
		return err
	}
	forwards, err := d.forwards.Prepare(cfg.ForwardsOf(node))
	if err != nil {
		sockets.closeNew()
		return err
	}
	d.warnOfFiles(cfg, node)
	kept, err := d.prepareCache(cfg, node)
	if err != nil {
		sockets.closeNew()
		forwards.Drop()
		return err
	}
	if err := d.changeRelay(cfg, node); err != nil {
		sockets.closeNew()
		forwards.Drop()
		if kept != nil && kept != d.cache {
			kept.close(d)
		}
		return err
	}
	// Nothing below fails.
	oldOrders := d.changeACME(orders)
	certs.acme = d.acme
	d.access.off.Store(!cfg.Log.Access)
	var obsolete []*runningLink
	if node.IsEdge() {
		var crossing edge.Crossing
		crossing, obsolete = d.crossing(cfg, node, identity)
		crossing.Certificate, crossing.Doors, crossing.Pages = certs.GetCertificate, doors, pages
		certs.group = d.group.Load()
		crossing.Proof, crossing.Proves = certs.proof, certs.proves
		if kept != nil {
			crossing.Cache = kept.Cache
		}
		if d.edge == nil {
			d.edge = edge.New(crossing, edge.Options{Node: node.Name, Sink: d.sink, Log: d.log})
			d.entered.Store(d.edge)
		} else {
			d.edge.Swap(crossing)
		}
	}
	d.changeCache(kept, cfg)
	d.changePassed(cfg, node, edge.Crossing{Config: cfg, Certificate: certs.orDefault, Doors: doors, Pages: pages, Over: d.relay})
	d.changeCertificates(certs)
	d.config, d.node = cfg, node
	d.most.Store(new(mostConnections(cfg, node)))
	d.serve(sockets, cfg, node, identity)
	d.serveH3(sockets, cfg)
	forwards.Apply()
	d.dismiss(cfg, node)
	for _, running := range obsolete {
		running.stop()
	}
	if oldOrders != nil {
		d.tasks.Go(oldOrders.Close)
	}
	return nil
}

// warnOfFiles tells when connections end for want of descriptors (setrlimit(2)) before the
// limits of the file are reached: a forwarded one has two.
func (d *Daemon) warnOfFiles(cfg *config.Config, node *config.Node) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return
	}
	for _, f := range cfg.ForwardsOf(node) {
		if most := 2 * f.Limits.Connections; f.Entry == config.ForwardPassthrough && uint64(most) > files.Cur {
			d.log.Warn("this process may have fewer descriptors than a forward's connections need; those on top end with no_files",
				"forward", f.Name, "connections", f.Limits.Connections, "descriptors", files.Cur, "mend", "raise the limit (LimitNOFILE= of systemd), or lower the forward's limits.connections")
		}
	}
}

// changePassed makes or swaps the role that ends the TLS of sites that pass
// through, on a relay. As the edge in a file without nodes, it crosses to the
// relay of its own process.
func (d *Daemon) changePassed(cfg *config.Config, node *config.Node, crossing edge.Crossing) {
	if node.Role != config.RoleRelay {
		return
	}
	if d.passed == nil {
		d.passed = edge.New(crossing, edge.Options{Node: node.Name, Sink: d.sink, Log: d.log, Passed: true})
	} else {
		d.passed.Swap(crossing)
	}
}

// identity is the node's private certificate, nil where nothing crosses
// between nodes.
func (d *Daemon) identity(cfg *config.Config, node *config.Node) (*cert.LinkIdentity, error) {
	if cfg.PKI == "" || node.Role == config.RoleBoth {
		return nil, nil
	}
	return cert.LinkTLS(cfg.PKI, node.Name)
}

// changeRelay makes or swaps the role that reaches origins: on a relay, in one
// process, and on an edge for what stays.
func (d *Daemon) changeRelay(cfg *config.Config, node *config.Node) error {
	if d.relay != nil {
		return d.relay.Swap(cfg)
	}
	if !node.IsRelay() && !(stays(cfg) && servesStays(node)) {
		return nil
	}
	made, err := relay.New(cfg, relay.Options{Node: node.Name, Local: servesStays(node), Sink: d.sink, Log: d.log})
	d.relay = made
	return err
}

// servesStays reports whether routes that stay are this node's to serve: it is
// an edge in the country, or the only node.
func servesStays(node *config.Node) bool {
	return node.Role == config.RoleBoth || (node.IsEdge() && node.Region == "cn")
}

// stays reports whether any route must be fetched on this side.
func stays(cfg *config.Config) bool {
	return slices.ContainsFunc(cfg.Sites, func(site *config.Site) bool {
		return slices.ContainsFunc(site.Routes, func(route config.Route) bool { return route.Stay != "" })
	})
}

// crossing is the edge's view of cfg, with the links it needs running, and the
// links it needs no more.
func (d *Daemon) crossing(cfg *config.Config, node *config.Node, identity *cert.LinkIdentity) (edge.Crossing, []*runningLink) {
	crossing := edge.Crossing{Config: cfg}
	if d.relay != nil && servesStays(node) {
		crossing.Stay = d.relay
	}
	if node.IsRelay() {
		crossing.Over = d.relay
		return crossing, nil
	}
	needed := make(map[linkKey]*runningLink)
	var members []link.Member
	var priced []*config.Link
	for _, l := range cfg.Links {
		if l.From != node.Name {
			continue
		}
		priced = append(priced, l)
		key := linkKey{
			relay: l.To, via: l.Via, pki: cfg.PKI,
			settings: fmt.Sprint(cfg.Limits.LinkConnections, cfg.Limits.LinkConnectionsMost, cfg.Limits.ConnectTimeout, cfg.Limits.DrainTimeout, relayWaits(&cfg.Limits), cfg.Limits.HeaderBytes, cfg.Limits.LinkWindow),
		}
		running := d.links[key]
		if running == nil {
			running = d.startLink(cfg, l, identity)
		}
		delete(d.links, key)
		needed[key] = running
		members = append(members, link.Member{Prefer: l.Prefer, Weight: l.Weight, Hedge: l.Hedge == config.HedgeP95, Transport: running.transport})
	}
	var obsolete []*runningLink
	for _, running := range d.links {
		obsolete = append(obsolete, running)
	}
	d.links = needed
	if len(cfg.Sites) == 0 { // forwards alone: no relay is missed
		if d.checks != nil {
			d.checks()
			d.checks = nil
		}
		d.group.Store(nil)
		d.prices.Store(&priced)
		return crossing, obsolete
	}
	group := link.NewGroup(members, min(cfg.Limits.ConnectTimeout, linkPatience))
	d.check(group, cfg)
	d.group.Store(group)
	d.prices.Store(&priced)
	crossing.Over = group
	return crossing, obsolete
}

// check runs the checks of the sites' origins, in place of those of the file
// before.
func (d *Daemon) check(group *link.Group, cfg *config.Config) {
	if d.checks != nil {
		d.checks()
		d.checks = nil
	}
	var checks []link.Check
	for _, site := range cfg.Sites {
		if h := site.Origin.Health; h != nil {
			checks = append(checks, link.Check{Site: site.Name, Host: site.CheckHost(), Path: h.Path, Every: h.Every, Timeout: h.Timeout, Status: h.Status})
		}
	}
	if len(checks) == 0 {
		return
	}
	siteOf := func(host string) string {
		if site, ok := cfg.Lookup(host); ok {
			return site.Name
		}
		return ""
	}
	ctx, stop := context.WithCancel(d.base)
	d.checks = stop
	d.tasks.Go(func() { group.Check(ctx, checks, siteOf) })
}

// leftOver is how many times its connections an edge may have: those of a file
// before and of a process before, and those that ended unheard.
const leftOver = 4

// mostConnections are how many connections each edge may have to a relay: a mad
// one leaves places to the others. It is empty at an edge.
func mostConnections(cfg *config.Config, node *config.Node) map[string]int {
	most := make(map[string]int)
	for _, l := range cfg.Links {
		if l.To == node.Name {
			most[l.From] += leftOver * max(cfg.Limits.LinkConnections, cfg.Limits.LinkConnectionsMost)
		}
	}
	return most
}

// mostOf is link.Callers.Most.
func (d *Daemon) mostOf(edge string) int {
	if most := d.most.Load(); most != nil {
		return (*most)[edge]
	}
	return 0
}

// dismiss lets the edges go that the file names no more: what they asked for
// before may finish.
func (d *Daemon) dismiss(cfg *config.Config, node *config.Node) {
	if node.Role != config.RoleRelay {
		return
	}
	edges := slices.Collect(maps.Keys(mostConnections(cfg, node)))
	d.tasks.Go(func() {
		limit, cancel := context.WithTimeout(d.base, cfg.Limits.DrainTimeout)
		defer cancel()
		d.callers.Dismiss(limit, edges)
	})
}

// mostWindow is what a connection may hold unread of answers at most.
const mostWindow = 256 << 20

// linkWindow is what each of so many connections may hold unread, of answers that
// their visitors do not take: all of them a quarter of the memory that there is.
func linkWindow(room int64, connections int) int {
	return int(min(room/4/int64(max(connections, 1)), mostWindow))
}

// startLink opens the warm connections to a relay; they come up on their own.
func (d *Daemon) startLink(cfg *config.Config, l *config.Link, identity *cert.LinkIdentity) *runningLink {
	ctx, stop := context.WithCancel(context.Background())
	via := l.Via
	running := &runningLink{stop: stop, transport: link.NewTransport(link.Peer{
		Name:            l.To,
		Via:             via,
		Connections:     cfg.Limits.LinkConnections,
		MostConnections: cfg.Limits.LinkConnectionsMost,
		ConnectTimeout:  cfg.Limits.ConnectTimeout,
		DrainTimeout:    cfg.Limits.DrainTimeout,
		Waits:           relayWaits(&cfg.Limits),
		Window:          linkWindow(memoryRoom(os.DirFS("/")), cfg.Limits.LinkConnectionsMost),
		BodyWindow:      int(cfg.Limits.LinkWindow),
		HeaderBytes:     link.HeaderBytes(int(cfg.Limits.HeaderBytes)),
		TLS:             identity.Client(l.To),
		Dial:            func(ctx context.Context) (net.Conn, error) { return d.options.DialLink(ctx, via) },
		Log:             d.log,
	})}
	d.tasks.Go(func() { _ = running.transport.Run(ctx) })
	return running
}

// relaySlack is for the line between an edge and its relay, whose delays and
// queues come on top of what the relay waits.
const relaySlack = 10 * time.Second

// relayWaits are how long an edge waits for a relay: for the header until the
// relay has dialled the origin and waited for it twice, the second time because
// the first was cut or was a part of a text, and looked for the beginning of the
// body; then for each piece as the relay waits for it.
func relayWaits(limits *config.Limits) link.Waits {
	return link.Waits{
		Answer: 2*(limits.ConnectTimeout+limits.OriginTimeout) + limits.OriginIdleTimeout + relaySlack,
		Idle:   limits.OriginIdleTimeout + relaySlack,
		Stream: limits.StreamTimeout + relaySlack,
	}
}

// server makes the http.Server of a socket.
func (d *Daemon) server(kind serverKind, cfg *config.Config, node *config.Node, identity *cert.LinkIdentity) *http.Server {
	switch kind {
	case kindHTTP:
		return d.edge.HTTP(cfg.Limits)
	case kindHTTPS:
		return d.edge.HTTPS(cfg.Limits)
	case kindPassed:
		return d.passed.HTTPS(cfg.Limits)
	case kindLink:
		var edges []string
		for _, l := range cfg.Links {
			if l.To == node.Name {
				edges = append(edges, l.From)
			}
		}
		slices.Sort(edges) // one may have several paths
		edges = slices.Compact(edges)
		server := link.NewServer(link.Challenges(d.streams.Handler(d.relay, int(cfg.Limits.LinkWindow), d.log), &d.board, d.linkChallenge), identity.Server(edges), d.log)
		link.SetBodyWindow(server, int(cfg.Limits.LinkWindow))
		server.MaxHeaderBytes = link.HeaderBytes(int(cfg.Limits.HeaderBytes))
		server.Handler = link.Draining(server.Handler, d.unwanted)
		return server
	default:
		return admin.NewServer(d, d.registry, d.log)
	}
}
