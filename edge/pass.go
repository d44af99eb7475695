package edge

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"causeway/config"
	"causeway/conn"
	"causeway/link"
	"causeway/outcome"
)

// A site that passes through has its key overseas, so its connections are not
// ended here:
//
//  1. Split stands before the TLS server of a listener. As long as no site passes
//     through it hands every connection on as it is,
//  2. look reads the hello, within helloLimits, and leaves it to be read again:
//     who asks for a site that is terminated, or speaks no TLS, goes on to
//     the TLS server, as does an authority whose challenge can be answered here,
//  3. pass opens a raw stream over the link, whose first bytes say who the client
//     is, and what it said, and joins the two until both have ended,
//  4. the record of the connection is emitted once.
//
// A name that no site has goes to the `default` site; without one it gets the
// alert unrecognized_name, as the TLS server says it too.

// Split is a listener for the server of HTTPS. It gives the connections of
// listener that end here and serves the others itself; the Server's Wait and Close are
// for them as for requests.
func (s *Server) Split(listener net.Listener) net.Listener {
	return &splitter{Listener: listener, server: s, ours: make(chan net.Conn), failures: make(chan error), closed: make(chan struct{})}
}

type splitter struct {
	net.Listener
	server   *Server
	ours     chan net.Conn // that end here
	failures chan error    // of Listener: the server knows which are for good
	opening  sync.Once
	closing  sync.Once
	closed   chan struct{}
	taking   sync.WaitGroup // take
}

// Accept gives the next connection that ends here.
func (l *splitter) Accept() (net.Conn, error) {
	l.opening.Do(func() { l.taking.Go(l.take) })
	select {
	case c := <-l.ours:
		return c, nil
	case err := <-l.failures:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close takes no more connections; those that pass through go on. When it
// returns the socket may be another's.
func (l *splitter) Close() error {
	l.closing.Do(func() { close(l.closed) })
	err := l.Listener.Close()
	l.taking.Wait()
	return err
}

// take accepts until the listener is closed.
func (l *splitter) take() {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			select {
			case l.failures <- err: // the server waits with its next Accept, or closes
				continue
			case <-l.closed:
				return
			}
		}
		if !l.server.now.Load().Config.PassesThrough() {
			l.handOn(c)
			continue
		}
		l.server.serving.Add(1)
		go func() {
			defer l.server.serving.Add(-1)
			if p := l.look(c); p != nil {
				p.run()
			}
		}()
	}
}

// handOn gives a connection to the TLS server, which closes it.
func (l *splitter) handOn(c net.Conn) {
	select {
	case l.ours <- c:
	case <-l.closed:
		c.Close()
	}
}

// look finds out whose a connection is, and passes it on, or gives it back when it is
// not the TLS server's.
func (l *splitter) look(c net.Conn) *passage {
	x := l.server.now.Load()
	start := time.Now()
	hello, peeked, err := conn.PeekHello(c, helloLimits(&x.Config.Limits))
	site, passes := x.Config.Passed(hello.ServerName)
	if err == nil && (!passes && x.Config.Terminates() || passes && x.provesHello(l.server.base, site, &hello)) {
		l.handOn(peeked)
		return nil
	}
	p := &passage{Crossing: x, server: l.server, client: peeked, hello: hello, rec: outcome.Connection{
		Start: start, Hello: time.Since(start), Passed: true, Node: l.server.options.Node, ID: outcome.NewRequestID(),
		Client: addressOf(peeked.RemoteAddr()), Local: addressOf(peeked.LocalAddr()), Name: hello.ServerName,
	}}
	switch {
	case conn.ReasonOf(err) == conn.ReasonNotTLS:
		p.rec.End, p.rec.Err = outcome.End(conn.ReasonNotTLS), err
		p.tell()
		l.handOn(peeked) // which says so in plain HTTP
		return nil
	case err != nil && !conn.ReasonOf(err).OfName():
		p.refuse(outcome.End(conn.ReasonOf(err)), conn.AlertDecodeError, err)
	case err != nil:
		p.refuse(outcome.End(conn.ReasonOf(err)), conn.AlertUnrecognizedName, err)
	case !passes && hello.ServerName == "":
		p.refuse(outcome.EndNoName, conn.AlertUnrecognizedName, nil)
	case !passes:
		p.refuse(outcome.EndUnknownName, conn.AlertUnrecognizedName, nil)
	default:
		p.site = site
		p.rec.Site = site.Name
	}
	return p
}

// helloTime is long for a hello of one or two segments: three retransmissions.
const helloTime = 5 * time.Second

// helloLimits are 64 KiB, and helloTime or limits.header_timeout, the shorter.
func helloLimits(limits *config.Limits) conn.Limits {
	return conn.Limits{Time: min(limits.HeaderTimeout, helloTime)}
}

// passage is one connection that passes through.
type passage struct {
	*Crossing
	server *Server
	client *conn.Conn
	hello  conn.Hello
	site   *config.Site // nil when it was refused
	rec    outcome.Connection
}

// run passes it through, and tells of it. Its stack stays for as long as the
// connection: what needs much of one has returned before it is joined.
func (p *passage) run() {
	if p.site != nil {
		p.server.passes(p.site.Name, 1)
		p.pass()
		p.server.passes(p.site.Name, -1)
	}
	p.tell()
}

// tell emits the record.
func (p *passage) tell() {
	p.rec.Total = time.Since(p.rec.Start)
	if sink, ok := p.server.options.Sink.(outcome.ConnectionSink); ok {
		sink.EmitConnection(&p.rec)
	}
}

// passes counts the open connections of a site.
func (s *Server) passes(site string, more int) {
	s.passingMu.Lock()
	defer s.passingMu.Unlock()
	if s.passing[site] += more; s.passing[site] == 0 {
		delete(s.passing, site)
	}
}

// Passing is how many connections of each site pass through now: of every site of
// the file that does so, and of those of files before that have some.
func (s *Server) Passing() map[string]int {
	all := make(map[string]int)
	for _, site := range s.now.Load().Config.Sites {
		if site.Entry == config.Passthrough {
			all[site.Name] = 0
		}
	}
	s.passingMu.Lock()
	defer s.passingMu.Unlock()
	maps.Copy(all, s.passing)
	return all
}

// refuse tells the client why, and closes.
func (p *passage) refuse(end outcome.End, alert conn.Alert, err error) {
	p.rec.End, p.rec.Err = end, err
	_ = conn.SendAlert(p.client, alert) // the client may be gone
	p.client.Close()
}

// pass joins the client with a stream to a relay.
func (p *passage) pass() {
	ctx, cancel := context.WithCancelCause(p.server.base)
	defer cancel(nil)
	stream, joint := p.across(ctx, cancel)
	if stream == nil {
		return
	}
	joined := conn.Join(ctx, p.client, stream, joint)
	p.rec.In += joined.Sent
	p.rec.Out, p.rec.End, p.rec.Err = joined.Received, endOf(joined.Why), joined.Err
}

// across opens a stream, and says how it is joined; nil when there is none, of which
// the client has been told.
func (p *passage) across(ctx context.Context, cancel context.CancelCauseFunc) (net.Conn, conn.Joint) {
	header := &conn.ProxyHeader{
		Source: p.client.RemoteAddr(), Destination: p.client.LocalAddr(),
		Authority: p.hello.ServerName, UniqueID: []byte(p.rec.ID),
	}
	if len(p.hello.ALPN) > 0 {
		header.ALPN = p.hello.ALPN[0]
	}
	first, err := header.Append(nil)
	if err != nil {
		p.refuse(outcome.EndBadProxy, conn.AlertInternalError, err)
		return nil, conn.Joint{}
	}
	said := p.client.Take()
	stream, err := p.open(ctx, cancel, append(first, said...))
	if err != nil {
		p.refuse(outcome.End(outcome.KindOf(err)), conn.AlertInternalError, err)
		return nil, conn.Joint{}
	}
	p.rec.Dial = time.Since(p.rec.Start)
	p.rec.In = int64(len(said))
	limits := &p.Config.Limits
	joint := conn.Joint{Idle: limits.StreamTimeout, HalfClosed: limits.IdleTimeout}
	if meter, ok := p.server.options.Sink.(outcome.Meter); ok {
		joint.Moved = meter.Moving(&p.rec)
		joint.Moved(p.rec.In, 0)
	}
	return stream, joint
}

// open opens the stream, for limits.connect_timeout at most.
func (p *passage) open(ctx context.Context, cancel context.CancelCauseFunc, first []byte) (net.Conn, error) {
	within := p.Config.Limits.ConnectTimeout
	late := time.AfterFunc(within, func() {
		cancel(outcome.Errorf(outcome.LinkSlow, "open a stream: no relay took it within %v", within))
	})
	stream, relay, err := link.OpenStream(ctx, p.Over, strings.TrimPrefix(p.site.Hosts[0].Public.Host, "*."), first)
	p.rec.Relay = relay
	if !late.Stop() && err == nil {
		stream.Close()
		err = context.Cause(ctx)
	}
	return stream, err
}

// endOf is how a joined connection ended.
func endOf(why conn.Why) outcome.End {
	switch why {
	case conn.WhyResetA:
		return outcome.EndResetClient
	case conn.WhyFailedA:
		return outcome.EndFailedClient
	case conn.WhyResetB, conn.WhyFailedB:
		return outcome.EndLinkCut
	}
	return outcome.End(why)
}

// addressOf is a socket's address; zero for what has none.
func addressOf(addr net.Addr) netip.AddrPort {
	from, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
}
