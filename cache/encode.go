package cache

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/http"
	"slices"
	"time"
)

// A Meta as bytes, for a file: its fields one after the other, what the index
// needs first, numbers as varints, strings with their length before them. The key
// is not among them: the header of the file has it.

var errMeta = errors.New("not a meta")

// appendMeta appends meta to b.
func appendMeta(b []byte, meta *Meta) []byte {
	b = appendString(b, meta.ID)
	b = appendString(b, meta.Site)
	b = appendString(b, meta.URL)
	b = binary.AppendUvarint(b, uint64(len(meta.Tags)))
	for _, tag := range meta.Tags {
		b = appendString(b, tag)
	}
	b = appendTime(b, meta.Received)
	b = appendTime(b, meta.Until)

	b = appendTime(b, meta.Requested)
	b = binary.AppendVarint(b, int64(meta.Status))
	b = appendString(b, meta.Coding)
	b = appendString(b, meta.Note)
	b = binary.AppendUvarint(b, uint64(len(meta.Vary)))
	for _, selector := range meta.Vary {
		b = appendString(b, selector.Name)
		b = appendString(b, selector.Value)
	}
	if meta.Span == nil {
		b = append(b, 0)
	} else {
		b = append(b, 1)
		b = binary.AppendVarint(b, meta.Span.From)
		b = binary.AppendVarint(b, meta.Span.To)
		b = binary.AppendVarint(b, meta.Span.Of)
	}
	b = binary.AppendUvarint(b, uint64(len(meta.Header)))
	for _, name := range slices.Sorted(maps.Keys(meta.Header)) {
		b = appendString(b, name)
		b = binary.AppendUvarint(b, uint64(len(meta.Header[name])))
		for _, value := range meta.Header[name] {
			b = appendString(b, value)
		}
	}
	return b
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// appendTime appends the seconds, and the nanoseconds plus one; a zero for the
// zero time.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(t.Nanosecond())+1)
	return binary.AppendVarint(b, t.Unix())
}

// brief is what the index wants of a Meta.
type brief struct {
	id, site, url   string
	tags            []string
	received, until time.Time
}

// briefOf gives that of a Meta.
func briefOf(meta *Meta) brief {
	return brief{id: meta.ID, site: meta.Site, url: meta.URL, tags: meta.Tags, received: meta.Received, until: meta.Until}
}

// parseBrief reads only what the index wants.
func parseBrief(b []byte) (brief, error) {
	fields := fields{rest: string(b)}
	brief := fields.brief()
	if fields.bad {
		return brief, errMeta
	}
	return brief, nil
}

// parseMeta reads a Meta, without its key. The bytes may be anything.
func parseMeta(b []byte) (*Meta, error) {
	f := fields{rest: string(b)}
	brief := f.brief()
	meta := &Meta{ID: brief.id, Site: brief.site, URL: brief.url, Tags: brief.tags, Received: brief.received, Until: brief.until}
	meta.Requested = f.time()
	meta.Status = int(f.varint())
	meta.Coding = f.string()
	meta.Note = f.string()
	for range f.count(2) {
		meta.Vary = append(meta.Vary, Selector{Name: f.string(), Value: f.string()})
	}
	switch f.byte() {
	case 0:
	case 1:
		meta.Span = &Span{From: f.varint(), To: f.varint(), Of: f.varint()}
	default:
		f.bad = true
	}
	names := f.count(2)
	meta.Header = make(http.Header, names)
	for range names {
		name := f.string()
		values := make([]string, f.count(1))
		for i := range values {
			values[i] = f.string()
		}
		meta.Header[name] = values
	}
	if f.bad || f.rest != "" {
		return nil, errMeta
	}
	return meta.settled(), nil
}

// fields reads what append… wrote. After something that can't be, it is bad and
// gives nothing but zeros.
type fields struct {
	rest string
	bad  bool
}

func (f *fields) brief() brief {
	b := brief{id: f.string(), site: f.string(), url: f.string()}
	if n := f.count(1); n > 0 {
		b.tags = make([]string, n)
		for i := range b.tags {
			b.tags[i] = f.string()
		}
	}
	b.received, b.until = f.time(), f.time()
	return b
}

func (f *fields) byte() byte {
	if f.bad || f.rest == "" {
		f.bad = true
		return 0
	}
	c := f.rest[0]
	f.rest = f.rest[1:]
	return c
}

func (f *fields) uvarint() uint64 {
	var v uint64
	for shift := 0; shift < 64; shift += 7 {
		c := f.byte()
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
	}
	f.bad = true
	return 0
}

func (f *fields) varint() int64 {
	v := f.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (f *fields) string() string {
	n := f.uvarint()
	if f.bad || n > uint64(len(f.rest)) {
		f.bad = true
		return ""
	}
	s := f.rest[:n]
	f.rest = f.rest[n:]
	return s
}

// count reads how many things of at least so many bytes follow.
func (f *fields) count(least int) int {
	n := f.uvarint()
	if f.bad || n > uint64(len(f.rest)/least) {
		f.bad = true
		return 0
	}
	return int(n)
}

func (f *fields) time() time.Time {
	nanos := f.uvarint()
	if f.bad || nanos == 0 {
		return time.Time{}
	}
	seconds := f.varint()
	if nanos > uint64(time.Second) {
		f.bad = true
		return time.Time{}
	}
	return time.Unix(seconds, int64(nanos)-1)
}
