//go:build !linux

package forward

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// connect connects to an address until end, or until ctx ends.
func connect(ctx context.Context, to netip.AddrPort, end time.Time) (net.Conn, error) {
	return dialNet(ctx, to, end)
}
