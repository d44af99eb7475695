package cache

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// storeConformance is what every Store does. newStore makes an empty one with room
// for some megabytes.
func storeConformance(t *testing.T, newStore func(t *testing.T) Store) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s Store)
	}{
		{"nothing", storeNothing},
		{"keep and find", storeKeep},
		{"variants", storeVariants},
		{"replace", storeReplace},
		{"renew", storeRenew},
		{"forms", storeForms},
		{"remove", storeRemove},
		{"forget", storeForget},
		{"removed while read", storeRemovedWhileRead},
		{"draft is read while written", storeDraft},
		{"draft discarded", storeDiscard},
		{"draft is not what was announced", storeShort},
		{"purge hard", func(t *testing.T, s Store) { storePurge(t, s, false) }},
		{"purge soft", func(t *testing.T, s Store) { storePurge(t, s, true) }},
		{"purge and then what was before", storePurgeOld},
		{"list", storeList},
		{"many at once", storeMany},
		{"purge among others", storePurgeRace},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, newStore(t)) })
	}
}

func testKey(n int) (key Key) {
	x := rand.New(rand.NewPCG(uint64(n), 1))
	for i := range key {
		key[i] = byte(x.Uint32())
	}
	return key
}

// metaOf is a Meta with something in every field.
func metaOf(n int, id string) *Meta {
	at := time.Date(2026, 11, 1, 12, 0, n%60, 123456789, time.UTC)
	return &Meta{
		Key: testKey(n), ID: id, Site: "shop", URL: fmt.Sprintf("https://www.example.cn/a/%d?v=1", n),
		Status: 200,
		Header: http.Header{"Content-Type": {"text/html; charset=utf-8"}, "Link": {"</a>; rel=preload", "</b>"}, "Etag": {`"` + id + `"`}},
		Vary:   []Selector{{"Accept-Encoding", "gzip"}, {"Accept-Language", id}},
		Coding: "br", Span: &Span{From: 0, To: 10, Of: 100}, Tags: []string{"all", fmt.Sprintf("t%d", n%10)},
		Requested: at, Received: at.Add(time.Second), Until: at.Add(time.Hour), Note: "ttl",
	}
}

// bodyOf is bytes that tell n and the length.
func bodyOf(n, length int) []byte {
	b := make([]byte, length)
	x := rand.New(rand.NewPCG(uint64(n), uint64(length)))
	for i := 0; i < length; i += 8 {
		v := x.Uint64()
		for j := i; j < min(i+8, length); j++ {
			b[j] = byte(v)
			v >>= 8
		}
	}
	return b
}

// write makes a draft of b, in pieces of some length.
func write(t testing.TB, s Store, size int64, b []byte, piece int) Draft {
	t.Helper()
	d, err := s.Begin(size)
	if err != nil {
		t.Fatalf("begin: %v", err)
	}
	for len(b) > 0 {
		n := min(piece, len(b))
		if _, err := d.Write(b[:n]); err != nil {
			t.Fatalf("write: %v", err)
		}
		b = b[n:]
	}
	return d
}

func keep(t testing.TB, s Store, meta *Meta, b []byte) *Object {
	t.Helper()
	object := s.Keep(meta, write(t, s, int64(len(b)), b, 32<<10))
	if object == nil {
		t.Fatal("not kept")
	}
	return object
}

// read is all of a body.
func read(body Body) ([]byte, error) {
	r, err := body.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.NewSectionReader(r, 0, body.Size()))
}

// expected counts what expect found right.
var expected atomic.Int64

// countBodies logs at the end of a test how many bodies were read in it: figures for
// docs/RELIABILITY.md. more, which may be nil, adds to that.
func countBodies(t testing.TB, more func() string) {
	before := expected.Load()
	t.Cleanup(func() {
		text := fmt.Sprintf("%d bodies read, each right", expected.Load()-before)
		if more != nil {
			text += "; " + more()
		}
		if !t.Failed() {
			t.Log(text)
		}
	})
}

// expect fails unless the form is these bytes.
func expect(t testing.TB, form Form, want []byte) {
	t.Helper()
	if form.Body.Size() != int64(len(want)) {
		t.Fatalf("size %d, want %d", form.Body.Size(), len(want))
	}
	got, err := read(form.Body)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%d other bytes", len(got))
	}
	expected.Add(1)
}

// sameMeta fails unless got is want, whatever became of clocks and locations.
func sameMeta(t testing.TB, got, want *Meta) {
	t.Helper()
	print := func(m *Meta) string {
		c := *m.with(m.Header)
		c.Requested, c.Received, c.Until, c.Span = c.Requested.UTC().Round(0), c.Received.UTC().Round(0), c.Until.UTC().Round(0), nil
		return fmt.Sprintf("%+v %+v", c, m.Span)
	}
	if print(got) != print(want) {
		t.Fatalf("meta\n%s\nwant\n%s", print(got), print(want))
	}
}

func one(t testing.TB, s Store, key Key) *Object {
	t.Helper()
	found := s.Find(key)
	if len(found) != 1 {
		t.Fatalf("found %d objects, want one", len(found))
	}
	return found[0]
}

func none(t testing.TB, s Store, key Key) {
	t.Helper()
	if found := s.Find(key); len(found) != 0 {
		t.Fatalf("found %d objects, want none", len(found))
	}
}

func storeNothing(t *testing.T, s Store) {
	none(t, s, testKey(1))
	if n := s.Purge(Match{}, false); n != 0 {
		t.Errorf("purged %d of nothing", n)
	}
	s.List(Match{}, func(l Listed) bool { t.Errorf("listed %+v", l); return true })
	s.Remove(&Object{Meta: metaOf(1, "")})
	if s.Renew(&Object{Meta: metaOf(1, "")}, metaOf(1, "")) != nil {
		t.Error("renewed what was never kept")
	}
}

func storeKeep(t *testing.T, s Store) {
	for i, size := range []int{0, 1, 4095, 4096, 4097, 100_000, 256 << 10, 256<<10 + 1, 700_000} {
		for j, announced := range []int64{-1, int64(size)} {
			n := 2*i + j
			want := bodyOf(n, size)
			object := s.Keep(metaOf(n, "a"), write(t, s, announced, want, 10_000))
			if object == nil {
				t.Fatalf("%d bytes: not kept", size)
			}
			expect(t, object.Forms[0], want)
			found := one(t, s, testKey(n))
			sameMeta(t, found.Meta, metaOf(n, "a"))
			expect(t, found.Forms[0], want)
			if found.Forms[0].Coding != "br" {
				t.Errorf("coding %q", found.Forms[0].Coding)
			}
		}
	}
	none(t, s, testKey(100))
}

func storeVariants(t *testing.T, s Store) {
	for i := range 5 {
		keep(t, s, metaOf(1, fmt.Sprint(i)), bodyOf(i, 1000))
	}
	found := s.Find(testKey(1))
	if len(found) != 5 {
		t.Fatalf("found %d", len(found))
	}
	for i, object := range found {
		if object.Meta.ID != fmt.Sprint(4-i) {
			t.Errorf("variant %s at %d: the newest is first", object.Meta.ID, i)
		}
		expect(t, object.Forms[0], bodyOf(4-i, 1000))
	}
	s.Remove(found[2])
	if found := s.Find(testKey(1)); len(found) != 4 || slices.ContainsFunc(found, func(o *Object) bool { return o.Meta.ID == "2" }) {
		t.Errorf("found %d", len(found))
	}
}

func storeReplace(t *testing.T, s Store) {
	first := keep(t, s, metaOf(1, "a"), bodyOf(1, 5000))
	second := keep(t, s, metaOf(1, "a"), bodyOf(2, 7000))
	if one(t, s, testKey(1)) != second {
		expect(t, one(t, s, testKey(1)).Forms[0], bodyOf(2, 7000))
	}
	if s.Renew(first, metaOf(1, "a")) != nil {
		t.Error("renewed what was replaced")
	}
	s.Remove(first)
	expect(t, one(t, s, testKey(1)).Forms[0], bodyOf(2, 7000))
}

func storeRenew(t *testing.T, s Store) {
	first := keep(t, s, metaOf(1, "a"), bodyOf(1, 5000))
	for i := range 40 {
		meta := metaOf(1, "a")
		meta.Until = meta.Until.Add(time.Duration(i) * time.Hour)
		meta.Header.Set("X", strings.Repeat("x", i*i*3))
		second := s.Renew(first, meta)
		if second == nil {
			t.Fatalf("not renewed the %d. time", i)
		}
		sameMeta(t, second.Meta, meta)
		sameMeta(t, one(t, s, testKey(1)).Meta, meta)
		expect(t, second.Forms[0], bodyOf(1, 5000))
		if s.Renew(first, metaOf(1, "a")) != nil {
			t.Error("renewed what was renewed")
		}
		s.Remove(first)
		first = second
	}
	one(t, s, testKey(1))
	tagged := metaOf(1, "a")
	tagged.Tags = []string{"new"}
	s.Renew(first, tagged)
	if n := s.Purge(Match{Tag: "all"}, false); n != 0 {
		t.Errorf("purged %d by a tag that was", n)
	}
	if n := s.Purge(Match{Tag: "new"}, false); n != 1 {
		t.Errorf("purged %d by a tag that is", n)
	}
}

func storeForms(t *testing.T, s Store) {
	object := keep(t, s, metaOf(1, "a"), bodyOf(1, 5000))
	for i, coding := range []string{"", "gzip", "zstd", "br", "gzip"} {
		b := bodyOf(10+i, 3000*(i+1))
		s.Form(object, coding, write(t, s, -1, b, 1000))
	}
	for _, object := range []*Object{one(t, s, testKey(1)), s.Renew(one(t, s, testKey(1)), metaOf(1, "a"))} {
		if len(object.Forms) != 4 {
			t.Fatalf("%d forms", len(object.Forms))
		}
		expect(t, object.Forms[0], bodyOf(1, 5000))
		for i, coding := range []string{"", "gzip", "zstd"} {
			if object.Forms[i+1].Coding != coding {
				t.Errorf("coding %q", object.Forms[i+1].Coding)
			}
			expect(t, object.Forms[i+1], bodyOf(10+i, 3000*(i+1)))
		}
	}
	s.Remove(one(t, s, testKey(1)))
	s.Form(object, "deflate", write(t, s, -1, bodyOf(1, 1), 1))
	none(t, s, testKey(1))
}

func storeRemove(t *testing.T, s Store) {
	object := keep(t, s, metaOf(1, "a"), bodyOf(1, 5000))
	keep(t, s, metaOf(2, "a"), bodyOf(2, 5000))
	s.Remove(object)
	s.Remove(object)
	none(t, s, testKey(1))
	one(t, s, testKey(2))
	if s.Renew(object, metaOf(1, "a")) != nil {
		t.Error("renewed what was removed")
	}
	none(t, s, testKey(1))
}

func storeForget(t *testing.T, s Store) {
	var keys []Key
	for i := range 4 {
		for j := range 3 {
			meta := metaOf(i, "v")
			meta.Key[len(Key{})-1] = byte(j)
			keys = append(keys, meta.Key)
			keep(t, s, meta, bodyOf(i, 100))
			meta = meta.with(meta.Header)
			meta.ID = "w"
			s.Form(keep(t, s, meta, bodyOf(i, 200)), "gzip", write(t, s, 50, bodyOf(i, 50), 50))
		}
	}
	old := s.Find(keys[0])[0]
	s.Forget(keys[2].head())
	for i, key := range keys {
		if n := len(s.Find(key)); i < 3 && n != 0 || i >= 3 && n != 2 {
			t.Errorf("%d of %d are found", n, i)
		}
	}
	if s.Renew(old, old.Meta) != nil {
		t.Error("what is forgotten was renewed")
	}
	s.Forget(keys[0].head())
	keep(t, s, metaOf(0, "v"), bodyOf(0, 100))
	one(t, s, testKey(0))
}

func storeRemovedWhileRead(t *testing.T, s Store) {
	for _, size := range []int{5000, 500_000} {
		object := keep(t, s, metaOf(1, "a"), bodyOf(1, size))
		r, err := object.Forms[0].Body.Open()
		if err != nil {
			t.Fatal(err)
		}
		s.Remove(object)
		keep(t, s, metaOf(1, "a"), bodyOf(2, size))
		got, err := io.ReadAll(io.NewSectionReader(r, 0, int64(size)))
		if err != nil || !bytes.Equal(got, bodyOf(1, size)) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if n, err := r.ReadAt(make([]byte, 10), int64(size)-4); n != 4 || err != io.EOF {
			t.Errorf("over the end: %d, %v", n, err)
		}
		r.Close()
	}
}

func storeDraft(t *testing.T, s Store) {
	want := bodyOf(1, 600_000)
	d, err := s.Begin(-1)
	if err != nil {
		t.Fatal(err)
	}
	var written atomic.Int64
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for off, b := 0, make([]byte, 50_000); off < len(want); {
				least := written.Load()
				n, err := d.ReadAt(b, int64(off))
				if err != nil && err != io.EOF || int64(off+n) < min(least, int64(off+len(b))) || !bytes.Equal(b[:n], want[off:off+n]) {
					t.Errorf("%d bytes at %d of %d: %v", n, off, least, err)
					return
				}
				off += n
			}
		})
	}
	for off := 0; off < len(want); off += 7001 {
		n, err := d.Write(want[off:min(off+7001, len(want))])
		if err != nil {
			t.Fatal(err)
		}
		written.Add(int64(n))
	}
	object := s.Keep(metaOf(1, "a"), d)
	readers.Wait()
	if object == nil {
		t.Fatal("not kept")
	}
	d.Discard()
	expect(t, one(t, s, testKey(1)).Forms[0], want)
}

func storeDiscard(t *testing.T, s Store) {
	for _, size := range []int{0, 100, 600_000} {
		d := write(t, s, -1, bodyOf(1, size), 5000)
		d.Discard()
		if s.Keep(metaOf(1, "a"), d) != nil {
			t.Error("kept what was discarded")
		}
		d.Discard()
	}
	none(t, s, testKey(1))
}

func storeShort(t *testing.T, s Store) {
	if s.Keep(metaOf(1, "a"), write(t, s, 100, bodyOf(1, 99), 99)) != nil {
		t.Error("kept less than was announced")
	}
	none(t, s, testKey(1))
}

func storePurge(t *testing.T, s Store, soft bool) {
	urls := []string{
		"https://a.example.cn/", "https://a.example.cn/x", "https://a.example.cn/x/y", "https://a.example.cn/x?q=1",
		"https://b.example.cn/x", "https://b.example.cn:8443/x", "https://c.example.cn/",
	}
	for i, u := range urls {
		meta := metaOf(i, "v")
		meta.URL, meta.Tags = u, nil
		if i%2 == 0 {
			meta.Tags = []string{"even", fmt.Sprint("n", i)}
		}
		keep(t, s, meta, bodyOf(i, 300*i))
	}
	purged := map[int]bool{}
	for _, step := range []struct {
		match Match
		hits  []int
	}{
		{Match{URL: "https://a.example.cn/x"}, []int{1}},
		{Match{URL: "https://a.example.cn/nothing"}, nil},
		{Match{Prefix: "https://a.example.cn/x", Tag: "even"}, []int{2}},
		{Match{Host: "b.example.cn"}, []int{4}},
		{Match{Tag: "n6"}, []int{6}},
		{Match{Tag: "n"}, nil},
		{Match{Prefix: "https://a.example.cn/x?"}, []int{3}},
		{Match{Host: "b.example.cn:8443", URL: "https://b.example.cn:8443/x"}, []int{5}},
	} {
		if n := s.Purge(step.match, soft); n != len(step.hits) {
			t.Errorf("%+v: purged %d, want %v", step.match, n, step.hits)
		}
		for _, i := range step.hits {
			purged[i] = true
		}
		for i := range urls {
			found := s.Find(testKey(i))
			switch {
			case purged[i] && !soft:
				if len(found) != 0 {
					t.Errorf("%+v: %s is still there", step.match, urls[i])
				}
			case len(found) != 1 || found[0].Meta.Stale != purged[i]:
				t.Errorf("%+v: %s: found %d", step.match, urls[i], len(found))
			default:
				expect(t, found[0].Forms[0], bodyOf(i, 300*i))
			}
		}
	}
	all := 1
	if soft {
		all = len(urls)
	}
	if n := s.Purge(Match{}, soft); n != all {
		t.Errorf("purged %d of %d", n, all)
	}
}

// storePurgeOld does what one does who found an object before it was purged.
func storePurgeOld(t *testing.T, s Store) {
	object := keep(t, s, metaOf(1, "a"), bodyOf(1, 100))
	s.Purge(Match{}, true)
	if s.Renew(object, metaOf(1, "a")) != nil {
		t.Error("renewed what was purged")
	}
	s.Remove(object) // is another now
	stale := one(t, s, testKey(1))
	if !stale.Meta.Stale {
		t.Error("not stale")
	}
	if fresh := s.Renew(stale, metaOf(1, "a")); fresh == nil || fresh.Meta.Stale || one(t, s, testKey(1)).Meta.Stale {
		t.Error("not renewed")
	}
}

func storeList(t *testing.T, s Store) {
	for i := range 20 {
		keep(t, s, metaOf(i, "a"), bodyOf(i, 100*i))
	}
	expect(t, one(t, s, testKey(3)).Forms[0], bodyOf(3, 300))
	s.Form(one(t, s, testKey(3)), "gzip", write(t, s, 50, bodyOf(1, 50), 50))
	n := 0
	s.List(Match{Tag: "t3"}, func(l Listed) bool {
		n++
		if l.URL != metaOf(3, "").URL && l.URL != metaOf(13, "").URL || l.Site != "shop" || l.ID != "a" || l.Stale {
			t.Errorf("%+v", l)
		}
		want := metaOf(3, "")
		if l.URL == want.URL && (l.Bytes != 350 || l.Hits != 1 || l.Stored.Unix() != want.Received.Unix() || l.Until.Unix() != want.Until.Unix()) {
			t.Errorf("%+v", l)
		}
		return true
	})
	if n != 2 {
		t.Errorf("listed %d", n)
	}
	n = 0
	s.List(Match{}, func(Listed) bool { n++; return n < 5 })
	if n != 5 {
		t.Errorf("listed %d after being told to stop", n)
	}
}
