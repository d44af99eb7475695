// Package nft lets the kernel forward connections: it programs nftables, through
// netlink, from what the caller wants. The packets never come up to this
// process, and what is programmed goes on without it.
//
// The path through it:
//
//  1. compile makes chains of rules from forwards (compile.go, rule.go). A rule
//     is its text and its expressions, made by one call, so what Render shows is
//     what Apply programs,
//  2. Apply replaces the rules of the table "inet causeway" in one transaction
//     (program.go),
//  3. a new connection goes prerouting (or output) → listen → forward/NAME → one
//     target's chain, which counts it and changes its destination. conntrack
//     remembers that for all its packets: no later change of rules moves it,
//  4. its packets are counted on their way through the forward hook, by
//     traffic/ADDRESS and traffic/NAME/TARGET, both ways (Counters),
//  5. Cut makes conntrack forget the flows of a target that died (flows.go),
//  6. Lacks says what the host misses for all this (host.go).
//
// What to know of it:
//
//   - A client that Allow does not name, and everybody when a forward has no
//     target of the client's family, is refused as a closed port refuses: a TCP
//     reset, or ICMP port unreachable. There is no IPv4 to IPv6.
//   - A target of weight 0 gets no new connection and is still counted and
//     masqueraded: that is how a target is drained, or shown as dead. One that is
//     left out is forgotten: its flows go on, uncounted.
//   - A target that died takes its flows with it. TCP clients would wait for
//     minutes and UDP clients for ever, as each of their packets keeps the entry
//     alive. Cut deletes the entries: the next packet of such a flow is a new
//     connection to a healthy target, which answers TCP with a reset, so that
//     the client connects again at once, and UDP as if nothing had been. Whoever
//     only drains a target does not call Cut.
//   - In the moment of a change a new connection may meet a map that is not there
//     yet, and goes to the last target of its forward: one of some thousands,
//     also with Hash.
//   - Listeners without an address take what is sent to any address of the host,
//     never what is only routed through it, and from the host itself what it
//     sends to one of its addresses but loopback: a target cannot answer
//     127.0.0.1.
//   - Without Masquerade the targets see the clients' addresses, and their way
//     back must lead through this host: it is their default route, or routes on
//     the way see to it. Strict reverse path filtering (rp_filter 1) drops what
//     comes back by another interface. A client in the network of its target
//     (hairpin: also a target that connects to the forward itself) is answered
//     directly, by an address it never called: such clients need Masquerade.
//   - Remove ends the flows, as there is nothing left that translates them. The
//     end of this process does not, nor a crash: the next Apply adopts the table.
//   - A firewall that drops in its forward hook needs a rule of its own to let
//     "ct status dnat" pass: an accept here is no accept there. Lacks names the
//     chains with such a policy that it can see. Counters says fs.ErrNotExist
//     when somebody flushed the table (a restart of the host's firewall): Apply
//     again.
//
// It knows nothing of files and of health, touches no other table, no mark and
// no setting of the host, and starts no goroutine.
package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Forward is one entry: what it takes, from whom, and where it goes.
type Forward struct {
	Name       string         // letters, digits, '.', '_' and '-'; at most 63
	Listen     []Range        // of different forwards: no two take the same
	Protocols  []string       // "tcp", "udp"
	Allow      []netip.Prefix // of clients; empty = everybody
	Targets    []Target
	Balance    Balance
	Masquerade bool // targets see this host's address; of forwards that differ by their addresses only, the same
}

// Range is a port, or ports from From to To, on one address.
type Range struct {
	Addr     netip.Addr // the zero Addr: any address of the host; 0.0.0.0 or ::, any of that family
	From, To uint16     // To 0 is From
}

// Target is where connections go.
type Target struct {
	Addr   netip.AddrPort // port 0: the port that the client asked for
	Weight int            // its share of new connections; 0 = none
}

// Balance is how a target is chosen for a new connection.
type Balance string

const (
	Weighted Balance = "weighted" // by chance, in the proportion of the weights; also ""
	Hash     Balance = "hash"     // by the client's address: the same target as long as it is there
)

// Counter is what has happened since the forward, or the target, was first
// programmed. In is from clients, Out is to them; bytes are those of IP packets.
type Counter struct {
	Connections uint64 // new ones: for UDP, first packets of what conntrack does not know
	Refused     uint64 // packets of new connections that Allow or the lack of a target refused

	PacketsIn, BytesIn   uint64 // without what the host itself sends: it is not forwarded
	PacketsOut, BytesOut uint64

	Targets map[netip.AddrPort]Counter // nil in a target's own
}

// tableName is the one table that is ours, of the family inet.
const tableName = "causeway"

// programming guards the table against two changes by this process at once.
var programming sync.Mutex

// Render gives what Apply would program, in the syntax of nft(8): a file that
// "nft -f" takes.
func Render(fs []Forward) (string, error) {
	rules, err := compile(fs)
	if err != nil {
		return "", err
	}
	return rules.String(), nil
}

// Apply makes the kernel forward as fs say, in place of what it did so far,
// whoever programmed that. Established flows go on. No fs forward nothing, and
// leave the table: see Remove.
func Apply(fs []Forward) error {
	rules, err := compile(fs)
	if err != nil {
		return err
	}
	programming.Lock()
	defer programming.Unlock()
	err = rules.program()
	if errors.Is(err, unix.ENOENT) {
		// Somebody flushed the table while it was read (a restart of the host's firewall).
		err = rules.program()
	}
	if err != nil {
		return fmt.Errorf("program nftables table inet %s: %w%s", tableName, err, mend(err))
	}
	return nil
}

// Remove takes the table away, and with it all that was forwarded. It is no
// error when there is none.
func Remove() error {
	programming.Lock()
	defer programming.Unlock()
	conn, err := open()
	if err == nil {
		defer conn.CloseLasting()
		table := ourTable()
		conn.AddTable(table) // the deletion of none would be an error
		conn.DelTable(table)
		err = conn.Flush()
	}
	if err != nil {
		return fmt.Errorf("remove nftables table inet %s: %w%s", tableName, err, mend(err))
	}
	return nil
}

// Counters reads what each forward has done, by name.
func Counters() (map[string]Counter, error) {
	conn, err := open()
	if err != nil {
		return nil, fmt.Errorf("read counters of nftables: %w%s", err, mend(err))
	}
	defer conn.CloseLasting()
	objects, err := ourObjects(conn)
	if err != nil {
		return nil, fmt.Errorf("read counters of nftables table inet %s: %w%s", tableName, err, mend(err))
	}
	counters := map[string]Counter{}
	for _, object := range objects {
		name, err := parseCounter(object.Name)
		if err != nil {
			continue // somebody else's, and gone with the next Apply
		}
		counter := counters[name.forward]
		if name.target.IsValid() {
			if counter.Targets == nil {
				counter.Targets = map[netip.AddrPort]Counter{}
			}
			target := counter.Targets[name.target]
			target.set(name.what, object)
			counter.Targets[name.target] = target
		} else {
			counter.set(name.what, object)
		}
		counters[name.forward] = counter
	}
	return counters, nil
}

// set takes over the value of one counter of the kernel.
func (c *Counter) set(what string, object *nftables.CounterObj) {
	switch what {
	case "connections":
		c.Connections = object.Packets
	case "refused":
		c.Refused = object.Packets
	case "in":
		c.PacketsIn, c.BytesIn = object.Packets, object.Bytes
	case "out":
		c.PacketsOut, c.BytesOut = object.Packets, object.Bytes
	}
}

// socketBuffer is asked of the kernel for a netlink socket. 500 forwards are
// thousands of messages in one transaction, each acknowledged: with the usual
// 208 KB that fails with ENOBUFS.
const socketBuffer = 16 << 20

// open gives a connection to nftables, in the network namespace of this thread.
// The caller closes it.
func open() (*nftables.Conn, error) {
	return nftables.New(nftables.AsLasting(), nftables.WithSockOptions(
		func(conn *netlink.Conn) error { return conn.SetReadBuffer(socketBuffer) },
		func(conn *netlink.Conn) error { return conn.SetWriteBuffer(socketBuffer) },
	))
}

func ourTable() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
}

// mend says what to do about an error of the kernel.
func mend(err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return ": it needs root, or CAP_NET_ADMIN (setcap cap_net_admin+ep, or AmbientCapabilities=CAP_NET_ADMIN of systemd)"
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
		return ": the kernel has no nf_tables with NAT for the family inet: Linux 5.9 or later, modprobe nf_tables nft_chain_nat"
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EMSGSIZE):
		return ": the socket buffer is too small: raise net.core.rmem_max and net.core.wmem_max to 16777216"
	}
	return ""
}
