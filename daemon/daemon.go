// Package daemon builds a node's roles from the file, runs them, and changes
// them when the file changes.
//
// The path through it:
//
//  1. New reads the file and checks the files of the node's part,
//  2. Run opens every listener, then the roles serve (roles.go, servers.go),
//  3. Reload makes everything new beside the old, and only then swaps: requests
//     that come see the new file, those under way finish; on any error the old
//     goes on and a gauge says so,
//  4. when Run's context ends the node drains: not ready, no new connections,
//     requests finish within limits.drain_timeout, then the rest is cut.
//
// It refuses to run half a node: a listener or file that fails, fails all.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"causeway/admin"
	"causeway/cert"
	"causeway/config"
	"causeway/edge"
	"causeway/forward"
	"causeway/link"
	"causeway/outcome"
	"causeway/relay"
)

// Options say what to run. Load is required.
type Options struct {
	Load func() (*config.Config, error) // reads the file; called again at each Reload
	Node string                         // the part to take; "" = the only node

	Access io.Writer    // where access log lines go; nil = standard output
	Log    *slog.Logger // nil = slog.Default

	// How links are dialled and listened for; nil = TCP.
	DialLink   func(ctx context.Context, address string) (net.Conn, error)
	ListenLink func(address string) (net.Listener, error)
}

// Daemon is one running node.
type Daemon struct {
	options  Options
	log      *slog.Logger
	access   *switchedSink
	sink     outcome.Sinks
	counts   *outcome.Metrics // of sink
	registry *prometheus.Registry
	metrics  metrics

	began    time.Time
	base     context.Context // ends at the end of the drain: what is left is cut
	cut      context.CancelFunc
	draining atomic.Bool                    // the node stops
	aside    atomic.Bool                    // it wants no more requests (Drain)
	group    atomic.Pointer[link.Group]     // nil on a node without links
	callers  link.Callers                   // the edges that dialled this relay
	board    link.Board                     // what they told of challenges
	most     atomic.Pointer[map[string]int] // connections of each edge that may dial it
	meter    link.Meter                     // of what the paths of group carry
	prices   atomic.Pointer[[]*config.Link] // this node's, in the file that is served
	kept     atomic.Pointer[keptCache]      // cache, for those who do not hold mu
	entered  atomic.Pointer[edge.Server]    // edge, likewise
	certs    atomic.Pointer[certificates]   // of the file that is served
	forwards *forward.Server                // no edge without; it may have none to do
	tasks    sync.WaitGroup                 // servers and links; Run waits for them
	failed   chan error                     // a server stopped by itself

	mu      sync.Mutex // guards the rest: one change at a time
	config  *config.Config
	node    *config.Node
	edge    *edge.Server
	relay   *relay.Server // the relay's role, or the edge's own for what stays
	passed  *edge.Server  // at a relay: ends the TLS of what passes through the edges
	streams *link.Streams // where that comes from
	cache   *keptCache    // nil without one
	acme    *cert.ACME    // nil until a site wants it
	acmeDir string        // where it keeps what it has
	leaving []*keptCache  // caches of earlier files, whose fetches finish yet
	links   map[linkKey]*runningLink
	checks  context.CancelFunc // ends the checks of origins; nil without any
	servers map[serverKey]*runningServer
	h3      *quicServer      // HTTP/3; nil without
	retired []*runningServer // handed their socket over, and still have connections

	unfollow context.CancelFunc // ends the following of certs; nil before the first
}

// New reads the file and prepares the node. Nothing listens yet.
func New(options Options) (*Daemon, error) {
	if options.Log == nil {
		options.Log = slog.Default()
	}
	if options.Access == nil {
		options.Access = os.Stdout
	}
	if options.DialLink == nil {
		options.DialLink = func(ctx context.Context, address string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "tcp", address)
		}
	}
	if options.ListenLink == nil {
		options.ListenLink = func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	}
	d := &Daemon{
		options:  options,
		log:      options.Log,
		access:   &switchedSink{to: outcome.NewAccessLog(options.Access)},
		registry: prometheus.NewRegistry(),
		failed:   make(chan error, 1),
		began:    time.Now(),
		links:    make(map[linkKey]*runningLink),
		servers:  make(map[serverKey]*runningServer),
	}
	d.callers.Name, d.callers.Log = cert.PeerNode, d.log
	d.board.Name = cert.PeerNode
	d.callers.Most, d.callers.Stopping = d.mostOf, d.draining.Load
	d.base, d.cut = context.WithCancel(context.Background())
	d.metrics = newMetrics(d.registry, &linkCollector{
		connections: func() map[string]int { return d.group.Load().Connections() }, paths: func() []link.PathState { return d.group.Load().State() }, callers: d.callers.State})
	d.prices.Store(new([]*config.Link))
	d.registry.MustRegister(&billCollector{paths: func() []link.PathState { return d.group.Load().State() }, bills: d.bills})
	d.counts = outcome.NewMetrics(d.registry)
	d.sink = outcome.Sinks{d.access, d.counts}
	var err error
	if d.config, d.node, err = d.read(); err != nil {
		return d, err
	}
	d.forwards = forward.New(forward.Options{Node: d.node.Name, Sink: d.sink, Log: d.log, Failed: d.fail})
	d.registry.MustRegister(&forwardCollector{state: d.forwards.State}, passingCollector{&d.entered})
	d.registry.MustRegister(&cacheCollector{&d.kept}, &certCollector{func() []cert.State { return d.Certificates().Certificates }})
	return d, nil
}

// read loads the file and checks what the node's part needs.
func (d *Daemon) read() (*config.Config, *config.Node, error) {
	cfg, err := d.options.Load()
	if err != nil {
		return nil, nil, err
	}
	node, err := cfg.Node(d.options.Node)
	if err != nil {
		return nil, nil, err
	}
	if err := cfg.CheckFiles(node); err != nil {
		return nil, nil, err
	}
	return cfg, node, nil
}

// Run serves until ctx ends, then drains. ready, when not nil, is called once
// everything listens. An error means that the node could not start, or that a
// listener broke.
func (d *Daemon) Run(ctx context.Context, ready func()) error {
	tuneGC()
	d.mu.Lock()
	err := d.change(d.config, d.node)
	d.mu.Unlock()
	if err != nil {
		d.drain()
		return err
	}
	d.metrics.reloaded(nil)
	d.log.Info("serving", "node", d.node.Name, "role", string(d.node.Role), "file", d.config.Path)
	if ready != nil {
		ready()
	}
	metering, stop := context.WithCancel(ctx)
	d.tasks.Go(func() { d.meterLinks(metering) })
	select {
	case <-ctx.Done():
	case err = <-d.failed:
	}
	stop()
	d.drain()
	return err
}

// Reload reads the file again and swaps it in. On an error nothing changed.
func (d *Daemon) Reload() error {
	if d.draining.Load() {
		return errors.New("reload: the node is stopping")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.reload()
	d.metrics.reloaded(err)
	if err != nil {
		d.log.Error("reload failed; the old file stays", "err", err)
		return err
	}
	d.log.Info("reloaded", "file", d.config.Path)
	return nil
}

func (d *Daemon) reload() error {
	cfg, node, err := d.read()
	if err != nil {
		return err
	}
	if node.Role != d.node.Role {
		return fmt.Errorf("reload: node %s was %s and is %s now: restart it", node.Name, d.node.Role, node.Role)
	}
	return d.change(cfg, node)
}

// Ready reports whether the node can do its part.
func (d *Daemon) Ready() error {
	if d.draining.Load() {
		return errors.New("the node is stopping")
	}
	if d.aside.Load() {
		return errors.New("the node drains (causeway drain)")
	}
	if group := d.group.Load(); group != nil && !group.Up() {
		return errors.New("no relay can be reached")
	}
	return nil
}

// Drain makes the node want no more requests, or ends that: an edge is not ready
// for those that balance over edges, a relay tells its edges to take another.
// What comes all the same is served. It says how much is under way.
func (d *Daemon) Drain(yes bool) string {
	if d.aside.Swap(yes) != yes {
		d.log.Info("drain", "drains", yes)
	}
	what := "takes requests"
	if yes {
		what = "drains"
	}
	d.mu.Lock()
	relay := d.node.Role == config.RoleRelay
	d.mu.Unlock()
	if !relay {
		return what
	}
	running := 0
	for _, caller := range d.callers.State() {
		running += caller.InFlight
	}
	return fmt.Sprintf("%s; requests under way: %d", what, running)
}

// unwanted reports whether edges are to take another relay.
func (d *Daemon) unwanted() bool { return d.aside.Load() || d.draining.Load() }

// notice is how long a relay that stops goes on taking requests: until its edges
// have heard of it with an answer, and what they sent before that has come.
const notice = time.Second

// giveNotice waits for that, where any edge is connected. What comes to a
// connection that is shutting down is lost, unless it may be repeated.
func (d *Daemon) giveNotice(ctx context.Context) {
	connected := slices.ContainsFunc(d.callers.State(), func(c link.CallerState) bool { return len(c.Conns) > 0 })
	if !connected {
		return
	}
	timer := time.NewTimer(min(notice, d.config.Limits.DrainTimeout/2))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// drain ends the node: requests under way finish within the limit, the rest is
// cut.
func (d *Daemon) drain() {
	d.draining.Store(true)
	d.mu.Lock()
	defer d.mu.Unlock()
	limit, cancel := context.WithTimeout(context.Background(), d.config.Limits.DrainTimeout)
	defer cancel()
	var waiting sync.WaitGroup
	for key, server := range d.servers {
		if key.kind != kindAdmin {
			waiting.Go(func() {
				if key.kind == kindLink || key.kind == kindPassed {
					d.giveNotice(limit)
				}
				server.stop(limit)
			})
		}
	}
	for _, server := range d.retired {
		waiting.Go(func() { server.stop(limit) })
	}
	if d.h3 != nil {
		d.edge.Announce(false)
		waiting.Go(func() { d.h3.stop(limit) })
	}
	waiting.Go(func() { d.forwards.Stop(limit) })
	waiting.Wait()
	for _, role := range []*edge.Server{d.edge, d.passed} {
		if role != nil {
			role.Wait(limit) // upgraded connections, which http.Server does not know any more, and what passes through
			role.Close()
		}
	}
	d.cut()
	if d.acme != nil {
		d.acme.Close()
	}
	if d.cache != nil {
		d.cache.close(d)
	}
	for _, running := range d.links {
		running.stop()
	}
	if d.relay != nil {
		d.relay.Close()
	}
	for key, server := range d.servers {
		if key.kind == kindAdmin {
			server.stop(limit)
		}
	}
	d.tasks.Wait()
	d.access.to.Close(time.Second)
	d.log.Info("stopped", "node", d.node.Name)
}

// switchedSink is the access log, which the file can turn off.
type switchedSink struct {
	off atomic.Bool
	to  *outcome.AccessLog
}

func (s *switchedSink) EmitConnection(rec *outcome.Connection) {
	if !s.off.Load() {
		s.to.EmitConnection(rec)
	}
}

func (s *switchedSink) Emit(rec *outcome.Record) {
	if !s.off.Load() {
		s.to.Emit(rec)
	}
}

// interface checks
var (
	_ admin.Node        = (*Daemon)(nil)
	_ http.RoundTripper = (*link.Group)(nil)
	_ http.RoundTripper = (*relay.Server)(nil)

	_ outcome.ConnectionSink = (*switchedSink)(nil)
)
