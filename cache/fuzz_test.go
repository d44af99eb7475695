package cache

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// FuzzControl: whatever a Cache-Control says, reading it ends; no lifetime is
// negative or beyond the largest; where a line is cut into two at a comma outside
// quotes makes no difference; and saying no-store cannot be undone by what stands
// beside it.
func FuzzControl(f *testing.F) {
	for _, s := range []string{"max-age=60, public", `no-cache="Set-Cookie, X", private`, `max-age="1"`, `a="b,c", s-maxage=5`, `x="\",", no-store`, "max-age=-1", ",,=,;", `"`, `a="`, "max-age = 5", "max-age=99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		d := readControl([]string{line})
		for _, n := range []time.Duration{d.maxAge, d.sMaxAge, d.maxStale, d.minFresh, d.staleWhileRevalidate, d.staleIfError} {
			if n != unsaid && (n < 0 || n > mostSeconds*time.Second) {
				t.Errorf("%q: %v", line, n)
			}
		}
		if !readControl([]string{"no-store", line}).noStore || !readControl([]string{line, "no-store"}).noStore {
			t.Errorf("%q undoes no-store", line)
		}
		if !strings.ContainsAny(line, `"\`) {
			var lines []string
			for part := range strings.SplitSeq(line, ",") {
				lines = append(lines, part)
			}
			if a, b := d, readControl(lines); a.maxAge != b.maxAge || a.private != b.private || a.noCache != b.noCache || a.sMaxAge != b.sMaxAge || a.noStore != b.noStore {
				t.Errorf("%q: %+v, in lines %+v", line, a, b)
			}
		}
	})
}

// FuzzTargeted: a CDN-Cache-Control is read by its grammar or not at all: what is
// well formed stays so with a member more, what is not does too, and the last of a
// name counts.
func FuzzTargeted(f *testing.F) {
	for _, s := range []string{"max-age=60", `max-age=60;a="b", no-store`, "max-age=1.5", "private=?0", `no-cache=("a" b;c=1 2.0)`, "a=:aGk=:", "a=@1", "max-age=60,", "*x, a=*b/c", "a=1000000000000000", `a="\x"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		d, ok := readTargeted([]string{line})
		if d.maxAge != unsaid && (d.maxAge < 0 || d.maxAge > mostSeconds*time.Second) {
			t.Errorf("%q: %v", line, d.maxAge)
		}
		if strings.Trim(line, " \t") == "" {
			return
		}
		more, okMore := readTargeted([]string{line, "max-age=7"})
		if ok != okMore && line[len(line)-1] != '\t' { // a tab may stand before a comma, not at the end
			t.Errorf("%q is well formed: %v; with a member more: %v", line, ok, okMore)
		}
		if okMore && more.maxAge != 7*time.Second {
			t.Errorf("%q: the last max-age is %v", line, more.maxAge)
		}
	})
}

// FuzzRange: a range that is read is within the body, not empty, and the same when
// it is written and read again.
func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-1", "bytes=-5", "bytes=3-", "bytes=0-0,2-3", "bytes=9223372036854775807-", "BYTES=1-2", "bytes=-0", "bytes=5-3", "lines=1-2"} {
		f.Add(s, int64(10))
	}
	f.Fuzz(func(t *testing.T, line string, size int64) {
		r := readRange([]string{line})
		if r == nil || size < 0 {
			return
		}
		from, to, ok := r.of(size)
		if ok && (from < 0 || from >= to || to > size) {
			t.Errorf("%q of %d: %d-%d", line, size, from, to)
		}
		again := readRange([]string{r.text()})
		if again == nil || *again != *r {
			t.Errorf("%q became %q", line, r.text())
		}
		if ok {
			span, read := readContentRange([]string{contentRange(from, to, size)})
			if !read || span != (Span{from, to, size}) {
				t.Errorf("%q: Content-Range %q is %v", line, contentRange(from, to, size), span)
			}
		}
	})
}

// FuzzKey: requests with other targets, or with other values of what counts, have
// other keys; the host's case alone makes none.
func FuzzKey(f *testing.F) {
	f.Add("/a", "x=1", "/a", "x=2", "v", "w", "", "")
	f.Add("/a", "", "/a/", "", "", "", "1|2", "2|1")
	f.Add("/a", "b", "/a?b", "", "", "", "", "|")
	f.Fuzz(func(t *testing.T, path1, query1, path2, query2, value1, value2, strange1, strange2 string) {
		policy := &Policy{KeyHeaders: []string{"X-A"}}
		make := func(host, path, query, value, strange string) (*http.Request, Key) {
			u := &url.URL{Scheme: "https", Host: host, Path: "/" + path, RawQuery: query}
			req := &http.Request{Method: "GET", URL: u, Host: host, Header: http.Header{"X-A": {value}, "X-B": strings.Split(strange, "|")}}
			return req, keyOf(req, policy, []byte(URL(req, policy)), policy.strangers(req.Header, nil))
		}
		req1, key1 := make("example.cn", path1, query1, value1, strange1)
		req2, key2 := make("example.cn", path2, query2, value2, strange2)
		same := req1.URL.RequestURI() == req2.URL.RequestURI() && selectorValue(req1.Header, "X-A") == selectorValue(req2.Header, "X-A") && strange1 == strange2
		if same != (key1 == key2) {
			t.Errorf("%s %q and %s %q: the same is %v, their keys %v", req1.URL, value1, req2.URL, value2, same, key1 == key2)
		}
		if _, upper := make("EXAMPLE.cn", path1, query1, value1, strange1); upper != key1 {
			t.Error("the host's case counts")
		}
		if req1.URL.RequestURI() == req2.URL.RequestURI() && key1.head() != key2.head() {
			t.Error("the URL is not found by its head")
		}
	})
}

// FuzzCodings: an Accept-Encoding is read to weights within 0 and 1, and what is
// liked best is taken, if anything is.
func FuzzCodings(f *testing.F) {
	for _, s := range []string{"gzip, br;q=0.5", "*;q=0", "identity;q=0, *", "gzip;q=nan", "br;q=2", ";;,,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c := readCodings([]string{line})
		for _, coding := range []string{"br", "zstd", "gzip", ""} {
			if q := c.quality(coding); q < 0 || q > 1000 {
				t.Errorf("%q: %s is %d", line, coding, q)
			}
			if c.quality(c.best()) < c.quality(coding) {
				t.Errorf("%q: %q is best, and %q is liked better: %v", line, c.best(), coding, c)
			}
		}
	})
}

// FuzzTags: an entity tag of a list is found in it, and weakened too.
func FuzzTags(f *testing.F) {
	f.Add("a", "b")
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.ContainsAny(a+b, "\"") {
			return
		}
		list := strconv.Itoa(len(a)) // no tag: skipped
		list = `"` + a + `", W/"` + b + `"` + "," + list
		if !lists(list, `"`+a+`"`) || !lists(list, `W/"`+a+`"`) || !lists(list, `"`+b+`"`) {
			t.Errorf("%q and %q are not in %q", a, b, list)
		}
	})
}
