package link_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"causeway/link"
	"causeway/simnet"
)

// sourced is a listener whose connections come from where the test says.
type sourced struct {
	net.Listener
	source atomic.Pointer[string]
}

func (l *sourced) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &sourcedConn{conn, simnet.Addr(*l.source.Load())}, nil
}

type sourcedConn struct {
	net.Conn
	from net.Addr
}

func (c *sourcedConn) RemoteAddr() net.Addr { return c.from }

// strange is a relay and those that knock at it.
type strange struct {
	*pair
	ln *sourced
}

func newStrange(t *testing.T, pki string) *strange {
	s := &strange{newLine(t, pki, simnet.Line{}), nil}
	ln, err := s.line.Listen("relay-2")
	if err != nil {
		t.Fatal(err)
	}
	s.ln = &sourced{Listener: ln}
	s.serveOn(http.NotFoundHandler(), s.ln)
	return s
}

// knock connects from source and says nothing.
func (s *strange) knock(source string) net.Conn {
	s.t.Helper()
	s.ln.source.Store(&source)
	conn, err := s.line.Dial(s.t.Context(), "relay-2")
	if err != nil {
		s.t.Fatal(err)
	}
	synctest.Wait()
	s.stop = append(s.stop, func() { conn.Close() })
	return conn
}

// here reports whether the relay still keeps conn.
func here(conn net.Conn) bool {
	_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := conn.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// count is how many of conns the relay keeps.
func count(conns []net.Conn) (kept int) {
	for _, conn := range conns {
		if here(conn) {
			kept++
		}
	}
	return kept
}

func TestSilentStranger(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		s := newStrange(t, pki)
		defer s.close()
		conn := s.knock("198.51.100.1:1000")
		if time.Sleep(4900 * time.Millisecond); !here(conn) {
			t.Error("it had no five seconds to prove itself")
		}
		if time.Sleep(200 * time.Millisecond); here(conn) {
			t.Error("it may stay for more than five seconds")
		}
	})
}

// One source has some places, and takes none of another's.
func TestStrangersOfOneSource(t *testing.T) {
	for _, c := range []struct{ name, source, same, other string }{
		{"IPv4", "198.51.100.1:%d", "[::ffff:198.51.100.1]:9", "198.51.100.2:9"},
		{"IPv6", "[2001:db8::%d]:1", "[2001:db8::ffff:1]:9", "[2001:db8:0:1::]:9"},
	} {
		inBubble(t, func(t *testing.T, pki string) {
			s := newStrange(t, pki)
			defer s.close()
			var conns []net.Conn
			for i := range 64 {
				conns = append(conns, s.knock(fmt.Sprintf(c.source, i+1)))
			}
			if more := s.knock(c.same); here(more) {
				t.Errorf("%s: there is a place for one more", c.name)
			}
			if other := s.knock(c.other); !here(other) {
				t.Errorf("%s: there is no place for another source", c.name)
			}
			if kept := count(conns); kept != 64 {
				t.Errorf("%s: %d of 64 are left after some milliseconds", c.name, kept)
			}
			time.Sleep(time.Second)
			if more := s.knock(c.same); !here(more) || here(conns[0]) || count(conns) != 63 {
				t.Errorf("%s: the oldest did not make place after a second", c.name)
			}
		})
	}
}

// However many strangers there are, a node gets in at once, and is then in
// nobody's way.
func TestNodeAmongStrangers(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		s := newStrange(t, pki)
		defer s.close()
		var conns []net.Conn
		for i := range link.MostStrangers {
			conns = append(conns, s.knock(fmt.Sprintf("198.51.100.%d:%d", i/64, i)))
		}
		if kept := count(conns); kept != link.MostStrangers {
			t.Fatalf("%d strangers were kept", kept)
		}
		edge := "203.0.113.7:5000"
		s.ln.source.Store(&edge)
		s.transport = s.connectTo(pki, "edge-1", "relay-2", 3)
		synctest.Wait()
		if up := s.transport.Up(); up != 3 {
			t.Errorf("%d connections of the edge are up: %s", up, s.log)
		}
		if gone := link.MostStrangers - count(conns); gone < 1 || gone > 3 {
			t.Errorf("%d strangers made place", gone)
		}
		for i := range 100 { // it makes no place for anybody
			s.knock(fmt.Sprintf("203.0.113.7:%d", i))
		}
		if up := s.transport.Up(); up != 3 {
			t.Errorf("%d connections of the edge are left", up)
		}
		if log := s.log.String(); strings.Count(log, "link turned strangers away") != 1 || !strings.Contains(log, "1 of them, the last from 198.51.100.") || strings.Contains(log, "refused a peer") {
			t.Errorf("the log says:\n%s", log)
		}
	})
}

// More nodes than there are places for strangers of one source.
func TestManyNodesOfOneSource(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		s := newStrange(t, pki)
		defer s.close()
		edge := "203.0.113.7:5000"
		s.ln.source.Store(&edge)
		transport := s.connectTo(pki, "edge-1", "relay-2", 200)
		time.Sleep(time.Minute)
		if up := transport.Up(); up != 200 {
			t.Errorf("%d of 200 connections came up", up)
		}
	})
}
