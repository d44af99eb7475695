package rewrite

import (
	"net/netip"
	"strconv"
	"strings"
)

// Base is the part of a URL that Causeway exchanges: scheme, host and port.
//
// Scheme is "https" or "http". Host is a lower-case A-label name (RFC 5890), or "*." and such a
// name, or an IP literal without brackets. Port is decimal; "" is the scheme's default port.
type Base struct{ Scheme, Host, Port string }

// Authority is host and port as RFC 3986 section 3.2 writes them: "example.cn",
// "localhost:8443", "[::1]:8443".
func (b Base) Authority() string {
	host := b.literal()
	if b.Port == "" {
		return host
	}
	return host + ":" + b.Port
}

// String is the base as a URL without a path: "https://example.cn".
func (b Base) String() string { return b.Scheme + "://" + b.Authority() }

// literal is the host as it stands in a URL: an IPv6 address in brackets.
func (b Base) literal() string {
	if strings.Contains(b.Host, ":") {
		return "[" + b.Host + "]"
	}
	return b.Host
}

// wildcard says whether the base stands for every name below its domain.
func (b Base) wildcard() bool { return strings.HasPrefix(b.Host, "*.") }

// domain is the host without the "*." of a wildcard.
func (b Base) domain() string { return strings.TrimPrefix(b.Host, "*.") }

// fill puts labels in the place of the wildcard's star.
func (b Base) fill(labels string) Base {
	if b.wildcard() {
		b.Host = labels + "." + b.domain()
	}
	return b
}

// normal drops a port that is the scheme's default.
func (b Base) normal() Base {
	if b.Port == defaultPort(b.Scheme) {
		b.Port = ""
	}
	return b
}

// fault says what is wrong with the base, "" when nothing is.
func (b Base) fault() string {
	switch {
	case b.Scheme != "http" && b.Scheme != "https":
		return "scheme " + strconv.Quote(b.Scheme) + " is neither http nor https"
	case b.Host == "":
		return "the host is empty"
	case !validHost(b.Host):
		return "host " + strconv.Quote(b.Host) + " is not a lower-case host name, wildcard or IP address"
	case b.Port != "" && !validPort(b.Port):
		return "port " + strconv.Quote(b.Port) + " is not a number from 1 to 65535"
	}
	return ""
}

// defaultPort is the port of a URL that names none (RFC 9110 section 4.2).
func defaultPort(scheme string) string {
	switch scheme {
	case "http", "ws":
		return "80"
	case "https", "wss":
		return "443"
	}
	return ""
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == port
}

// validHost takes what Base documents; 253 bytes is the longest name of RFC 1035 section 2.3.4.
func validHost(host string) bool {
	if strings.Contains(host, ":") {
		addr, err := netip.ParseAddr(host)
		return err == nil && addr.Zone() == "" && addr.String() == host
	}
	name := strings.TrimPrefix(host, "*.")
	if name == "" || len(name) > maxHost {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
		for i := range len(label) {
			if c := label[i]; !isHostByte(c) || 'A' <= c && c <= 'Z' {
				return false
			}
		}
	}
	return true
}

// splitAuthority parts "host:port" and "[::1]:port"; ok is false when it is neither.
func splitAuthority(authority string) (host, port string, ok bool) {
	host = strings.ToLower(authority)
	if rest, found := strings.CutPrefix(host, "["); found {
		host, port, found = strings.Cut(rest, "]")
		if !found {
			return "", "", false
		}
		if port == "" {
			return host, "", host != ""
		}
		port, found = strings.CutPrefix(port, ":")
		return host, port, found && host != "" && (port == "" || validPort(port))
	}
	host, port, _ = strings.Cut(host, ":")
	host = strings.TrimSuffix(host, ".")
	return host, port, host != "" && (port == "" || validPort(port))
}
