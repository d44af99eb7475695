package forward

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"causeway/config"
)

const (
	// mostChecks of an address at a time: when none answers, the next begins all
	// the same, so that the time to find out is not every and timeout together.
	mostChecks = 4
	// mostAnswer is how much of an answer's header is read.
	mostAnswer = 64 << 10
)

// check is what is done to find out whether an address answers.
type check struct {
	file        *config.Forward
	authorities []byte // PEM; nil: the system's
	roots       *x509.CertPool
}

func newCheck(f *config.Forward) (*check, error) {
	c := &check{file: f}
	if f.Health.CA == "" {
		return c, nil
	}
	var err error
	if c.authorities, err = os.ReadFile(f.Health.CA); err != nil {
		return nil, fmt.Errorf("read the authorities of its checks: %w", err)
	}
	c.roots = x509.NewCertPool()
	if !c.roots.AppendCertsFromPEM(c.authorities) {
		return nil, fmt.Errorf("%s holds no certificate", f.Health.CA)
	}
	return c, nil
}

// does says whether anything is checked.
func (c *check) does() bool { return c.file.Health.Check != config.CheckOff }

// watch checks an address until it is gone or the pool stops. The caller has mu.
func (p *pool) watch(at *endpoint) {
	if !p.check.does() || p.base.Err() != nil {
		return
	}
	var ctx context.Context
	ctx, at.unwatch = context.WithCancel(p.base)
	p.tasks.Go(func() { p.checks(ctx, at) })
}

// checks begins a check at every turn of the clock.
func (p *pool) checks(ctx context.Context, at *endpoint) {
	ticker := time.NewTicker(p.file.Health.Every)
	defer ticker.Stop()
	running := make(chan struct{}, mostChecks)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	for number := 1; ; number++ {
		select {
		case running <- struct{}{}:
			tasks.Go(func() {
				defer func() { <-running }()
				err := p.check.run(ctx, at)
				if ctx.Err() == nil && !noPorts(err) && !noFiles(err) {
					p.heard(at, number, err)
				}
			})
		default:
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// Asked is what one address of a target came to when it was asked.
type Asked struct {
	Address netip.AddrPort
	Err     error // nil: it is well
}

// Ask checks each address of a target of f once, all at the same time, as a node
// that does f checks them; with `check: off` it makes a connection to each. The
// error is that of the name, or of the authorities of the checks.
func Ask(ctx context.Context, f *config.Forward, target config.Target, lookUp func(context.Context, string) ([]netip.Addr, error)) ([]Asked, error) {
	c, err := newCheck(f)
	if err != nil {
		return nil, fmt.Errorf("forward %s: %w", f.Name, err)
	}
	host, port := target.Split()
	addrs := make([]netip.Addr, 1)
	if addrs[0], err = netip.ParseAddr(host); err != nil {
		if addrs, err = lookUp(ctx, host); err != nil {
			return nil, fmt.Errorf("look %s up: %w", host, err)
		}
	}
	all := make([]Asked, min(len(addrs), mostAddresses))
	var asking sync.WaitGroup
	for i := range all {
		at := &endpoint{name: target.To, addr: addrs[i].Unmap(), port: port}
		all[i].Address = c.address(at)
		asking.Go(func() { all[i].Err = c.run(ctx, at) })
	}
	asking.Wait()
	return all, nil
}

// address is where an address is checked.
func (c *check) address(at *endpoint) netip.AddrPort {
	port := at.port
	if port == 0 {
		port = c.file.Health.Port
	}
	if port == 0 {
		port = c.file.FirstPort()
	}
	return netip.AddrPortFrom(at.addr, uint16(port))
}

// run checks an address once.
func (c *check) run(ctx context.Context, at *endpoint) error {
	ctx, cancel := context.WithTimeout(ctx, c.file.Health.Timeout)
	defer cancel()
	address := c.address(at)
	socket, err := dialer.DialTCP(ctx, "tcp", netip.AddrPort{}, address)
	if err != nil {
		return fmt.Errorf("check %s: %w", address, err)
	}
	defer socket.Close()
	if end, ok := ctx.Deadline(); ok {
		_ = socket.SetDeadline(end)
	}
	defer context.AfterFunc(ctx, func() { _ = socket.SetDeadline(time.Unix(1, 0)) })()
	if err := c.talk(ctx, socket, at); err != nil {
		return fmt.Errorf("check %s: %w", address, err)
	}
	return nil
}

// talk does with a connection what the file says. It does not close it.
func (c *check) talk(ctx context.Context, socket *net.TCPConn, at *endpoint) error {
	h := &c.file.Health
	if send := c.file.Proxy.Send; send != "" {
		header := proxyVersion(send)
		header.Local = true
		wire, err := header.Append(nil)
		if err == nil {
			_, err = socket.Write(wire)
		}
		if err != nil {
			return fmt.Errorf("send the PROXY header: %w", err)
		}
	}
	name := c.file.CheckName(config.Target{To: at.name})
	switch h.Check {
	case config.CheckTLS:
		_, err := c.shake(ctx, socket, name)
		return err
	case config.CheckHTTP:
		return c.ask(socket, "http", name)
	case config.CheckHTTPS:
		secure, err := c.shake(ctx, socket, name)
		if err != nil {
			return err
		}
		return c.ask(secure, "https", name)
	}
	if c.file.Proxy.Send == "" {
		_ = socket.SetLinger(0) // a reset leaves no connection behind to wait for a minute
	}
	return nil
}

// shake ends a TLS handshake.
func (c *check) shake(ctx context.Context, socket net.Conn, name string) (net.Conn, error) {
	secure := tls.Client(socket, &tls.Config{ServerName: name, RootCAs: c.roots, InsecureSkipVerify: !c.file.Health.Verify})
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	return secure, nil
}

// ask sends a GET and looks at the status of the answer.
func (c *check) ask(over net.Conn, scheme, name string) error {
	h := &c.file.Health
	if name == "" {
		name = over.RemoteAddr().String()
	}
	request, err := http.NewRequest(http.MethodGet, scheme+"://"+name+h.Path, nil)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	request.Header.Set("User-Agent", "causeway-check")
	request.Close = true
	if err := request.Write(over); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(io.LimitReader(over, mostAnswer)), request)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("closed without an answer")
	}
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	answer.Body.Close()
	fine := answer.StatusCode >= 200 && answer.StatusCode < 400
	if h.Status != nil {
		fine = slices.Contains(h.Status, answer.StatusCode)
	}
	if !fine {
		return fmt.Errorf("it answered %s", answer.Status)
	}
	return nil
}

// dialer has no keep-alives, as the listeners.
var dialer = func() *net.Dialer {
	d := &net.Dialer{KeepAlive: -1}
	d.SetMultipathTCP(false)
	return d
}()
