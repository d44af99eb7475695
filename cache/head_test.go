package cache

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// seeds are files and metas to start from.
func seeds() [][]byte {
	var all [][]byte
	for i, meta := range []*Meta{metaOf(1, "a"), {}, {Header: nil, Tags: []string{""}, Note: string(make([]byte, 4000))}} {
		raw := appendMeta(nil, meta)
		h := header{key: testKey(i), id: uint64(i + 1), size: 10, metaLen: len(raw), metaSum: checksum(raw)}
		h.metaAt = h.place(len(raw), true)
		file := make([]byte, h.end())
		copy(file, h.bytes())
		copy(file[h.metaAt:], raw)
		all = append(all, file, raw)
	}
	return all
}

// FuzzReadHead reads any bytes as a file. What is taken for a head says where
// things are in the file, and is written as it was read.
func FuzzReadHead(f *testing.F) {
	for _, seed := range seeds() {
		f.Add(seed)
	}
	path := filepath.Join(f.TempDir(), "file")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		h, raw, size, err := readHead(path)
		if err != nil {
			return
		}
		if size != int64(len(b)) || h.end() > size || len(raw) != h.metaLen || !bytes.Equal(raw, b[h.metaAt:h.metaEnd()]) {
			t.Fatalf("%+v of %d bytes", h, size)
		}
		again, err := parseHeader(h.bytes())
		if err != nil || again != h {
			t.Fatalf("%+v became %+v: %v", h, again, err)
		}
		parseMeta(raw)
	})
}

// FuzzParseHeader does so without the checksum in the way.
func FuzzParseHeader(f *testing.F) {
	for _, seed := range seeds() {
		f.Add(seed[:min(len(seed), headerSize)], 100)
	}
	f.Fuzz(func(t *testing.T, b []byte, length int) {
		if len(b) >= 72 {
			sum := checksum(b[:68])
			b[68], b[69], b[70], b[71] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		}
		h, err := parseHeader(b)
		if err != nil {
			return
		}
		if h.size < 0 || h.metaAt < headerSize || h.metaLen < 0 || h.metaAt < headSize && h.metaEnd() > headSize || h.metaAt >= headSize && h.metaAt < headSize+h.size {
			t.Fatalf("%+v", h)
		}
		// A meta that follows another is not over it, the header or the body.
		length = max(0, min(length, mostMeta))
		next := h
		next.metaAt, next.metaLen = h.place(length, false), length
		if next.metaAt < h.metaEnd() && h.metaAt < next.metaEnd() && length > 0 && h.metaLen > 0 {
			t.Fatalf("%+v over %+v", next, h)
		}
		if _, err := parseHeader(next.bytes()); err != nil {
			t.Fatalf("%+v: %v", next, err)
		}
	})
}

// FuzzParseMeta reads any bytes as a Meta: what is read is written, and read
// again, the same.
func FuzzParseMeta(f *testing.F) {
	for _, seed := range seeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		meta, err := parseMeta(b)
		if err != nil {
			return
		}
		if brief, err := parseBrief(b); err != nil || brief.url != meta.URL || brief.id != meta.ID || len(brief.tags) != len(meta.Tags) {
			t.Fatalf("brief %+v: %v", brief, err)
		}
		again, err := parseMeta(appendMeta(nil, meta))
		if err != nil {
			t.Fatal(err)
		}
		sameMeta(t, again, meta)
	})
}

// FuzzReadSegment reads any bytes as a segment of the journal, and as a record.
func FuzzReadSegment(f *testing.F) {
	x := newIndex()
	e := x.entry(testKey(1), 7, briefOf(metaOf(1, "a")))
	e.pages = 2
	segment := appendObject(append([]byte(nil), segmentMagic...), &e, "shop")
	segment = appendForm(segment, e.key, e.id, &extra{coding: 1, number: 1, size: 100})
	f.Add(segment)
	f.Add(segment[len(segmentMagic)+8:])
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(r record) {
			if r.form != nil {
				return
			}
			unlabel(r.entry.label)
			Match{Tag: "x"}.matches(&r.entry, 1)
			Match{URL: "x"}.matches(&r.entry, 1)
			written := appendObject(nil, &r.entry, r.site)
			again, err := parseRecord(written[8:])
			if err != nil || again.entry != r.entry || again.site != r.site {
				t.Fatalf("%+v became %+v: %v", r, again, err)
			}
		}
		if err := readSegment(bytes.NewReader(b), check); err != nil {
			t.Fatal(err)
		}
		if r, err := parseRecord(b); err == nil {
			check(r)
		}
	})
}

// TestPlace moves a meta about for a while: it is always read back.
func TestPlace(t *testing.T) {
	o := TiersOptions{Disk: 64 << 20, Dir: t.TempDir()}
	s := open(t, o)
	object := keep(t, s, metaOf(1, "a"), bodyOf(1, 5000))
	for i := range 200 {
		meta := metaOf(1, "a")
		meta.Note = string(make([]byte, i*37%7000))
		if object = s.Renew(object, meta); object == nil {
			t.Fatal("not renewed")
		}
		object = one(t, s, testKey(1))
		sameMeta(t, object.Meta, meta)
		expect(t, object.Forms[0], bodyOf(1, 5000))
	}
	if used := usedBytes(t, o.Dir); used > s.Stats().DiskBytes || used > 100_000 {
		t.Errorf("%d bytes in use, %d counted", used, s.Stats().DiskBytes)
	}
	s = reopen(t, s, o)
	expect(t, one(t, s, testKey(1)).Forms[0], bodyOf(1, 5000))
}
