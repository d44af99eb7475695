//go:build !go1.27

package hop

import (
	"net"
	"time"
)

// Strict gives what a TLS listener accepts, for an http.Server's Serve. Go 1.26
// serves HTTP/2 on a *tls.Conn alone, so that its server's own answers stay.
func Strict(listener net.Listener, _ time.Duration) net.Listener { return listener }
