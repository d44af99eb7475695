package audit

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

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

// hsts warns of a Strict-Transport-Security that binds more than the host over
// TLS.
func (v *visit) hsts(values []string) {
	if len(values) == 0 || isAddress(v.public.Host) { // no policy for addresses: RFC 6797 section 8.1.1
		return
	}
	policy, ok := parsePolicy(values[0]) // the first alone counts: section 8.1
	if !ok || policy.maxAge == 0 {
		return
	}
	if v.site.HTTP == config.HTTPServe {
		v.add(Warning, kindHSTS, "write http: redirect, or take the field out at the origin",
			"Strict-Transport-Security: a browser that was here over HTTPS refuses plain HTTP for %s, and the site has http: serve; over plain HTTP itself browsers ignore the field",
			seconds(policy.maxAge))
	}
	known, plain, wildcard := v.below()
	if !policy.below && !policy.preload || wildcard && len(plain) == 0 {
		return
	}
	v.add(Warning, kindHSTS, "see that every host below "+v.public.Host+" has TLS, or take "+policy.words()+" out at the origin", "%s",
		policy.says(v.public.Host)+"; "+counted(known, plain))
}

// below counts the hosts of the file below this one, and names those without
// TLS. wildcard says that it publishes every such host over TLS.
func (v *visit) below() (known int, plain []string, wildcard bool) {
	seen := map[string]bool{} // a host may be there with several ports
	for _, site := range v.cfg.Sites {
		for _, host := range site.Hosts {
			name := host.Public.Host
			if !strings.HasSuffix(name, "."+v.public.Host) || seen[name] {
				continue
			}
			seen[name] = true
			known++
			if site.TLS == nil {
				plain = append(plain, name)
			} else if name == "*."+v.public.Host {
				wildcard = true
			}
		}
	}
	return known, plain, wildcard
}

// counted says of the hosts below one what the file has of them.
func counted(known int, plain []string) string {
	const most = 8 // names in a message
	text := "the file has " + strconv.Itoa(known) + " of them"
	if len(plain) == 0 {
		return text
	}
	text += ", without TLS " + strings.Join(plain[:min(len(plain), most)], ", ")
	if len(plain) > most {
		text += fmt.Sprintf(" and %d more", len(plain)-most)
	}
	return text
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

// says is what the policy does to the hosts below one.
func (p policy) says(host string) string {
	const list = "the list that browsers come with, on which a domain stands with every host below it"
	if !p.below {
		return "Strict-Transport-Security with preload lets anybody put " + host + " on " + list
	}
	text := fmt.Sprintf("Strict-Transport-Security with includeSubDomains: for %s browsers refuse plain HTTP to every host below %s, in this file or not (RFC 6797 section 6.1.2)", seconds(p.maxAge), host)
	if p.preload {
		text += ", and with preload anybody may put it on " + list
	}
	return text
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

// seconds is a number of seconds for people: "365 days", "5m0s".
func seconds(n uint64) string {
	const day = 24 * 60 * 60
	if n >= 2*day {
		return strconv.FormatUint(n/day, 10) + " days"
	}
	return (time.Duration(n) * time.Second).String()
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
