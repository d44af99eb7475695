package records

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// alidns is Alibaba Cloud DNS, API version 2015-01-09 (RPC style, one operation a
// request).
type alidns struct {
	zone, keyID, secretFile string
	endpoint                string
	client                  *http.Client
	backoff                 time.Duration // first pause before a call is made again
}

const (
	alidnsEndpoint = "https://alidns.aliyuncs.com"
	alidnsVersion  = "2015-01-09"
	alidnsAttempts = 6   // with the pauses between them, 16 s and more
	alidnsPage     = 100 // most of DescribeDomains
	alidnsPages    = 100 // more records of one name and type than a zone may have
	// The least TTL of the free edition, and its default.
	alidnsLeastTTL = 600 * time.Second
)

func newAlidns(c Config) *alidns {
	endpoint := c.Endpoint
	if endpoint == "" {
		endpoint = alidnsEndpoint
	}
	return &alidns{
		zone: strings.ToLower(strings.TrimSuffix(c.Zone, ".")), keyID: c.AccessKeyID, secretFile: c.AccessKeySecret,
		endpoint: strings.TrimSuffix(endpoint, "/"), client: newHTTPClient(), backoff: 500 * time.Millisecond,
	}
}

func (a *alidns) add(ctx context.Context, set set) error {
	zone, err := a.find(ctx, set.name)
	if err != nil {
		return err
	}
	for _, value := range set.values {
		parameters := url.Values{
			"DomainName": {zone}, "RR": {label(set.name, zone)}, "Type": {set.kind}, "Value": {value},
		}
		if set.ttl >= alidnsLeastTTL {
			parameters.Set("TTL", strconv.Itoa(int(set.ttl/time.Second)))
		}
		err := a.call(ctx, "AddDomainRecord", parameters, nil)
		// Also when an attempt came through and its answer did not.
		if code(err) != "DomainRecordDuplicate" && err != nil {
			return err
		}
	}
	return nil
}

func (a *alidns) remove(ctx context.Context, set set) (removed []string, err error) {
	zone, err := a.find(ctx, set.name)
	if err != nil {
		return nil, err
	}
	ids, err := a.records(ctx, zone, set)
	if err != nil {
		return nil, err
	}
	for _, value := range set.values {
		for _, id := range ids[value] {
			err := a.call(ctx, "DeleteDomainRecord", url.Values{"RecordId": {id}}, nil)
			// Somebody else was faster, or an attempt came through and its answer
			// did not.
			if code(err) != "DomainRecordNotBelongToUser" && err != nil {
				return removed, err
			}
		}
		if len(ids[value]) > 0 {
			removed = append(removed, value)
		}
	}
	return removed, nil
}

// find is the zone of name: the longest domain of the account that it ends in.
func (a *alidns) find(ctx context.Context, name string) (string, error) {
	if a.zone != "" {
		if !within(name, a.zone) {
			return "", fmt.Errorf("%s is not in the zone %s of the file", name, a.zone)
		}
		return a.zone, nil
	}
	for _, candidate := range suffixes(name) {
		var answer struct {
			Domains struct {
				Domain []struct{ DomainName, PunyCode string }
			}
		}
		err := a.call(ctx, "DescribeDomains", url.Values{
			"KeyWord": {candidate}, "SearchMode": {"EXACT"}, "PageSize": {strconv.Itoa(alidnsPage)},
		}, &answer)
		if err != nil {
			return "", err
		}
		for _, domain := range answer.Domains.Domain {
			if strings.EqualFold(domain.DomainName, candidate) || strings.EqualFold(domain.PunyCode, candidate) {
				return candidate, nil
			}
		}
	}
	return "", fmt.Errorf("no domain of the account holds %s; add the domain to the account's DNS, or use the key of the account that has it", name)
}

// records are the ids of the records of a set, by value.
func (a *alidns) records(ctx context.Context, zone string, set set) (map[string][]string, error) {
	ids := map[string][]string{}
	rr := label(set.name, zone)
	for page, seen := 1, 0; page <= alidnsPages; page++ {
		var answer struct {
			TotalCount    int
			DomainRecords struct {
				Record []struct{ RecordId, RR, Type, Value string }
			}
		}
		err := a.call(ctx, "DescribeDomainRecords", url.Values{
			"DomainName": {zone}, "RRKeyWord": {rr}, "TypeKeyWord": {set.kind},
			"PageNumber": {strconv.Itoa(page)}, "PageSize": {strconv.Itoa(alidnsPage)},
		}, &answer)
		if err != nil {
			return nil, err
		}
		// RRKeyWord finds names that only contain it, too.
		for _, record := range answer.DomainRecords.Record {
			if strings.EqualFold(record.RR, rr) && record.Type == set.kind {
				ids[record.Value] = append(ids[record.Value], record.RecordId)
			}
		}
		seen += len(answer.DomainRecords.Record)
		if len(answer.DomainRecords.Record) == 0 || seen >= answer.TotalCount {
			return ids, nil
		}
	}
	return nil, fmt.Errorf("%s has more than %d records", zone, alidnsPages*alidnsPage)
}

// label is name as alidns writes it in zone: @ for the zone itself.
func label(name, zone string) string {
	if name == zone {
		return "@"
	}
	return strings.TrimSuffix(name, "."+zone)
}

// within says whether name is zone or below it.
func within(name, zone string) bool { return name == zone || strings.HasSuffix(name, "."+zone) }

// call makes a call, and makes it again when the API or the way to it may be
// better in a moment. All calls made here may be repeated.
func (a *alidns) call(ctx context.Context, action string, parameters url.Values, answer any) error {
	wait := a.backoff
	for attempt := 1; ; attempt++ {
		err := a.once(ctx, action, parameters, answer)
		if err == nil || attempt == alidnsAttempts || ctx.Err() != nil || !passes(err) {
			return err
		}
		if stopped := pause(ctx, wait+rand.N(wait)); stopped != nil {
			return fmt.Errorf("%w (then %w)", err, stopped)
		}
		wait *= 2
	}
}

func (a *alidns) once(ctx context.Context, action string, parameters url.Values, answer any) error {
	secret, err := readSecret(a.secretFile)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, a.endpoint+"/?"+acs3Query(parameters), nil)
	if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	r.Header.Set("x-acs-action", action)
	r.Header.Set("x-acs-version", alidnsVersion)
	r.Header.Set("Accept", "application/json")
	signACS3(r, a.keyID, secret, newNonce(), time.Now())
	response, err := a.client.Do(r)
	if err != nil {
		// Without the URL, which has the whole query in it.
		var of *url.Error
		if errors.As(err, &of) {
			err = of.Err
		}
		return fmt.Errorf("%s: %w", action, &unreached{err})
	}
	defer response.Body.Close()
	body, err := io.ReadAll(bounded(response.Body))
	if err != nil {
		return fmt.Errorf("%s: read the answer: %w", action, &unreached{err})
	}
	if response.StatusCode != http.StatusOK {
		refusal := &alidnsError{Status: response.StatusCode}
		// What is no JSON comes from something in between; the status says it.
		_ = json.Unmarshal(body, refusal)
		return fmt.Errorf("%s: %w", action, refusal)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("%s: read the answer: %w", action, err)
	}
	return nil
}

// unreached is that no answer came.
type unreached struct{ error }

func (u *unreached) Unwrap() error { return u.error }

// alidnsError is a refusal of the API.
type alidnsError struct {
	Status    int    `json:"-"`
	Code      string `json:"Code"`
	Message   string `json:"Message"`
	RequestID string `json:"RequestId"`
}

// alidnsMends say what to do about a code, or about those that begin so.
var alidnsMends = []struct{ code, mend string }{
	{"InvalidAccessKeyId", "there is no such key: check access_key_id"},
	{"SignatureDoesNotMatch", "the secret is not that of the key: check the file of access_key_secret"},
	{"IncompleteSignature", "the secret is not that of the key: check the file of access_key_secret"},
	{"InvalidTimeStamp", "the clock of this machine is wrong: have it set by NTP"},
	{"IllegalTimestamp", "the clock of this machine is wrong: have it set by NTP"},
	{"Forbidden.AccessKey", "the key is disabled: enable it in the RAM console"},
	{"InvalidAccessKeySecret", "the key is disabled or its secret is wrong"},
	{"Forbidden", "the key's user may not do that: give it AliyunDNSFullAccess, or alidns:DescribeDomains, DescribeDomainRecords, AddDomainRecord and DeleteDomainRecord"},
	{"NoPermission", "the key's user may not do that: give it AliyunDNSFullAccess, or alidns:DescribeDomains, DescribeDomainRecords, AddDomainRecord and DeleteDomainRecord"},
	{"IncorrectDomainUser", "the domain is not of the key's account: use a key of the account that has it"},
	{"InvalidDomainName.NoExist", "the domain is not of the key's account: use a key of the account that has it"},
	{"DomainRecordConflict", "another record has the name, such as a CNAME: remove it"},
	{"DomainRecordLocked", "the record is locked: unlock it in the console"},
	{"DomainForbidden", "the domain is barred: see the console"},
	{"RecordForbidden", "the domain is barred: see the console"},
	{"QuotaExceeded", "the name has as many records as it may have: remove old ones"},
	{"Throttling", "too many calls in a short time: try again later"},
}

func (e *alidnsError) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("the API answered with status %d and no code", e.Status)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the API refused with %s (%s)", e.Code, e.Message)
	for _, of := range alidnsMends {
		if strings.HasPrefix(e.Code, of.code) {
			b.WriteString("; " + of.mend)
			break
		}
	}
	if e.RequestID != "" {
		b.WriteString("; request " + e.RequestID)
	}
	return b.String()
}

// code is the code of a refusal, "" for other errors.
func code(err error) string {
	var refusal *alidnsError
	if errors.As(err, &refusal) {
		return refusal.Code
	}
	return ""
}

// passes says whether an error may pass by itself.
func passes(err error) bool {
	var refusal *alidnsError
	if errors.As(err, &refusal) {
		return strings.HasPrefix(refusal.Code, "Throttling") || refusal.Code == "SignatureNonceUsed" ||
			refusal.Status >= 500 || refusal.Status == http.StatusTooManyRequests
	}
	var without *unreached
	return errors.As(err, &without)
}
