package records

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libdns/libdns"
)

// The published example of "Request syntax and signature method V3", section
// "Fixed parameters" (alibabacloud.com/help/en/sdk/product-overview/
// v3-request-structure-and-signature).
const (
	acs3ExampleURL    = "https://ecs.cn-shanghai.aliyuncs.com/?ImageId=win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd&RegionId=cn-shanghai"
	acs3ExampleNonce  = "3156853299f313e23d1673dc12e1703d"
	acs3ExampleAnswer = "ACS3-HMAC-SHA256 Credential=YourAccessKeyId,SignedHeaders=host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version,Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
)

// TestACS3 holds the signature to the vendor's example, and the fake's check too.
func TestACS3(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, acs3ExampleURL, nil)
	r.Header.Set("x-acs-action", "RunInstances")
	r.Header.Set("x-acs-version", "2014-05-26")
	signACS3(r, "YourAccessKeyId", "YourAccessKeySecret", acs3ExampleNonce, time.Date(2023, 10, 26, 10, 22, 32, 0, time.UTC))
	if got := r.Header.Get("Authorization"); got != acs3ExampleAnswer {
		t.Errorf("signed %s\n  want %s", got, acs3ExampleAnswer)
	}
	if wrong := acs3Wrong(r, "YourAccessKeyId", "YourAccessKeySecret"); wrong != "" {
		t.Errorf("the fake refuses the example: %s", wrong)
	}
	for name, change := range map[string]func(*http.Request){
		"another secret": nil,
		"query":          func(r *http.Request) { r.URL.RawQuery += "1" },
		"action":         func(r *http.Request) { r.Header.Set("x-acs-action", "StopInstances") },
		"host":           func(r *http.Request) { r.Host = "ecs.cn-beijing.aliyuncs.com" },
		"unsigned field": func(r *http.Request) { r.Header.Set("x-acs-security-token", "x") },
	} {
		secret, again := "YourAccessKeySecret", r.Clone(t.Context())
		if change == nil {
			secret = "AnotherSecret"
		} else {
			change(again)
		}
		if acs3Wrong(again, "YourAccessKeyId", secret) == "" {
			t.Errorf("%s: the fake takes it", name)
		}
	}
	if got := acs3Query(url.Values{"b": {"a b*~/é"}, "a": {""}}); got != "a=&b=a%20b%2A~%2F%C3%A9" {
		t.Errorf("query %s", got)
	}
}

// acs3Wrong is what the vendor's side has against a request, by the page's
// algorithm and from what came over the wire.
func acs3Wrong(r *http.Request, keyID, secret string) string {
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), "ACS3-HMAC-SHA256 ")
	if !ok {
		return "IncompleteSignature"
	}
	said := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(part, "=")
		said[name] = value
	}
	if said["Credential"] != keyID {
		return "InvalidAccessKeyId.NotFound"
	}
	signed := strings.Split(said["SignedHeaders"], ";")
	for name := range r.Header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-acs-") && !slices.Contains(signed, lower) {
			return "SignatureDoesNotMatch"
		}
	}
	if !slices.IsSorted(signed) || !slices.Contains(signed, "host") {
		return "SignatureDoesNotMatch"
	}
	headers := ""
	for _, name := range signed {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		headers += name + ":" + strings.TrimSpace(value) + "\n"
	}
	var query []string
	for _, part := range strings.Split(r.URL.RawQuery, "&") {
		name, value, _ := strings.Cut(part, "=")
		query = append(query, acs3Encode(name)+"="+acs3Encode(value))
	}
	slices.Sort(query)
	body := sha256.Sum256(nil)
	canonical := r.Method + "\n" + r.URL.Path + "\n" + strings.Join(query, "&") + "\n" + headers + "\n" +
		said["SignedHeaders"] + "\n" + hex.EncodeToString(body[:])
	hashed := sha256.Sum256([]byte(canonical))
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "ACS3-HMAC-SHA256\n%s", hex.EncodeToString(hashed[:]))
	if hex.EncodeToString(mac.Sum(nil)) != said["Signature"] || r.Header.Get("x-acs-content-sha256") != hex.EncodeToString(body[:]) {
		return "SignatureDoesNotMatch"
	}
	return ""
}

// acs3Encode writes part of a query, as it came, in the canonical form.
func acs3Encode(came string) string {
	text, err := url.QueryUnescape(came)
	if err != nil {
		return "broken"
	}
	var b strings.Builder
	for _, c := range []byte(text) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

// fakeAlidns is the vendor's API: what its pages on DescribeDomains,
// DescribeDomainRecords, AddDomainRecord and DeleteDomainRecord say.
type fakeAlidns struct {
	t    *testing.T
	mu   sync.Mutex // for all below
	list []alidnsRecord
	next int
	seen map[string]bool // nonces
	// refuse is asked first, with the number of the call: a code is a refusal.
	refuse func(call int, action string) (status int, code string)
	// lose says whether the answer of a call is lost on its way.
	lose  func(call int, action string) bool
	calls int
}

type alidnsRecord struct{ RecordId, DomainName, RR, Type, Value string }

func (f *fakeAlidns) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	action, q := r.Header.Get("x-acs-action"), r.URL.Query()
	refuse := func(status int, code string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"Code": code, "Message": "The " + code + ".", "RequestId": "R-1"})
	}
	if wrong := acs3Wrong(r, "LTAItest", testSecret); wrong != "" {
		refuse(400, wrong)
		return
	}
	if at, err := time.Parse(time.RFC3339, r.Header.Get("x-acs-date")); err != nil || time.Since(at).Abs() > 15*time.Minute {
		refuse(400, "InvalidTimeStamp.Expired")
		return
	}
	if nonce := r.Header.Get("x-acs-signature-nonce"); f.seen[nonce] || nonce == "" {
		refuse(400, "SignatureNonceUsed")
		return
	} else {
		f.seen[nonce] = true
	}
	if r.Method != http.MethodPost || r.Header.Get("x-acs-version") != "2015-01-09" {
		refuse(404, "InvalidAction.NotFound")
		return
	}
	if f.refuse != nil {
		if status, code := f.refuse(f.calls, action); status != 0 {
			refuse(status, code)
			return
		}
	}
	answer := map[string]any{"RequestId": "R-2"}
	switch action {
	case "DescribeDomains":
		var found []map[string]string
		for _, name := range []string{"example.test", "sub.example.test", "notsub.example.test"} {
			if name == q.Get("KeyWord") && q.Get("SearchMode") == "EXACT" {
				found = append(found, map[string]string{"DomainName": name, "PunyCode": name})
			}
		}
		answer["TotalCount"], answer["Domains"] = len(found), map[string]any{"Domain": found}
	case "DescribeDomainRecords":
		var found []alidnsRecord
		for _, record := range f.list {
			if record.DomainName == q.Get("DomainName") && strings.Contains(record.RR, q.Get("RRKeyWord")) && record.Type == q.Get("TypeKeyWord") {
				found = append(found, record)
			}
		}
		page, _ := strconv.Atoi(q.Get("PageNumber"))
		size, _ := strconv.Atoi(q.Get("PageSize"))
		answer["TotalCount"] = len(found)
		answer["DomainRecords"] = map[string]any{"Record": found[min(len(found), (page-1)*size):min(len(found), page*size)]}
	case "AddDomainRecord":
		record := alidnsRecord{DomainName: q.Get("DomainName"), RR: q.Get("RR"), Type: q.Get("Type"), Value: q.Get("Value")}
		if slices.ContainsFunc(f.list, func(old alidnsRecord) bool { old.RecordId = ""; return old == record }) {
			refuse(400, "DomainRecordDuplicate")
			return
		}
		f.next++
		record.RecordId = strconv.Itoa(f.next)
		f.list = append(f.list, record)
		answer["RecordId"] = record.RecordId
	case "DeleteDomainRecord":
		old := len(f.list)
		f.list = slices.DeleteFunc(f.list, func(record alidnsRecord) bool { return record.RecordId == q.Get("RecordId") })
		if len(f.list) == old {
			refuse(400, "DomainRecordNotBelongToUser")
			return
		}
	default:
		refuse(404, "InvalidAction.NotFound")
		return
	}
	if f.lose != nil && f.lose(f.calls, action) {
		panic(http.ErrAbortHandler)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func alidnsWorld(t *testing.T) (world, *fakeAlidns) {
	fake := &fakeAlidns{t: t, seen: map[string]bool{}}
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	p := mustNew(t, Config{Provider: Alidns, AccessKeyID: "LTAItest", AccessKeySecret: secretFile(t, testSecret), Endpoint: server.URL + "/"})
	p.(*provider).changer.(*alidns).backoff = time.Millisecond
	return world{Provider: p, values: func(t *testing.T, name string) []string {
		fake.mu.Lock()
		defer fake.mu.Unlock()
		var values []string
		for _, record := range fake.list {
			if strings.TrimPrefix(record.RR+"."+record.DomainName, "@.") == name && record.Type == "TXT" {
				values = append(values, record.Value)
			}
		}
		slices.Sort(values)
		return values
	}}, fake
}

// TestAlidnsZone holds that records end in the longest domain, and not in one
// that only ends in the same letters.
func TestAlidnsZone(t *testing.T) {
	w, fake := alidnsWorld(t)
	if _, err := w.AppendRecords(t.Context(), "example.test.", []libdns.Record{txt("_acme-challenge.a.sub", "x")}); err != nil {
		t.Fatal(err)
	}
	want := []alidnsRecord{{"1", "sub.example.test", "_acme-challenge.a", "TXT", "x"}}
	if !slices.Equal(fake.list, want) {
		t.Errorf("%v, want %v", fake.list, want)
	}
}

// TestAlidnsPages holds that a record on a later page is found.
func TestAlidnsPages(t *testing.T) {
	w, fake := alidnsWorld(t)
	for i := range 250 {
		fake.list = append(fake.list, alidnsRecord{fmt.Sprint("old", i), "example.test", "x._acme-challenge", "TXT", fmt.Sprint(i)})
	}
	fake.list = append(fake.list, alidnsRecord{"mine", "example.test", "_acme-challenge", "TXT", "one"})
	got, err := w.DeleteRecords(t.Context(), "example.test.", []libdns.Record{txt("_acme-challenge", "one")})
	if err != nil || len(got) != 1 || len(fake.list) != 250 {
		t.Errorf("removed %v, %v; %d are left", got, err, len(fake.list))
	}
}

// TestAlidnsRetries holds that what passes is tried again, with a signature of
// its own, and that a call whose answer was lost is not made twice.
func TestAlidnsRetries(t *testing.T) {
	w, fake := alidnsWorld(t)
	codes := []struct {
		status int
		code   string
	}{{400, "Throttling.User"}, {503, "ServiceUnavailable"}, {0, ""}, {400, "Throttling"}, {500, "InternalError"}, {0, ""}, {0, ""}}
	fake.refuse = func(call int, _ string) (int, string) {
		if call <= len(codes) {
			return codes[call-1].status, codes[call-1].code
		}
		return 0, ""
	}
	lost := map[string]bool{}
	fake.lose = func(_ int, action string) bool {
		first := !lost[action]
		lost[action] = true
		return first
	}
	one := []libdns.Record{txt("_acme-challenge", "one")}
	if _, err := w.AppendRecords(t.Context(), "example.test.", one); err != nil {
		t.Fatal(err)
	}
	w.has(t, "_acme-challenge.example.test", "one")
	if _, err := w.DeleteRecords(t.Context(), "example.test.", one); err != nil {
		t.Fatal(err)
	}
	w.has(t, "_acme-challenge.example.test")
	if len(lost) != 4 {
		t.Errorf("lost %v", lost)
	}
}

// TestAlidnsFails holds what is said, and that nothing is repeated in vain.
func TestAlidnsFails(t *testing.T) {
	for code, want := range map[string]string{
		"Forbidden.RAM":               "give it AliyunDNSFullAccess",
		"IncorrectDomainUser":         "use a key of the account that has it",
		"Forbidden.AccessKeyDisabled": "enable it in the RAM console",
		"QuotaExceeded.Record":        "remove old ones",
		"InvalidTimeStamp.Expired":    "the clock of this machine is wrong",
		"SomethingElse":               "SomethingElse (The SomethingElse.); request R-1",
	} {
		w, fake := alidnsWorld(t)
		fake.refuse = func(int, string) (int, string) { return 400, code }
		refuses(t, w.Provider, "alidns: set TXT of _acme-challenge.example.test: DescribeDomains: ", code, want)
		if fake.calls != 1 {
			t.Errorf("%s: asked %d times", code, fake.calls)
		}
	}
	w, fake := alidnsWorld(t)
	fake.refuse = func(int, string) (int, string) { return 400, "Throttling.User" }
	refuses(t, w.Provider, "try again later")
	if fake.calls != alidnsAttempts {
		t.Errorf("asked %d times", fake.calls)
	}

	server := httptest.NewServer(&fakeAlidns{t: t, seen: map[string]bool{}})
	c := Config{Provider: Alidns, AccessKeyID: "LTAItest", AccessKeySecret: secretFile(t, "another"), Endpoint: server.URL}
	refuses(t, mustNew(t, c), "SignatureDoesNotMatch", "check the file of access_key_secret")
	c.AccessKeyID = "LTAIother"
	refuses(t, mustNew(t, c), "InvalidAccessKeyId.NotFound", "check access_key_id")
	server.Close()
	p := mustNew(t, c)
	p.(*provider).changer.(*alidns).backoff = time.Millisecond
	refuses(t, p, "DescribeDomains: dial tcp")

	strange := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "<html>a portal</html>")
	}))
	defer strange.Close()
	c.Endpoint = strange.URL
	refuses(t, mustNew(t, c), "the API answered with status 403 and no code")
	c.Zone = "example.org"
	refuses(t, mustNew(t, c), "_acme-challenge.example.test is not in the zone example.org")
}
