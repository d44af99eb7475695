package conn

import (
	"net/netip"
	"strings"
)

// Limits of a DNS name (RFC 1035 section 2.3.4), in text.
const (
	labelMax = 63
	nameMax  = 253
)

// serverName gives a server_name in lower case, or says what it is instead of a
// DNS name (RFC 6066 section 3).
func serverName(raw []byte) (string, error) {
	if reason := nameFault(raw); reason != "" {
		return "", faultf(reason, "%q", raw[:min(len(raw), nameMax)])
	}
	return lower(raw), nil
}

// nameFault says what is wrong with a name, "" when nothing is. The fault that
// says most comes first.
func nameFault(name []byte) Reason {
	if len(name) == 0 {
		return ReasonNameEmpty
	}
	odd, ldh := false, true
	for _, b := range name {
		switch {
		case b == 0:
			return ReasonNameNUL
		case b <= ' ' || b >= 0x7f:
			odd = true
		case !isLDH(b) && b != '.':
			ldh = false
		}
	}
	switch {
	case odd:
		return ReasonNameBytes
	case address(name):
		return ReasonNameIP
	case len(name) > nameMax:
		return ReasonNameLong
	case !ldh:
		return ReasonNameNotLDH
	case name[len(name)-1] == '.':
		return ReasonNameDot
	}
	return labelFault(name)
}

// labelFault says what is wrong with the labels of a name that has nothing but
// letters, digits, hyphens and dots.
func labelFault(name []byte) Reason {
	start := 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '.' {
			continue
		}
		label := name[start:i]
		switch {
		case len(label) == 0 || label[0] == '-' || label[len(label)-1] == '-':
			return ReasonNameNotLDH
		case len(label) > labelMax:
			return ReasonNameLong
		}
		start = i + 1
	}
	return ""
}

func isLDH(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || isDigit(b) || b == '-'
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

// address knows an address of IPv4 or IPv6, and what is taken for one of IPv4:
// a name whose last label is a number (RFC 3696 section 2).
func address(name []byte) bool {
	last := len(name) - 1
	if name[last] == '.' && last > 0 {
		last--
	}
	if i := last; isDigit(name[i]) {
		for i >= 0 && isDigit(name[i]) {
			i--
		}
		if i < 0 || name[i] == '.' {
			return true
		}
	}
	for _, b := range name {
		if b == ':' {
			_, err := netip.ParseAddr(strings.Trim(string(name), "[]"))
			return err == nil
		}
	}
	return false
}

// lower is the text of ASCII in lower case, with one allocation.
func lower(name []byte) string {
	for _, b := range name {
		if 'A' <= b && b <= 'Z' {
			return strings.ToLower(string(name))
		}
	}
	return string(name)
}
