package edge

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"causeway/config"
)

const hstsField = "Strict-Transport-Security"

// strictTransport makes the field of an answer (RFC 6797) what the file says. An
// origin speaks for its own hosts: here its includeSubDomains would bind hosts
// below the public one that it knows nothing of, so that of its policy the
// public host's own part alone is passed on. Over plain HTTP there is none
// (section 7.2), and where plain HTTP is served it would end that.
func (x *exchange) strictTransport(h http.Header) {
	switch of := x.site.TLS; {
	case x.rec.Scheme != "https" || of == nil:
		delete(h, hstsField)
	case of.HSTS != nil:
		h[hstsField] = []string{of.HSTS.Field()}
	case len(h[hstsField]) == 0:
	case x.site.HTTP == config.HTTPServe:
		delete(h, hstsField)
	default:
		if age, ok := maxAge(h[hstsField][0]); ok { // the first alone counts: section 8.1
			h[hstsField] = []string{"max-age=" + age}
		} else {
			delete(h, hstsField)
		}
	}
}

// maxAge is the max-age of a policy; false for one that browsers ignore, without
// it or with a directive twice.
func maxAge(policy string) (age string, ok bool) {
	seen := map[string]bool{}
	for directive := range strings.SplitSeq(policy, ";") {
		name, value, _ := strings.Cut(directive, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if name == "" {
			continue
		}
		if seen[name] {
			return "", false
		}
		seen[name] = true
		if name == "max-age" {
			age = strings.Trim(strings.TrimSpace(value), `"`)
			if _, err := strconv.ParseUint(age, 10, 64); err != nil && !errors.Is(err, strconv.ErrRange) { // then it is the largest number
				return "", false
			}
		}
	}
	return age, age != ""
}
