package cache

import (
	"runtime"
	"testing"
)

// TestIndexBytes shows that an object of three forms takes less than 300 bytes of the
// index, as the journal tells of it after a start. BenchmarkIndex has more of it.
func TestIndexBytes(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has bytes of its own")
	}
	const n = 50_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	x := newIndex()
	var buffer []byte
	for i := range n {
		meta := benchMeta(i)
		e := x.entry(meta.Key, uint64(i+1), briefOf(meta))
		e.pages = 2
		buffer = appendObject(buffer[:0], &e, "shop")
		object, err := parseRecord(buffer[8:])
		if err != nil {
			t.Fatal(err)
		}
		e = object.entry
		for number, coding := range []string{"gzip", "zstd"} {
			form := extra{size: 1000, number: uint8(number + 1)}
			form.coding, _ = extraCoding(coding)
			buffer = appendForm(buffer[:0], meta.Key, e.id, &form)
			record, err := parseRecord(buffer[8:])
			if err != nil {
				t.Fatal(err)
			}
			e.add(*record.form)
		}
		x.shard(meta.Key).insert(e)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / n
	t.Logf("%d bytes an object", each)
	if each > 300 {
		t.Errorf("%d bytes an object", each)
	}
	runtime.KeepAlive(x)
}
