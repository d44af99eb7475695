package rewrite

import (
	"context"
	"net/http"
	"slices"
	"strings"
)

// A rewritten body is another representation than the origin's and has an entity tag of its own
// (RFC 9110 section 8.8.3): weak, because codings differ, and with a mark that holds the map's
// version and whether the origin's was strong.
//
//	"abc"    <->  W/"abc-cw.VERSION"
//	W/"abc"  <->  W/"abc-cww.VERSION"
//	none     <->  W/"65920080-cwd.VERSION"
//
// The last is for an origin that tells its versions apart by Last-Modified alone: without a tag of
// ours a copy made under another map would be taken for the present one. It holds that date, and goes
// back as If-Modified-Since (dated.go).
//
//  1. Request turns the marks of If-None-Match and If-Match back (originTags) and remembers them.
//  2. The origin compares its own tags: 304 and 412 work end to end.
//  3. Response marks the ETag of what it rewrites, and of a 304 that answers a mark.
//
// A tag of another map's version matches nothing: the client's copy has other names in it. With
// Rules.Runtime the version is followed by what the request was for (runtime_page.go).
const (
	markStrong = "-cw."
	markWeak   = "-cww."
	markDate   = "-cwd."
)

// publicTag marks an entity tag; what is none is returned as it is.
func (m *Map) publicTag(tag string, r *http.Request) string {
	mark, opaque := markStrong, tag
	if weak, ok := strings.CutPrefix(tag, "W/"); ok {
		mark, opaque = markWeak, weak
	}
	if len(opaque) < 2 || opaque[0] != '"' || opaque[len(opaque)-1] != '"' {
		return tag
	}
	return "W/" + opaque[:len(opaque)-1] + mark + m.tagVersion(r) + `"`
}

// tagVersion is what the marks of answers to r end in.
func (m *Map) tagVersion(r *http.Request) string {
	if !m.rules.Runtime {
		return m.version
	}
	return m.version + string(aimOf(r))
}

// originTag takes the mark off; ours says whether there was one, whatever it ends in, and current
// whether that is version.
func originTag(tag, version string) (origin string, ours, current bool) {
	opaque, weak := strings.CutPrefix(tag, `W/`)
	if !weak || len(opaque) < 2 || opaque[len(opaque)-1] != '"' {
		return tag, false, false
	}
	dot := strings.LastIndexByte(opaque, '.')
	if dot < 0 {
		return tag, false, false
	}
	head := opaque[:dot+1]
	current = opaque[dot+1:len(opaque)-1] == version
	if origin, ok := strings.CutSuffix(head, markWeak); ok {
		return "W/" + origin + `"`, true, current
	}
	if origin, ok := strings.CutSuffix(head, markStrong); ok {
		return origin + `"`, true, current
	}
	return tag, false, false
}

// originTags maps a list of entity tags to the origin's. Those of other versions are left out unless
// keepOthers says so. marked are the origin's tags that had a mark.
func originTags(lines []string, version string, keepOthers bool) (value string, marked []string) {
	var list []string
	for tag := range eachTag(strings.Join(lines, ", ")) {
		origin, ours, current := originTag(tag, version)
		switch {
		case !ours:
			list = append(list, tag)
		case current:
			list, marked = append(list, origin), append(marked, origin)
		case keepOthers:
			list = append(list, tag)
		}
	}
	return strings.Join(list, ", "), marked
}

// eachTag parts a list at the commas outside quotes (RFC 9110 section 13.1.1).
func eachTag(list string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		quoted, start := false, 0
		for i := 0; i <= len(list); i++ {
			if i < len(list) && list[i] == '"' {
				quoted = !quoted
			}
			if i < len(list) && (quoted || list[i] != ',') {
				continue
			}
			tag := strings.TrimSpace(list[start:i])
			start = i + 1
			if tag != "" && !yield(tag) {
				return
			}
		}
	}
}

// markedKey is the context key of the origin's tags that came in with a mark.
type markedKey struct{}

// conditions maps the conditional fields of a request to the origin's tags.
func (m *Map) conditions(r *http.Request) {
	if !hasMark(r.Header["If-None-Match"]) && !hasMark(r.Header["If-Match"]) && !hasMark(r.Header["If-Range"]) {
		return
	}
	m.datedConditions(r)
	var marked []string
	if lines := r.Header["If-None-Match"]; hasMark(lines) {
		var value string
		if value, marked = originTags(lines, m.tagVersion(r), false); value == "" {
			r.Header.Del("If-None-Match")
			r.Header.Del("If-Modified-Since") // it counts only where there is no tag (RFC 9110 section 13.1.3)
		} else {
			r.Header.Set("If-None-Match", value)
		}
	}
	if lines := r.Header["If-Match"]; hasMark(lines) {
		value, _ := originTags(lines, m.tagVersion(r), true)
		r.Header.Set("If-Match", value)
	}
	if hasMark(r.Header["If-Range"]) {
		r.Header.Del("If-Range")
		r.Header.Del("Range")
	}
	if len(marked) > 0 {
		*r = *r.WithContext(context.WithValue(r.Context(), markedKey{}, marked))
	}
}

func hasMark(lines []string) bool {
	return slices.ContainsFunc(lines, func(line string) bool {
		return strings.Contains(line, markStrong) || strings.Contains(line, markWeak) || strings.Contains(line, markDate)
	})
}

// notModified marks the tag of a 304 that answers a mark, as the 200 had it.
func (m *Map) notModified(res *http.Response) {
	if res.Request == nil {
		return
	}
	m.runtimeNotModified(res)
	marked, _ := res.Request.Context().Value(markedKey{}).([]string)
	tag := res.Header.Get("Etag")
	if date, ok := res.Request.Context().Value(datedKey{}).(string); ok {
		if tag != "" { // it has tags by now
			tag = m.publicTag(tag, res.Request)
		} else if tag = m.datedTag(res.Header.Get("Last-Modified"), res.Request); tag == "" {
			tag = m.datedTag(date, res.Request)
		}
		describeNotModified(res.Header, tag)
		return
	}
	weakly := func(other string) bool {
		return strings.TrimPrefix(other, "W/") == strings.TrimPrefix(tag, "W/")
	}
	if !slices.ContainsFunc(marked, weakly) {
		return
	}
	describeNotModified(res.Header, m.publicTag(tag, res.Request))
}

// describeNotModified makes the header of a 304 that of a rewritten body.
func describeNotModified(h http.Header, tag string) {
	h.Set("Etag", tag)
	dropStale(h)
	addVary(h, "Accept-Encoding")
	h.Del("Content-Length")
}
