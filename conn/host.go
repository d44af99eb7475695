package conn

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
)

// Reading a request head (RFC 9112), line by line as it comes:
//
//  1. PeekHost keeps what comes, and each time lets
//  2. headScan.step read the lines that are whole, and of the first also what is
//     there, so that what is no HTTP is known at once,
//  3. target finds the host that a request line names, hostField that of a Host
//     field; the request line's wins (RFC 9112 section 3.2.2),
//  4. splitHost tells a host from what is none.

// Head is what the head of a client's first request says of where it goes. What
// the connection carries after that request is not looked at.
type Head struct {
	Host string // in lower case, without a dot at its end; an address of IPv6 without brackets
	Port string // as said after the host; "" when it was not
}

// PeekHost reads the head of the first request of c, at most limits.Bytes of
// the connection, for at most limits.Time, and consumes nothing: the Conn, which
// takes the place of c in any case and is the caller's to close, gives it all
// again. It sets and clears the read deadline of c. An error is an *Error.
func PeekHost(c net.Conn, limits Limits) (Head, *Conn, error) {
	k := keep(c)
	var scan headScan
	err := k.peek(limits, scan.step)
	if err != nil {
		return Head{}, k, k.failed("peek at the request", err)
	}
	return scan.head, k, nil
}

// headScan reads lines. It has seen, and found good, all before at.
type headScan struct {
	at        int
	asked     bool // the request line was read
	preferred bool // the request line named the host
	fields    int  // Host fields
	head      Head
}

func (s *headScan) step(kept []byte) (done bool, err error) {
	for {
		line := kept[s.at:]
		end := bytes.IndexByte(line, '\n')
		if end < 0 {
			if !s.asked {
				return false, begins(line)
			}
			return false, nil
		}
		s.at += end + 1
		line = line[:end]
		if !s.asked {
			if err := begins(line); err != nil {
				return false, err
			}
		}
		if len(line) == 0 || line[len(line)-1] != '\r' {
			return false, faultf(ReasonMalformed, "a line that ends without CR")
		}
		line = line[:len(line)-1]
		switch {
		case len(line) > 0 && !s.asked:
			err = s.requestLine(line)
		case len(line) > 0:
			err = s.field(line)
		case s.asked: // otherwise an empty line before the request, to be ignored (RFC 9112 section 2.2)
			return s.end()
		}
		if err != nil {
			return false, err
		}
	}
}

// methodMax is more than twice the longest registered method.
const methodMax = 40

// begins says what the beginning of a connection is that is no request.
func begins(line []byte) error {
	if len(line) > 0 && line[0] == recordHandshake {
		return &fault{reason: ReasonTLS}
	}
	for i, b := range line {
		switch {
		case b == ' ' && i > 0:
			return nil
		case b == '\r' && i == 0: // an empty line
			return nil
		case !isToken(b) || i == methodMax:
			return faultf(ReasonNotHTTP, "it begins with %q", line[:min(len(line), i+1)])
		}
	}
	return nil
}

// requestLine reads method, target and version (RFC 9112 section 3).
func (s *headScan) requestLine(line []byte) error {
	s.asked = true
	method, rest, _ := bytes.Cut(line, []byte(" "))
	uri, version, found := bytes.Cut(rest, []byte(" "))
	if string(line) == "PRI * HTTP/2.0" { // RFC 9113 section 3.4
		return &fault{reason: ReasonHTTP2}
	}
	if !found || len(uri) == 0 || len(version) != len("HTTP/1.1") || string(version[:len("HTTP/1.")]) != "HTTP/1." || !isDigit(version[len(version)-1]) {
		return faultf(ReasonMalformed, "request line %q", line[:min(len(line), 100)])
	}
	for _, b := range uri {
		if b <= ' ' || b == 0x7f {
			return faultf(ReasonMalformed, "byte %#02x in the target", b)
		}
	}
	return s.target(string(method), uri)
}

// target finds the host in the forms of a target that have one (RFC 9112
// section 3.2).
func (s *headScan) target(method string, uri []byte) (err error) {
	authority := uri
	if method != "CONNECT" {
		if uri[0] == '/' || string(uri) == "*" {
			return nil
		}
		scheme, rest, found := bytes.Cut(uri, []byte("://"))
		if !found || !bytes.EqualFold(scheme, []byte("http")) && !bytes.EqualFold(scheme, []byte("https")) {
			return faultf(ReasonMalformed, "target %q", uri[:min(len(uri), 100)])
		}
		authority = rest
		if i := bytes.IndexAny(rest, "/?#"); i >= 0 {
			authority = rest[:i]
		}
	}
	s.preferred = true
	s.head, err = splitHost(authority)
	return err
}

// field reads a field line (RFC 9112 section 5), of which only Host's value
// matters. A line that continues the one before (obs-fold) is refused.
func (s *headScan) field(line []byte) error {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return faultf(ReasonMalformed, "field %q", line[:min(len(line), 100)])
	}
	name, value := line[:colon], line[colon+1:]
	for _, b := range name {
		if !isToken(b) {
			return faultf(ReasonMalformed, "field name %q", name[:min(len(name), 100)])
		}
	}
	for _, b := range value {
		if b == 0 || b == '\r' {
			return faultf(ReasonMalformed, "byte %#02x in a field", b)
		}
	}
	if !bytes.EqualFold(name, []byte("Host")) {
		return nil
	}
	if s.fields++; s.fields > 1 {
		return &fault{reason: ReasonTwoHosts}
	}
	head, err := splitHost(bytes.Trim(value, " \t"))
	if !s.preferred {
		s.head = head
	}
	return err
}

// end is what the head came to.
func (s *headScan) end() (done bool, err error) {
	if s.fields == 0 {
		return false, &fault{reason: ReasonNoHost}
	}
	return true, nil
}

// splitHost reads uri-host [":" port] (RFC 9110 section 7.2). Of registered
// names it takes DNS names, and those with underscores, which people do use.
func splitHost(authority []byte) (Head, error) {
	bad := func() (Head, error) {
		return Head{}, faultf(ReasonBadHost, "%q", authority[:min(len(authority), nameMax)])
	}
	host, port := authority, []byte(nil)
	if i := bytes.LastIndexByte(authority, ':'); i >= 0 && bytes.IndexByte(authority[i:], ']') < 0 {
		host, port = authority[:i], authority[i+1:]
	}
	if len(port) > 5 {
		return bad()
	}
	for _, b := range port {
		if !isDigit(b) {
			return bad()
		}
	}
	if len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' {
		addr, err := netip.ParseAddr(string(host[1 : len(host)-1]))
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return bad()
		}
		return Head{addr.String(), string(port)}, nil
	}
	name := bytes.TrimSuffix(host, []byte("."))
	switch nameFault(bytes.ReplaceAll(name, []byte("_"), []byte("x"))) {
	case "":
		return Head{lower(name), string(port)}, nil
	case ReasonNameIP:
		if addr, err := netip.ParseAddr(string(name)); err == nil && addr.Is4() {
			return Head{addr.String(), string(port)}, nil
		}
	}
	return bad()
}

// isToken knows the bytes of a token (RFC 9110 section 5.6.2).
func isToken(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || isDigit(b) || strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0
}
