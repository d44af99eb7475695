package audit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"causeway/config"
	"causeway/forward"
	"causeway/resolve"
)

// Targets checks every target of the forwards that node does, each address of it
// by itself, as the node does in service, and says which fail. When all targets
// of a forward fail its clients get no answer: that is an error; else it is a
// warning, as the others get the connections. The error says that ctx ended it
// early.
func Targets(ctx context.Context, cfg *config.Config, node *config.Node, options Options) (Report, error) {
	names := resolve.New()
	defer names.Close()
	bounded, cancel := context.WithTimeout(ctx, options.Timeout)
	defer cancel()
	var all []*knock
	for _, f := range cfg.ForwardsOf(node) {
		for _, target := range f.Targets {
			all = append(all, &knock{forward: f, target: target})
		}
	}
	asked := atATime(len(all), options.Progress, func(i int) bool { return all[i].ask(bounded, names) })
	report := Report{Asked: asked, Findings: []Finding{}}
	for _, k := range all {
		for _, finding := range k.findings {
			if finding.Kind == kindTarget && k.othersServe(all) {
				finding.Level = Warning
			}
			report.Findings = append(report.Findings, finding)
		}
	}
	if ctx.Err() != nil {
		return report, fmt.Errorf("ask the targets: ended with %d of %d asked: %w", asked, len(all), context.Cause(ctx))
	}
	return report, nil
}

// knock is one target of a forward, and what was found there.
type knock struct {
	forward  *config.Forward
	target   config.Target
	serves   bool // an address of it is well; of the goroutine that asks, as are the findings
	findings []Finding
}

func (k *knock) add(level Level, kind, mend, msg string) {
	k.findings = append(k.findings, Finding{Level: level, Forward: k.forward.Name, Target: k.target.To, Kind: kind, Msg: msg, Mend: mend})
}

// othersServe says whether a target of the same forward is well.
func (k *knock) othersServe(all []*knock) bool {
	return slices.ContainsFunc(all, func(other *knock) bool {
		return other.forward == k.forward && other.serves && other.target.Weight > 0
	})
}

// ask checks the target's addresses. It is false when it was not asked.
func (k *knock) ask(ctx context.Context, names *resolve.Resolver) bool {
	if ctx.Err() != nil {
		if ctx.Err() == context.DeadlineExceeded {
			k.add(Error, kindNotAsked, "give more with --timeout", "not asked: the time was over before its turn")
		}
		return false
	}
	if k.forward.Health.Check == config.CheckOff && !slices.Contains(k.forward.Protocols, "tcp") {
		k.add(Note, kindNotAsked, "", "not asked: it has UDP alone, and its checks are off")
		return false
	}
	addresses, err := forward.Ask(ctx, k.forward, k.target, names.Lookup)
	if ctx.Err() == context.Canceled {
		return false
	}
	if err != nil {
		k.failed(err)
	}
	for _, at := range addresses {
		if at.Err == nil {
			k.serves = true
		} else {
			k.failed(at.Err)
		}
	}
	return true
}

// failed says why an address failed, and where to look.
func (k *knock) failed(err error) {
	var unresolved *net.DNSError
	var untrusted *tls.CertificateVerificationError
	var connection *net.OpError
	mend := "look into the target's own log, or correct health"
	switch {
	case errors.As(err, &unresolved):
		mend = "see whether this machine can resolve it, or write addresses in targets"
	case errors.As(err, &untrusted):
		mend = "give the target a certificate in force for that name, or write the name and who signed it: health: {host: example.com, ca: ca.pem}"
	case errors.As(err, &connection) && connection.Op == "dial":
		mend = "start the target, let this machine through its firewall, or correct targets"
	}
	k.add(Error, kindTarget, mend, strings.ReplaceAll(err.Error(), "\n", " | "))
}
