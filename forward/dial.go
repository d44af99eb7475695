package forward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A connection to a target is made without net's Dialer, which keeps two contexts and
// two timers for each and asks the kernel what nobody wants to know: that is to be
// seen in what a short connection costs (docs/PERFORMANCE.md).

// dialer is for checks, and for what connect leaves to it. It has no keep-alives, as
// the listeners.
var dialer = func() *net.Dialer {
	d := &net.Dialer{KeepAlive: -1}
	d.SetMultipathTCP(false)
	return d
}()

// socket is a connection that connect made.
type socket struct {
	*os.File // its methods are those of a net.Conn, but for what follows
	to       netip.AddrPort
}

// connect connects to an address until end, or until ctx ends. Its error is as
// net's Dialer has it.
func connect(ctx context.Context, to netip.AddrPort, end time.Time) (net.Conn, error) {
	if to.Addr().Zone() != "" { // net knows the number of the interface
		ctx, cancel := context.WithDeadline(ctx, end)
		defer cancel()
		return dialer.DialContext(ctx, "tcp", to.String())
	}
	s, err := open(ctx, to, end)
	if err == nil && s.leadsToItself() {
		s.Close()
		s, err = open(ctx, to, end) // from another port
		if err == nil && s.leadsToItself() {
			s.Close()
			err = unix.ECONNREFUSED
		}
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return s, nil
}

// leadsToItself says that the kernel chose the target's own address and port for
// this end, as it may where the target is on this machine and does not listen: the
// socket then is at both ends (RFC 9293 §3.5, simultaneous open).
func (s *socket) leadsToItself() bool { return addrPort(s.LocalAddr()) == s.to }

// open makes a connection.
func open(ctx context.Context, to netip.AddrPort, end time.Time) (*socket, error) {
	family, at := sockaddr(to)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // as net does
	if err = unix.Connect(fd, at); err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	s := &socket{os.NewFile(uintptr(fd), "tcp"), to}
	if err == nil {
		return s, nil
	}
	if err := s.connected(ctx, at, end); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// connected waits until the connection stands.
func (s *socket) connected(ctx context.Context, at unix.Sockaddr, end time.Time) error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	if err := s.SetWriteDeadline(end); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.SetWriteDeadline(time.Unix(1, 0)) })
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		failed = unix.Connect(int(fd), at) // once more: says how it stands (connect(2), EISCONN)
		switch failed {
		case unix.EINPROGRESS, unix.EALREADY, unix.EINTR:
			return false
		case unix.EISCONN:
			failed = nil
		}
		return true
	})
	switch ended := !stop(); {
	case ended:
		return context.Cause(ctx)
	case err != nil:
		return err
	case failed != nil:
		return os.NewSyscallError("connect", failed)
	}
	return s.SetWriteDeadline(time.Time{})
}

func sockaddr(to netip.AddrPort) (family int, at unix.Sockaddr) {
	if addr := to.Addr(); addr.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: addr.As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

// RemoteAddr is where it leads.
func (s *socket) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.to) }

// LocalAddr is where it comes from.
func (s *socket) LocalAddr() net.Addr {
	var from netip.AddrPort
	_ = s.control(func(fd int) error {
		own, err := unix.Getsockname(fd)
		switch own := own.(type) {
		case *unix.SockaddrInet4:
			from = netip.AddrPortFrom(netip.AddrFrom4(own.Addr), uint16(own.Port))
		case *unix.SockaddrInet6:
			from = netip.AddrPortFrom(netip.AddrFrom16(own.Addr), uint16(own.Port))
		}
		return err
	})
	return net.TCPAddrFromAddrPort(from)
}

// Socket says that conn.Join may move bytes below it.
func (s *socket) Socket() {}

// CloseWrite ends what is sent.
func (s *socket) CloseWrite() error {
	return s.control(func(fd int) error { return os.NewSyscallError("shutdown", unix.Shutdown(fd, unix.SHUT_WR)) })
}

// Reset makes of the close to come a reset.
func (s *socket) Reset() error {
	return s.control(func(fd int) error {
		return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
}

func (s *socket) control(f func(fd int) error) error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = f(int(fd)) })
	return errors.Join(err, failed)
}
