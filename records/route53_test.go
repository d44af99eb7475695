package records

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libdns/libdns"
)

// TestSigV4 holds the fake's check to the published example of "Signature Version
// 4 signing process" (AWS General Reference, the complete example of IAM's
// ListUsers).
func TestSigV4(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08", nil)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	r.Header.Set("X-Amz-Date", "20150830T123600Z")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, SignedHeaders=content-type;host;x-amz-date, Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7")
	const secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	if wrong := sigV4Wrong(r, nil, "AKIDEXAMPLE", secret, "us-east-1/iam"); wrong != "" {
		t.Errorf("the fake refuses the example: %s", wrong)
	}
	if sigV4Wrong(r, []byte("x"), "AKIDEXAMPLE", secret, "us-east-1/iam") == "" ||
		sigV4Wrong(r, nil, "AKIDEXAMPLE", secret+"x", "us-east-1/iam") == "" ||
		sigV4Wrong(r, nil, "AKIDEXAMPLE", secret, "us-east-1/route53") == "" {
		t.Error("the fake takes what is not signed so")
	}
}

// sigV4Wrong is the code with which the vendor refuses a request.
func sigV4Wrong(r *http.Request, body []byte, keyID, secret, scope string) string {
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return "MissingAuthenticationToken"
	}
	said := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		said[name] = value
	}
	stamp := r.Header.Get("X-Amz-Date")
	if len(stamp) != 16 {
		return "IncompleteSignature"
	}
	day := stamp[:8]
	if !strings.HasPrefix(said["Credential"], keyID+"/") {
		return "InvalidClientTokenId"
	}
	if said["Credential"] != keyID+"/"+day+"/"+scope+"/aws4_request" {
		return "SignatureDoesNotMatch"
	}
	headers := ""
	for name := range strings.SplitSeq(said["SignedHeaders"], ";") {
		value := r.Header.Get(name)
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(r.ContentLength)
		}
		headers += name + ":" + strings.Join(strings.Fields(value), " ") + "\n"
	}
	query := strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20")
	payload := sha256.Sum256(body)
	canonical := strings.Join([]string{r.Method, r.URL.EscapedPath(), query, headers, said["SignedHeaders"], hex.EncodeToString(payload[:])}, "\n")
	hashed := sha256.Sum256([]byte(canonical))
	key := []byte("AWS4" + secret)
	for _, part := range append(append([]string{day}, strings.Split(scope, "/")...), "aws4_request") {
		key = hmacSHA256(key, part)
	}
	signature := hmacSHA256(key, "AWS4-HMAC-SHA256\n"+stamp+"\n"+day+"/"+scope+"/aws4_request\n"+hex.EncodeToString(hashed[:]))
	if hex.EncodeToString(signature) != said["Signature"] {
		return "SignatureDoesNotMatch"
	}
	return ""
}

func hmacSHA256(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

type (
	xmlSet struct {
		Name            string
		Type            string
		SetIdentifier   string `xml:",omitempty"`
		TTL             int64
		ResourceRecords struct {
			ResourceRecord []struct{ Value string }
		}
	}
	xmlZone struct {
		Id              string
		Name            string
		CallerReference string
		Config          struct{ PrivateZone bool }
	}
)

func (s xmlSet) values() (list []string) {
	for _, record := range s.ResourceRecords.ResourceRecord {
		list = append(list, record.Value)
	}
	return list
}

// fakeRoute53 is the vendor's API, version 2013-04-01: batches are all or nothing,
// a DELETE must have the set as it is, a CREATE must find none.
type fakeRoute53 struct {
	t       *testing.T
	mu      sync.Mutex // for all below
	zones   []xmlZone
	sets    map[string]xmlSet // by zone, name and type
	pending map[string]int    // by change: how often it is not there yet
	changes int
	// between is called after a set was read, before it may be changed.
	between func(f *fakeRoute53)
	// refuse is asked first.
	refuse func(r *http.Request) (status int, code string)
	never  bool // a change is never there
}

func (f *fakeRoute53) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	refuse := func(status int, code, message string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `<ErrorResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>R</RequestId></ErrorResponse>`, code, message)
	}
	body, _ := io.ReadAll(r.Body)
	if wrong := sigV4Wrong(r, body, "AKIAtest", testSecret, "us-east-1/route53"); wrong != "" {
		refuse(403, wrong, "The request is\nnot signed.")
		return
	}
	if f.refuse != nil {
		if status, code := f.refuse(r); status != 0 {
			refuse(status, code, "No.")
			return
		}
	}
	q := r.URL.Query()
	path := strings.TrimPrefix(r.URL.Path, "/2013-04-01/")
	switch {
	case path == "hostedzonesbyname":
		at := slices.IndexFunc(f.zones, func(zone xmlZone) bool { return backwards(zone.Name) >= backwards(q.Get("dnsname")) })
		if id := q.Get("hostedzoneid"); id != "" {
			at = slices.IndexFunc(f.zones, func(zone xmlZone) bool { return strings.HasSuffix(zone.Id, id) })
		}
		var answer struct {
			XMLName                       xml.Name  `xml:"ListHostedZonesByNameResponse"`
			HostedZones                   []xmlZone `xml:"HostedZones>HostedZone"`
			MaxItems                      int
			IsTruncated                   bool
			NextDNSName, NextHostedZoneId string `xml:",omitempty"`
		}
		answer.MaxItems = 1 // a page each: the client must read on
		if at >= 0 {
			answer.HostedZones = f.zones[at : at+1]
			if at+1 < len(f.zones) {
				answer.IsTruncated, answer.NextDNSName, answer.NextHostedZoneId = true, f.zones[at+1].Name, strings.TrimPrefix(f.zones[at+1].Id, "/hostedzone/")
			}
		}
		f.say(w, answer)
	case strings.HasPrefix(path, "change/"):
		status := "INSYNC"
		if id := strings.TrimPrefix(path, "change/"); f.never || f.pending[id] > 0 {
			f.pending[id]--
			status = "PENDING"
		}
		f.change(w, "GetChangeResponse", strings.TrimPrefix(path, "change/"), status)
	case strings.HasSuffix(strings.TrimSuffix(path, "/"), "/rrset"):
		zone := strings.Split(path, "/")[1]
		if !slices.ContainsFunc(f.zones, func(z xmlZone) bool { return z.Id == "/hostedzone/"+zone }) {
			refuse(404, "NoSuchHostedZone", "No hosted zone found with ID: "+zone)
			return
		}
		if r.Method == http.MethodGet {
			var answer struct {
				XMLName     xml.Name `xml:"ListResourceRecordSetsResponse"`
				Sets        []xmlSet `xml:"ResourceRecordSets>ResourceRecordSet"`
				IsTruncated bool
				MaxItems    int
			}
			answer.MaxItems = 1
			var keys []string
			for key := range f.sets {
				if from := zone + " " + q.Get("name") + " " + q.Get("type"); strings.HasPrefix(key, zone+" ") && key >= from {
					keys = append(keys, key)
				}
			}
			if slices.Sort(keys); len(keys) > 0 { // from the name on, whatever follows
				answer.Sets = []xmlSet{f.sets[keys[0]]}
			}
			f.say(w, answer)
			if f.between != nil {
				f.between(f)
			}
			return
		}
		if wrong := f.apply(zone, body); wrong != "" {
			w.WriteHeader(400)
			fmt.Fprintf(w, `<InvalidChangeBatch xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><Messages><Message>%s</Message></Messages></InvalidChangeBatch>`, wrong)
			return
		}
		f.changes++
		id := fmt.Sprint("C", f.changes)
		f.pending[id] = 2
		f.change(w, "ChangeResourceRecordSetsResponse", id, "PENDING")
	default:
		refuse(404, "NoSuchOperation", r.URL.Path)
	}
}

// apply is a batch: what is wrong with it, or "" and it is done.
func (f *fakeRoute53) apply(zone string, body []byte) string {
	var batch struct {
		Changes []struct {
			Action            string
			ResourceRecordSet xmlSet
		} `xml:"ChangeBatch>Changes>Change"`
	}
	if err := xml.Unmarshal(body, &batch); err != nil || len(batch.Changes) == 0 {
		return "Invalid XML"
	}
	next := map[string]xmlSet{}
	for key, set := range f.sets {
		next[key] = set
	}
	for _, change := range batch.Changes {
		set := change.ResourceRecordSet
		key := zone + " " + set.Name + " " + set.Type
		old, there := next[key]
		for _, value := range set.values() {
			if set.Type == "TXT" && (!strings.HasPrefix(value, `"`) || !strings.HasSuffix(value, `"`)) {
				return "Invalid Resource Record: TXT values must be quoted"
			}
		}
		switch change.Action {
		case "CREATE":
			if there {
				return "Tried to create resource record set " + set.Name + " but it already exists"
			}
			if set.TTL <= 0 || len(set.values()) == 0 {
				return "Missing field TTL or ResourceRecords"
			}
			next[key] = set
		case "DELETE":
			if !there || old.TTL != set.TTL || !slices.Equal(old.values(), set.values()) {
				return "Tried to delete resource record set " + set.Name + " but the values provided do not match the current values"
			}
			delete(next, key)
		default:
			return "unknown action"
		}
	}
	f.sets = next
	return ""
}

func (f *fakeRoute53) say(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "text/xml")
	if err := xml.NewEncoder(w).Encode(answer); err != nil {
		f.t.Error(err)
	}
}

func (f *fakeRoute53) change(w http.ResponseWriter, name, id, status string) {
	fmt.Fprintf(w, `<%s xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><ChangeInfo><Id>/change/%s</Id><Status>%s</Status><SubmittedAt>2026-01-02T03:04:05Z</SubmittedAt></ChangeInfo></%s>`, name, id, status, name)
}

// backwards is a name in the order in which zones are listed.
func backwards(name string) string {
	labels := strings.Split(strings.TrimSuffix(name, "."), ".")
	slices.Reverse(labels)
	return strings.Join(labels, ".")
}

func zoneOf(id, name string, private bool) xmlZone {
	zone := xmlZone{Id: "/hostedzone/" + id, Name: name + ".", CallerReference: id}
	zone.Config.PrivateZone = private
	return zone
}

func setOf(name string, ttl int64, values ...string) xmlSet {
	set := xmlSet{Name: name, Type: "TXT", TTL: ttl}
	for _, value := range values {
		set.ResourceRecords.ResourceRecord = append(set.ResourceRecords.ResourceRecord, struct{ Value string }{value})
	}
	return set
}

func route53World(t *testing.T) (world, *fakeRoute53) {
	fake := &fakeRoute53{t: t, sets: map[string]xmlSet{}, pending: map[string]int{}}
	fake.zones = []xmlZone{zoneOf("ZINNER", "example.test", true), zoneOf("ZEX", "example.test", false),
		zoneOf("ZSUB", "sub.example.test", false), zoneOf("ZZ", "zz.test", false)}
	for _, id := range []string{"ZEX", "ZSUB"} { // what every zone has, and sorts behind
		fake.sets[id+" zz.example.test. TXT"] = setOf("zz.example.test.", 300, `"other"`)
	}
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	p := mustNew(t, Config{Provider: Route53, AccessKeyID: "AKIAtest", AccessKeySecret: secretFile(t, testSecret), Endpoint: server.URL, Region: "us-east-1"})
	p.(*provider).changer.(*amazon).poll = time.Millisecond
	return world{Provider: p, values: func(t *testing.T, name string) []string {
		fake.mu.Lock()
		defer fake.mu.Unlock()
		zone := "ZEX"
		if strings.HasSuffix("."+name, ".sub.example.test") {
			zone = "ZSUB"
		}
		var values []string
		for _, value := range fake.sets[zone+" "+name+". TXT"].values() {
			values = append(values, strings.Trim(value, `"`))
		}
		slices.Sort(values)
		return values
	}}, fake
}

var oneChallenge = []libdns.Record{txt("_acme-challenge", "one")}

// TestRoute53Keeps holds that values and TTL of others stay, also when another
// node changes the set between our look and our change.
func TestRoute53Keeps(t *testing.T) {
	w, fake := route53World(t)
	const key, name = "ZEX _acme-challenge.example.test. TXT", "_acme-challenge.example.test."
	fake.sets[key] = setOf(name, 900, `"theirs"`)
	meddled := 0
	fake.between = func(f *fakeRoute53) {
		if meddled++; meddled <= 2 {
			f.sets[key] = setOf(name, 900, append(f.sets[key].values(), fmt.Sprintf(`"node%d"`, meddled))...)
		}
	}
	if _, err := w.AppendRecords(t.Context(), "example.test.", oneChallenge); err != nil {
		t.Fatal(err)
	}
	w.has(t, "_acme-challenge.example.test", "node1", "node2", "one", "theirs")
	if ttl := fake.sets[key].TTL; ttl != 900 {
		t.Errorf("TTL %d", ttl)
	}
	if meddled != 3 || fake.pending["C1"] != 0 {
		t.Errorf("looked %d times, and left with %v pending", meddled, fake.pending)
	}
	if _, err := w.DeleteRecords(t.Context(), "example.test.", oneChallenge); err != nil {
		t.Fatal(err)
	}
	w.has(t, "_acme-challenge.example.test", "node1", "node2", "theirs")
	w.has(t, "zz.example.test", "other")
}

// TestRoute53Values holds how long and quoted texts are written.
func TestRoute53Values(t *testing.T) {
	long := strings.Repeat("x", 300)
	got := set{kind: "TXT", values: []string{`a "b" \c`, long}}.wire()
	want := []string{`"a \"b\" \\c"`, `"` + long[:255] + `" "` + long[255:] + `"`}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestRoute53Fails holds what is said.
func TestRoute53Fails(t *testing.T) {
	w, fake := route53World(t)
	fake.refuse = func(*http.Request) (int, string) { return 403, "AccessDenied" }
	refuses(t, w.Provider, "route53: set TXT of _acme-challenge.example.test: the API refused with AccessDenied (No.); the key may not do that: allow route53:ListHostedZonesByName")

	w, fake = route53World(t)
	fake.zones = append([]xmlZone{zoneOf("ZOLD", "example.test", false)}, fake.zones...)
	refuses(t, w.Provider, "the account has 2 public hosted zones example.test; write the id of the one that is delegated to: zone: ZOLD")

	w, fake = route53World(t)
	fake.never = true
	w.Provider.(*provider).changer.(*amazon).Timeout = 10 * time.Millisecond
	refuses(t, w.Provider, "wait until the zone's servers have it")

	w, fake = route53World(t)
	weighted := setOf("_acme-challenge.example.test.", 60, `"w"`)
	weighted.SetIdentifier = "blue"
	fake.sets["ZEX _acme-challenge.example.test. TXT"] = weighted
	refuses(t, w.Provider, "has a routing policy or is an alias; make it a simple one")

	w, fake = route53World(t)
	fake.between = func(f *fakeRoute53) { // for ever
		name := "_acme-challenge.example.test."
		f.sets["ZEX "+name+" TXT"] = setOf(name, 60, fmt.Sprintf(`"%d"`, time.Now().UnixNano()))
	}
	refuses(t, w.Provider, "InvalidChangeBatch")

	server := httptest.NewServer(fake)
	defer server.Close()
	c := Config{Provider: Route53, AccessKeyID: "AKIAtest", AccessKeySecret: secretFile(t, "another"), Endpoint: server.URL}
	refuses(t, mustNew(t, c), "SignatureDoesNotMatch (The request is not signed.); the secret is not that of the key")
	c.AccessKeyID = "AKIAother"
	refuses(t, mustNew(t, c), "InvalidClientTokenId", "check access_key_id")
	c = Config{Provider: Route53, AccessKeyID: "AKIAtest", AccessKeySecret: secretFile(t, testSecret), Endpoint: server.URL, Zone: "ZNONE"}
	refuses(t, mustNew(t, c), "NoSuchHostedZone (No hosted zone found with ID: ZNONE); there is no such hosted zone: check zone")
}

// TestRoute53Chain holds that without a key the usual places count.
func TestRoute53Chain(t *testing.T) {
	_, fake := route53World(t)
	server := httptest.NewServer(fake)
	defer server.Close()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIAtest", "AWS_SECRET_ACCESS_KEY": testSecret, "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		t.Setenv(name, value)
	}
	c := Config{Provider: Route53, Endpoint: server.URL}
	p := mustNew(t, c)
	p.(*provider).changer.(*amazon).poll = time.Millisecond
	if _, err := p.AppendRecords(t.Context(), "example.test.", oneChallenge); err != nil {
		t.Error(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	refuses(t, mustNew(t, c), "there are no credentials; write access_key_id and access_key_secret, or give the service a role")
}
