package link

import (
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tune sets what a link wants of its socket, as far as the kernel has it. A
// kernel without bbr keeps its own choice (ENOENT), as does one that allows it
// to no one but root (EPERM).
func tune(conn net.Conn, buffer int) {
	raw := rawConn(conn)
	if raw == nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		s := int(fd)
		_ = unix.SetsockoptString(s, unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion)
		for _, option := range []struct{ level, name, value int }{
			{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds())},
			{unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLow},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAliveIdle.Seconds())},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAliveInterval.Seconds())},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount},
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_RTO_MIN_US, int(leastRetransmit.Microseconds())}, // Linux 6.15
		} {
			_ = unix.SetsockoptInt(s, option.level, option.name, option.value)
		}
		// Beyond what the machine allows everybody, for one with CAP_NET_ADMIN.
		if unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, buffer) != nil && allowsMore() {
			_ = unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_SNDBUF, buffer)
		}
	})
}

// allowsMore reports whether a socket that asks for a send buffer may have more
// than the kernel would give it by itself: asking ends that.
var allowsMore = sync.OnceValue(func() bool {
	asked, found := settings("net/core/wmem_max"), settings("net/ipv4/tcp_wmem")
	return len(asked) == 1 && len(found) == 3 && 2*asked[0] > found[2]
})

// settings are the numbers of a path below /proc/sys; nil where there is none.
func settings(path string) (numbers []int) {
	text, err := os.ReadFile("/proc/sys/" + path)
	if err != nil {
		return nil
	}
	for _, field := range strings.Fields(string(text)) {
		n, err := strconv.Atoi(field)
		if err != nil {
			return nil
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// socketInfo asks the kernel for a connection; not Known where it has none.
func socketInfo(conn net.Conn) (info SocketInfo) {
	raw := rawConn(conn)
	if raw == nil {
		return info
	}
	_ = raw.Control(func(fd uintptr) {
		tcp, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		microseconds := func(n uint64) time.Duration { return time.Duration(n) * time.Microsecond }
		info = SocketInfo{
			RTT:           microseconds(uint64(tcp.Rtt)),
			Segments:      uint64(tcp.Data_segs_out),
			Retransmits:   uint64(tcp.Total_retrans),
			Lost:          uint64(tcp.Total_retrans - min(tcp.Total_retrans, tcp.Dsack_dups)),
			Cwnd:          tcp.Snd_cwnd,
			Unacked:       tcp.Unacked,
			Delivered:     uint64(tcp.Delivered) * uint64(tcp.Snd_mss),
			DeliveryRate:  tcp.Delivery_rate,
			NotSent:       tcp.Notsent_bytes,
			WindowLimited: microseconds(tcp.Rwnd_limited),
			BufferLimited: microseconds(tcp.Sndbuf_limited),
			Known:         true,
		}
		if tcp.Min_rtt != ^uint32(0) { // not measured yet
			info.MinRTT = microseconds(uint64(tcp.Min_rtt))
		}
		info.Congestion, _ = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		if info.Congestion != congestion {
			return
		}
		if bbr, err := unix.GetsockoptTCPCCBBRInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_CC_INFO); err == nil {
			info.Bandwidth = uint64(bbr.Bw_hi)<<32 | uint64(bbr.Bw_lo)
			info.Startup = info.Bandwidth == 0 || bbr.Pacing_gain > startupGain
		}
	})
	return info
}

// setPace bounds the rate at which the kernel sends, in bytes a second; 0 takes
// the bound off.
func setPace(raw syscall.RawConn, pace uint64) {
	bound := -1
	if pace > 0 {
		bound = int(min(pace, math.MaxInt32)) // above 17 Gbit/s nothing need be bounded
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, bound) })
}

// startupGain is below that of BBR's STARTUP (2/ln 2) and above all others (5/4
// at most), in 256ths.
const startupGain = 2 * 256

// beginAnew makes BBR forget what it takes the line to carry; the window stays.
// To set what is set changes nothing, hence reno between.
func beginAnew(raw syscall.RawConn) {
	_ = raw.Control(func(fd uintptr) {
		if unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno") == nil {
			_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion)
		}
	})
}
