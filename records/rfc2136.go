package records

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// update changes a zone at its primary server by dynamic updates (RFC 2136),
// signed with a shared key (TSIG, RFC 8945), over TCP.
type update struct {
	zone, server, key, secretFile, algorithm string
}

const (
	updateTTL   = 60 * time.Second // of a record without a TTL
	updateFudge = 300              // seconds that two clocks may differ, RFC 8945 10
)

func newRFC2136(c Config) *update {
	server := c.Server
	if _, _, err := net.SplitHostPort(server); err != nil {
		server = net.JoinHostPort(strings.Trim(server, "[]"), "53")
	}
	algorithm := c.Algorithm
	if algorithm == "" {
		algorithm = "hmac-sha256"
	}
	return &update{
		zone: strings.ToLower(strings.TrimSuffix(c.Zone, ".")), server: server,
		key: dns.CanonicalName(c.Key), secretFile: c.Secret, algorithm: algorithm + ".",
	}
}

func (u *update) add(ctx context.Context, set set) error {
	_, err := u.change(ctx, set, func(m *dns.Msg, records []dns.RR) { m.Insert(records) })
	return err
}

func (u *update) remove(ctx context.Context, set set) ([]string, error) {
	there, err := u.lookup(ctx, set)
	if err != nil || len(there) == 0 {
		return nil, err
	}
	set.values = there
	if _, err = u.change(ctx, set, func(m *dns.Msg, records []dns.RR) { m.Remove(records) }); err != nil {
		return nil, err
	}
	return there, nil
}

// change sends an update of the zone that the set is in.
func (u *update) change(ctx context.Context, set set, with func(*dns.Msg, []dns.RR)) (string, error) {
	zone, err := u.find(ctx, set.name)
	if err != nil {
		return "", err
	}
	records, err := set.rrs()
	if err != nil {
		return "", err
	}
	m := new(dns.Msg)
	m.SetUpdate(dns.Fqdn(zone))
	with(m, records)
	answer, err := u.ask(ctx, m)
	if err != nil {
		return "", fmt.Errorf("update the zone %s at %s: %w", zone, u.server, err)
	}
	if answer.Rcode != dns.RcodeSuccess {
		return "", fmt.Errorf("update the zone %s at %s: %w", zone, u.server, refused(answer.Rcode))
	}
	return zone, nil
}

// rrs are the records of a set.
func (s set) rrs() ([]dns.RR, error) {
	ttl := uint32(s.ttl / time.Second)
	if ttl == 0 {
		ttl = uint32(updateTTL / time.Second)
	}
	var list []dns.RR
	for _, value := range s.wire() {
		if s.kind == "CNAME" {
			value = dns.Fqdn(value)
		}
		rr, err := dns.NewRR(fmt.Sprintf("%s. %d IN %s %s", s.name, ttl, s.kind, value))
		if err != nil || rr == nil {
			return nil, fmt.Errorf("%q is not a value of %s", value, s.kind)
		}
		list = append(list, rr)
	}
	return list, nil
}

// lookup are those of the set's values that the server has.
func (u *update) lookup(ctx context.Context, set set) ([]string, error) {
	records, err := set.rrs()
	if err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	m.SetQuestion(set.name+".", dns.StringToType[set.kind])
	answer, err := u.ask(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", u.server, err)
	}
	if answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError {
		return nil, fmt.Errorf("ask %s: %w", u.server, refused(answer.Rcode))
	}
	var there []string
	for i, record := range records {
		for _, found := range answer.Answer {
			if dns.IsDuplicate(record, found) {
				there = append(there, set.values[i])
				break
			}
		}
	}
	return there, nil
}

// find is the zone of name: that of the SOA record with which the server answers
// for it or for what is above it.
func (u *update) find(ctx context.Context, name string) (string, error) {
	if u.zone != "" {
		if !within(name, u.zone) {
			return "", fmt.Errorf("%s is not in the zone %s of the file", name, u.zone)
		}
		return u.zone, nil
	}
	var last error
	for _, candidate := range suffixes(name) {
		m := new(dns.Msg)
		m.SetQuestion(candidate+".", dns.TypeSOA)
		m.RecursionDesired = false
		answer, err := u.ask(ctx, m)
		if err != nil {
			return "", fmt.Errorf("ask %s for the zone of %s: %w", u.server, name, err)
		}
		if answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError {
			last = refused(answer.Rcode)
			continue
		}
		if len(answer.Ns) > 0 && answer.Ns[0].Header().Rrtype == dns.TypeNS && !answer.Authoritative && len(answer.Answer) == 0 {
			return "", fmt.Errorf("%s hands %s to other servers; write the primary server of that zone", u.server, strings.TrimSuffix(answer.Ns[0].Header().Name, "."))
		}
		// The answer for a zone itself, or beside "no such name" that of the zone
		// that the name is in (RFC 2308 3).
		for _, rr := range append(answer.Answer, answer.Ns...) {
			soa, is := rr.(*dns.SOA)
			if zone := strings.TrimSuffix(strings.ToLower(rr.Header().Name), "."); is && soa != nil && answer.Authoritative && within(name, zone) {
				return zone, nil
			}
		}
	}
	if last != nil {
		return "", fmt.Errorf("ask %s for the zone of %s: %w", u.server, name, last)
	}
	return "", fmt.Errorf("%s serves no zone that holds %s; write the zone's primary server", u.server, name)
}

// ask sends a message, signed, and checks the signature of the answer.
func (u *update) ask(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	secret, err := readSecret(u.secretFile)
	if err != nil {
		return nil, err
	}
	client := &dns.Client{Net: "tcp", TsigSecret: map[string]string{u.key: secret}, Timeout: 10 * time.Second}
	m.SetTsig(u.key, u.algorithm, updateFudge, time.Now().Unix())
	answer, _, err := client.ExchangeContext(ctx, m, u.server)
	if answer != nil {
		if t := answer.IsTsig(); t != nil && t.Error != dns.RcodeSuccess {
			return nil, badKey(t.Error)
		}
	}
	switch {
	case errors.Is(err, dns.ErrAuth):
		return nil, refused(dns.RcodeNotAuth)
	case errors.Is(err, dns.ErrSig), errors.Is(err, dns.ErrSecret), errors.Is(err, dns.ErrKey), errors.Is(err, dns.ErrKeyAlg), errors.Is(err, dns.ErrTime):
		return nil, fmt.Errorf("the answer's signature is wrong (%w); check key, secret and algorithm", err)
	case err != nil && strings.Contains(err.Error(), "base64"):
		return nil, errors.New("the secret is not base64; write the secret of the key alone, as tsig-keygen prints it")
	case err != nil:
		return nil, err
	case answer.IsTsig() == nil && answer.Rcode == dns.RcodeSuccess:
		return nil, errors.New("the answer has no signature; the server must know the key")
	}
	return answer, nil
}

// badKey words the errors of RFC 8945 3.
func badKey(code uint16) error {
	switch code {
	case dns.RcodeBadSig:
		return errors.New("the server refused the signature (BADSIG); check secret and algorithm")
	case dns.RcodeBadKey:
		return errors.New("the server does not know the key (BADKEY); check key and algorithm")
	case dns.RcodeBadTime:
		return errors.New("the server's clock is another (BADTIME); have both set by NTP")
	}
	return fmt.Errorf("the server refused the signature (%s)", dns.RcodeToString[int(code)])
}

// refused words the answers of RFC 2136 2.2.
func refused(rcode int) error {
	switch rcode {
	case dns.RcodeRefused:
		return errors.New("the server refused (REFUSED); allow the key to update the name, in BIND with allow-update or update-policy")
	case dns.RcodeNotAuth:
		return errors.New("the server does not serve that zone or does not know the key (NOTAUTH); write the zone's primary server, and check key")
	case dns.RcodeNotZone:
		return errors.New("the name is not in the zone (NOTZONE); check zone")
	case dns.RcodeServerFailure:
		return errors.New("the server failed (SERVFAIL); see its log: often it may not write the zone's journal")
	}
	return fmt.Errorf("the server answered %s", dns.RcodeToString[rcode])
}
