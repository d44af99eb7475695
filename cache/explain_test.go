package cache

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestExplain shows the decision of each kind of request, and that explaining
// changes nothing.
func TestExplain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Policy{Site: "shop", StaleIfError: time.Hour, Query: Query{Ignore: []string{"utm_*"}}, IgnoreHeaders: []string{"X-Client-*"}}, func(req *http.Request) (*http.Response, error) {
			now := "Date: " + time.Now().UTC().Format(http.TimeFormat)
			if req.URL.Path != "/down" && req.Header.Get("If-None-Match") == `"1"` {
				return text(304, "", now), nil
			}
			switch req.URL.Path {
			case "/private":
				return text(200, "x", now, "Cache-Control: private"), nil
			case "/down":
				if time.Now().Minute() > 0 {
					return text(503, "down", now), nil
				}
			case "/fails":
				return nil, errors.New("no way")
			case "/silent":
				return text(200, "x", now, `Etag: "1"`), nil
			case "/text":
				return text(200, strings.Repeat("x", 2000), now, "Cache-Control: max-age=600", "Content-Type: text/plain"), nil
			case "/coded":
				return text(200, "gzip<hello>", now, "Cache-Control: max-age=600", "Content-Encoding: gzip"), nil
			case "/long":
				res := text(200, "hello", now, "Cache-Control: max-age=60")
				res.ContentLength = -1
				return res, nil
			case "/vary":
				return text(200, "x", now, "Cache-Control: max-age=60", "Vary: Accept-Language"), nil
			}
			return text(200, "hello", now, "Cache-Control: max-age=60", `Etag: "1"`), nil
		})
		defer r.Cache.Close()
		explain := func(req *http.Request, want ...string) {
			t.Helper()
			kept := ""
			defer func() {
				if strings.Contains(kept, "store: not kept: ") && strings.Contains(kept, "store: kept") {
					t.Errorf("kept, and not:\n%s", kept)
				}
			}()
			var b strings.Builder
			for _, s := range r.Explain(t.Context(), req) {
				b.WriteString(s.About + ": " + s.Says + " [" + s.Section + "]\n")
				if s.Section == "" {
					t.Errorf("no section: %s: %s", s.About, s.Says)
				}
			}
			kept = b.String()
			for _, w := range want {
				if !strings.Contains(b.String(), w) {
					t.Errorf("no %q in\n%s", w, &b)
				}
			}
		}
		explain(request("GET", "/a"),
			`key: https://example.cn/a of site "shop" [RFC 9111 §2]`,
			"lookup: nothing is kept under the key [RFC 9111 §4]",
			"fetch: the origin answers 200 in 0s",
			"fresh for 1m0s by max-age, 0s old already [RFC 9111 §4.2.1]",
			"store: kept, and given without asking until 2000-01-01T00:01:00Z")
		explain(request("HEAD", "/a"), "store: not kept: a HEAD has no body to keep [RFC 9110 §9.3.2]")
		explain(request("GET", "/a", "Cache-Control: only-if-cached"), "answer: 504, and the origin is not asked: nothing is kept")
		explain(request("GET", "/long"), "store: its length is not known yet: not kept if it turns out larger than 1048576 bytes [policy object_bytes]", "store: kept, and given")
		r.store.broken = true
		explain(request("GET", "/a"), "store: not kept: the store has no room")
		r.store.broken = false
		explain(request("GET", "/private"), "store: not kept: it says private: it is for one client [RFC 9111 §5.2.2.7]")
		explain(request("POST", "/a"), "passes by the cache: only GET and HEAD are looked up [RFC 9111 §3]", "RFC 9111 §4.4")
		explain(request("PUT", "/a"), "forget what is kept of the URL")
		explain(request("GET", "/fails"), "fetch: failed: no way [RFC 9110 §15.6]")
		explain(request("GET", "/a?utm_x=1&b=2", "X-Original-Url: /b"),
			`of the query "utm_x=1&b=2" this counts: "b=2" [policy query_ignore]`, "X-Original-Url is dropped: it is in no key, and origins may answer by it [RFC 9111 §7.1]")
		explain(request("GET", "/a", "X-Forwarded-Base: /b", "X_Forwarded_Script_Name: /b"), "X-Forwarded-Base is dropped", "X_forwarded_script_name is dropped")
		explain(request("GET", "/a", "X-Foo: 1", "X-Client-Number: 2", "User-Agent: x"),
			`key: X-Foo: ["1"] counts`, "X-Client-Number does not count, and is dropped [policy ignore_headers]")
		r.get("/text")
		r.get("/coded")
		r.get("/silent")
		r.get("/text", "Accept-Encoding: gzip")
		synctest.Wait()
		explain(request("GET", "/text"), "2000 bytes in no coding, 2006 bytes in gzip is selected", "answer: a hit, in no coding")
		explain(request("GET", "/coded"), "11 bytes in gzip is selected", "answer: a hit, in no coding", "the client would rather have it in no coding")
		synctest.Wait()
		explain(request("GET", "/coded"), "11 bytes in gzip is selected") // explaining made no form
		explain(request("GET", "/silent", "Cookie: a=1"), "is not selected: it says nothing of caches, and the request says who the client is [RFC 9111 §7.3]")
		r.Cache.Purge(Match{URL: "https://example.cn/text"}, true)
		explain(request("GET", "/text"), "freshness: purged softly: it is given while another is fetched [purge --soft]")
		r.get("/a")
		r.get("/down")
		r.get("/vary", "Accept-Language: zh")
		synctest.Wait()
		explain(request("GET", "/a"), "fresh until", "answer: a hit, in no coding")
		explain(request("GET", "/a", `If-None-Match: "1"`), "answer: a hit, 304: the client has it already [RFC 9110 §13.1]")
		explain(request("GET", "/a", `If-None-Match: "2"`), "answer: a hit, in no coding")
		explain(request("GET", "/a", "Range: bytes=1-2"), "answer: a hit, 206, bytes 1-2/5, in no coding [RFC 9110 §14.2]")
		explain(request("GET", "/a", "Range: bytes=9-"), "answer: a hit, 416: the range is not in its 5 bytes [RFC 9110 §15.5.17]")
		explain(request("GET", "/vary", "Accept-Language: en"), `Accept-Language is "en", it was made for "zh" [RFC 9111 §4.1]`)
		explain(request("GET", "/a", "Cache-Control: no-cache"), "the origin is asked: the request wants it fresher, or validated [RFC 9111 §5.2.1]")
		time.Sleep(2 * time.Minute)
		explain(request("GET", "/a"), "stale since", "may be given for 1h0m0s when the origin fails [policy stale_if_error]", `If-None-Match: "1"`, "still so, and freshened [RFC 9111 §4.3.4]")
		explain(request("GET", "/down"), "the origin answers 503", "what is kept is given stale, and that is not kept [RFC 5861 §4]")
		explain(request("HEAD", "/a"), "but what is kept is updated by it")
		if _, _, trace := r.get("/a"); trace.Result != Revalidated {
			t.Errorf("explaining changed something: %+v", trace)
		}
	})
}

// TestExplainAgrees holds what is explained against what Cache-Status then says of the
// same request: whether it is a hit, what the origin answers, and that a HEAD is not
// kept.
func TestExplainAgrees(t *testing.T) {
	type state struct {
		what  string
		path  string
		lines []string
		set   func(way *string, r *rig)
		says  string // that is explained
	}
	wait := func(*string, *rig) { time.Sleep(2 * time.Minute) }
	be := func(now string) func(*string, *rig) { return func(way *string, r *rig) { wait(way, r); *way = now } }
	known := func(way *string, r *rig) { be("down")(way, r); r.get("/a") }
	for _, method := range []string{"HEAD", "GET"} {
		for _, s := range []state{
			{"nothing is kept", "/new", nil, wait, "nothing is kept under the key"},
			{"it is fresh", "/a", nil, func(*string, *rig) {}, "a hit"},
			{"it is stale", "/a", nil, wait, "stale since"},
			{"it is another", "/a", nil, be("changed"), "the origin answers 200"},
			{"it is gone", "/a", nil, be("gone"), "the origin answers 404"},
			{"with a condition", "/a", []string{`If-None-Match: "1"`}, wait, "the origin answers 304"},
			{"with one that does not hold", "/a", []string{`If-None-Match: "9"`}, wait, ""},
			{"with a range", "/a", []string{"Range: bytes=1-2"}, wait, ""},
			{"down", "/a", nil, be("down"), "what is kept is given stale"},
			{"503", "/a", nil, be("503"), "what is kept is given stale"},
			{"nothing is kept, and it is down", "/new", nil, be("503"), "the origin answers 503"},
			{"it may not be stale, and it is down", "/must", nil, be("503"), "it may not be given stale"},
			{"it failed", "/a", nil, known, "given stale: the origin fails"},
			{"another page failed", "/b", nil, known, "given stale: the origin fails"},
			{"it failed a while ago", "/a", nil, func(way *string, r *rig) { known(way, r); time.Sleep(time.Minute) }, "is asked meanwhile"},
			{"it failed long ago", "/a", nil, func(way *string, r *rig) { known(way, r); time.Sleep(2 * troubleFor) }, "this request tries it"},
			{"it failed, and is reloaded", "/a", []string{"Cache-Control: no-cache"}, func(way *string, r *rig) { known(way, r); time.Sleep(time.Minute) }, "this request tries it"},
			{"it is fetched meanwhile", "/while", nil, wait, "another is fetched meanwhile"},
			{"it was, and failed", "/while", nil, known, "no other is fetched meanwhile"},
			{"as the last was for one alone", "/private", []string{`If-None-Match: "1"`}, wait, ""},
		} {
			t.Run(method+", "+s.what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					way, asked := "", ""
					r := newRig(t, Policy{Site: "shop", StaleIfError: 24 * time.Hour}, func(req *http.Request) (*http.Response, error) {
						asked += fmt.Sprintln(req.Method, req.Header["If-None-Match"], req.Header["Range"], req.Header["Accept-Encoding"])
						now, tag := "Date: "+time.Now().UTC().Format(http.TimeFormat), `"1"`
						control := map[string]string{"/must": "max-age=60, must-revalidate", "/while": "max-age=60, stale-while-revalidate=3600", "/private": "private"}[req.URL.Path]
						if control == "" {
							control = "max-age=60"
						}
						switch way {
						case "down":
							return nil, errors.New("down")
						case "503":
							return text(503, "down", now), nil
						case "gone":
							return text(404, "gone", now), nil
						case "changed":
							tag = `"2"`
						}
						if req.Header.Get("If-None-Match") == tag {
							return text(304, "", now, "Cache-Control: "+control, "Etag: "+tag), nil
						}
						return text(200, "hello", now, "Cache-Control: "+control, "Etag: "+tag), nil
					})
					defer r.Cache.Close()
					for _, path := range []string{"/a", "/b", "/must", "/while", "/private"} {
						r.get(path)
					}
					r.idle()
					s.set(&way, r)
					req := request(method, s.path, append(s.lines, "Accept-Encoding: gzip")...)
					asked = ""
					explained := ""
					for _, step := range r.Explain(t.Context(), req) {
						explained += step.About + ": " + step.Says + "\n"
					}
					asking := asked
					asked = ""
					var trace Trace
					res, err := r.RoundTrip(req.WithContext(WithTrace(t.Context(), &trace)))
					said := trace.Status
					if err == nil {
						said = res.Header.Get("Cache-Status")
						res.Body.Close()
					}
					synctest.Wait()
					forwarded := asked
					if _, status, _ := strings.Cut(said, "fwd-status="); status != "" {
						status, _, _ = strings.Cut(status, ";")
						if !strings.Contains(explained, "the origin answers "+status) {
							t.Errorf("%s is not\n%s", said, explained)
						}
					}
					given := strings.Contains(explained, "answer: a hit") || strings.Contains(explained, "answer: given stale") || strings.Contains(explained, "answer: what is kept is given stale")
					if strings.Contains(said, "; hit") != given || strings.Contains(said, `detail="head"`) != strings.Contains(explained, "a HEAD has no body to keep") || !strings.Contains(explained, s.says) {
						t.Errorf("%s is not\n%s", said, explained)
					}
					if !strings.Contains(said, "; hit") && asking != forwarded {
						t.Errorf("explaining asked for\n%sthe request for\n%s", asking, forwarded)
					}
				})
			})
		}
	}
}

// TestReasons holds that each reason is told in words, with where it stands.
func TestReasons(t *testing.T) {
	for reason := range sections {
		if explained[reason] == "" {
			t.Errorf("%s is not explained", reason)
		}
	}
	for reason := range explained {
		if sections[reason] == "" && reason != whyClosed { // of a node that stops
			t.Errorf("%s stands nowhere", reason)
		}
	}
}
