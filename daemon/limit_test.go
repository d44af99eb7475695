package daemon

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// queue is a listener of the connections in it.
type queue struct {
	net.Listener
	conns  chan net.Conn
	closed chan struct{}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case conn := <-q.conns:
		return conn, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error { close(q.closed); return nil }

// So many connections and no more are let in, until one ends or the listener does.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{conns: make(chan net.Conn, 4), closed: make(chan struct{})}
		for range 4 {
			near, far := net.Pipe()
			defer far.Close()
			q.conns <- near
		}
		limited := limit(q, 2)
		accepted := make(chan net.Conn)
		var failed error
		go func() {
			defer close(accepted)
			for failed == nil {
				var conn net.Conn
				if conn, failed = limited.Accept(); failed == nil {
					accepted <- conn
				}
			}
		}()
		first, second := <-accepted, <-accepted
		select {
		case <-accepted:
			t.Fatal("a third was let in")
		case <-time.After(time.Minute):
		}
		first.Close()
		first.Close() // gives no second place
		third := <-accepted
		select {
		case <-accepted:
			t.Fatal("a fourth was let in")
		case <-time.After(time.Minute):
		}
		limited.Close()
		if _, open := <-accepted; open || !errors.Is(failed, net.ErrClosed) {
			t.Errorf("closed: %v", failed)
		}
		second.Close()
		third.Close()
	})
}
