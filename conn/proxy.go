package conn

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"sync"

	proxyproto "github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

// The PROXY protocol (haproxy.org, proxy-protocol.txt), versions 1 and 2:
//
//	out   ProxyHeader.Append makes the header that Join sends first
//	in    Trust.Accept decides by the peer's address: must it send one, may it;
//	      ReadProxyHeader reads it, of a peer who is trusted for another reason;
//	      stranger cuts off who sends one all the same

// ProxyHeader says who a connection was made by, for one that only passes it on.
type ProxyHeader struct {
	Version int // 1 or 2; 0: 2. Version 1 has the addresses alone

	// Local is a connection that the sender made for itself, as a health check,
	// or whose addresses it does not know: those of the connection count.
	Local       bool
	Source      net.Addr // the client: *net.TCPAddr or *net.UnixAddr; nil when Local
	Destination net.Addr // what the client reached

	Authority string // the name asked for: SNI
	ALPN      string // the application protocol
	UniqueID  []byte // names the connection in logs, up to 128 bytes
	TLS       uint16 // the version of the TLS that the sender ended, as tls.VersionTLS13; 0: it ended none
	Checksum  bool   // with a CRC32C
}

// Append puts the header, as it is sent, at the end of b.
func (h *ProxyHeader) Append(b []byte) ([]byte, error) {
	header := &proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
	if !h.Local {
		header = proxyproto.HeaderProxyFromAddrs(2, h.Source, h.Destination)
		if header.Command != proxyproto.PROXY {
			return b, fmt.Errorf("make the PROXY header of a connection from %v to %v: not two addresses of one kind", h.Source, h.Destination)
		}
	}
	if h.Version == 1 {
		header.Version = 1
	} else if err := header.SetTLVs(h.tlvs()); err != nil {
		return b, fmt.Errorf("make the PROXY header of a connection from %v: %w", h.Source, err)
	}
	wire, err := header.Format()
	if err != nil {
		return b, fmt.Errorf("make the PROXY header of a connection from %v to %v: %w", h.Source, h.Destination, err)
	}
	if h.Checksum && header.Version == 2 { // it is the last TLV
		binary.BigEndian.PutUint32(wire[len(wire)-crc32.Size:], crc32.Checksum(wire, castagnoli))
	}
	return append(b, wire...), nil
}

func (h *ProxyHeader) tlvs() (tlvs []proxyproto.TLV) {
	add := func(kind proxyproto.PP2Type, value []byte) {
		if len(value) > 0 {
			tlvs = append(tlvs, proxyproto.TLV{Type: kind, Value: value})
		}
	}
	add(proxyproto.PP2_TYPE_ALPN, []byte(h.ALPN))
	add(proxyproto.PP2_TYPE_AUTHORITY, []byte(h.Authority))
	add(proxyproto.PP2_TYPE_UNIQUE_ID, h.UniqueID)
	if h.TLS != 0 {
		const noCertificate = 1 // not zero: none was verified
		ssl := tlvparse.PP2SSL{Client: tlvparse.PP2_BITFIELD_CLIENT_SSL, Verify: noCertificate, TLV: []proxyproto.TLV{
			{Type: proxyproto.PP2_SUBTYPE_SSL_VERSION, Value: []byte(tlsNames[h.TLS])},
		}}
		if tlv, err := ssl.Marshal(); err == nil { // it fails on more than 64 KiB only
			tlvs = append(tlvs, tlv)
		}
	}
	if h.Checksum {
		add(proxyproto.PP2_TYPE_CRC32C, make([]byte, crc32.Size))
	}
	return tlvs
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// tlsNames are OpenSSL's words, as HAProxy sends them.
var tlsNames = map[uint16]string{
	tls.VersionTLS10: "TLSv1",
	tls.VersionTLS11: "TLSv1.1",
	tls.VersionTLS12: "TLSv1.2",
	tls.VersionTLS13: "TLSv1.3",
}

// Trust says whose word counts on who the client is. The zero value trusts
// nobody.
type Trust struct {
	From     []netip.Prefix // peers that must send a PROXY header; all others may not
	Optional bool           // those need not
}

// Accept reads the PROXY header of c if its peer is trusted. The Conn, which
// takes the place of c in any case and is the caller's to close, begins behind
// the header and has the addresses that it told; the header is nil when the peer
// is not trusted, or sent none and need not. It waits for no byte of a peer who
// is not trusted: the first read that finds a PROXY header fails, and Join stops
// before the last byte of its signature. An error is an *Error.
func (t *Trust) Accept(c net.Conn, limits Limits) (*ProxyHeader, *Conn, error) {
	k := keep(c)
	if tcp, ok := k.Conn.RemoteAddr().(*net.TCPAddr); !ok || !t.Trusts(tcp.AddrPort().Addr()) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.plain.Store(false)
		k.stranger.begin()
		return nil, k, nil
	}
	return readProxyHeader(k, limits, t.Optional)
}

// Trusts says whether a peer is one that Accept reads a header of.
func (t *Trust) Trusts(peer netip.Addr) bool {
	if len(t.From) == 0 {
		return false
	}
	addr := peer.Unmap().WithZone("")
	for _, prefix := range t.From {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// ReadProxyHeader is Trust.Accept for a peer who is trusted for another reason,
// as the far end of a link is, and who must send a header.
func ReadProxyHeader(c net.Conn, limits Limits) (*ProxyHeader, *Conn, error) {
	return readProxyHeader(keep(c), limits, false)
}

const (
	signature1 = "PROXY "
	signature2 = "\r\n\r\n\x00\r\nQUIT\n"
	line1Max   = 107  // section 2.1
	header2    = 16   // section 2.2: signature, version and command, family, length
	body2Max   = 4096 // a PKI's largest usual client certificate fits, and proxyproto reads no more
)

// readProxyHeader reads a header and consumes it.
func readProxyHeader(k *Conn, limits Limits, optional bool) (*ProxyHeader, *Conn, error) {
	var header *ProxyHeader
	size := 0
	err := k.peek(limits, func(kept []byte) (bool, error) {
		var err error
		if size, err = proxySize(kept); size == 0 || len(kept) < size || err != nil {
			return false, err
		}
		header, err = parseProxy(kept[:size])
		return err == nil, err
	})
	if f, ok := err.(*fault); ok && optional {
		silent := f.reason == ReasonTimedOut && !k.keeps()
		if f.reason == ReasonNoProxy || silent {
			return nil, k, nil
		}
	}
	if err != nil {
		return nil, k, k.failed("read the PROXY header", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop(size)
	if !header.Local {
		k.remote, k.local = header.Source, header.Destination
	}
	return header, k, nil
}

// keeps says whether there is anything to be read again.
func (c *Conn) keeps() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.from < c.to
}

// proxySize is the size of the header that kept begins with, 0 as long as it is
// not known.
func proxySize(kept []byte) (int, error) {
	switch {
	case begun(kept, signature1) == len(signature1):
		line := kept[:min(len(kept), line1Max)]
		if end := bytes.IndexByte(line, '\n'); end >= 0 {
			return end + 1, nil
		}
		if len(line) == line1Max {
			return 0, faultf(ReasonBadProxy, "a line of more than %d bytes", line1Max)
		}
		return 0, nil
	case begun(kept, signature2) == len(signature2):
		if len(kept) < header2 {
			return 0, nil
		}
		body := int(binary.BigEndian.Uint16(kept[header2-2:]))
		if body > body2Max {
			return 0, faultf(ReasonBadProxy, "%d bytes, over %d", body, body2Max)
		}
		return header2 + body, nil
	case begun(kept, signature1) == len(kept) || begun(kept, signature2) == len(kept):
		return 0, nil
	}
	return 0, &fault{reason: ReasonNoProxy}
}

// begun is how many bytes kept and signature have in common at their beginning.
func begun(kept []byte, signature string) (n int) {
	for n < len(kept) && n < len(signature) && kept[n] == signature[n] {
		n++
	}
	return n
}

// proxyReaders are what proxyproto reads from: their buffers hold a line of
// version 1.
var proxyReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 256) }}

// parseProxy reads a whole header.
func parseProxy(wire []byte) (*ProxyHeader, error) {
	reader := proxyReaders.Get().(*bufio.Reader)
	defer proxyReaders.Put(reader)
	const command, family, proxy, local = 12, 13, 0x21, 0x20
	unspec := wire[0] == signature2[0] && wire[command] == proxy && wire[family] == 0
	if unspec {
		// PROXY without a family: the addresses of the connection count (section
		// 2.2), as they do for LOCAL. proxyproto reads only the latter.
		wire = bytes.Clone(wire)
		wire[command] = local
	}
	reader.Reset(bytes.NewReader(wire))
	read, err := proxyproto.Read(reader)
	if err != nil {
		return nil, &fault{ReasonBadProxy, err}
	}
	if unspec {
		wire[command] = proxy
	}
	header := &ProxyHeader{Version: int(read.Version), Local: read.Command.IsLocal()}
	if !header.Local {
		if !read.TransportProtocol.IsStream() {
			return nil, faultf(ReasonBadProxy, "datagrams over a stream")
		}
		header.Source, header.Destination = read.SourceAddr, read.DestinationAddr
	}
	if err := header.readTLVs(read, wire); err != nil {
		return nil, &fault{ReasonBadProxy, err}
	}
	return header, nil
}

func (h *ProxyHeader) readTLVs(read *proxyproto.Header, wire []byte) error {
	tlvs, err := read.TLVs()
	if err != nil {
		return err
	}
	for _, tlv := range tlvs {
		switch tlv.Type {
		case proxyproto.PP2_TYPE_ALPN:
			h.ALPN = string(tlv.Value)
		case proxyproto.PP2_TYPE_AUTHORITY:
			h.Authority = string(tlv.Value)
		case proxyproto.PP2_TYPE_UNIQUE_ID:
			h.UniqueID = tlv.Value
		case proxyproto.PP2_TYPE_SSL:
			if h.TLS, err = tlsOf(tlv); err != nil {
				return err
			}
		case proxyproto.PP2_TYPE_CRC32C:
			h.Checksum = true
			if err := verify(wire, tlv.Value, read); err != nil {
				return err
			}
		}
	}
	return nil
}

// tlsOf is the version in an SSL TLV, 0 when the client used none.
func tlsOf(tlv proxyproto.TLV) (uint16, error) {
	ssl, err := tlvparse.SSL(tlv)
	if err != nil {
		return 0, err
	}
	said, _ := ssl.SSLVersion()
	for version, name := range tlsNames {
		if ssl.ClientSSL() && name == said {
			return version, nil
		}
	}
	return 0, nil
}

var errChecksum = errors.New("the checksum is wrong")

// verify checks the CRC32C of a header (section 2.2.4): that of the wire with
// the checksum's own bytes as zeros.
func verify(wire, sum []byte, read *proxyproto.Header) error {
	if len(sum) != crc32.Size {
		return errChecksum
	}
	at := tlvAt(wire, read, proxyproto.PP2_TYPE_CRC32C)
	zeroed := bytes.Clone(wire)
	clear(zeroed[at : at+crc32.Size])
	if crc32.Checksum(zeroed, castagnoli) != binary.BigEndian.Uint32(sum) {
		return errChecksum
	}
	return nil
}

// tlvAt is where the value of the first TLV of a kind lies. That the TLVs are as
// long as they say is known.
func tlvAt(wire []byte, read *proxyproto.Header, kind proxyproto.PP2Type) int {
	at := header2
	switch {
	case read.TransportProtocol.IsIPv4():
		at += 12
	case read.TransportProtocol.IsIPv6():
		at += 36
	case read.TransportProtocol.IsUnix():
		at += 216
	}
	for proxyproto.PP2Type(wire[at]) != kind {
		at += 3 + int(binary.BigEndian.Uint16(wire[at+1:]))
	}
	return at + 3
}

// stranger watches the first bytes of a peer who may not send a PROXY header.
// The bytes are let through until the one that would make the signature whole:
// nobody behind us then takes it for one, and nothing is held back from who only
// begins alike.
type stranger struct {
	on     bool
	caught bool // nothing more is let through
	seen   [len(signature2)]byte
	n      int
}

func (s *stranger) begin()         { s.on = true }
func (s *stranger) watching() bool { return s.on }

// watch is given what was read, and says how much of it may be let through.
func (s *stranger) watch(p []byte) (n int, late error) {
	if s.caught {
		return 0, &fault{reason: ReasonStranger}
	}
	if !s.on || len(p) == 0 {
		return len(p), nil
	}
	before := s.n
	s.n += copy(s.seen[s.n:], p)
	seen := s.seen[:s.n]
	for _, signature := range []string{signature1, signature2} {
		switch begun(seen, signature) {
		case len(signature):
			s.caught = true
			return len(signature) - 1 - before, &fault{reason: ReasonStranger}
		case len(seen):
			return len(p), nil
		}
	}
	s.on = false
	return len(p), nil
}
