package conn

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// Reason says why a connection was not understood, or not let in. Its text is
// a metric label and a word of the log.
type Reason string

// The reasons. Those of a name come with a Hello that is whole but for the name:
// who matches no names may go on.
const (
	ReasonNothing   Reason = "nothing"   // closed before it sent a byte: a port scan, a load balancer's check
	ReasonCut       Reason = "cut"       // closed or reset in the middle
	ReasonTimedOut  Reason = "timed_out" // not whole in time
	ReasonTooLong   Reason = "too_long"  // not whole within the bytes allowed
	ReasonMalformed Reason = "malformed" // against the grammar

	ReasonNotTLS Reason = "not_tls" // its first bytes begin no TLS handshake
	ReasonSSLv2  Reason = "ssl2"    // a hello in the form of SSL 2.0 (RFC 6176 forbids it)

	ReasonNameEmpty  Reason = "name_empty"   // server_name is there, and empty
	ReasonNameIP     Reason = "name_ip"      // an address, which RFC 6066 section 3 does not permit
	ReasonNameDot    Reason = "name_dot"     // ends in a dot, which RFC 6066 section 3 does not permit
	ReasonNameNUL    Reason = "name_nul"     // has a NUL byte
	ReasonNameBytes  Reason = "name_bytes"   // has control bytes, spaces, or bytes outside ASCII
	ReasonNameNotLDH Reason = "name_not_ldh" // has something else than letters, digits and hyphens (RFC 5890), or an empty label
	ReasonNameLong   Reason = "name_long"    // a label over 63 bytes, or a name over 253 (RFC 1035)

	ReasonStranger Reason = "proxy_stranger" // a PROXY header of a peer who may not send one
	ReasonNoProxy  Reason = "proxy_missing"  // no PROXY header of a peer who must send one
	ReasonBadProxy Reason = "proxy_bad"      // a PROXY header against its grammar, or with a false checksum
)

// OfName says whether only the name was at fault.
func (r Reason) OfName() bool {
	switch r {
	case ReasonNameEmpty, ReasonNameIP, ReasonNameDot, ReasonNameNUL, ReasonNameBytes, ReasonNameNotLDH, ReasonNameLong:
		return true
	}
	return false
}

// said is what the reasons mean, and the mend where the operator has one.
var said = map[Reason]string{
	ReasonNothing:    "closed before it sent a byte",
	ReasonCut:        "the connection ended in the middle",
	ReasonTimedOut:   "not whole in time",
	ReasonTooLong:    "not whole within the bytes allowed",
	ReasonMalformed:  "malformed",
	ReasonNotTLS:     "not TLS: the client speaks something else on a port for TLS",
	ReasonSSLv2:      "a hello of SSL 2.0: the client needs TLS 1.2 or newer",
	ReasonNameEmpty:  "server_name is empty",
	ReasonNameIP:     "server_name is an address: the client must ask by name",
	ReasonNameDot:    "server_name ends in a dot",
	ReasonNameNUL:    "server_name has a NUL byte",
	ReasonNameBytes:  "server_name is not printable ASCII",
	ReasonNameNotLDH: "server_name is no DNS host name",
	ReasonNameLong:   "server_name or one of its labels is too long",
	ReasonStranger:   "a PROXY header from an address that may not send one: list the address if it is a load balancer of yours",
	ReasonNoProxy:    "no PROXY header from an address that must send one: let it send one, or take its address out of proxy.accept",
	ReasonBadProxy:   "a bad PROXY header",
}

// Error is why a connection was not understood, or not let in.
type Error struct {
	Reason Reason
	Peer   net.Addr // who sent it
	Err    error    // what exactly, where there is more to say
	doing  string
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s of %v: %s", e.doing, e.Peer, said[e.Reason])
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// ReasonOf is the Reason of err, "" when it has none.
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// fault is a Reason on its way to the function that knows what was being done.
type fault struct {
	reason Reason
	err    error
}

func (f *fault) Error() string { return string(f.reason) }

// faultf makes a fault with details.
func faultf(reason Reason, format string, args ...any) error {
	return &fault{reason, fmt.Errorf(format, args...)}
}

// cutShort is the fault of a read that failed.
func cutShort(err error, some bool) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &fault{reason: ReasonTimedOut}
	case !some:
		return &fault{ReasonNothing, notEOF(err)}
	}
	return &fault{ReasonCut, notEOF(err)}
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// failed is the function failed for a connection.
func (c *Conn) failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	return failed(doing, c.Conn.RemoteAddr(), err)
}

// failed makes an *Error of what a step of doing gave; nil stays nil.
func failed(doing string, peer net.Addr, err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Peer: peer, doing: doing}
	if f, ok := err.(*fault); ok {
		e.Reason, e.Err = f.reason, f.err
	} else {
		e.Reason, e.Err = ReasonMalformed, err
	}
	return e
}

// refuse is failed for a read that found a stranger's header.
func (c *Conn) refuse(err error) error { return c.failed("read the first bytes", err) }
