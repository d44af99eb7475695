package cert

import (
	"errors"
	"strings"
	"testing"

	"github.com/mholt/acmez/v3/acme"
)

// What Let's Encrypt says, in its words (from its forum and from boulder's tests),
// and what of ours is in the error then.
func TestACMEWords(t *testing.T) {
	const at = "http://example.cn/.well-known/acme-challenge/abc-_1"
	for _, c := range []struct{ kind, problem, detail, want string }{
		{ChallengeHTTP, acme.ProblemTypeUnauthorized, "203.0.113.9: Invalid response from " + at + ": 403", "the CA got 403 from someone else at " + at + ": in mainland China the provider blocks a name until its ICP filing is through; use dns-01 or wait"},
		{ChallengeHTTP, acme.ProblemTypeUnauthorized, "203.0.113.9: Invalid response from " + at + ": 404", "another server, or a page of the provider"},
		{ChallengeHTTP, acme.ProblemTypeUnauthorized, "203.0.113.9: Invalid response from " + at + ": \"<html>403x\"", "another server, or a page of the provider"},
		{ChallengeHTTP, acme.ProblemTypeConnection, "203.0.113.9: Fetching " + at + ": Connection reset by peer", "port 80 of example.cn was reset before this node answered: in mainland China"},
		{ChallengeTLSALPN, acme.ProblemTypeConnection, "203.0.113.9: Connection reset by peer", "port 443 of example.cn was reset before this node answered: in mainland China"},
		{ChallengeHTTP, acme.ProblemTypeConnection, "203.0.113.9: Fetching " + at + ": Timeout during connect (likely firewall problem)", "does not get through to port 80"},
		{ChallengeTLSALPN, acme.ProblemTypeConnection, "203.0.113.9: Connection refused", "nobody listens on port 443"},
		{ChallengeHTTP, acme.ProblemTypeDNS, "DNS problem: NXDOMAIN looking up A for example.cn - check that a DNS record exists for this domain", "finds no address of example.cn"},
		{ChallengeHTTP, acme.ProblemTypeDNS, "no valid A records found for example.cn; no valid AAAA records found for example.cn", "finds no address of example.cn"},
		{ChallengeTLSALPN, acme.ProblemTypeUnauthorized, "Cannot negotiate ALPN protocol \"acme-tls/1\" for tls-alpn-01 challenge", "another server answered the CA on port 443"},
		{ChallengeDNS, acme.ProblemTypeUnauthorized, "No TXT record found at _acme-challenge.example.cn", "did not find the record _acme-challenge.example.cn"},
	} {
		problem := acme.Problem{Type: c.problem, Status: 403, Detail: c.detail}
		err := explain(errors.Join(&challengeError{kind: c.kind, err: problem}), "example.cn", &ACMESettings{Directory: "https://ca.example/dir"})
		if !strings.HasPrefix(err.Error(), c.kind+": ") || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.detail) || !err.Refused {
			t.Errorf("%s\nis told as %v", c.detail, err)
		}
	}
}
