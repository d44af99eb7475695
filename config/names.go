package config

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/idna"

	"causeway/rewrite"
)

// fault is what is wrong with one value, and the mend.
type fault struct{ msg, mend string }

// parseHost is a host as written (international name, IP literal without
// brackets, "*."+labels) in the one form used everywhere: lower-case A-labels
// (RFC 5891), canonical IP text (RFC 5952).
func parseHost(s string) (string, *fault) {
	if s == "" {
		return "", &fault{"the host is missing", "write a host such as example.com"}
	}
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		return addr.Unmap().String(), nil
	}
	name, wild := strings.CutPrefix(s, "*.")
	if strings.Contains(name, "*") {
		return "", &fault{"\"*\" in " + strconv.Quote(s) + " is not the whole first label", "write *.example.com, or each host"}
	}
	name, err := asciiName(strings.TrimSuffix(name, "."))
	if err != nil {
		return "", &fault{strconv.Quote(s) + " is not a host name", "write letters, digits and hyphens between dots, such as example.com"}
	}
	if wild && !strings.Contains(name, ".") && !localDomains[name] {
		return "", &fault{strconv.Quote(s) + " takes in a whole top-level domain", "write at least *.example.com"}
	}
	if wild {
		return "*." + name, nil
	}
	return name, nil
}

// localDomains have one label and no registry above them (RFC 6761, RFC 9476
// and the ICANN resolution 2024.07.29.06).
var localDomains = map[string]bool{"localhost": true, "test": true, "internal": true, "alt": true}

// asciiName is name in A-labels, checked by the Lookup profile of RFC 5891
// section 5. Names that are ASCII already are checked label by label instead:
// the profile refuses names that are in use, such as r3---sn-a.example.com.
func asciiName(name string) (string, error) {
	name = strings.ToLower(name)
	if !plainASCII(name) || strings.Contains(name, "xn--") {
		ascii, err := idna.Lookup.ToASCII(name)
		if err != nil {
			return "", err
		}
		name = ascii
	}
	// RFC 1035 section 2.3.4: 63 bytes a label, 253 characters a name.
	if name == "" || len(name) > 253 {
		return "", errName
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if !hostLabel(label) {
			return "", errName
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return "", errName // 1.2.3 or 1.2.3.4.5: an address gone wrong
	}
	return name, nil
}

const errName = nameError("not a host name")

type nameError string

func (e nameError) Error() string { return string(e) }

func plainASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// hostLabel says whether label is letters, digits, hyphens and, because names
// in use have them, underscores (RFC 1123 section 2.1, RFC 2181 section 11).
func hostLabel(label string) bool {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	for _, c := range []byte(label) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// parsePort is a port from 1 to 65535 in its one form.
func parsePort(s string) (string, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '+' {
		return "", false
	}
	return strconv.FormatUint(n, 10), true
}

// splitAuthority cuts host[:port] without looking closely: brackets come off
// an IPv6 literal. ok is false for a colon or bracket out of place.
func splitAuthority(s string) (host, port string, hasPort, ok bool) {
	if rest, bracket := strings.CutPrefix(s, "["); bracket {
		host, rest, ok = strings.Cut(rest, "]")
		if !ok || rest != "" && rest[0] != ':' {
			return "", "", false, false
		}
		port, hasPort = strings.CutPrefix(rest, ":")
		return host, port, hasPort, strings.Contains(host, ":")
	}
	if strings.Count(s, ":") > 1 {
		_, err := netip.ParseAddr(s)
		return s, "", false, err == nil
	}
	host, port, hasPort = strings.Cut(s, ":")
	return host, port, hasPort, true
}

// parsePublic reads a key of `hosts`: host or host:port. The scheme is not
// known yet.
func parsePublic(s string) (rewrite.Base, *fault) {
	if strings.Contains(s, "/") {
		return rewrite.Base{}, &fault{strconv.Quote(s) + " is not a public host", "write the host alone, with no scheme and no path: example.cn"}
	}
	host, port, hasPort, ok := splitAuthority(s)
	if !ok {
		return rewrite.Base{}, &fault{strconv.Quote(s) + " is not a host or host:port", "write example.cn or example.cn:8443"}
	}
	host, wrong := parseHost(host)
	if wrong != nil {
		return rewrite.Base{}, wrong
	}
	if !hasPort {
		return rewrite.Base{Host: host}, nil
	}
	port, ok = parsePort(port)
	if !ok {
		return rewrite.Base{}, &fault{"the port of " + strconv.Quote(s) + " is not a number from 1 to 65535", "write example.cn:8443, or leave the port out"}
	}
	return rewrite.Base{Host: host, Port: port}, nil
}

// parseOrigin reads an origin base URL: http or https, host, perhaps a port.
// The default port of the scheme is dropped.
func parseOrigin(s string) (rewrite.Base, *fault) {
	scheme, rest, ok := strings.Cut(s, "://")
	scheme = strings.ToLower(scheme)
	if !ok {
		return rewrite.Base{}, &fault{strconv.Quote(s) + " has no scheme", "write https://" + firstPart(s)}
	}
	if scheme != "http" && scheme != "https" {
		return rewrite.Base{}, &fault{"the scheme of " + strconv.Quote(s) + " is not http or https", "write https://" + firstPart(rest)}
	}
	if _, err := url.Parse(s); err != nil {
		return rewrite.Base{}, &fault{strconv.Quote(s) + " is not a URL", "write it as https://example.com"}
	}
	rest = strings.TrimSuffix(rest, "/")
	if strings.Contains(rest, "@") {
		return rewrite.Base{}, &fault{"an origin URL has no user or password", "write " + scheme + "://" + firstPart(rest[strings.LastIndexByte(rest, '@')+1:])}
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		what := map[byte]string{'/': "path", '?': "query", '#': "fragment"}[rest[i]]
		return rewrite.Base{}, &fault{"an origin URL has no " + what, "write " + scheme + "://" + rest[:i]}
	}
	host, port, hasPort, ok := splitAuthority(rest)
	if !ok {
		return rewrite.Base{}, &fault{strconv.Quote(s) + " is not a URL", "write it as https://example.com"}
	}
	host, wrong := parseHost(host)
	if wrong != nil {
		return rewrite.Base{}, wrong
	}
	if hasPort {
		if port, ok = parsePort(port); !ok {
			return rewrite.Base{}, &fault{"the port of " + strconv.Quote(s) + " is not a number from 1 to 65535", "write a port such as :8443, or leave it out"}
		}
	}
	if port == defaultPort(scheme) {
		port = ""
	}
	return rewrite.Base{Scheme: scheme, Host: host, Port: port}, nil
}

// firstPart is s up to its path, query or fragment.
func firstPart(s string) string {
	if i := strings.IndexAny(s, "/?#"); i >= 0 {
		s = s[:i]
	}
	if s == "" {
		return "example.com"
	}
	return s
}

func defaultPort(scheme string) string {
	if scheme == "http" {
		return "80"
	}
	return "443"
}

// parseConnect reads an address to dial, host or host:port; without a port it
// is returned without one.
func parseConnect(s string) (string, *fault) {
	wrong := &fault{strconv.Quote(s) + " is not an address to dial", "write host:port, such as 203.0.113.10:443"}
	host, port, hasPort, ok := splitAuthority(s)
	if !ok {
		return "", wrong
	}
	host, fault := parseHost(host)
	if fault != nil || strings.HasPrefix(host, "*.") {
		return "", wrong
	}
	if !hasPort {
		return host, nil
	}
	if port, ok = parsePort(port); !ok {
		return "", wrong
	}
	return net.JoinHostPort(host, port), nil
}

// Place reads a host, and its port where it has one, as `connect` has them: for what a
// person types.
func Place(s string) (host, port string, ok bool) {
	address, wrong := parseConnect(s)
	if wrong != nil {
		return "", "", false
	}
	if hasPort(address) {
		host, port, _ = net.SplitHostPort(address)
		return host, port, true
	}
	return address, "", true
}

// parseAddress reads an address that must name its port.
func parseAddress(s string) (string, *fault) {
	address, wrong := parseConnect(s)
	if wrong != nil || !hasPort(address) {
		return "", &fault{strconv.Quote(s) + " is not host:port", "write an address such as 10.1.0.5:7443"}
	}
	return address, nil
}

// hasPort tells host:port from host in what parseConnect returned.
func hasPort(address string) bool {
	_, _, err := net.SplitHostPort(address)
	return err == nil
}

// parseListen reads an address to listen on: :port or host:port. Port 0 lets
// the system choose.
func parseListen(s string) (string, *fault) {
	wrong := &fault{strconv.Quote(s) + " is not an address to listen on", "write :443 or 192.0.2.1:443"}
	host, port, hasPort, ok := splitAuthority(s)
	if !ok || !hasPort {
		return "", wrong
	}
	if port != "0" {
		if port, ok = parsePort(port); !ok {
			return "", wrong
		}
	}
	if host == "" {
		return ":" + port, nil
	}
	host, fault := parseHost(host)
	if fault != nil || strings.HasPrefix(host, "*.") {
		return "", wrong
	}
	return net.JoinHostPort(host, port), nil
}

// parseAdmin is parseListen with the host written out.
func parseAdmin(s string) (string, *fault) {
	address, wrong := parseListen(s)
	if wrong == nil && address[0] == ':' {
		return "", &fault{strconv.Quote(s) + " would show the admin endpoint to everybody", "write 127.0.0.1" + address + ", or 0.0.0.0" + address + " if that is meant"}
	}
	return address, wrong
}

// methods a route may name: RFC 9110 section 9, RFC 5789, and those of WebDAV
// (RFC 4918, 3253, 3744, 5323, 4791). CONNECT is not a request for a site.
var methods = map[string]bool{
	"GET": true, "HEAD": true, "POST": true, "PUT": true, "PATCH": true, "DELETE": true,
	"OPTIONS": true, "TRACE": true, "QUERY": true,
	"PROPFIND": true, "PROPPATCH": true, "MKCOL": true, "COPY": true, "MOVE": true,
	"LOCK": true, "UNLOCK": true, "REPORT": true, "SEARCH": true, "ACL": true,
	"MKCALENDAR": true, "CHECKOUT": true, "CHECKIN": true, "VERSION-CONTROL": true,
}

// parseMethod checks one method of a route.
func parseMethod(s string) (string, *fault) {
	if methods[s] {
		return s, nil
	}
	if upper := strings.ToUpper(s); methods[upper] {
		return "", &fault{"methods are written in capitals (RFC 9110 section 9.1)", "write " + upper}
	}
	return "", &fault{strconv.Quote(s) + " is not a method of a site", "write one such as GET, POST, PUT or DELETE"}
}
