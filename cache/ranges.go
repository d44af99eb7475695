package cache

import (
	"slices"
	"strconv"
	"strings"
)

// Ranges (RFC 9110 §14). One range of bytes is answered with that part: from a
// whole, or from the parts that are kept, where they cover it. Several at once are
// answered with the whole, as a server may (§14.2).

// ranged is one range: of the last n bytes when last, else from from up to to; -1
// is the end.
type ranged struct {
	from, to int64 // to is not in it
	last     bool  // from is how many
}

// readRange reads a Range field: nil when it is to be ignored.
func readRange(lines []string) *ranged {
	if len(lines) != 1 {
		return nil
	}
	unit, set, ok := strings.Cut(lines[0], "=")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return nil
	}
	first, last, ok := strings.Cut(strings.Trim(set, " \t"), "-")
	if !ok {
		return nil
	}
	if first == "" {
		n, ok := position(last)
		if !ok {
			return nil
		}
		return &ranged{from: n, to: -1, last: true}
	}
	from, ok := position(first)
	if !ok {
		return nil
	}
	if last == "" {
		return &ranged{from: from, to: -1}
	}
	to, ok := position(last)
	if !ok || to < from {
		return nil
	}
	return &ranged{from: from, to: to + 1}
}

// position reads a number of bytes.
func position(s string) (int64, bool) {
	for i := 0; i < len(s); i++ {
		if !isDigit(s[i]) {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 62)
	return n, err == nil
}

// of is the range in a body of size bytes; not ok is one that is not in it.
func (r *ranged) of(size int64) (from, to int64, ok bool) {
	if r.last {
		return max(0, size-r.from), size, r.from > 0 && size > 0
	}
	if to = r.to; to < 0 || to > size {
		to = size
	}
	return r.from, to, r.from < size
}

// text is the range as a Range field has it.
func (r *ranged) text() string {
	switch {
	case r.last:
		return "bytes=-" + strconv.FormatInt(r.from, 10)
	case r.to < 0:
		return "bytes=" + strconv.FormatInt(r.from, 10) + "-"
	}
	return "bytes=" + strconv.FormatInt(r.from, 10) + "-" + strconv.FormatInt(r.to-1, 10)
}

// contentRange is that field of a part.
func contentRange(from, to, of int64) string {
	b := strconv.AppendInt([]byte("bytes "), from, 10)
	b = strconv.AppendInt(append(b, '-'), to-1, 10)
	b = strconv.AppendInt(append(b, '/'), of, 10)
	return string(b)
}

// piece is the bytes of one part that are wanted.
type piece struct {
	object   *Object
	from, to int64 // in the whole
}

// reach is how far parts have all bytes from from on, to at most.
func reach(parts []*Object, from, to int64) int64 {
	for at := from; ; {
		next := at
		for _, o := range parts {
			if s := o.Meta.Span; s.From <= at && s.To > next {
				next = s.To
			}
		}
		if next = min(next, to); next == at || next == to {
			return next
		}
		at = next
	}
}

// reachBack is how far back they have all up to to, from at least.
func reachBack(parts []*Object, from, to int64) int64 {
	for at := to; ; {
		next := at
		for _, o := range parts {
			if s := o.Meta.Span; s.To >= at && s.From < next {
				next = s.From
			}
		}
		if next = max(next, from); next == at || next == from {
			return next
		}
		at = next
	}
}

// cover gives pieces of parts that are together the bytes from from up to to; nil
// when the parts do not have them.
func cover(parts []*Object, from, to int64) []piece {
	sorted := slices.Clone(parts)
	slices.SortFunc(sorted, func(a, b *Object) int { return int(min(1, max(-1, a.Meta.Span.From-b.Meta.Span.From))) })
	var pieces []piece
	for at := from; at < to; {
		var best *Object
		for _, o := range sorted {
			if o.Meta.Span.From <= at && o.Meta.Span.To > at && (best == nil || o.Meta.Span.To > best.Meta.Span.To) {
				best = o
			}
		}
		if best == nil {
			return nil
		}
		end := min(best.Meta.Span.To, to)
		pieces = append(pieces, piece{best, at, end})
		at = end
	}
	return pieces
}
