package forward

import (
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

// passing is one connection on its way, and what is decided of it. A flow takes it
// through its steps.
type passing struct {
	listener *listener
	table    *table
	service  *service // nil as long as it is not known
	client   client
	header   *conn.ProxyHeader // what a trusted peer said; nil: none did
	hello    conn.Hello
	counted  netip.Addr // the client as its limit counts it; zero when it does not
	search   search
	record   outcome.Connection
}

// client is who made the connection.
type client interface {
	tell(conn.Alert) // why it is refused: it speaks TLS
	close(reset bool)
}

// search is the looking for a target that takes the connection.
type search struct {
	until    time.Time
	tried    []*endpoint
	failures []error
}

// begin is a connection of a listener.
func (p *passing) begin(l *listener, from, to netip.AddrPort) {
	p.listener, p.table = l, l.table.Load()
	p.record.Start = time.Now()
	p.record.ID = outcome.NewRequestID()
	p.record.Node = l.server.options.Node
	p.record.Client, p.record.Local = from, to
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

// heard finds the forward by the hello, or says why there is none.
func (p *passing) heard(err error) (outcome.End, error) {
	if reason := conn.ReasonOf(err); reason != "" {
		switch {
		case reason.OfName():
			p.alert(conn.AlertUnrecognizedName)
		case reason == conn.ReasonMalformed:
			p.alert(conn.AlertDecodeError)
		}
		return outcome.End(reason), err
	}
	p.record.Name = p.hello.ServerName
	s := p.table.find(p.hello.ServerName)
	if s == nil {
		p.alert(conn.AlertUnrecognizedName)
		if p.hello.ServerName == "" {
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

// another chooses the target to be dialled next, and within what: half of the time
// that is left, or all of it when no other is left to try; nil when there is none, or
// no time.
func (p *passing) another() (at *endpoint, within time.Duration) {
	now := time.Now()
	if !now.Before(p.search.until) || p.listener.server.base.Err() != nil {
		return nil, 0
	}
	at, left := p.service.pool.choose(clientKey(p.record.Client.Addr()), p.search.tried)
	if at == nil {
		return nil, 0
	}
	p.record.Tries++
	p.record.Target, p.record.Address = at.name, p.addressOf(at)
	at.tally.dials.Add(1)
	within = p.search.until.Sub(now)
	if left > 0 {
		within /= 2
	}
	return at, within
}

// failed notes that a target was dialled in vain. over: no other is to be tried.
func (p *passing) failed(at *endpoint, err error) (over outcome.End, because error) {
	pool := p.service.pool
	pool.leave(at)
	if pool.goesRound(at) { // the connection that this one made was faster, and reset it
		err = errComesRound
	}
	at.tally.dialErrors.Add(1)
	err = fmt.Errorf("dial target %s: %w", at.name, err)
	p.search.failures = append(p.search.failures, err)
	if noFiles(err) {
		return outcome.EndNoFiles, err
	}
	if !noPorts(err) && p.listener.server.base.Err() == nil {
		pool.missed(at, netip.Addr{}, err)
	}
	p.search.tried = append(p.search.tried, at)
	return "", nil
}

// leadsOut says of a connection to a target that it does not lead to the listener that
// its client came to.
func (p *passing) leadsOut(at *endpoint, from, to netip.AddrPort) error {
	if p.listener.isOwn(from, to) {
		p.service.pool.comesRound(at)
		return errComesRound
	}
	return nil
}

var errComesRound = errors.New("it leads back to this listener")

// unfound is why no target was found.
func (p *passing) unfound() (outcome.End, error) {
	failures := p.search.failures
	err := errors.Join(failures...)
	switch {
	case err == nil && p.listener.server.base.Err() != nil:
		return outcome.EndStopped, nil
	case err == nil:
		return outcome.EndDialFailed, fmt.Errorf("forward %s: no target has an address", p.service.file.Name)
	case noPorts(failures[len(failures)-1]):
		return outcome.EndNoPorts, err
	}
	return outcome.EndDialFailed, err
}

// noPorts says that no port of this machine is left for a connection to an
// address, which says nothing of the address.
func noPorts(err error) bool { return errors.Is(err, syscall.EADDRNOTAVAIL) }

// noFiles says that this process, or this machine, can open nothing more.
func noFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM) ||
		errors.Is(err, syscall.ENOSPC) // no more may be watched: fs.epoll.max_user_watches
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

// joint is how the connection is joined with its target.
func (p *passing) joint() (conn.Joint, error) {
	before, err := p.proxyHeader()
	p.hello, p.header = conn.Hello{}, nil // may be forgotten
	limits := &p.service.file.Limits
	return conn.Joint{Before: before, Idle: limits.IdleTimeout, HalfClosed: limits.HalfCloseTimeout, Moved: p.service.moved}, err
}

// joined notes what became of it.
func (p *passing) joined(at *endpoint, came conn.Joined) {
	pool := p.service.pool
	if came.Received > 0 || came.Why == conn.WhyDone {
		pool.answered(at)
	} else if came.Why == conn.WhyResetB || came.Why == conn.WhyFailedB {
		pool.missed(at, clientKey(p.record.Client.Addr()), came.Err)
	}
	pool.leave(at)
	p.record.In, p.record.Out, p.record.Err = came.Sent, came.Received, came.Err
	p.end(endOf(came.Why))
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
	if p.header != nil {
		header.Source, header.Destination = p.header.Source, p.header.Destination
	} else {
		header.Source, header.Destination = net.TCPAddrFromAddrPort(p.record.Client), net.TCPAddrFromAddrPort(p.record.Local)
	}
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
		p.client.tell(why)
	}
}

// refuse ends a connection that is not joined. A client that was told why is
// closed; any other is reset, so that it does not take it for an empty answer,
// and costs no port for a minute.
func (p *passing) refuse(end outcome.End, err error) {
	p.client.close(p.table.only != nil || end == outcome.EndLimit || end == outcome.EndLimitClient || end == outcome.EndDenied)
	p.record.Err = err
	p.end(end)
}

// end closes the record.
func (p *passing) end(end outcome.End) {
	p.record.End = end
	p.record.Total = time.Since(p.record.Start)
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
