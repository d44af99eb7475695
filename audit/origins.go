package audit

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"causeway/config"
	"causeway/outcome"
	"causeway/relay"
	"causeway/rewrite"
)

// atOnce is how many hosts are asked for at a time: few enough that one origin
// with many hosts does not take it for an attack.
const atOnce = 4

// Options are how Origins asks.
type Options struct {
	Timeout  time.Duration       // for all of it
	Given    time.Duration       // what was given, of which Timeout is left; 0 is Timeout
	Progress func(asked, of int) // called first and after each host, one call at a time; nil for none
}

// Origins asks for `/` of every exact public host of the file as the relay node
// would, and says what is wrong with the answers. On a node that is none it
// asks nothing: that the origins answer there says nothing of the relay. The
// error says that ctx ended it early, or that no relay could be made; the
// report has what was found until then.
func Origins(ctx context.Context, cfg *config.Config, node *config.Node, options Options) (Report, error) {
	if len(cfg.Sites) == 0 { // forwards alone
		return Report{Findings: []Finding{}}, nil
	}
	if !node.IsRelay() {
		return Report{Findings: []Finding{onRelays(cfg, node)}}, nil
	}
	server, err := relay.New(cfg, relay.Options{Node: node.Name, Local: node.Role == config.RoleBoth, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return Report{Findings: []Finding{}}, fmt.Errorf("ask the origins: %w", err)
	}
	defer server.Close()
	return origins(ctx, cfg, server, options)
}

// onRelays says where origins are asked.
func onRelays(cfg *config.Config, edge *config.Node) Finding {
	var relays []string
	for _, node := range cfg.Nodes {
		if node.IsRelay() {
			relays = append(relays, "causeway check --live --node "+node.Name)
		}
	}
	return Finding{Level: Note, Kind: kindNotAsked,
		Msg:  "not asked: " + edge.Name + " is an edge, and relays reach them",
		Mend: "on a relay: " + strings.Join(relays, ", or ")}
}

// origins asks through relay, an http.RoundTripper for requests to public hosts.
func origins(ctx context.Context, cfg *config.Config, relay http.RoundTripper, options Options) (Report, error) {
	all := publicHosts(cfg)
	bounded, cancel := context.WithTimeoutCause(ctx, options.Timeout, noAnswerWithin(cmp.Or(options.Given, options.Timeout)))
	defer cancel()
	wanted := make([]*visit, 0, len(all))
	for _, v := range all {
		if strings.HasPrefix(v.public.Host, "*.") {
			v.add(Note, kindNotAsked, "", "not asked: a wildcard, which stands for any number of hosts")
			continue
		}
		wanted = append(wanted, v)
	}
	asked := askAll(bounded, relay, wanted, options.Progress)
	report := Report{Asked: asked, Findings: []Finding{}}
	for _, v := range all {
		report.Findings = append(report.Findings, v.findings...)
	}
	if ctx.Err() != nil {
		return report, fmt.Errorf("ask the origins: ended with %d of %d asked: %w", asked, len(wanted), context.Cause(ctx))
	}
	return report, nil
}

// publicHosts are all of the file, in its order.
func publicHosts(cfg *config.Config) (all []*visit) {
	for _, site := range cfg.Sites {
		for _, host := range site.Hosts {
			all = append(all, &visit{cfg: cfg, site: site, public: host.Public})
		}
	}
	return all
}

// askAll asks for all hosts, atOnce at a time, and says how many it got to
// before ctx ended.
func askAll(ctx context.Context, relay http.RoundTripper, visits []*visit, progress func(asked, of int)) int {
	return atATime(len(visits), progress, func(i int) bool { return visits[i].ask(ctx, relay) })
}

// atATime asks for each of several, atOnce at a time, and says how many it got to.
func atATime(several int, progress func(asked, of int), ask func(i int) bool) int {
	if progress == nil {
		progress = func(int, int) {}
	}
	var next atomic.Int64
	var running sync.WaitGroup
	var mu sync.Mutex // guards asked
	asked := 0
	progress(asked, several)
	for range min(atOnce, several) {
		running.Go(func() {
			for i := next.Add(1) - 1; i < int64(several); i = next.Add(1) - 1 {
				if !ask(int(i)) {
					continue
				}
				mu.Lock()
				asked++
				progress(asked, several)
				mu.Unlock()
			}
		})
	}
	running.Wait()
	return asked
}

// visit is one public host, and what was found there.
type visit struct {
	cfg      *config.Config
	site     *config.Site
	public   rewrite.Base
	findings []Finding // in the order found; of the goroutine that asks
}

func (v *visit) add(level Level, kind, mend, format string, args ...any) {
	v.findings = append(v.findings, Finding{Level: level, Host: v.public.String(), Kind: kind, Msg: fmt.Sprintf(format, args...), Mend: mend})
}

// ask asks for the host's first page. It is false when there was no time to, or
// when ctx was cancelled meanwhile.
func (v *visit) ask(ctx context.Context, relay http.RoundTripper) bool {
	if ctx.Err() != nil {
		if ctx.Err() == context.DeadlineExceeded {
			v.add(Error, kindNotAsked, "give more with --timeout", "not asked: the time was over before its turn")
		}
		return false
	}
	limit := v.cfg.Limits.ConnectTimeout + v.cfg.Limits.OriginTimeout
	bounded, cancel := context.WithTimeoutCause(ctx, limit, noAnswerWithin(limit))
	defer cancel()
	req, err := http.NewRequestWithContext(bounded, http.MethodGet, v.public.String()+"/", nil)
	if err != nil {
		v.failed(err)
		return true
	}
	req.Header = http.Header{
		"User-Agent": {"causeway-check"},
		"Accept":     {"*/*"},
		// What edges say of a visit: applications behind plain HTTP build their redirects on it.
		"X-Forwarded-Proto": {v.public.Scheme},
		"X-Forwarded-Host":  {v.public.Authority()},
	}
	res, err := relay.RoundTrip(req)
	if err != nil {
		if ctx.Err() == context.Canceled {
			return false
		}
		v.failed(err)
		return true
	}
	res.Body.Close()
	v.answered(res)
	return true
}

// noAnswerWithin is why a context ended that gave an origin so long.
func noAnswerWithin(limit time.Duration) error {
	return outcome.Errorf(outcome.OriginSlow, "no answer within %v", limit)
}

// failed says why there was no answer. A route that stays on the other side is
// no fault of the origin's.
func (v *visit) failed(err error) {
	kind := outcome.KindOf(err)
	msg := strings.ReplaceAll(err.Error(), "\n", " | ") // several addresses
	if kind == outcome.Stays {
		v.add(Note, kindNotAsked, "", "not asked: its / stays in China, and is the edge's to ask for")
		return
	}
	mend, known := mends[kind]
	if !known {
		mend = "this should not happen: please report it"
	}
	v.add(Error, string(kind), mend, "%s", msg)
}

// mends are where to look for each kind of failure that a relay finds; they are
// the last column of docs/errors.md for one who has the machine before them.
var mends = map[outcome.Kind]string{
	outcome.OriginName: "see whether this machine can resolve it, correct the name in hosts, or write where to dial: origin: {connect: […]}",
	outcome.OriginDial: "start the origin, let this machine through its firewall, or correct connect",
	outcome.OriginTLS:  "give the origin a certificate in force for that name, or write who signed it: origin: {tls: {ca: ca.pem}}",
	outcome.OriginSlow: "see why the origin takes so long, or give it more: --timeout here, limits.origin_timeout in the file",
	outcome.OriginBad:  "see that the origin speaks HTTP at that address, and limits.header_bytes",
	outcome.OriginCut:  "look into the origin's log: it closed the connection before it had answered",
}
