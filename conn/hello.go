package conn

import (
	"net"
	"time"
)

// Reading a hello (RFC 8446 section 4.1.2), which may come in any number of
// segments and records:
//
//  1. PeekHello keeps what comes, and each time lets
//  2. helloScan.step walk the records that are there: nothing but handshake
//     records, none empty, until the message is whole; of one record it is read
//     where it lies, of several it is put together in a buffer of the pool,
//  3. parseHello reads the message strictly, front to back: what a list says of
//     its length must be so,
//  4. serverName tells a DNS name from what is none (name.go).

// Hello is what a TLS client says in the clear before anything else.
type Hello struct {
	// ServerName is the name asked for, in lower case; "" when the client did not
	// say one. With an Encrypted ClientHello it is the outer name, which is
	// the one to go by: only who has its key can know the other.
	ServerName string
	ALPN       []string // application protocols in the client's order, without GREASE
	Versions   []uint16 // TLS versions in the client's order, without GREASE; as tls.VersionTLS13
	ECH        bool     // the extension is there; whether it is real or GREASE only who has its key can know
}

// PeekHello reads the hello of c, at most limits.Bytes of the connection, for
// at most limits.Time, and consumes nothing: the Conn, which takes the place of c
// in any case and is the caller's to close, gives it all again. It sets and
// clears the read deadline of c.
//
// An error is an *Error. When only the name is at fault (Reason.OfName), the
// rest of the Hello is there, and its ServerName is "".
func PeekHello(c net.Conn, limits Limits) (Hello, *Conn, error) {
	k := keep(c)
	var hello Hello
	scan := helloScan{limit: limits.bytes()}
	defer scan.close()
	err := k.peek(limits, func(kept []byte) (bool, error) {
		message, err := scan.step(kept)
		if message == nil || err != nil {
			return false, err
		}
		hello.ALPN, hello.Versions = k.alpn[:0], k.versions[:0]
		return true, parseHello(message, &hello)
	})
	err = k.failed("peek at the hello", err)
	if err != nil && !ReasonOf(err).OfName() {
		hello = Hello{}
	}
	return hello, k, err
}

const (
	recordHeader    = 5       // type, version, length (RFC 8446 section 5.1)
	recordHandshake = 22      // RFC 8446 section 5.1
	recordMax       = 1 << 14 // RFC 8446 section 5.1
	clientHello     = 1       // RFC 8446 section 4
	messageHeader   = 4       // type, length (RFC 8446 section 4)
)

// helloScan walks records. It has seen, and found good, all before at.
type helloScan struct {
	limit int
	at    int    // where the next record begins
	size  int    // of the message with its header; 0: not known yet
	parts []byte // of the pool: the message so far, when it has several records
	n     int    // parts[:n]
}

// step gives the message once it is whole. What it finds of a connection
// depends on the bytes alone, not on how many came at once.
func (s *helloScan) step(kept []byte) (message []byte, err error) {
	for {
		if s.at == 0 {
			if err := firstBytes(kept); err != nil {
				return nil, err
			}
		}
		if len(kept)-s.at < recordHeader {
			return nil, nil
		}
		header := kept[s.at : s.at+recordHeader]
		length := int(header[3])<<8 | int(header[4])
		switch {
		case header[0] != recordHandshake:
			return nil, faultf(ReasonMalformed, "a record of type %d in the middle of the hello", header[0])
		case header[1] != 3:
			return nil, faultf(ReasonMalformed, "a record of version %d.%d", header[1], header[2])
		case length == 0:
			return nil, faultf(ReasonMalformed, "an empty record")
		case length > recordMax:
			return nil, faultf(ReasonMalformed, "a record of %d bytes, over %d", length, recordMax)
		}
		if s.at+recordHeader+length > s.limit {
			return nil, &fault{reason: ReasonTooLong}
		}
		payload := kept[s.at+recordHeader:]
		if err := s.learnSize(payload[:min(length, len(payload))]); err != nil {
			return nil, err
		}
		if s.size > 0 && s.n+length > s.size {
			return nil, faultf(ReasonMalformed, "%d bytes after the hello in its record", s.n+length-s.size)
		}
		if len(payload) < length {
			return nil, nil
		}
		if s.n == 0 && s.size == length {
			return payload[:length], nil
		}
		s.add(payload[:length])
		if s.at += recordHeader + length; s.n == s.size {
			return s.parts[:s.n], nil
		}
	}
}

// firstBytes knows a TLS connection by its first record, and says what it is
// otherwise.
func firstBytes(kept []byte) error {
	switch {
	case len(kept) == 0:
		return nil
	case kept[0]&0x80 != 0:
		// Of SSL 2.0 the third byte is the message type (RFC 5246 appendix E.2).
		if len(kept) < 3 {
			return nil
		}
		if kept[2] == clientHello {
			return &fault{reason: ReasonSSLv2}
		}
		return faultf(ReasonNotTLS, "first byte %#02x", kept[0])
	case kept[0] != recordHandshake:
		return faultf(ReasonNotTLS, "first byte %#02x", kept[0])
	case len(kept) > 1 && kept[1] != 3:
		return faultf(ReasonNotTLS, "first bytes %#02x %#02x", kept[0], kept[1])
	}
	return nil
}

// learnSize reads the message's header where it is there: its bytes may lie in
// up to four records, the last of which is payload, or a part of it.
func (s *helloScan) learnSize(payload []byte) error {
	if s.size > 0 {
		return nil
	}
	var header [messageHeader]byte
	n := copy(header[:], s.parts[:s.n])
	n += copy(header[n:], payload)
	if n > 0 && header[0] != clientHello {
		return faultf(ReasonMalformed, "a handshake message of type %d, not a hello", header[0])
	}
	if n < messageHeader {
		return nil
	}
	s.size = messageHeader + (int(header[1])<<16 | int(header[2])<<8 | int(header[3]))
	if s.size > s.limit {
		return &fault{reason: ReasonTooLong}
	}
	return nil
}

// add puts a part of the message to those before it.
func (s *helloScan) add(part []byte) {
	if s.n+len(part) > len(s.parts) {
		larger := obtain(max(s.n+len(part), s.size))
		copy(larger, s.parts[:s.n])
		release(s.parts)
		s.parts = larger
	}
	s.n += copy(s.parts[s.n:], part)
}

func (s *helloScan) close() { release(s.parts) }

// Extensions that are read (IANA, TLS ExtensionType values).
const (
	extServerName        = 0      // RFC 6066
	extALPN              = 16     // RFC 7301
	extSupportedVersions = 43     // RFC 8446
	extECH               = 0xfe0d // RFC 9849
)

// parseHello reads the message into hello. The error of a name comes last.
func parseHello(message []byte, hello *Hello) error {
	in := cursor{rest: message[messageHeader:]}
	legacy := in.number(2)
	in.take(32)    // random
	in.vector(1)   // legacy_session_id
	in.vector(2)   // cipher_suites
	in.vector(1)   // legacy_compression_methods
	if in.failed { // all before the extensions must be there
		return faultf(ReasonMalformed, "the hello ends early")
	}
	var nameFault error
	if len(in.rest) > 0 { // RFC 5246 section 7.4.1.2 knows hellos without any
		extensions := in.vector(2)
		if in.failed || len(in.rest) > 0 {
			return faultf(ReasonMalformed, "the extensions are not as long as they say")
		}
		var err error
		if nameFault, err = parseExtensions(extensions, hello); err != nil {
			return err
		}
	}
	if len(hello.Versions) == 0 {
		hello.Versions = append(hello.Versions, uint16(legacy))
	}
	return nameFault
}

// parseExtensions reads those extensions that matter. None of them may be
// there twice (RFC 8446 section 4.2): the one that counts must be the same for
// everybody.
func parseExtensions(extensions []byte, hello *Hello) (nameFault, err error) {
	var seen [4]bool
	once := func(i int) bool {
		again := seen[i]
		seen[i] = true
		return !again
	}
	in := cursor{rest: extensions}
	for len(in.rest) > 0 {
		kind, body := in.number(2), in.vector(2)
		if in.failed {
			return nil, faultf(ReasonMalformed, "an extension is not as long as it says")
		}
		good := true
		switch kind {
		case extServerName:
			var name []byte
			if name, good = parseServerNames(body); good {
				hello.ServerName, nameFault = serverName(name)
			}
			good = good && once(0)
		case extALPN:
			good = hello.parseALPN(body) && once(1)
		case extSupportedVersions:
			good = hello.parseVersions(body) && once(2)
		case extECH:
			hello.ECH = true
			good = once(3)
		}
		if !good {
			return nil, faultf(ReasonMalformed, "extension %d", kind)
		}
	}
	return nameFault, nil
}

// parseServerNames gives the one host name of a server_name extension (RFC 6066
// section 3): no other type of name was ever defined, and one type may be there
// once.
func parseServerNames(body []byte) (name []byte, good bool) {
	in := cursor{rest: body}
	list := cursor{rest: in.vector(2)}
	kind := list.number(1)
	name = list.vector(2)
	return name, !in.failed && !list.failed && kind == 0 && len(in.rest) == 0 && len(list.rest) == 0
}

// parseALPN reads a list of protocol names (RFC 7301 section 3.1).
func (h *Hello) parseALPN(body []byte) (good bool) {
	in := cursor{rest: body}
	list := cursor{rest: in.vector(2)}
	if in.failed || len(in.rest) > 0 || len(list.rest) == 0 {
		return false
	}
	for len(list.rest) > 0 {
		name := list.vector(1)
		if list.failed || len(name) == 0 {
			return false
		}
		if len(name) != 2 || !grease(int(name[0])<<8|int(name[1])) {
			h.ALPN = append(h.ALPN, protocol(name))
		}
	}
	return true
}

// protocol is string(name), without an allocation for what everybody speaks.
func protocol(name []byte) string {
	switch string(name) {
	case "h2":
		return "h2"
	case "http/1.1":
		return "http/1.1"
	case "http/1.0":
		return "http/1.0"
	case "acme-tls/1":
		return "acme-tls/1"
	}
	return string(name)
}

// parseVersions reads a client's supported_versions (RFC 8446 section 4.2.1).
func (h *Hello) parseVersions(body []byte) (good bool) {
	in := cursor{rest: body}
	list := cursor{rest: in.vector(1)}
	if in.failed || len(in.rest) > 0 || len(list.rest) == 0 || len(list.rest)%2 != 0 {
		return false
	}
	for len(list.rest) > 0 {
		if version := list.number(2); !grease(version) {
			h.Versions = append(h.Versions, uint16(version))
		}
	}
	return true
}

// grease knows the values that mean nothing (RFC 8701 section 2).
func grease(v int) bool { return v&0x0f0f == 0x0a0a && v>>8 == v&0xff }

// cursor reads from the front of rest, and fails for good when it is too short.
type cursor struct {
	rest   []byte
	failed bool
}

func (c *cursor) take(n int) []byte {
	if c.failed || n > len(c.rest) {
		c.failed, c.rest = true, nil
		return nil
	}
	taken := c.rest[:n]
	c.rest = c.rest[n:]
	return taken
}

// number is one of size bytes.
func (c *cursor) number(size int) (n int) {
	for _, b := range c.take(size) {
		n = n<<8 | int(b)
	}
	return n
}

// vector is what has its length before it, in size bytes.
func (c *cursor) vector(size int) []byte { return c.take(c.number(size)) }

// Alert is why a TLS client is refused (RFC 8446 section 6).
type Alert byte

// The alerts that a node has use for which holds no key.
const (
	AlertHandshakeFailure Alert = 40
	AlertDecodeError      Alert = 50  // the hello is malformed
	AlertInternalError    Alert = 80  // the name is known, and nobody there answers
	AlertUnrecognizedName Alert = 112 // RFC 6066 section 3
)

// alertTime is long for 7 bytes that the socket's buffer takes at once.
const alertTime = time.Second

// SendAlert tells the client that sent a hello why it is refused, with a fatal
// alert, and that nothing follows. The caller closes c.
func SendAlert(c net.Conn, alert Alert) error {
	_ = c.SetWriteDeadline(time.Now().Add(alertTime))
	record := alert.record()
	if _, err := c.Write(record[:]); err != nil {
		return err
	}
	return closeWrite(c)
}

// record is the alert as it is sent.
func (a Alert) record() [7]byte {
	const alertRecord, fatal = 21, 2 // RFC 8446 sections 5.1 and 6
	return [...]byte{alertRecord, 3, 1, 0, 2, fatal, byte(a)}
}
