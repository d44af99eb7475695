// Package audit asks the world what the file alone can't say, and gives
// findings, each with its mend.
//
// The path of a check of the origins:
//
//  1. Origins makes a relay of its own out of the file, so that origins are
//     dialled, verified and mapped as in service (origins.go),
//  2. `/` of each exact public host is asked for, a few at a time, within the
//     limits of the file and of the caller,
//  3. a failure becomes an error with its kind and where to look; of an answer,
//     the header that visitors would get is looked at (answer.go),
//  4. the findings come in the order of the file.
//
// Targets checks the targets of forwards as the node that does them checks them
// (targets.go). Missing says what a site that is pending lacks by the file, and
// Pending whether the world leads to it (pending.go). Machine looks at the kernel that it runs on, for what slows
// links down (machine.go). Chains asks for the certificates that are missing in
// the chains of sites (chains.go).
//
// It refuses to do more than GET, and of origins to follow redirects, to send or
// keep cookies, and to read bodies.
package audit

import "strings"

// Level is how much a finding matters.
type Level string

// The levels.
const (
	Error   Level = "error"   // visitors get no answer
	Warning Level = "warning" // they get one that does more than it seems to, or slower than need be
	Note    Level = "note"    // what was not asked, or is not passed on, and why
)

// The kinds of findings that are no outcome.Kind.
const (
	kindStatus        = "status"
	kindHSTS          = "hsts"
	kindClearSiteData = "clear_site_data"
	kindRedirect      = "redirect"
	kindNotAsked      = "not_asked"
	kindPending       = "pending"
	kindCongestion    = "congestion_control"
	kindSlowStart     = "slow_start_after_idle"
	kindBuffers       = "socket_buffers"
	kindTarget        = "target"
)

// Finding is one thing to know about one public host, about one target of a
// forward, or about this machine.
type Finding struct {
	Level   Level  `json:"level"`
	Host    string `json:"host"`              // the public base: https://example.cn; "" for all of them, for forwards, and for the machine
	Forward string `json:"forward,omitempty"` // its name
	Target  string `json:"target,omitempty"`  // of the forward, as in the file
	Kind    string `json:"kind"`              // that of docs/errors.md for a failed request, else status, hsts, clear_site_data, redirect, target, pending, missing_intermediate, file or not_asked, or of the machine congestion_control, slow_start_after_idle, socket_buffers or kernel
	Msg     string `json:"msg"`               // what was found
	Mend    string `json:"mend"`              // what to do about it; "" when nothing need be done
}

// KindFile is what is warned of in the file, or in a file that it names.
const KindFile = "file"

// KindKernel is what this machine lacks for forwards of the kernel.
const KindKernel = "kernel"

// String is the one-line form: `https://example.cn: warning: what; mend`. An
// error has its kind too, under which docs/errors.md knows it.
func (f Finding) String() string {
	subject, level := f.Host, string(f.Level)
	switch {
	case f.Kind == kindCongestion || f.Kind == kindSlowStart || f.Kind == kindBuffers || f.Kind == KindKernel:
		subject = "this machine"
	case f.Forward != "":
		subject = "forward " + f.Forward + ": target " + f.Target
	case subject == "":
		subject = "origins"
	}
	if f.Level == Error {
		level += ": " + f.Kind
	}
	line := []string{subject, level, f.Msg}
	if f.Mend == "" {
		return strings.Join(line, ": ")
	}
	return strings.Join(line, ": ") + "; " + f.Mend
}

// Report is what came of a check.
type Report struct {
	Asked    int       // how many public hosts, or targets, were asked for
	Findings []Finding // in the order of the file; never nil
}

// Count is how many findings of a level there are.
func (r Report) Count(level Level) int {
	n := 0
	for _, f := range r.Findings {
		if f.Level == level {
			n++
		}
	}
	return n
}
