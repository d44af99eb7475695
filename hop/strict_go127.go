//go:build go1.27

package hop

import (
	"crypto/tls"
	"net"
	"time"
)

// Strict gives what a TLS listener accepts, for an http.Server's Serve. header is how
// long a header may take over HTTP/2, 0 for ever.
func Strict(listener net.Listener, header time.Duration) net.Listener {
	return strictListener{listener, header}
}

type strictListener struct {
	net.Listener
	header time.Duration
}

func (l strictListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if over, ok := conn.(*tls.Conn); ok && err == nil {
		return &strictConn{Conn: over, within: l.header}, nil
	}
	return conn, err
}
