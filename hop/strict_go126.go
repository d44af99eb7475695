//go:build !go1.27

package hop

import "net"

// Strict gives what a TLS listener accepts, for the Serve of the http.Server that it
// was told of. Go 1.26 serves HTTP/2 on a *tls.Conn alone, so that its server's own
// answers stay.
func Strict(listener net.Listener, _ StrictOptions) net.Listener { return listener }
