package forward

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// dialer has no keep-alives, as the listeners.
var dialer = func() *net.Dialer {
	d := &net.Dialer{KeepAlive: -1}
	d.SetMultipathTCP(false)
	return d
}()

// dialNet is connect where net's Dialer does it.
func dialNet(ctx context.Context, to netip.AddrPort, end time.Time) (net.Conn, error) {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	return dialer.DialContext(ctx, "tcp", to.String()) // DialTCP of Go 1.26 would bind first, and so take a port of all targets
}
