//go:build !linux

package link

import (
	"net"
	"syscall"
)

// tune sets the keep-alive, which is all that other systems have in common.
func tune(conn net.Conn, _ int) {
	for conn != nil {
		if c, ok := conn.(interface {
			SetKeepAliveConfig(net.KeepAliveConfig) error
		}); ok {
			_ = c.SetKeepAliveConfig(net.KeepAliveConfig{
				Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount})
			return
		}
		wrapped, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return
		}
		conn = wrapped.NetConn()
	}
}

// socketInfo is not Known: other systems say little, each in its own way.
func socketInfo(net.Conn) SocketInfo { return SocketInfo{} }

// setPace can't.
func setPace(syscall.RawConn, uint64) {}

// beginAnew can't.
func beginAnew(syscall.RawConn) {}
