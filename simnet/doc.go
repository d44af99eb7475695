// Package simnet is a bad network in process: listeners and connections of
// package net whose bytes take the time they would take over a long, lossy,
// narrow line. It is for tests and for the demo; real time and the fake clock
// of testing/synctest both drive it.
//
// A byte's path:
//
//  1. conn.go: Write puts it into the send buffer of its direction, waiting
//     while the buffer is full.
//  2. flow.go: as the congestion window and the receiver's window allow, it
//     leaves in a segment of at most 1448 bytes.
//  3. bottleneck.go: segments of all connections queue for the line's rate.
//  4. flow.go: the segment is lost, or arrives half a round trip later, is put
//     in order and acknowledged; what was lost is sent again.
//  5. conn.go: Read takes it.
//
// # The model
//
// It is TCP's timing without TCP's packets. What it does:
//
//   - A dial costs one round trip; the listener accepts half a round trip
//     after that. A lost SYN or SYN-ACK costs one second, then two, four…
//     (RFC 6298 section 2.1).
//   - Every crossing takes half of Line.RTT and up to half of Line.Jitter more.
//   - The congestion window begins at ten segments (RFC 6928) and grows by what
//     is acknowledged, to at most twice what was ever in flight: it doubles
//     each round trip, and a warm connection is honestly faster than a cold one.
//   - The bottleneck sends Line.Rate bytes a second in each direction, shared by
//     all connections segment by segment. Its queue holds a tenth of a second;
//     a sender whose turn it is not waits.
//   - A lost segment is sent again when something sent after it is
//     acknowledged, about one round trip after it left (RFC 8985); when nothing
//     was, after one round trip and 200 ms (the floor of Linux; RFC 6298 says a
//     second), twice that the next time, and so on. Later bytes wait for it.
//   - Buffers are Linux's defaults at their largest: 4 MiB to send, 6 MiB to
//     receive (tcp_wmem, tcp_rmem).
//   - Closing with unread data, or writing to a closed peer, is a reset.
//
// What it leaves out, in the line's favour: the window never shrinks, neither
// by loss (a sender like BBR) nor by idling; the queue never drops; headers and
// acknowledgements weigh nothing and acknowledgements are never lost; a line
// that was cut goes on at once when it is mended. Real lines are worse.
//
// # Determinism
//
// What a connection loses and how it jitters follows from Line.Seed, its place
// in the order of dials and its own segments alone. Under a fake clock
// everything happens at exact times. There are no goroutines: everything
// happens in the caller's or in a timer's. An idle network holds no timer.
//
// It refuses addresses: names are any strings, and only who listens is reached.
package simnet
