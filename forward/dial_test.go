package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

// What connect makes is a connection as net's, and its failures have their names.
func TestConnect(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		to := addrPort(ln.Addr())
		c, err := connect(t.Context(), to, time.Now().Add(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		far, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if c.RemoteAddr().String() != far.LocalAddr().String() || c.LocalAddr().String() != far.RemoteAddr().String() {
			t.Errorf("it leads from %v to %v, and the other end from %v to %v", c.LocalAddr(), c.RemoteAddr(), far.RemoteAddr(), far.LocalAddr())
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_ = far.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Error(err)
		}
		if err := c.(*socket).CloseWrite(); err != nil {
			t.Error(err)
		}
		if text, err := io.ReadAll(far); err != nil || string(text) != "hello" {
			t.Errorf("%q %v", text, err)
		}
		if err := c.(*socket).Reset(); err != nil {
			t.Error(err)
		}
		c.Close()
		if _, err := far.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		far.Close()
		ln.Close()
		if _, err := connect(t.Context(), to, time.Now().Add(time.Second)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
	}
}

// An address that says nothing is waited for until the end, or until nobody wants
// it any more.
func TestConnectWaits(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	own, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(own.(*syscall.SockaddrInet4).Port))
	var full []net.Conn // nobody accepts, and the queue has one place: what comes then is not answered
	for {
		c, err := connect(t.Context(), to, time.Now().Add(300*time.Millisecond))
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("no answer: %v", err)
			}
			break
		}
		if full = append(full, c); len(full) > 20 {
			t.Fatal("the queue does not fill")
		}
	}
	for _, c := range full {
		defer c.Close()
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("it went down")
	time.AfterFunc(50*time.Millisecond, func() { cancel(gone) })
	if _, err := connect(ctx, to, time.Now().Add(time.Minute)); !errors.Is(err, gone) {
		t.Errorf("nobody wants it: %v", err)
	}
	if _, err := connect(ctx, to, time.Now().Add(time.Minute)); !errors.Is(err, gone) {
		t.Errorf("nobody wanted it: %v", err)
	}
}

// On one machine the kernel may give a connection the port that it is to go to:
// that is no target.
func TestConnectToItself(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	chosen := addrPort(ln.Addr())
	ln.Close()
	for _, port := range []uint16{chosen.Port(), chosen.Port() ^ 1} { // the kernel takes either the odd or the even ones first
		to := netip.AddrPortFrom(chosen.Addr(), port)
		for range 40_000 {
			c, err := connect(t.Context(), to, time.Now().Add(time.Second))
			if err == nil {
				own := addrPort(c.LocalAddr())
				c.Close()
				if own != to {
					t.Skip("another test listens there meanwhile")
				}
				t.Fatal("a connection to itself")
			}
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatal(err)
			}
		}
	}
}
