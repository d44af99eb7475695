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
//		"abc"    <->  W/"abc-cw.VERSION"
//		W/"abc"  <->  W/"abc-cww.VERSION"
//
//	 1. Request turns the marks of If-None-Match and If-Match back (originTags) and remembers them.
//	 2. The origin compares its own tags: 304 and 412 work end to end.
//	 3. Response marks the ETag of what it rewrites, and of a 304 that answers a mark.
//
// A tag of another map's version matches nothing: the client's copy has other names in it.
const (
	markStrong = "-cw."
	markWeak   = "-cww."
)

// publicTag marks an entity tag; what is none is returned as it is.
func (m *Map) publicTag(tag string) string {
	mark, opaque := markStrong, tag
	if weak, ok := strings.CutPrefix(tag, "W/"); ok {
		mark, opaque = markWeak, weak
	}
	if len(opaque) < 2 || opaque[0] != '"' || opaque[len(opaque)-1] != '"' {
		return tag
	}
	return "W/" + opaque[:len(opaque)-1] + mark + m.version + `"`
}

// originTag takes the mark off; ours says whether there was one, of whatever version.
func (m *Map) originTag(tag string) (origin string, ours, current bool) {
	opaque, weak := strings.CutPrefix(tag, `W/`)
	if !weak || len(opaque) < 2 || opaque[len(opaque)-1] != '"' {
		return tag, false, false
	}
	dot := strings.LastIndexByte(opaque, '.')
	if dot < 0 {
		return tag, false, false
	}
	head, version := opaque[:dot+1], opaque[dot+1:len(opaque)-1]
	current = version == m.version
	if origin, ok := strings.CutSuffix(head, markWeak); ok {
		return "W/" + origin + `"`, true, current
	}
	if origin, ok := strings.CutSuffix(head, markStrong); ok {
		return origin + `"`, true, current
	}
	return tag, false, false
}

// originTags maps a list of entity tags to the origin's. Those of another version are left out
// unless keepOthers says so. marked are the origin's tags that had a mark.
func (m *Map) originTags(lines []string, keepOthers bool) (value string, marked []string) {
	var list []string
	for tag := range eachTag(strings.Join(lines, ", ")) {
		origin, ours, current := m.originTag(tag)
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
	var marked []string
	if lines := r.Header["If-None-Match"]; hasMark(lines) {
		var value string
		if value, marked = m.originTags(lines, false); value == "" {
			r.Header.Del("If-None-Match")
		} else {
			r.Header.Set("If-None-Match", value)
		}
	}
	if lines := r.Header["If-Match"]; hasMark(lines) {
		value, _ := m.originTags(lines, true)
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
		return strings.Contains(line, markStrong) || strings.Contains(line, markWeak)
	})
}

// notModified marks the tag of a 304 that answers a mark, as the 200 had it.
func (m *Map) notModified(res *http.Response) {
	if res.Request == nil {
		return
	}
	marked, _ := res.Request.Context().Value(markedKey{}).([]string)
	tag := res.Header.Get("Etag")
	weakly := func(other string) bool {
		return strings.TrimPrefix(other, "W/") == strings.TrimPrefix(tag, "W/")
	}
	if !slices.ContainsFunc(marked, weakly) {
		return
	}
	res.Header.Set("Etag", m.publicTag(tag))
	dropStale(res.Header)
	addVary(res.Header)
	res.Header.Del("Content-Length")
}
