package rewrite

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// A page's Content-Security-Policy has to admit the script and the worker. Each policy of the answer
// that does not is widened by as little as does it:
//
//   - A nonce that scripts may have (CSP level 3 section 2.3.1) is put on the script element.
//   - With 'strict-dynamic' and no nonce, the script's hash is added, and put on the element.
//   - Otherwise the full path of the file is added to the directive that scripts come under, and
//     that of the worker to its own; never 'self', never a whole host.
//   - Where trusted-types names policies, "causeway" is added, which the script makes for the
//     worker's address.
//
// A page on which no script may run gets no element, and its policies stay as they are.
type runtimeSource struct {
	host           string // the public host, "" when it is not known
	script, worker string // as sources
	hash           string // of the script
}

// policyDirective is one of a policy.
type policyDirective struct {
	name    string   // lower case
	sources []string // what stands behind it
	text    string   // as it came, unless changed
	changed bool
}

// securityPolicy is one policy; a header line may have several.
type securityPolicy struct {
	directives []policyDirective
	reports    bool // it is in force nowhere
}

var policyFields = []string{"Content-Security-Policy", "Content-Security-Policy-Report-Only"}

// admit widens the policies of h. nonce and hashed are what the element has to have; ok is false
// where scripts are out of the question.
func (s runtimeSource) admit(h http.Header) (nonce string, hashed, ok bool) {
	lines := map[string][][]*securityPolicy{}
	var all []*securityPolicy
	for _, field := range policyFields {
		for _, line := range h[field] {
			policies := readPolicies(line, field != policyFields[0])
			lines[field] = append(lines[field], policies)
			all = append(all, policies...)
		}
	}
	for _, p := range all {
		script := p.governs(scriptDirectives)
		if script != nil && !p.reports && script.none() {
			return "", false, false
		}
		if script != nil && nonce == "" && len(script.nonces()) > 0 {
			nonce = script.nonces()[0]
		}
	}
	hashed = len(h["Integrity-Policy"]) > 0
	for _, p := range all {
		hashed = s.widen(p, nonce) || hashed
	}
	for field, list := range lines {
		for i, policies := range list {
			h[field][i] = writePolicies(h[field][i], policies)
		}
	}
	return nonce, hashed, true
}

// widen makes one policy admit the files; hashed says that it admits the script by its hash.
func (s runtimeSource) widen(p *securityPolicy, nonce string) (hashed bool) {
	if d := p.governs(scriptDirectives); d != nil && !slices.Contains(d.nonces(), nonce) {
		switch {
		case p.reports && d.none():
			return false
		case d.has("'strict-dynamic'"):
			d.add("'" + s.hash + "'")
			hashed = true
		case !d.admits(s.host):
			d.add(s.script)
		}
	}
	if d := p.governs(workerDirectives); d != nil && !d.has("'strict-dynamic'") && !d.admits(s.host) {
		d.add(s.worker)
	}
	if d := p.governs([]string{"trusted-types"}); d != nil && !d.has("causeway") && !d.has("*") {
		d.add("causeway")
	}
	return hashed
}

// What scripts and workers come under: the first of these that a policy has (CSP level 3 section
// 6.8.3).
var (
	scriptDirectives = []string{"script-src-elem", "script-src", "default-src"}
	workerDirectives = []string{"worker-src", "child-src", "script-src", "default-src"}
)

// governs is the first of the directives that the policy has, nil when it has none. Of two with one
// name the first counts.
func (p *securityPolicy) governs(names []string) *policyDirective {
	for _, name := range names {
		for i := range p.directives {
			if d := &p.directives[i]; d.name == name {
				return d
			}
		}
	}
	return nil
}

// has looks for a keyword.
func (d *policyDirective) has(keyword string) bool {
	return slices.ContainsFunc(d.sources, func(s string) bool { return strings.EqualFold(s, keyword) })
}

// none says whether nothing at all is admitted.
func (d *policyDirective) none() bool {
	return len(d.sources) == 0 || len(d.sources) == 1 && strings.EqualFold(d.sources[0], "'none'")
}

// admits says whether files of the public host are admitted whole. It knows what sites write, and
// may say no of what is admitted by a wildcard.
func (d *policyDirective) admits(host string) bool {
	return slices.ContainsFunc(d.sources, func(s string) bool {
		s = strings.ToLower(s)
		if s == "*" || s == "https:" || s == "http:" || s == "'self'" {
			return true
		}
		_, authority, found := strings.Cut(s, "://")
		if !found {
			authority = s
		}
		return host != "" && strings.TrimSuffix(authority, "/") == host
	})
}

// nonceSource is a nonce as policies have it, and nothing that could end an attribute.
var nonceSource = regexp.MustCompile(`^'(?i:nonce)-([A-Za-z0-9+/_-]+={0,2})'$`)

func (d *policyDirective) nonces() (list []string) {
	for _, source := range d.sources {
		if found := nonceSource.FindStringSubmatch(source); found != nil {
			list = append(list, found[1])
		}
	}
	return list
}

// add adds a source, once.
func (d *policyDirective) add(source string) {
	switch {
	case slices.Contains(d.sources, source):
		return
	case d.none():
		d.sources = []string{source}
	default:
		d.sources = append(d.sources, source)
	}
	d.changed = true
}

// readPolicies parts a header line at commas, and each policy at semicolons.
func readPolicies(line string, reports bool) []*securityPolicy {
	var policies []*securityPolicy
	for text := range strings.SplitSeq(line, ",") {
		p := &securityPolicy{reports: reports}
		for part := range strings.SplitSeq(text, ";") {
			d := policyDirective{text: part}
			if words := strings.Fields(part); len(words) > 0 {
				d.name, d.sources = strings.ToLower(words[0]), words[1:]
			}
			p.directives = append(p.directives, d)
		}
		policies = append(policies, p)
	}
	return policies
}

// writePolicies is the line again, to the letter where nothing was changed.
func writePolicies(line string, policies []*securityPolicy) string {
	var texts []string
	for _, p := range policies {
		var parts []string
		for _, d := range p.directives {
			if d.changed {
				space := d.text[:len(d.text)-len(strings.TrimLeftFunc(d.text, unicode.IsSpace))]
				d.text = space + d.name + " " + strings.Join(d.sources, " ")
			}
			parts = append(parts, d.text)
		}
		texts = append(texts, strings.Join(parts, ";"))
	}
	return strings.Join(texts, ",")
}
