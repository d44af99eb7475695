package forward

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"causeway/config"
	"causeway/conn"
	"causeway/outcome"
)

// listener is one socket. The forwards that are served on it change with the
// file.
type listener struct {
	server   *Server
	address  string // as in the file
	socket   net.Listener
	table    atomic.Pointer[table]
	arriving atomic.Int64 // connections whose forward is not known yet
}

// table is which forwards are served on a listener. It is immutable.
type table struct {
	trust conn.Trust
	all   []*service
	only  *service            // takes every connection; nil where forwards have names
	exact map[string]*service // by name
	wild  map[string]*service // by the name behind "*."
	hello time.Duration       // the longest hello_timeout of the forwards
	most  int64               // connections whose forward is not known yet: the most that any may have
}

// tablesOf are the tables of all addresses.
func tablesOf(forwards []*config.Forward, services map[string]*service) map[string]*table {
	tables := make(map[string]*table)
	for _, f := range forwards {
		s := services[f.Name]
		if f.Entry == config.ForwardKernel {
			continue // which listens by itself
		}
		for _, address := range f.Ports() {
			t := tables[address]
			if t == nil {
				t = &table{exact: make(map[string]*service), wild: make(map[string]*service)}
				tables[address] = t
			}
			t.add(s)
		}
	}
	return tables
}

func (t *table) add(s *service) {
	t.all = append(t.all, s)
	t.trust.From = s.file.Accepts()
	t.hello = max(t.hello, s.file.Limits.HelloTimeout)
	t.most = max(t.most, int64(s.file.Limits.Connections))
	if s.file.SNI == nil {
		t.only = s
	}
	for _, name := range s.file.SNI {
		if below, ok := strings.CutPrefix(name, "*."); ok {
			t.wild[below] = s
		} else {
			t.exact[name] = s
		}
	}
}

// names are the forwards, for messages.
func (t *table) names() string {
	var names []string
	for _, s := range t.all {
		names = append(names, s.file.Name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// find is the forward for a name that a client asks for, in lower case: exact
// before wildcard, the longest wildcard first; nil when there is none. A wildcard
// stands for whole labels.
func (t *table) find(name string) *service {
	if s := t.exact[name]; s != nil {
		return s
	}
	for {
		_, below, ok := strings.Cut(name, ".")
		if !ok {
			return nil
		}
		if s := t.wild[below]; s != nil {
			return s
		}
		name = below
	}
}

// single is the forward of a listener that has one; nil when it has several.
func (t *table) single() *service {
	if len(t.all) == 1 {
		return t.all[0]
	}
	return nil
}

// acceptPause is how long accept waits when there is no descriptor left, twice as
// long each time, as net/http does.
const acceptFirst, acceptMost = 5 * time.Millisecond, time.Second

// accept takes connections until the socket is closed.
func (l *listener) accept() {
	pause := time.Duration(0)
	for {
		socket, err := l.socket.Accept()
		if err == nil {
			pause = 0
			l.take(socket)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if !passes(err) {
			l.socket.Close()
			l.server.options.Failed(fmt.Errorf("forward connections of %s: %w", l.address, err))
			return
		}
		if pause == 0 {
			l.server.options.Log.Warn("no connection can be taken for the moment", "listen", l.address, "err", err)
		}
		pause = min(max(2*pause, acceptFirst), acceptMost)
		time.Sleep(pause)
	}
}

// passes says whether an error of accept(2) is one that goes away.
func passes(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EPROTO, syscall.ENETDOWN, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EPERM} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// take starts on a connection, if it may be one more.
func (l *listener) take(socket net.Conn) {
	p := &passing{listener: l, table: l.table.Load(), socket: socket}
	p.record.Start = time.Now()
	p.record.ID = outcome.NewRequestID()
	p.record.Node = l.server.options.Node
	p.record.Client, p.record.Local = addrPort(socket.RemoteAddr()), addrPort(socket.LocalAddr())
	if !p.enter() {
		p.refuse(outcome.EndLimit, nil)
		return
	}
	l.server.crew.run(p.run)
}
