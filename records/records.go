package records

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/libdns/libdns"
)

// Provider sets and removes records. Names are relative to the zone given, or
// absolute with a dot at their end. Types are TXT, A, AAAA and CNAME; a record to
// delete must have its type and its value. To append what is there, or to delete
// what is not, is no error. It is safe for use by any number of goroutines.
type Provider interface {
	libdns.RecordAppender
	libdns.RecordDeleter
}

// Names of the providers.
const (
	Alidns  = "alidns"
	Route53 = "route53"
	RFC2136 = "rfc2136"
	Hook    = "hook"
)

// Config names a provider and what it needs.
type Config struct {
	Provider string // alidns, route53, rfc2136 or hook

	// Zone is not looked for when it is given: its name, or, with route53, the id
	// of the hosted zone.
	Zone string

	AccessKeyID     string // alidns and route53; "" with route53: the SDK's credential chain
	AccessKeySecret string // alidns and route53: the file with it
	Region          string // route53, "" for us-east-1 or that of the credential chain
	Endpoint        string // alidns and route53: base URL, "" for the vendor's

	Server    string // rfc2136: host:port
	Key       string // rfc2136: name of the TSIG key
	Secret    string // rfc2136: the file with the key in base64
	Algorithm string // rfc2136: hmac-sha256 or hmac-sha512

	Command []string // hook: the program and its first arguments

	// Timeout of one call of AppendRecords or DeleteRecords; 0 is 2 minutes.
	Timeout time.Duration

	// Log gets what is strange and yet no failure; nil is nowhere.
	Log *slog.Logger
}

// Limits of what a provider may say and take.
const (
	defaultTimeout = 2 * time.Minute
	maxAnswer      = 1 << 20 // an answer of an API
	maxSecret      = 4 << 10 // a file with a secret
)

// New makes the provider of c. It reads the secret's file, to fail now and not
// when a certificate is due; it asks nobody.
func New(c Config) (Provider, error) {
	if c.Timeout <= 0 {
		c.Timeout = defaultTimeout
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	var inner changer
	var secret string
	switch c.Provider {
	case Alidns:
		inner, secret = newAlidns(c), c.AccessKeySecret
	case Route53:
		inner = newRoute53(c)
		if c.AccessKeyID != "" {
			secret = c.AccessKeySecret
		}
	case RFC2136:
		inner, secret = newRFC2136(c), c.Secret
	case Hook:
		if len(c.Command) == 0 {
			return nil, errors.New("hook: there is no command")
		}
		inner = newHook(c)
	default:
		return nil, fmt.Errorf("there is no DNS provider %q: alidns, route53, rfc2136 and hook are known", c.Provider)
	}
	if secret != "" {
		if err := checkSecret(secret, c.Log); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Provider, err)
		}
	}
	return &provider{name: c.Provider, timeout: c.Timeout, changer: inner}, nil
}

// changer is what providers differ in. The records of one call have one name and
// one type.
type changer interface {
	add(ctx context.Context, set set) error
	// remove tells which of the values were there.
	remove(ctx context.Context, set set) ([]string, error)
}

// set is some values of one name and type.
type set struct {
	name   string // absolute, small letters, without the dot at its end
	kind   string // TXT, A, AAAA, CNAME
	ttl    time.Duration
	values []string
}

// rrset is a name and a type.
type rrset struct{ name, kind string }

// provider is a changer with the interfaces of libdns.
type provider struct {
	name    string
	timeout time.Duration
	changer
}

// AppendRecords sets records beside those there are.
func (p *provider) AppendRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	sets, err := setsOf(zone, records)
	if err != nil {
		return nil, fmt.Errorf("%s: set a record: %w", p.name, err)
	}
	var done []libdns.Record
	for _, set := range sets {
		if err := p.add(ctx, set); err != nil {
			return done, fmt.Errorf("%s: set %s of %s: %w", p.name, set.kind, set.name, err)
		}
		done = append(done, set.records(zone, set.values)...)
	}
	return done, nil
}

// DeleteRecords removes records by name, type and value, and gives those that
// were there.
func (p *provider) DeleteRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	sets, err := setsOf(zone, records)
	if err != nil {
		return nil, fmt.Errorf("%s: remove a record: %w", p.name, err)
	}
	var done []libdns.Record
	for _, set := range sets {
		removed, err := p.remove(ctx, set)
		done = append(done, set.records(zone, removed)...)
		if err != nil {
			return done, fmt.Errorf("%s: remove %s of %s: %w", p.name, set.kind, set.name, err)
		}
	}
	return done, nil
}

// setsOf reads records, those of one name and type together.
func setsOf(zone string, records []libdns.Record) ([]set, error) {
	var sets []set
	at := map[rrset]int{}
	for _, record := range records {
		rr := record.RR()
		name := strings.ToLower(strings.TrimSuffix(libdns.AbsoluteName(rr.Name, zone), "."))
		kind := strings.ToUpper(rr.Type)
		switch {
		case !plainName(name):
			return nil, fmt.Errorf("%q is not a domain name", name)
		case !slices.Contains([]string{"TXT", "A", "AAAA", "CNAME"}, kind):
			return nil, fmt.Errorf("records of type %q are not for this package: TXT, A, AAAA and CNAME are", rr.Type)
		case rr.Data == "" || !printable(rr.Data):
			return nil, fmt.Errorf("%q is not a value of %s of %s", rr.Data, kind, name)
		}
		key := rrset{name, kind}
		i, known := at[key]
		if !known {
			i = len(sets)
			at[key] = i
			sets = append(sets, set{name: name, kind: kind, ttl: rr.TTL})
		}
		if !slices.Contains(sets[i].values, rr.Data) {
			sets[i].values = append(sets[i].values, rr.Data)
		}
	}
	return sets, nil
}

// records are the set's values as libdns has them, relative to zone.
func (s set) records(zone string, values []string) []libdns.Record {
	var list []libdns.Record
	for _, value := range values {
		rr := libdns.RR{Name: libdns.RelativeName(s.name, strings.ToLower(zone)), TTL: s.ttl, Type: s.kind, Data: value}
		if parsed, err := rr.Parse(); err == nil {
			list = append(list, parsed)
			continue
		}
		list = append(list, rr)
	}
	return list
}

// plainName says whether name can be looked up: RFC 1035 2.3.4, with the
// underscore and the asterisk that records may have.
func plainName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '*' {
				return false
			}
		}
	}
	return true
}

func printable(value string) bool {
	return len(value) <= 4096 && !strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c > '~' })
}

// suffixes are the names that may be the zone of name, the longest first, down to
// two labels, or to one where name has no more.
func suffixes(name string) []string {
	list := []string{name}
	for rest := name; ; {
		var cut bool
		if _, rest, cut = strings.Cut(rest, "."); !cut || !strings.Contains(rest, ".") {
			return list
		}
		list = append(list, rest)
	}
}

// readSecret is the content of a secret's file, without the white space around
// it.
func readSecret(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("read the secret: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	secret := strings.TrimSpace(string(data))
	switch {
	case err != nil:
		return "", fmt.Errorf("read the secret: %w", err)
	case len(data) > maxSecret:
		return "", fmt.Errorf("read the secret: %s has more than %d bytes", file, maxSecret)
	case secret == "":
		return "", fmt.Errorf("read the secret: %s is empty", file)
	case strings.ContainsAny(secret, "\r\n"):
		return "", fmt.Errorf("read the secret: %s has more than one line; write the secret alone", file)
	}
	return secret, nil
}

// checkSecret reads a secret's file and warns when others may read it too.
func checkSecret(file string, log *slog.Logger) error {
	if _, err := readSecret(file); err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("read the secret: %w", err)
	}
	if mode := info.Mode().Perm(); mode&^0o640 != 0 {
		log.Warn("a file with a secret is open to others", "file", file, "mode", fmt.Sprintf("%04o", mode), "mend", "chmod 0640 "+file)
	}
	return nil
}

// newHTTPClient is a client for an API.
func newHTTPClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	seldom(transport)
	return &http.Client{
		Transport: transport,
		// A signed request is for who it was signed for.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// seldom makes a transport one for an API that is called seldom: no connection
// outlives its answer.
func seldom(transport *http.Transport) {
	transport.DisableKeepAlives = true
	transport.ResponseHeaderTimeout = 30 * time.Second
}

// bounded bounds the body of an answer.
func bounded(body io.ReadCloser) io.ReadCloser {
	return boundedBody{io.LimitReader(body, maxAnswer), body}
}

type boundedBody struct {
	io.Reader
	io.Closer
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
