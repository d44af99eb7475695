package cache

import (
	"bytes"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A reference model of a shared cache: slow, plain, written from the text of RFC
// 9111, and knowing nothing of how the cache works. It looks at all that happened
// (what clients asked for, what the origin was asked for and answered, what was
// purged) and says of one answer whether a cache may give it:
//
//  1. lineages are the stored responses that it could be: a response of the origin,
//     updated by the 304 and HEAD responses that may update it (§3.2, §4.3.4),
//  2. may says why one of them may not be given for a request (§3, §4, §4.1, §4.2.4,
//     §5.2, RFC 5861; purges and §4.4),
//  3. shows says why what the client got is not that response (RFC 9110 §13, §14).
//
// What no lineage allows is a disagreement. sure is the other half: when every
// cache that is worth its name has the answer.
//
// A MAY of the RFC is both. Where the cache says that it is stricter, so is the
// model; and where it says that it reads the RFC otherwise: s-maxage alone does not
// forbid stale answers, the tag of a 304 is compared weakly, a soft purge gives what
// is stale once more, and an origin that failed counts as failing, for all its pages,
// until it answers or was not asked for a while (RFC 5861 §4).

// rep is a representation that the origin has at some time.
type rep struct {
	name   string
	bytes  []byte // without a coding
	coding string
}

// fetched is one exchange with the origin. Times tell age, ticks what came before
// what.
type fetched struct {
	n       int
	method  string
	url     string
	request http.Header

	sent, answered, done   time.Time
	sentAt, answeredAt     int64 // ticks
	doneAt, cutAt          int64 // when the body was read to its end, or broke off; 0 if never
	failed                 bool  // no answer
	status                 int
	header                 http.Header
	rep                    *rep
	from, to               int // of the encoded representation
	cut                    bool
	noStoreAsked, personal bool // what the request said
}

// visit is one exchange with a client.
type visit struct {
	n       int
	method  string
	url     string
	request http.Header
	policy  *Policy

	begun, done     time.Time
	begunAt, doneAt int64
	err             error
	status          int
	header          http.Header
	body            []byte
	cut             error // the body broke off
	length          int64 // ContentLength
}

// struck is an invalidation or a purge.
type struck struct {
	at, over int64 // ticks: what the origin said before at is not given to who asks after over
	when     time.Time
	soft     bool
	hits     func(url string, tags []string) bool
}

// history is all that happened.
type history struct {
	fetched []*fetched
	visits  []*visit
	strikes []*struck
}

// says are the directives of a field, in lower case, as §5.2 reads them. odd is a
// line that is not of its grammar.
type says struct {
	args map[string][]string
	odd  bool
}

func (s says) has(name string) bool { return len(s.args[name]) > 0 }

// plain reports whether a directive is there without an argument.
func (s says) plain(name string) bool { return slices.Contains(s.args[name], "") }

func readSays(lines []string) says {
	s := says{args: map[string][]string{}}
	for _, line := range lines {
		s.line(line)
	}
	return s
}

func (s *says) line(rest string) {
	for rest != "" {
		rest = strings.TrimLeft(rest, " \t,")
		end := strings.IndexAny(rest, ",=")
		if end < 0 {
			end = len(rest)
		}
		name, arg := rest[:end], ""
		rest = rest[end:]
		if strings.HasPrefix(rest, "=") {
			if rest = rest[1:]; strings.HasPrefix(rest, `"`) {
				i := 1
				for ; i < len(rest) && rest[i] != '"'; i++ {
					if rest[i] == '\\' {
						i++
					}
					if i < len(rest) {
						arg += string(rest[i])
					}
				}
				s.odd = s.odd || i >= len(rest)
				rest = rest[min(i+1, len(rest)):]
				if after := strings.TrimLeft(rest, " \t"); after != "" && after[0] != ',' {
					s.odd = true
				}
				if arg == "" {
					arg = `""`
				}
			}
			end := strings.IndexByte(rest, ',')
			if end < 0 {
				end = len(rest)
			}
			arg += strings.TrimRight(rest[:end], " \t")
			s.odd = s.odd || strings.TrimLeft(arg, " \t") != arg
			arg = strings.TrimLeft(arg, " \t")
			rest = rest[end:]
			if arg == "" {
				arg = " " // there, and empty
			}
		}
		trimmed := strings.Trim(name, " \t")
		s.odd = s.odd || trimmed != name && arg != "" || strings.ContainsAny(trimmed, " \t\"")
		if trimmed != "" {
			s.args[strings.ToLower(trimmed)] = append(s.args[strings.ToLower(trimmed)], arg)
		}
	}
}

const forever = time.Duration(math.MaxInt64 / 4)

// wholeSeconds are delta-seconds (§1.2.2): what is too large is 2^31 at least.
func wholeSeconds(arg string) (least, most time.Duration, ok bool) {
	if arg == "" || strings.Trim(arg, "0123456789") != "" {
		return 0, 0, false
	}
	n, err := strconv.ParseInt(arg, 10, 64)
	if err != nil || n >= 1<<31 {
		return (1<<31 - 1) * time.Second, forever, true
	}
	return time.Duration(n) * time.Second, time.Duration(n) * time.Second, true
}

// number is a directive's: least and most are the same, unless the RFC lets caches
// choose (§4.2.1: the first of several, or stale; invalid is stale).
func (s says) number(name string) (least, most time.Duration, there bool) {
	if !s.has(name) {
		return 0, 0, false
	}
	var ok bool
	if least, most, ok = wholeSeconds(s.args[name][0]); !ok || len(s.args[name]) > 1 || s.odd {
		least = 0
	}
	return least, most, true
}

// control are the directives that a response has for this cache: of
// CDN-Cache-Control, when it is a Dictionary and not empty (RFC 9213 §2.1).
func control(h http.Header) (s says, targeted bool) {
	if lines := h["Cdn-Cache-Control"]; len(lines) > 0 {
		if s, ok := dictionary(strings.Join(lines, ",")); ok && len(s.args) > 0 {
			return s, true
		}
	}
	return readSays(h["Cache-Control"]), false
}

// dictionary reads what the origin here makes of dictionaries; anything else is
// none.
func dictionary(text string) (says, bool) {
	s := says{args: map[string][]string{}}
	for member := range strings.SplitSeq(text, ",") {
		name, arg, has := strings.Cut(strings.Trim(member, " \t"), "=")
		if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.*") != "" || has && (arg == "" || strings.Trim(arg, "0123456789") != "") {
			return s, false
		}
		s.args[name] = []string{arg}
	}
	return s, true
}

// fieldsOf are the names that a directive like no-cache="a, b" has.
func (s says) fieldsOf(name string) (names []string) {
	for _, arg := range s.args[name] {
		for _, one := range strings.FieldsFunc(arg, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '"' }) {
			names = append(names, http.CanonicalHeaderKey(one))
		}
	}
	return names
}

var heuristic = []int{200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501} // RFC 9110 §15.1

// storable reports whether §3 lets a shared cache store the response at all.
func (x *fetched) storable() string { return x.storableWith(x.header) }

func (x *fetched) storableWith(h http.Header) string {
	s, targeted := control(h)
	public := s.has("public") || s.has("s-maxage")
	switch {
	case x.failed || x.status < 200 || x.status == 304:
		return "no final response"
	case x.method != "GET" && x.method != "HEAD":
		return "the method"
	case x.noStoreAsked:
		return "the request's no-store"
	case s.has("no-store") && !s.has("must-understand"):
		return "no-store"
	case s.plain("private"):
		return "private"
	case x.personal && !public && !s.has("must-revalidate"):
		return "Authorization (§3.5)"
	case len(x.header["Set-Cookie"]) > 0 && !public && !(targeted && s.has("max-age")) && !slices.Contains(append(s.fieldsOf("no-cache"), s.fieldsOf("private")...), "Set-Cookie"):
		return "Set-Cookie, and no word of shared caches"
	case !public && !s.has("max-age") && !s.has("no-cache") && len(h["Expires"]) == 0 && !slices.Contains(heuristic, x.status):
		return "nothing that allows it"
	}
	return ""
}

// lineage is a response that a cache could have stored, as it would be now.
type lineage struct {
	base   *fetched
	last   *fetched // whose header was the last to update it
	header http.Header
	chain  []*fetched
}

// lineages are those that an answer which says that it is of base and last, 0 being
// unknown, could be: all updates that may apply, or the last alone, when it may have
// overtaken others.
func (h *history) lineages(v *visit, base, last int) (all []*lineage) {
	for _, b := range h.fetched {
		if b.url != v.url || b.sentAt > v.doneAt || base != 0 && b.n != base || b.failed || b.status == 304 {
			continue
		}
		l := &lineage{base: b, last: b, header: b.header}
		if last == 0 || last == b.n {
			all = append(all, l)
		}
		for _, u := range h.fetched[slices.Index(h.fetched, b)+1:] {
			if u.url != v.url || u.sentAt > v.doneAt || u.failed || last != 0 && u.n > last {
				continue
			}
			if alone := (&lineage{base: b, last: b, header: b.header}); len(l.chain) > 0 && (last == 0 || last == u.n) && alone.updatedBy(u) {
				all = append(all, alone.with(u))
			}
			if !l.updatedBy(u) {
				continue
			}
			next := l.with(u)
			if last == 0 || last == u.n {
				all = append(all, next)
			}
			if s, _ := control(next.header); !u.noStoreAsked && (!u.personal || s.has("public") || s.has("s-maxage") || s.has("must-revalidate")) {
				l = next // else others see nothing of it
			}
		}
	}
	return all
}

// with is the response as u updates it.
func (l *lineage) with(u *fetched) *lineage {
	return &lineage{base: l.base, last: u, header: update(l.header, u.header, u.answered), chain: append(slices.Clone(l.chain), u)}
}

// updatedBy reports whether u may freshen the response (§4.3.4, §4.3.5).
func (l *lineage) updatedBy(u *fetched) bool {
	if u.status != 304 && (u.method != "HEAD" || u.status != 200 || l.base.status != 200 && l.base.status != 206) {
		return false
	}
	if reason := l.selects(u.request); reason != "" && reason != "Vary: *" {
		return false
	}
	was, is := l.header.Get("Etag"), u.header.Get("Etag")
	switch {
	case is != "" && was == "" && !strings.HasPrefix(is, "W/"):
		return false
	case is != "" && was != "":
		return strings.TrimPrefix(was, "W/") == strings.TrimPrefix(is, "W/")
	}
	if u.status == 304 && was != "" && slices.Contains(tags(u.request["If-None-Match"]), was) {
		return true
	}
	return u.header.Get("Last-Modified") == "" || u.header.Get("Last-Modified") == l.header.Get("Last-Modified")
}

// update is §3.2.
func update(old, newer http.Header, received time.Time) http.Header {
	h := old.Clone()
	for name, values := range newer {
		switch name {
		case "Content-Encoding", "Content-Length", "Content-Range", "Content-Type", "X-Base":
		default:
			h[name] = values
		}
	}
	if len(newer["Age"]) == 0 {
		h.Del("Age")
	}
	if len(newer["Date"]) == 0 {
		h.Set("Date", received.UTC().Format(http.TimeFormat)) // RFC 9110 §6.6.1
	}
	return h
}

func date(lines []string) (time.Time, bool) {
	if len(lines) != 1 {
		return time.Time{}, false
	}
	at, err := http.ParseTime(lines[0])
	return at, err == nil
}

// overrides reports whether the policy's TTL is in place of what is said.
func (l *lineage) overrides(p *Policy) bool {
	return p.TTL > 0 && slices.Contains([]int{200, 203, 206, 301, 308}, l.base.status)
}

// granted is how long the owner's policy has the response fresh from its receipt on.
func (l *lineage) granted(p *Policy) time.Duration {
	if l.overrides(p) {
		return p.TTL
	}
	s, targeted := control(l.header)
	if !s.odd && (s.has("s-maxage") || s.has("max-age") || len(l.header["Expires"]) > 0 && !targeted) {
		return 0
	}
	switch l.base.status {
	case 200, 203, 206, 301, 308:
		return p.DefaultTTL
	case 404, 405, 410, 414, 501:
		return p.Negative
	}
	return 0
}

// lifetime is freshness_lifetime (§4.2.1), between the least and the most that the
// RFC allows.
func (l *lineage) lifetime(p *Policy) (least, most time.Duration) {
	h := l.header
	if l.overrides(p) {
		return 0, 0
	}
	s, targeted := control(h)
	born, dated := date(h["Date"])
	if !dated {
		born = l.last.answered
	}
	unsure := false
	for _, name := range []string{"s-maxage", "max-age"} {
		if low, high, there := s.number(name); there {
			if low == high && !unsure {
				return low, high
			}
			unsure, most = true, max(most, high) // or stale, or what comes next
		}
	}
	if unsure || s.odd {
		return 0, most
	}
	if lines := h["Expires"]; len(lines) > 0 && !targeted {
		at, ok := date(lines[:1])
		if !ok {
			return 0, 0
		}
		most = max(0, at.Sub(born))
		if len(lines) == 1 && dated {
			least = most
		} else {
			most += time.Second
		}
		return least, most
	}
	if modified, ok := date(h["Last-Modified"]); ok && p.Heuristic {
		most = min(born.Sub(modified)/10, 24*time.Hour)
	}
	return 0, most
}

// age is current_age (§4.2.3), between what several readings of an odd Age give.
func (l *lineage) age(now time.Time) (least, most time.Duration) {
	var apparent time.Duration
	if born, ok := date(l.header["Date"]); ok {
		apparent = max(0, l.last.answered.Sub(born))
	}
	var low, high time.Duration
	if lines := l.header["Age"]; len(lines) > 0 {
		one, _, several := strings.Cut(strings.Join(lines, ","), ",") // §5.1
		a, b, ok := wholeSeconds(strings.Trim(one, " \t"))
		if low, high = a, b; !ok || several {
			low, high = 0, max(b, 0)
			if several {
				high = forever
			}
		}
	}
	since := now.Sub(l.last.answered)
	delay := l.last.answered.Sub(l.last.sent)
	add := func(age time.Duration) time.Duration {
		return max(apparent, age+delay) + since
	}
	return add(low), add(high)
}

// tags are the entity tags of a list, and *.
func tags(lines []string) (all []string) {
	for one := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		if one = strings.Trim(one, " \t"); one != "" {
			all = append(all, one)
		}
	}
	return all
}

func normal(lines []string) string {
	var all []string
	for one := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		all = append(all, strings.Trim(one, " \t"))
	}
	return strings.Join(all, ",")
}

// takes reports whether a request accepts a coding, "" being none (RFC 9110
// §12.5.3).
func takes(h http.Header, coding string) bool {
	lines := h["Accept-Encoding"]
	if len(lines) == 0 {
		return true
	}
	if coding == "" {
		coding = "identity"
	}
	says := map[string]bool{}
	for one := range strings.SplitSeq(strings.ToLower(strings.Join(lines, ",")), ",") {
		name, weight, _ := strings.Cut(strings.ReplaceAll(one, " ", ""), ";")
		says[name] = weight != "q=0" && weight != "q=0.0"
	}
	if yes, named := says[coding]; named {
		return yes
	}
	any, named := says["*"]
	return named && any || coding == "identity" && !named
}

// selects says why a request does not select a response (§4.1).
func (l *lineage) selects(request http.Header) string {
	for name := range strings.SplitSeq(strings.Join(l.header["Vary"], ","), ",") {
		switch name = http.CanonicalHeaderKey(strings.Trim(name, " \t")); name {
		case "", "Accept-Encoding": // the form is looked at by shows
		case "*":
			return "Vary: *"
		default:
			for _, as := range append([]*fetched{l.base}, l.chain...) {
				if normal(as.request[name]) == normal(request[name]) && len(as.request[name]) == 0 == (len(request[name]) == 0) {
					return ""
				}
			}
			return "another variant: " + name
		}
	}
	return ""
}

// may says why the response may not be given to the visit; "" is that it may.
func (h *history) may(l *lineage, v *visit) string {
	s, _ := control(l.header)
	asked := readSays(v.request["Cache-Control"])
	if len(v.request["Cache-Control"]) == 0 && readSays(v.request["Pragma"]).has("no-cache") {
		asked.args["no-cache"] = []string{""}
	}
	if l.last.sentAt > v.begunAt && l.base == l.last && v.doneAt != 0 {
		// It was fetched since: for this request, or with others for all.
		if reason := l.base.storable(); reason != "" {
			return h.alone(l, v, reason)
		}
		if l.base.method == "HEAD" && v.method != "HEAD" {
			return "a HEAD's"
		}
		if reason := l.selects(v.request); reason != "" {
			return h.alone(l, v, reason)
		}
		return ""
	}
	validated := l.last.sentAt > v.begunAt
	if reason := l.base.storable(); reason != "" {
		return "it may not be stored: " + reason
	}
	now := *l.base
	if now.personal = l.last.personal; len(l.chain) > 0 { // what a 304 says is of its own request; and cookies are not kept
		now.header = http.Header{}
	}
	if reason := now.storableWith(l.header); reason != "" && !validated {
		return "it may not be stored any more: " + reason
	}
	if u := l.last; u != l.base && u.sentAt < v.begunAt && (u.noStoreAsked || u.personal && !s.has("public") && !s.has("s-maxage") && !s.has("must-revalidate")) {
		return "updated by what may not be stored"
	}
	switch {
	case l.base.method == "HEAD" && v.method != "HEAD":
		return "a HEAD's"
	case v.method != "GET" && v.method != "HEAD":
		return "given for " + v.method
	case l.base.cut && v.cut == nil && v.status != 304 && v.status != 416 && !(v.status == 206 && (l.base.cutAt == 0 || l.base.cutAt > v.begunAt)):
		return "it was cut"
	}
	if reason := l.selects(v.request); reason != "" && !(validated && reason == "Vary: *") {
		return reason
	}
	soft := false
	for _, k := range h.strikes {
		if k.hits(l.base.url, takeTags(l.header.Clone())) && k.over < v.begunAt && l.last.sentAt < k.at {
			if !k.soft {
				return "it is from before a purge or an invalidation"
			}
			soft = true
		}
	}
	if validated {
		return ""
	}
	if n := h.newer(l, v); n != nil {
		return fmt.Sprintf("%d is newer", n.n)
	}
	must := s.has("must-revalidate") || s.has("proxy-revalidate")
	age, oldest := l.age(v.begun)
	_, most := l.lifetime(v.policy)
	stale := min(age-most, v.begun.Sub(l.last.answered)-l.granted(v.policy))
	fresh := stale < 0
	_, maxStale, hasMaxStale := asked.number("max-stale")
	if hasMaxStale && (asked.args["max-stale"][0] == "" || asked.odd) {
		maxStale = forever
	}
	_, while, hasWhile := s.number("stale-while-revalidate")
	if !hasWhile {
		while = v.policy.StaleWhileRevalidate
	}
	_, onError, hasOnError := s.number("stale-if-error")
	if !hasOnError {
		onError = v.policy.StaleIfError
	}
	if _, more, ok := asked.number("stale-if-error"); ok {
		onError = max(onError, more)
	}
	noCache := len(asked.args["no-cache"]) > 0
	never := s.has("immutable") && fresh && !l.overrides(v.policy) // RFC 8246 §2
	_, maxAge, limited := asked.number("max-age")
	tooOld := limited && age > maxAge && !never && !(hasMaxStale && age-maxAge <= maxStale)
	failing := h.failing(v, 10*time.Minute)
	if noCache || tooOld {
		failing = h.failing(v, 5*time.Second) // it is asked again for who wants it fresher
	}
	spare := failing && !must && stale <= onError && onError > 0 // RFC 5861 §4
	switch {
	case s.plain("no-cache") && !l.overrides(v.policy):
		return "no-cache, and it was not validated"
	case noCache && l.last.answered.Before(v.begun) && !(spare && len(asked.args["no-store"]) == 0): // what is still to come is as good
		return "the request's no-cache"
	case spare:
		return ""
	}
	if tooOld {
		return fmt.Sprintf("older (%v) than the request's max-age", age)
	}
	if fresh && !soft {
		if least, _, ok := asked.number("min-fresh"); ok && -stale < least {
			return fmt.Sprintf("not fresh for so long (%v)", -stale)
		}
		return ""
	}
	switch {
	case must:
		return fmt.Sprintf("stale for %v, which it forbids", stale)
	case soft && fresh, stale < while, hasMaxStale && stale <= maxStale && !s.has("s-maxage"):
		return ""
	}
	return fmt.Sprintf("stale: %v (%v) old, fresh for %v", age, oldest, most)
}

// alone says why a response that is for one request alone may not be given: to more
// than one, or to somebody else.
func (h *history) alone(l *lineage, v *visit, reason string) string {
	for _, other := range h.visits {
		if other != v && other.doneAt != 0 && other.header.Get("X-Answer") == strconv.Itoa(l.last.n) {
			return fmt.Sprintf("for one request alone (%s), and given to %d too", reason, other.n)
		}
	}
	for _, name := range []string{"Authorization", "Cookie"} {
		if normal(l.last.request[name]) != normal(v.request[name]) {
			return "somebody else's: " + name
		}
	}
	return ""
}

// newer is a later response that every cache has stored and must use (§4). One that came
// whole in this very instant may yet be under way into the store.
func (h *history) newer(l *lineage, v *visit) *fetched {
	for _, x := range h.fetched {
		if x.n > l.last.n && x.url == l.base.url && x.status == 200 && x.doneAt != 0 && x.done.Before(v.begun) && x.sentAt > l.last.answeredAt && x.answered.After(l.last.answered) && h.certain(x, v) {
			return x
		}
	}
	return nil
}

// certain reports whether every cache has the response, for the visit.
func (h *history) certain(x *fetched, v *visit) bool {
	l := &lineage{base: x, last: x, header: x.header}
	s, _ := control(x.header)
	least, _ := l.lifetime(v.policy)
	_, age := l.age(x.answered)
	vary := normal(x.header["Vary"])
	if x.method != "GET" || x.status != 200 || x.cut || x.doneAt == 0 || x.storable() != "" || s.odd || s.has("no-cache") || s.has("no-store") ||
		least <= age || len(x.header["Set-Cookie"]) > 0 || vary != "" && vary != "Accept-Language" || l.selects(v.request) != "" ||
		len(x.request["Authorization"]) > 0 || len(x.request["If-None-Match"])+len(x.request["If-Modified-Since"]) > 0 || // which may be the client's
		len(x.header["Content-Encoding"]) > 0 || len(x.header["Date"]) != 1 {
		return false
	}
	for _, k := range h.strikes {
		if k.hits(x.url, takeTags(x.header.Clone())) && (k.over > x.sentAt || !x.sent.After(k.when)) {
			return false // or as good as: the fetch may have begun before
		}
	}
	return true
}

// sure is the response that every cache that is worth its name gives to a plain
// request, without asking; nil when there is none.
func (h *history) sure(v *visit) *fetched {
	for name := range v.request {
		if name != "Accept-Language" && name != "Cookie" && name != "If-None-Match" {
			return nil
		}
	}
	for _, x := range slices.Backward(h.fetched) {
		if x.url != v.url || x.sentAt > v.begunAt {
			continue
		}
		for _, part := range h.fetched { // that came meanwhile, and may have made another whole with older ones
			if part.url == v.url && part.status == 206 && part.doneAt > x.sentAt {
				return nil
			}
		}
		if v.method != "GET" || !h.certain(x, v) || x.doneAt > v.begunAt {
			return nil // what came since may have had it removed
		}
		l := &lineage{base: x, last: x, header: x.header}
		least, _ := l.lifetime(v.policy)
		if _, age := l.age(v.done); age+time.Second < least {
			return x
		}
		return nil
	}
	return nil
}

// failing reports whether the origin, or this page of it, failed while the visit
// lasted, or is known to fail: it was not well since it failed, and was asked so long
// ago at most. That one page fails is nothing of the others while the origin answers.
func (h *history) failing(v *visit, ago time.Duration) bool {
	asked := func(x *fetched) bool {
		return x.sentAt < v.begunAt && (v.begun.Sub(x.sent) <= ago || !x.answered.IsZero() && v.begun.Sub(x.answered) <= ago)
	}
	for _, x := range h.fetched {
		if !(x.failed || x.status >= 500) || x.sentAt >= v.doneAt || x.method == "POST" {
			continue
		}
		well := ""
		if x.url == v.url {
			well = v.url
		} else if x.status == 500 || h.well(x.sent, x.answered, "") {
			continue
		}
		if x.answeredAt > v.begunAt || !h.well(x.answered, v.begun, well) && slices.ContainsFunc(h.fetched, asked) {
			return true
		}
	}
	return false
}

// well reports whether the origin answered between two times, of this URL or of any.
func (h *history) well(from, to time.Time, url string) bool {
	return slices.ContainsFunc(h.fetched, func(x *fetched) bool {
		return (url == "" || x.url == url && x.method != "POST") && !x.failed && x.status < 500 && x.answered.After(from) && x.answered.Before(to)
	})
}

// encoded are the bytes of a representation in a coding, as the origin and the
// codings of the tests make them.
func encoded(bytes []byte, coding string) []byte {
	if coding == "" {
		return bytes
	}
	return []byte(coding + "<" + string(bytes) + ">")
}

// shows says why what the client got is not the response.
func (l *lineage) shows(v *visit, fromStore bool) string {
	h := v.header
	coding := h.Get("Content-Encoding")
	if coding != "" && v.status != 204 && !takes(v.request, coding) {
		return "a coding that the client does not take: " + coding
	}
	s, _ := control(l.header)
	skip := map[string]bool{"Age": true, "Cache-Status": true, "Content-Length": true, "Content-Encoding": true, "Content-Range": true, "Content-Type": true, "Etag": true, "Date": true, "Vary": true, "Set-Cookie": true, "Accept-Ranges": true}
	for _, as := range append([]*fetched{l.base}, l.chain...) { // a field that was once left out may stay so
		was, _ := control(as.header)
		for _, name := range append(was.fieldsOf("no-cache"), was.fieldsOf("private")...) {
			skip[name] = true
		}
	}
	for _, name := range append(s.fieldsOf("no-cache"), s.fieldsOf("private")...) {
		if fromStore && len(h[name]) > 0 && name != "Etag" {
			return "the field " + name + ", that is not for others"
		}
	}
	if fromStore && len(h["Set-Cookie"]) > 0 && l.last.sentAt < v.begunAt {
		return "somebody's Set-Cookie"
	}
	if len(h["Cache-Tag"]) > 0 {
		return "what purges go by is no visitor's affair"
	}
	skip["Cache-Tag"] = true
	for name, values := range l.header {
		if !skip[name] && v.status != 304 && v.status != 416 && !slices.Equal(h[name], values) {
			return fmt.Sprintf("%s is %q, the response has %q", name, h[name], values)
		}
	}
	if fromStore && l.last.sentAt < v.begunAt { // §4, §5.1
		low, high := l.age(v.begun)
		_, latest := l.age(v.done)
		n, err := strconv.ParseInt(h.Get("Age"), 10, 33)
		if got := time.Duration(n) * time.Second; err != nil || got < low-time.Second || got > max(high, latest)+time.Second && l.base.status != 206 { // a part may be given with older ones
			return fmt.Sprintf("Age is %q, the response is %v old", h["Age"], low)
		}
	}
	was, is := l.header.Get("Etag"), h.Get("Etag")
	if v.status != 304 && coding != l.base.header.Get("Content-Encoding") && is != "" && is == was && !strings.HasPrefix(is, "W/") {
		return "one strong entity tag for two codings"
	}
	if is != "" && strings.TrimPrefix(is, "W/") != strings.TrimPrefix(was, "W/") && coding == l.base.header.Get("Content-Encoding") {
		return fmt.Sprintf("Etag is %s, the response has %s", is, was)
	}
	return l.showsBody(v, coding, is)
}

// conditional is RFC 9110 §13.2.2, of what a cache evaluates.
func (l *lineage) unchanged(v *visit, is string) (matches, has bool) {
	if lines := v.request["If-None-Match"]; len(lines) > 0 {
		for _, one := range tags(lines) {
			if one == "*" || is != "" && strings.TrimPrefix(one, "W/") == strings.TrimPrefix(is, "W/") {
				return true, true
			}
		}
		return false, true
	}
	since, ok := date(v.request["If-Modified-Since"])
	if !ok {
		return false, false
	}
	modified, ok := date(l.header["Last-Modified"])
	if !ok {
		modified, _ = date(l.header["Date"])
	}
	return !modified.After(since), ok
}

func (l *lineage) showsBody(v *visit, coding, is string) string {
	if v.status == 304 {
		if is == "" {
			is = l.header.Get("Etag")
		}
		if yes, _ := l.unchanged(v, is); !yes {
			return "304, and what the client has is another"
		}
		if len(v.body) > 0 {
			return "304 with a body"
		}
		return ""
	}
	whole := encoded(l.base.rep.bytes, coding)
	switch v.status {
	case 204:
		whole = nil
	case 416: // of any form: the answer has none of them
		for _, coding := range []string{"", "gzip", "br", "zstd"} {
			n := len(encoded(l.base.rep.bytes, coding))
			if len(v.request["Range"]) > 0 && v.header.Get("Content-Range") == fmt.Sprintf("bytes */%d", n) && len(spans(v.request.Get("Range"), n)) == 0 {
				return ""
			}
		}
		return fmt.Sprintf("416 %q, and there are %d", v.header["Content-Range"], len(whole))
	case 206:
		return l.showsPart(v, whole, is)
	case 200:
		if l.base.status != 200 && l.base.status != 206 { // of which a whole can be made
			return fmt.Sprintf("the status is 200, the response has %d", l.base.status)
		}
	}
	if v.status != l.base.status && v.status != 200 {
		return fmt.Sprintf("the status is %d, the response has %d", v.status, l.base.status)
	}
	if v.method == "HEAD" {
		if len(v.body) > 0 {
			return "HEAD with a body"
		}
		if n := v.header.Get("Content-Length"); n != "" && n != strconv.Itoa(len(whole)) {
			return fmt.Sprintf("Content-Length is %s, the body has %d", n, len(whole))
		}
		return ""
	}
	return v.whole(whole)
}

// whole says why the body is not these bytes: all of them, or it breaks off with an
// error.
func (v *visit) whole(want []byte) string {
	if v.cut != nil {
		if !bytes.HasPrefix(want, v.body) {
			return fmt.Sprintf("wrong bytes before it breaks off: %.60q, not %.60q", v.body, want)
		}
		return ""
	}
	if !bytes.Equal(v.body, want) {
		return fmt.Sprintf("the body is %.60q… (%d), not %.60q… (%d)", v.body, len(v.body), want, len(want))
	}
	if v.length >= 0 && v.length != int64(len(want)) {
		return fmt.Sprintf("ContentLength is %d of %d", v.length, len(want))
	}
	return ""
}

// spans are the satisfiable ranges of a Range field (RFC 9110 §14.1.2), for what
// the tests send.
func spans(field string, of int) (all [][2]int) {
	set, ok := strings.CutPrefix(field, "bytes=")
	if !ok {
		return nil
	}
	for one := range strings.SplitSeq(set, ",") {
		first, last, _ := strings.Cut(strings.Trim(one, " \t"), "-")
		from, err1 := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		switch {
		case first == "" && err2 == nil && to > 0 && of > 0:
			all = append(all, [2]int{max(0, of-to), of})
		case err1 == nil && last == "" && from < of:
			all = append(all, [2]int{from, of})
		case err1 == nil && err2 == nil && from <= to && from < of:
			all = append(all, [2]int{from, min(to+1, of)})
		}
	}
	return all
}

// showsPart looks at a 206 (RFC 9110 §15.3.7).
func (l *lineage) showsPart(v *visit, whole []byte, is string) string {
	want := spans(v.request.Get("Range"), len(whole))
	if v.method != "GET" || len(v.request["Range"]) == 0 {
		return "206, and no range was asked for"
	}
	if since := v.request.Get("If-Range"); since != "" {
		at, err := http.ParseTime(since)
		modified, ok := date(l.header["Last-Modified"])
		if !(since == is && !strings.HasPrefix(is, "W/")) && !(err == nil && ok && at.Equal(modified)) {
			return "206, and If-Range does not hold"
		}
	}
	if strings.HasPrefix(v.header.Get("Content-Type"), "multipart/byteranges") {
		return "" // its bytes are looked at in the scripts
	}
	for _, span := range want {
		if v.header.Get("Content-Range") == fmt.Sprintf("bytes %d-%d/%d", span[0], span[1]-1, len(whole)) {
			return v.whole(whole[span[0]:span[1]])
		}
	}
	return fmt.Sprintf("Content-Range %q, of %d, for %q", v.header["Content-Range"], len(whole), v.request["Range"])
}

// judge says what is wrong with the answer to a visit; "" is that a cache may give
// it.
func (h *history) judge(v *visit) string {
	if v.err != nil {
		for _, x := range h.fetched {
			if x.url == v.url && x.answeredAt > v.begunAt && x.sentAt < v.doneAt && (x.failed || x.cut) {
				return ""
			}
		}
		return "failed: " + v.err.Error()
	}
	asked := 0 // while the visit lasted, by anybody
	for _, x := range h.fetched {
		if x.url == v.url && x.sentAt > v.begunAt && x.sentAt < v.doneAt {
			asked++
		}
	}
	if readSays(v.request["Cache-Control"]).has("only-if-cached") && v.status == 504 && v.header.Get("X-Answer") == "" {
		return ""
	}
	if x := h.sure(v); x != nil && asked > 0 && !h.overlaps(v) {
		return fmt.Sprintf("%d is stored and fresh, and the origin was asked", x.n)
	}
	base, _ := strconv.Atoi(v.header.Get("X-Base"))
	last, _ := strconv.Atoi(v.header.Get("X-Answer"))
	var reasons []string
	for _, l := range h.lineages(v, base, last) {
		reason := h.may(l, v)
		if reason == "" {
			fromStore := strings.HasPrefix(v.header.Get("Cache-Status"), "causeway; hit") || l.last.sentAt < v.begunAt
			if reason = l.shows(v, fromStore); reason == "" {
				return ""
			}
		}
		reasons = append(reasons, fmt.Sprintf("%d/%d: %s", l.base.n, l.last.n, reason))
	}
	for _, x := range h.fetched { // the origin's own word to this request's conditions or method
		if x.n == last && x.sentAt > v.begunAt && x.status == v.status && (x.status == 304 || x.method != "GET") {
			reason := ""
			if x.method != "HEAD" { // which may have updated what others get
				reason = h.alone(&lineage{base: x, last: x, header: x.header}, v, "passed")
			}
			if reason != "" || x.status == 304 && len(v.request["If-None-Match"])+len(v.request["If-Modified-Since"]) == 0 {
				return "passed on: " + reason
			}
			return ""
		}
	}
	if len(reasons) == 0 {
		reasons = []string{"it is of nothing that the origin said"}
	}
	return strings.Join(reasons, "\n\t")
}

// overlaps reports whether another visit or fetch of the URL was under way.
func (h *history) overlaps(v *visit) bool {
	for _, other := range h.visits {
		if other != v && other.url == v.url && other.begunAt < v.doneAt && (other.doneAt == 0 || other.doneAt > v.begunAt) {
			return true
		}
	}
	for _, x := range h.fetched {
		if x.url == v.url && x.sentAt < v.begunAt && (x.doneAt == 0 && x.status != 304 && !x.failed && x.method == "GET" || x.doneAt > v.begunAt) {
			return true
		}
	}
	return false
}
