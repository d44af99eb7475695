package forward

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"causeway/config"
	"causeway/conn"
)

// listener is one socket. The forwards that are served on it change with the
// file.
type listener struct {
	server   *Server
	address  string // as in the file
	socket   *entrance
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

// isOwn says whether a connection that this node made leads to the listener.
func (l *listener) isOwn(from, to netip.AddrPort) bool {
	if to.Port() != l.socket.own.Port() {
		return false
	}
	if l.socket.own.Addr().IsUnspecified() { // this machine is the one which dials itself from its own address
		return from.Addr() == to.Addr() || to.Addr().IsLoopback()
	}
	return to.Addr() == l.socket.own.Addr()
}

// acceptPause is how long accept waits when there is no descriptor left, twice as
// long each time, as net/http does.
const acceptFirst, acceptMost = 5 * time.Millisecond, time.Second

// again is when accept(2) is called again, after errors that go away: the longer,
// the more there were.
type again struct{ pause time.Duration }

// after says how long to wait after err; over: it does not go away.
func (a *again) after(l *listener, err error) (pause time.Duration, over bool) {
	if !passes(err) {
		go l.server.options.Failed(fmt.Errorf("forward connections of %s: %w", l.address, err))
		return 0, true
	}
	if a.pause == 0 {
		l.server.options.Log.Warn("no connection can be taken for the moment", "listen", l.address, "err", err)
	}
	a.pause = min(max(2*a.pause, acceptFirst), acceptMost)
	return a.pause, false
}

// passes says whether an error of accept(2) is one that goes away.
func passes(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ENOSPC, syscall.ECONNABORTED, syscall.EPROTO, syscall.ENETDOWN, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EPERM} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
