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
	// the socket's buffer, 4 MB and 670 ms or more. The writer is woken when half
	// is left: 10 ms of that line, and still half a millisecond of a 1 Gbit/s
	// one, in which it must be there again.
	notSentLow = 128 << 10

	// sendBuffer is how many bytes wait to be acknowledged at most, in and out of
	// order; the kernel doubles it for its own needs. A packet that is lost, and
	// lost again when it is sent again, keeps what was sent behind it for three
	// round trips, 4 MB at 50 Mbit/s and 200 ms: with Linux's own limit, 4 MB
	// with all headers, sending stops there. Of 20 MB with 1 % loss that took 0.1
	// to 0.8 s.
	sendBuffer = 8 << 20
	// sendWindows is the same in windows of a body, where those are larger.
	sendWindows = 2

	// leastRetransmit is how much longer than a round trip the kernel waits for
	// an answer at least, before it sends the last of a request or of an answer
	// once more: nothing behind it tells that it is lost. Linux has 200 ms.
	leastRetransmit = 50 * time.Millisecond
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
