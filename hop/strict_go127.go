//go:build go1.27

package hop

import (
	"crypto/tls"
	"net"
)

// Strict gives what a TLS listener accepts, for the Serve of the http.Server that it
// was told of.
func Strict(listener net.Listener, options StrictOptions) net.Listener {
	return strictListener{listener, &options}
}

type strictListener struct {
	net.Listener
	options *StrictOptions
}

func (l strictListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if over, ok := conn.(*tls.Conn); ok && err == nil {
		return &strictConn{Conn: over, options: l.options}, nil
	}
	return conn, err
}
