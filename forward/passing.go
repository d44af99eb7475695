package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"causeway/conn"
	"causeway/outcome"
)

// passing is one connection on its way. One goroutine has it.
type passing struct {
	listener *listener
	table    *table
	service  *service // nil as long as it is not known
	socket   net.Conn // the client; *conn.Conn once it has arrived
	header   *conn.ProxyHeader
	hello    conn.Hello
	counted  netip.Addr // the client as its limit counts it; zero when it does not
	record   outcome.Connection
}

// run takes the connection through all its steps.
func (p *passing) run() {
	defer p.leave()
	for _, step := range []func() (outcome.End, error){p.arrive, p.identify, p.admit} {
		if end, err := step(); end != "" {
			p.refuse(end, err)
			return
		}
	}
	p.record.Hello = time.Since(p.record.Start)
	target, at, end, err := p.connect()
	if end != "" {
		p.alert(conn.AlertInternalError)
		p.refuse(end, err)
		return
	}
	p.join(target, at)
}

// enter takes a place: of the listener's forward, where it has one, or among
// those whose forward is not known yet.
func (p *passing) enter() bool {
	if only := p.table.single(); only != nil {
		p.service = only
		p.record.Forward = only.file.Name
		if only.tally.open.Add(1) > int64(only.file.Limits.Connections) {
			only.tally.open.Add(-1)
			return false
		}
		return true
	}
	if p.listener.arriving.Add(1) > p.table.most {
		p.listener.arriving.Add(-1)
		return false
	}
	return true
}

// leave gives the places back.
func (p *passing) leave() {
	if p.service == nil {
		p.listener.arriving.Add(-1)
		return
	}
	p.service.tally.open.Add(-1)
	if p.counted.IsValid() {
		p.service.tally.clientLeaves(p.counted)
	}
}

// arrive hears who the client is.
func (p *passing) arrive() (outcome.End, error) {
	header, kept, err := p.table.trust.Accept(p.socket, helloLimits(p.table.hello))
	p.socket, p.header = kept, header
	if err != nil {
		return outcome.End(conn.ReasonOf(err)), err
	}
	if header != nil {
		p.record.Peer = p.record.Client
		p.record.Client, p.record.Local = addrPort(kept.RemoteAddr()), addrPort(kept.LocalAddr())
	}
	return "", nil
}

// identify finds the forward by the name that the client asks for.
func (p *passing) identify() (outcome.End, error) {
	if p.table.only != nil {
		return "", nil
	}
	hello, kept, err := conn.PeekHello(p.socket, helloLimits(p.table.hello))
	p.socket, p.hello = kept, hello
	if reason := conn.ReasonOf(err); reason != "" {
		switch {
		case reason.OfName():
			p.alert(conn.AlertUnrecognizedName)
		case reason == conn.ReasonMalformed:
			p.alert(conn.AlertDecodeError)
		}
		return outcome.End(reason), err
	}
	p.record.Name = hello.ServerName
	s := p.table.find(hello.ServerName)
	if s == nil {
		p.alert(conn.AlertUnrecognizedName)
		if hello.ServerName == "" {
			return outcome.EndNoName, nil
		}
		return outcome.EndUnknownName, nil
	}
	if p.service != nil {
		return "", nil
	}
	if s.tally.open.Add(1) > int64(s.file.Limits.Connections) {
		s.tally.open.Add(-1)
		p.record.Forward = s.file.Name
		return outcome.EndLimit, nil
	}
	p.listener.arriving.Add(-1)
	p.service, p.record.Forward = s, s.file.Name
	return "", nil
}

// admit holds the client against what the forward says of clients.
func (p *passing) admit() (outcome.End, error) {
	client, file := p.record.Client.Addr(), p.service.file
	if !file.Admits(client) {
		return outcome.EndDenied, nil
	}
	if most := file.Limits.ConnectionsPerClient; most > 0 {
		key := clientKey(client)
		if !p.service.tally.clientEnters(key, most) {
			return outcome.EndLimitClient, nil
		}
		p.counted = key
	}
	return "", nil
}

// clientKey is what of an address counts as one client: of IPv6 the /64, which
// one subscriber has (RFC 6177).
func clientKey(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr
	}
	prefix, _ := addr.Prefix(64) // 64 bits any IPv6 address has
	return prefix.Addr()
}

// connect dials targets, one after the other, until one answers or dial_timeout
// is over.
func (p *passing) connect() (*net.TCPConn, *endpoint, outcome.End, error) {
	pool := p.service.pool
	end := time.Now().Add(p.service.file.Limits.DialTimeout)
	if err := pool.wait(p.listener.server.base, end); err != nil {
		return nil, nil, outcome.EndDialFailed, err
	}
	pool.dialing.Add(1)
	defer pool.dialing.Add(-1)
	var tried []*endpoint
	var failures []error
	for time.Now().Before(end) && p.listener.server.base.Err() == nil {
		at, left := pool.choose(clientKey(p.record.Client.Addr()), tried)
		if at == nil {
			break
		}
		p.record.Tries++
		p.record.Target, p.record.Address = at.name, p.addressOf(at)
		socket, err := p.dial(end, at, left)
		if err == nil {
			p.record.Dial = time.Since(p.record.Start)
			return socket, at, "", nil
		}
		pool.leave(at)
		failures = append(failures, err)
		if noFiles(err) {
			return nil, nil, outcome.EndNoFiles, err
		}
		if !noPorts(err) && p.listener.server.base.Err() == nil {
			pool.missed(at, netip.Addr{}, err)
		}
		tried = append(tried, at)
	}
	err := errors.Join(failures...)
	switch {
	case err == nil && p.listener.server.base.Err() != nil:
		return nil, nil, outcome.EndStopped, nil
	case err == nil:
		return nil, nil, outcome.EndDialFailed, fmt.Errorf("forward %s: no target has an address", p.service.file.Name)
	case noPorts(failures[len(failures)-1]):
		return nil, nil, outcome.EndNoPorts, err
	}
	return nil, nil, outcome.EndDialFailed, err
}

// noPorts says that no port of this machine is left for a connection to an
// address, which says nothing of the address.
func noPorts(err error) bool { return errors.Is(err, syscall.EADDRNOTAVAIL) }

// noFiles says that this process, or this machine, can open nothing more.
func noFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// addressOf is the address to dial.
func (p *passing) addressOf(at *endpoint) netip.AddrPort {
	if at.port != 0 {
		return netip.AddrPortFrom(at.addr, uint16(at.port))
	}
	_, port, _ := net.SplitHostPort(p.listener.address) // the file is checked
	came, _ := strconv.Atoi(port)
	return netip.AddrPortFrom(at.addr, uint16(came))
}

// dialer has no keep-alives, as the listeners.
var dialer = func() *net.Dialer {
	d := &net.Dialer{KeepAlive: -1}
	d.SetMultipathTCP(false)
	return d
}()

// dial connects to an address within half of the time that is left, or all of it
// when no other is left to try; not at all when its checks fail meanwhile.
func (p *passing) dial(end time.Time, at *endpoint, left int) (*net.TCPConn, error) {
	share := time.Until(end)
	if left > 0 {
		share /= 2
	}
	ctx, cancel := context.WithTimeout(p.service.pool.alive(at), share)
	defer cancel()
	at.tally.dials.Add(1)
	made, err := dialer.DialContext(ctx, "tcp", p.record.Address.String()) // DialTCP of Go 1.26 would bind first, and so take a port of all targets
	socket, _ := made.(*net.TCPConn)
	if err == nil && p.comesRound(socket) {
		p.service.pool.comesRound(at)
		socket.Close()
		err = errComesRound
	} else if err != nil && p.service.pool.goesRound(at) { // the connection that this one made was faster, and reset it
		err = errComesRound
	}
	if err != nil {
		at.tally.dialErrors.Add(1)
		return nil, fmt.Errorf("dial target %s: %w", at.name, err)
	}
	return socket, nil
}

var errComesRound = errors.New("it leads back to this listener")

// comesRound says whether a connection leads to the listener that its client
// came to.
func (p *passing) comesRound(socket *net.TCPConn) bool {
	from, to, own := addrPort(socket.LocalAddr()), addrPort(socket.RemoteAddr()), addrPort(p.listener.socket.Addr())
	if to.Port() != own.Port() {
		return false
	}
	if own.Addr().IsUnspecified() { // this machine is the one which dials itself from its own address
		return from.Addr() == to.Addr() || to.Addr().IsLoopback()
	}
	return to.Addr() == own.Addr()
}

// join passes the bytes, and ends the connection.
func (p *passing) join(target *net.TCPConn, at *endpoint) {
	pool := p.service.pool
	defer pool.leave(at)
	before, err := p.proxyHeader()
	if err != nil {
		target.Close()
		p.refuse(outcome.EndBadProxy, err)
		return
	}
	limits := &p.service.file.Limits
	p.hello, p.header = conn.Hello{}, nil // may be forgotten
	joint := conn.Joint{Before: before, Idle: limits.IdleTimeout, HalfClosed: limits.HalfCloseTimeout, Go: p.listener.server.crew.run}
	if meter := p.listener.server.meter; meter != nil {
		joint.Moved = meter.Moving(&p.record)
	}
	came := conn.Join(p.listener.server.base, p.socket, target, joint)
	if came.Received > 0 || came.Why == conn.WhyDone {
		pool.answered(at)
	} else if came.Why == conn.WhyResetB || came.Why == conn.WhyFailedB {
		pool.missed(at, clientKey(p.record.Client.Addr()), came.Err)
	}
	p.record.In, p.record.Out, p.record.Err = came.Sent, came.Received, came.Err
	p.emit(endOf(came.Why))
}

// endOf is what the record says of how a joint ended.
func endOf(why conn.Why) outcome.End {
	switch why {
	case conn.WhyDone:
		return outcome.EndDone
	case conn.WhyIdle:
		return outcome.EndIdle
	case conn.WhyHalfClosed:
		return outcome.EndHalfClosed
	case conn.WhyResetA:
		return outcome.EndResetClient
	case conn.WhyResetB:
		return outcome.EndResetTarget
	case conn.WhyFailedA:
		return outcome.EndFailedClient
	case conn.WhyFailedB:
		return outcome.EndFailedTarget
	case conn.WhyStranger:
		return outcome.End(conn.ReasonStranger)
	}
	return outcome.EndStopped
}

// proxyHeader is what the target is told of the client, nil when nothing.
func (p *passing) proxyHeader() ([]byte, error) {
	send := p.service.file.Proxy.Send
	if send == "" {
		return nil, nil
	}
	header := proxyVersion(send)
	if p.header != nil && p.header.Local { // a load balancer's own check
		header.Local = true
		return header.Append(nil)
	}
	header.Source, header.Destination = p.socket.RemoteAddr(), p.socket.LocalAddr()
	header.Authority = p.hello.ServerName
	if len(p.hello.ALPN) > 0 {
		header.ALPN = p.hello.ALPN[0]
	}
	header.UniqueID = []byte(p.record.ID)
	return header.Append(nil)
}

func proxyVersion(send string) conn.ProxyHeader {
	if send == "v1" {
		return conn.ProxyHeader{Version: 1}
	}
	return conn.ProxyHeader{Version: 2}
}

// alert tells a TLS client why it is refused.
func (p *passing) alert(why conn.Alert) {
	if p.table.only == nil {
		_ = p.socket.SetWriteDeadline(time.Now().Add(time.Second)) // it fits into an empty send buffer
		_ = conn.SendAlert(p.socket, why)
	}
}

// refuse ends a connection that is not joined. A client that was told why is
// closed; any other is reset, so that it does not take it for an empty answer,
// and costs no port for a minute.
func (p *passing) refuse(end outcome.End, err error) {
	if p.table.only != nil || end == outcome.EndLimit || end == outcome.EndLimitClient || end == outcome.EndDenied {
		reset(p.socket)
	}
	p.socket.Close()
	p.record.Err = err
	p.emit(end)
}

// reset makes the close of a connection a reset.
func reset(c net.Conn) {
	if kept, ok := c.(*conn.Conn); ok {
		c = kept.NetConn()
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// emit hands the record out.
func (p *passing) emit(end outcome.End) {
	p.record.End = end
	p.record.Total = time.Since(p.record.Start)
	p.listener.server.options.Sink.EmitConnection(&p.record)
}

// addrPort is the address of a TCP connection.
func addrPort(addr net.Addr) netip.AddrPort {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	of := tcp.AddrPort()
	return netip.AddrPortFrom(of.Addr().Unmap(), of.Port())
}
