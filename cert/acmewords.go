package cert

// What an authority, or the way to it, says, in words with a mend.

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// ACMEError is why no certificate was issued.
type ACMEError struct {
	Words      string    // what is wrong, and the mend
	Refused    bool      // the authority works, and said no: asking again soon is counted
	RetryAfter time.Time // when it wants to be asked again; zero when it doesn't say
	Err        error

	everybody bool // RetryAfter is not for this name alone
}

func (e *ACMEError) Error() string {
	if e.Words == "" {
		return oneLine(e.Err.Error())
	}
	return e.Words + " (" + oneLine(e.Err.Error()) + ")"
}

// mostWords of an error that others wrote: it may have a whole page in it.
const mostWords = 600

// oneLine is text in a line that can be read.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(strings.ReplaceAll(text, "\n", "; ")), " ")
	if len(text) > mostWords {
		text = strings.ToValidUTF8(text[:mostWords], "") + "…"
	}
	return text
}

func (e *ACMEError) Unwrap() error { return e.Err }

// ofChallenge reports whether the problem is that the proof failed, so that
// another kind of proof may do.
func ofChallenge(problem *acme.Problem) bool {
	switch problem.Type {
	case acme.ProblemTypeConnection, acme.ProblemTypeDNS, acme.ProblemTypeTLS, acme.ProblemTypeUnauthorized, acme.ProblemTypeIncorrectResponse:
		_, ok := problem.Resource.(acme.Authorization)
		return ok
	}
	return false
}

// explain finds the words for err.
func explain(err error, name string, settings *ACMESettings) *ACMEError {
	e := &ACMEError{Err: err}
	host := hostOf(settings.Directory)
	var tried []string
	for _, one := range joined(err) {
		var failed *challengeError
		if errors.As(one, &failed) {
			e.Refused = true
			tried = append(tried, failed.words(name))
		}
	}
	var problem acme.Problem
	switch {
	case len(tried) > 0:
		e.Words = strings.Join(tried, "; ")
	case errors.As(err, &problem):
		e.Refused = problem.Type != acme.ProblemTypeServerInternal && problem.Status < http.StatusInternalServerError
		e.Words = refusal(&problem, host)
	default:
		e.Words = unreached(err, host)
		if e.Words == "" && noDirectory.MatchString(err.Error()) {
			e.Words = "the CA " + host + " does not answer as an ACME directory does: is acme.ca the URL of one, and does nothing else answer in its place?"
		}
	}
	return e
}

// noDirectory is what acmez says of an answer that is no directory; a status of 5xx
// is trouble that passes.
var noDirectory = regexp.MustCompile(`provisioning client: (response Content-Type|server did not return|JSON-decoding|HTTP [34]|unexpected status)`)

// hostOf is the host of a directory's URL.
func hostOf(directory string) string {
	if u, err := url.Parse(directory); err == nil {
		return u.Host
	}
	return directory
}

// joined are the errors that err joins.
func joined(err error) []error {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		return several.Unwrap()
	}
	return []error{err}
}

// refusal is what a problem with the account or the order means.
func refusal(problem *acme.Problem, host string) string {
	switch problem.Type {
	case acme.ProblemTypeRateLimited:
		return "the CA " + host + " has a limit, and it is reached: it is asked again when it says so"
	case acme.ProblemTypeExternalAccountRequired:
		return "the CA " + host + " wants an account that is bound to one with it: write acme.eab with the id and the key that it gives its customers"
	case acme.ProblemTypeCAA:
		return "a CAA record of the domain lets other CAs alone issue for it: add " + host + "'s name to it, or take another CA"
	case acme.ProblemTypeRejectedIdentifier:
		return "the CA " + host + " issues no certificate for such a name"
	case acme.ProblemTypeUserActionRequired:
		return "the CA " + host + " wants something done by hand, such as to agree to new terms"
	case acme.ProblemTypeBadNonce:
		return "the CA " + host + " takes none of the nonces that it gives: is a cache, or another CA's machine, between?"
	case acme.ProblemTypeInvalidContact, acme.ProblemTypeUnsupportedContact:
		return "the CA " + host + " does not take the address acme.email"
	}
	return ""
}

// unreached is what an error of the way to the authority means.
func unreached(err error, host string) string {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var wrong x509.HostnameError
	var dns *net.DNSError
	var dial *net.OpError
	switch {
	case errors.As(err, &unknown):
		return "the CA " + host + " shows a certificate of an authority that this machine does not trust: write acme.trust with its root, if the CA is your own"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("the CA %s shows a certificate that is not in force by this machine's clock (%s): set the clock by NTP", host, time.Now().UTC().Format(time.DateTime))
	case errors.As(err, &wrong):
		return "the CA " + host + " shows a certificate for another name"
	case errors.As(err, &dns):
		return "the CA " + host + " is not found in the DNS"
	case errors.As(err, &dial) || errors.Is(err, syscall.ECONNRESET):
		return "the CA " + host + " can't be reached from this node"
	}
	return ""
}

// challengeURL is the URL in what an authority says.
var challengeURL = regexp.MustCompile(`https?://[^\s"'<>]+?/\.well-known/acme-challenge/[A-Za-z0-9_-]+`)

// got403 is the status that the authority was answered with, as Let's Encrypt
// (`Invalid response from http://…: 403`) and Pebble say it.
var got403 = regexp.MustCompile(`(^|[^0-9A-Za-z_-])403($|[^0-9A-Za-z_-])`)

// Providers in mainland China answer plain HTTP for a name without a filing in
// the place of the server, with 403 or a page of their own, and reset
// connections whose hello asks for it.
const filing = "in mainland China the provider blocks a name until its ICP filing is through; use dns-01 or wait"

// words is what a failed challenge means.
func (e *challengeError) words(name string) string {
	detail := e.err.Error() // has the problem's own status, too
	var problem acme.Problem
	if errors.As(e.err, &problem) {
		detail = problem.Detail
	}
	said := strings.ToLower(detail)
	has := func(some ...string) bool {
		for _, one := range some {
			if strings.Contains(said, one) {
				return true
			}
		}
		return false
	}
	at := challengeURL.FindString(detail)
	if at == "" {
		at = "http://" + name + "/.well-known/acme-challenge/…"
	}
	if notOffered(e.err) {
		return e.kind + ": the CA does not offer it: leave it out of challenges"
	}
	port, what := "80", "http-01"
	if e.kind == ChallengeTLSALPN {
		port, what = "443", "tls-alpn-01"
	}
	switch {
	case e.kind == ChallengeDNS:
		if problemOf(e.err) == acme.ProblemTypeDNS {
			return "dns-01: the CA can't look up _acme-challenge." + strings.TrimPrefix(name, "*.") + ": does the domain's DNS answer?"
		}
		return "dns-01: the CA did not find the record _acme-challenge." + strings.TrimPrefix(name, "*.") + " that was set: is the zone of acme.dns the one that the world asks?"
	case has("nxdomain", "no valid ip", "no valid a ", "no such host", "servfail", "no ip address"):
		return what + ": the CA finds no address of " + name + " in the DNS: set its A or AAAA record to this node"
	case e.kind == ChallengeHTTP && got403.MatchString(detail):
		if e.asked {
			return "http-01: this node was asked and answered, and the CA got 403 from someone else at " + at + ": some addresses of " + name + " lead to another server, or the provider blocks the name: " + filing
		}
		return "http-01: the CA got 403 from someone else at " + at + ": " + filing
	case has("connection reset", "reset by peer", "econnreset", "unexpected eof", ": eof"):
		return what + ": the CA's connection to port " + port + " of " + name + " was reset before this node answered: " + filing
	case has("connection refused"):
		return what + ": nobody listens on port " + port + " where the DNS says that " + name + " is: is the address this node's, and the port forwarded to it?"
	case has("timeout", "timed out", "deadline exceeded"):
		return what + ": the CA does not get through to port " + port + " of " + name + ": does a firewall or a security group keep it out, or is the address wrong?"
	case e.kind == ChallengeHTTP && !e.asked:
		return "http-01: another server, or a page of the provider, answered the CA at " + at + ": is the address of " + name + " this node's? " + strings.ToUpper(filing[:1]) + filing[1:]
	case e.kind == ChallengeTLSALPN && !e.asked:
		return "tls-alpn-01: another server answered the CA on port 443 of " + name + ", or something on the way ends TLS before this node: use http-01 or dns-01"
	}
	return what + ": the CA did not accept the answer for " + name
}
