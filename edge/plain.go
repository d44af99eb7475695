package edge

import (
	"net/http"
	"strings"

	"causeway/config"
	"causeway/hop"
	"causeway/outcome"
	"causeway/rewrite"
)

// admitPlain finds the site of a request on the plain listener and does what
// its `http` says. True: serve it.
func (x *exchange) admitPlain() bool {
	if site, ok := x.Config.Lookup(x.r.Host); ok && site.HTTP == config.HTTPServe {
		x.site = site
		return true
	}
	name := hostName(x.r.Host)
	site, host, ok := x.Config.LookupName(name)
	if ok && site.Pending.On && site.HTTP != config.HTTPOff {
		x.site = site // whose page is shown
		return true
	}
	if !ok || site.HTTP != config.HTTPRedirect {
		return x.refuse(outcome.Errorf(outcome.HostUnknown, "find a site for host %q on plain HTTP: none in %s", x.r.Host, x.Config.Path))
	}
	x.rec.Site = site.Name
	x.redirect(name, host.Public)
	return false
}

// redirect sends the client to the same address under https. 301 lets old
// clients turn a POST into a GET, 308 does not (RFC 9110 §15.4).
func (x *exchange) redirect(name string, public rewrite.Base) {
	status := http.StatusPermanentRedirect
	if x.r.Method == http.MethodGet || x.r.Method == http.MethodHead {
		status = http.StatusMovedPermanently
	}
	public.Host = name
	target := hop.TargetURL(x.r.RequestURI, x.r.URL, "https", public.Authority())
	x.w.Header().Set("Location", "https://"+public.Authority()+target.RequestURI())
	x.w.Header()["Content-Length"] = []string{"0"}
	x.w.WriteHeader(status)
	x.rec.Status = status
}

// hostName is the host of a Host field: lower case, without port, brackets and
// final dot.
func hostName(authority string) string {
	host := strings.ToLower(authority)
	if end := strings.LastIndexByte(host, ']'); strings.HasPrefix(host, "[") && end > 0 {
		return host[1:end]
	}
	host, _, _ = strings.Cut(host, ":")
	return strings.TrimSuffix(host, ".")
}
