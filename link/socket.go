package link

import (
	"net"
	"syscall"
	"time"
)

// The settings of a link's socket, at both ends. A system that lacks one goes
// on without: `causeway links` and the metrics show what is in use.
const (
	// congestion is the algorithm that a link asks for. Cubic halves its window
	// at every few losses, and then fills at most MSS/RTT × 1.2/√loss: at 200 ms
	// and 1 % that is under 1 Mbit/s (RFC 9438 §5.1). BBR goes by the rate that
	// arrives.
	congestion = "bbr"

	// userTimeout is how long what was sent may stay without an answer
	// (RFC 5482): on a line of 200 ms the kernel has sent it again after 0.4,
	// 1.2, 2.8, 6 and 12 s by then, and would not before 25 s.
	userTimeout = 15 * time.Second

	// keepAliveIdle, -Interval and -Count probe a connection that says nothing,
	// should the pings of the link be held up: the last probe is unanswered when
	// userTimeout is over, which the kernel also ends an idle connection by.
	// Fewer would let one or two lost packets end it.
	keepAliveIdle     = 6 * time.Second
	keepAliveInterval = 3 * time.Second
	keepAliveCount    = 3

	// notSentLow is how much the kernel takes that it can't send yet: what a
	// small frame waits behind at most, 21 ms at 50 Mbit/s, and without it all of
	// the socket's buffer, up to 4 MB and 670 ms. The writer is woken when half
	// is left: 10 ms of that line, and still half a millisecond of a 1 Gbit/s
	// one, in which it must be there again.
	notSentLow = 128 << 10
)

// rawConn finds the socket below the connections that wrap it; nil where there
// is none, as in process.
func rawConn(conn net.Conn) syscall.RawConn {
	for conn != nil {
		if c, ok := conn.(syscall.Conn); ok {
			raw, err := c.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		}
		wrapped, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = wrapped.NetConn()
	}
	return nil
}
