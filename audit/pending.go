package audit

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"causeway/config"
)

// Missing says what the sites that are pending lack, by the file, before they can
// be opened. uncertified gives the first host of a site whose certificate is ordered
// that has none yet, as far as this machine knows, "" for none; it may be nil.
func Missing(cfg *config.Config, uncertified func(*config.Site) string) (missing []Finding) {
	for _, site := range cfg.Sites {
		if !site.Pending.On || len(site.Hosts) == 0 {
			continue
		}
		add := func(mend, format string, args ...any) {
			missing = append(missing, Finding{Level: Note, Host: site.Hosts[0].Public.String(), Kind: kindPending, Msg: fmt.Sprintf(format, args...), Mend: mend})
		}
		lacks := ""
		if site.TLS.UsesACME() && uncertified != nil {
			lacks = uncertified(site)
		}
		switch {
		case lacks != "":
			add("causeway cert list says what became of the order; a running node makes it", "site %s is pending, and there is no certificate for %s yet", site.Name, lacks)
		case site.TLS == nil:
			add("write tls: {cert: example.cn.pem, key: example.cn.key}, or open it with http: serve", "site %s is pending, and has no certificate", site.Name)
		case site.TLS.UsesACME() && uncertified == nil:
			add("see causeway cert list on the node that orders it, and take pending out when it may be opened", "site %s is pending, and lacks nothing but perhaps its certificate", site.Name)
		default:
			add("take pending out when it may be opened", "site %s is pending, and lacks nothing that this file says", site.Name)
		}
		if test := site.Test; test != nil && len(test.Hosts) < len(site.Hosts) {
			add("put them below "+site.Hosts[0].Public.Host+", or do without them there", "%d of the hosts of site %s have no name under the test host: there they are the origin's", len(site.Hosts)-len(test.Hosts), site.Name)
		}
	}
	return missing
}

// world is what Pending asks.
type world struct {
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	get    http.RoundTripper
}

// Pending asks the DNS for the public hosts of the sites that are pending, and
// plain HTTP for their pages. The error says that ctx ended it early.
func Pending(ctx context.Context, cfg *config.Config, options Options) (Report, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	return pending(ctx, cfg, options, world{
		lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
		get: transport,
	})
}

// mostWait is how long one host may take.
const mostWait = 10 * time.Second

func pending(ctx context.Context, cfg *config.Config, options Options, world world) (Report, error) {
	bounded, cancel := context.WithTimeout(ctx, options.Timeout)
	defer cancel()
	var all []*awaited
	for _, site := range cfg.Sites {
		if !site.Pending.On {
			continue
		}
		for _, host := range site.Hosts {
			if !strings.HasPrefix(host.Public.Host, "*.") {
				all = append(all, &awaited{site: site, host: host})
			}
		}
	}
	asked := atATime(len(all), options.Progress, func(i int) bool { return all[i].ask(bounded, world) })
	report := Report{Asked: asked, Findings: []Finding{}}
	for _, a := range all {
		if a.finding.Msg != "" {
			report.Findings = append(report.Findings, a.finding)
		}
	}
	if ctx.Err() != nil {
		return report, fmt.Errorf("ask for pending sites: ended with %d of %d asked: %w", asked, len(all), context.Cause(ctx))
	}
	return report, nil
}

// awaited is a public host of a site that is pending, and what was found.
type awaited struct {
	site    *config.Site
	host    config.Host
	finding Finding // of the goroutine that asks
}

func (a *awaited) say(level Level, mend, format string, args ...any) {
	a.finding = Finding{Level: level, Host: a.host.Public.String(), Kind: kindPending, Msg: fmt.Sprintf(format, args...), Mend: mend}
}

// ask looks where the host leads. It is false when it was not asked.
func (a *awaited) ask(ctx context.Context, world world) bool {
	if ctx.Err() != nil {
		if ctx.Err() == context.DeadlineExceeded {
			a.say(Error, "give more with --timeout", "not asked: the time was over before its turn")
		}
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, mostWait)
	defer cancel()
	addresses, err := world.lookup(ctx, a.host.Public.Host)
	if err != nil || len(addresses) == 0 {
		reason := ""
		if err != nil {
			reason = ": " + err.Error()
		}
		a.say(Warning, "let it lead to the edges", "the DNS has no address of it%s", reason)
		return true
	}
	var leads []string
	for _, address := range addresses {
		leads = append(leads, address.Unmap().String())
	}
	where := strings.Join(leads, ", ")
	if a.site.HTTP == config.HTTPOff {
		a.say(Note, "", "it leads to %s; plain HTTP was not asked, as the site has http: off", where)
		return true
	}
	authority := a.host.Public.Host
	if strings.Contains(authority, ":") {
		authority = "[" + authority + "]"
	}
	if a.host.Public.Scheme == "http" && a.host.Public.Port != "" {
		authority = net.JoinHostPort(a.host.Public.Host, a.host.Public.Port)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+authority+"/", nil)
	if err != nil {
		a.say(Warning, "", "it leads to %s, and can't be asked: %v", where, err)
		return true
	}
	res, err := world.get.RoundTrip(req)
	if err != nil {
		a.say(Warning, "open port 80 of the edges, or let the DNS lead to them", "it leads to %s, and plain HTTP does not answer: %v", where, err)
		return true
	}
	res.Body.Close()
	switch {
	case res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") != "":
		a.say(Note, "", "it leads to %s, which holds it", where)
	case res.StatusCode == http.StatusForbidden:
		a.say(Warning, "wait until the filing (备案) is through", "it leads to %s, and plain HTTP is answered with 403, as providers answer for a name whose ICP filing they do not know", where)
	default:
		a.say(Warning, "let it lead to the edges, with this file", "it leads to %s, which answers %s and not with the page of a site that is pending", where, statusLine(res.StatusCode))
	}
	return true
}
