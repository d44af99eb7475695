//go:build go1.27

package hop

import (
	"crypto/tls"
	"net"
)

// Strict gives what a TLS listener accepts, for an http.Server's Serve.
func Strict(listener net.Listener) net.Listener { return strictListener{listener} }

type strictListener struct{ net.Listener }

func (l strictListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if over, ok := conn.(*tls.Conn); ok && err == nil {
		return &strictConn{Conn: over}, nil
	}
	return conn, err
}
