package audit

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"

	"causeway/config"
)

// answered looks at the status and at the header of an answer, which are those
// that visitors get.
func (v *visit) answered(res *http.Response) {
	if res.StatusCode >= 500 {
		v.add(Error, kindStatus, "look into the origin's log", "the origin answers GET / with %s", statusLine(res.StatusCode))
	}
	if v.site.TLS != nil { // over plain HTTP browsers ignore both (RFC 6797 section 8.1; Clear Site Data, "Clear data for response")
		v.hsts(res.Header["Strict-Transport-Security"])
		v.clearSiteData(res.Header["Clear-Site-Data"])
	}
	if location := res.Header.Get("Location"); location != "" && res.StatusCode/100 == 3 {
		v.redirect(location)
	}
}

// statusLine is "503 Service Unavailable", "599".
func statusLine(status int) string {
	return strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
}

// hsts notes what the edges leave out of the origin's Strict-Transport-Security,
// where the file says nothing of its own.
func (v *visit) hsts(values []string) {
	if len(values) == 0 || v.site.TLS.HSTS != nil || isAddress(v.public.Host) { // no policy for addresses: RFC 6797 section 8.1.1
		return
	}
	policy, ok := parsePolicy(values[0]) // the first alone counts: section 8.1
	switch {
	case !ok || policy.maxAge == 0:
	case v.site.HTTP == config.HTTPServe:
		v.add(Note, kindHSTS, "write http: redirect, if browsers are to keep to https",
			"the origin's Strict-Transport-Security is left out: browsers would refuse plain HTTP, and the site has http: serve")
	case policy.below || policy.preload:
		v.add(Note, kindHSTS, "write tls: {hsts: {max_age: 8760h, include_subdomains: true}}, if every host below "+v.public.Host+" has TLS",
			"the origin's Strict-Transport-Security says %s, which is left out: here it would bind every host below %s, in this file or not (RFC 6797 section 6.1.2); its max-age is passed on", policy.words(), v.public.Host)
	}
}

// policy is a Strict-Transport-Security field (RFC 6797 section 6.1).
type policy struct {
	maxAge  uint64 // seconds
	below   bool   // includeSubDomains
	preload bool   // of https://hstspreload.org, not of the RFC
}

// words are the directives that reach below the host.
func (p policy) words() string {
	switch {
	case !p.preload:
		return "includeSubDomains"
	case !p.below:
		return "preload"
	}
	return "includeSubDomains and preload"
}

// parsePolicy reads the field as a browser does: it ignores one with a directive
// twice, or without a good max-age.
func parsePolicy(value string) (p policy, ok bool) {
	seen := map[string]bool{}
	for directive := range strings.SplitSeq(value, ";") {
		name, argument, _ := strings.Cut(directive, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if name == "" {
			continue
		}
		if seen[name] {
			return policy{}, false
		}
		seen[name] = true
		switch name {
		case "max-age":
			var err error
			p.maxAge, err = strconv.ParseUint(strings.Trim(strings.TrimSpace(argument), `"`), 10, 64)
			ok = err == nil || errors.Is(err, strconv.ErrRange) // then it is the largest number
		case "includesubdomains":
			p.below = true
		case "preload":
			p.preload = true
		}
	}
	return p, ok
}

// clearSiteData warns of a Clear-Site-Data that takes the cookies of other hosts:
// they are cleared for the whole registered domain, unlike all else, because
// cookies know no origins (https://www.w3.org/TR/clear-site-data/, "Clear cookies
// for origin").
func (v *visit) clearSiteData(values []string) {
	domain, err := publicsuffix.EffectiveTLDPlusOne(v.public.Host)
	if err != nil {
		return // an address, or a name that is none, such as localhost: no other host shares its cookies
	}
	for kind := range strings.SplitSeq(strings.Join(values, ","), ",") {
		kind = strings.TrimSpace(kind)
		if kind == `"cookies"` || kind == `"*"` { // without quotes it is ignored
			v.add(Warning, kindClearSiteData, "name other kinds at the origin, \"storage\" or \"cache\", or send it only where visitors sign out",
				"Clear-Site-Data: %s clears the cookies of all of %s at each visit, those of its other hosts too (https://www.w3.org/TR/clear-site-data/)", kind, domain)
			return
		}
	}
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// redirect warns of a Location, mapped, that leads visitors away or nowhere.
func (v *visit) redirect(location string) {
	asked := url.URL{Scheme: v.public.Scheme, Host: v.public.Authority(), Path: "/"}
	to, err := asked.Parse(location)
	if err != nil || to.Host == "" {
		return
	}
	base := to.Scheme + "://" + to.Host // its path and query are nobody's business
	if _, ours := v.cfg.Lookup(to.Host); !ours {
		v.add(Warning, kindRedirect, "write it into hosts with a public host of its own, if visitors are to stay",
			"GET / redirects to %s, which is no public host of the file: visitors leave for it", base)
		return
	}
	if to.Fragment = ""; to.Path == "" {
		to.Path = "/"
	}
	if to.String() == asked.String() {
		v.add(Warning, kindRedirect, v.circleMend(), "GET / redirects to itself: visitors go round in a circle")
	}
}

// circleMend is the usual way out of a circle.
func (v *visit) circleMend() string {
	origin, _ := v.site.Map.OriginOf(v.public.Authority())
	if origin.Scheme == "http" {
		return "write https://" + origin.Host + " in hosts, when the origin sends plain HTTP to HTTPS"
	}
	return "see by what the origin redirects"
}
