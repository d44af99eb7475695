package rewrite

import (
	"bytes"
	"io"
	"runtime"
	"strings"
	"testing"
)

// TestManySlowTexts: thousands of bodies that begin with a little text and pause hold little
// memory in whatever coding the client takes them, and come whole.
func TestManySlowTexts(t *testing.T) {
	const many, piece = 3000, 4 << 10
	takenBefore := taken.Load()
	text := strings.Repeat("<p>A text of which a little comes now and then, and which says nearly the same each time.</p>\n", 3*piece/90)
	for _, accept := range []string{"br", "zstd", "gzip", "deflate", "br, zstd, gzip", "gzip, deflate"} {
		lines, all := make([]bytes.Buffer, many), make([]encoder, many)
		chosen := make([]string, many)
		before := heapInUse()
		for i := range many {
			if chosen[i] = chooseCoding(accept, nil, "text/html", -1); chosen[i] == "" {
				continue
			}
			all[i] = newEncoder(chosen[i], &lines[i])
			for _, from := range []int{0, piece} {
				_, _ = io.WriteString(all[i], text[from:from+piece])
				_ = all[i].Flush()
			}
		}
		if each := (heapInUse() - before) / many; each > 120<<10 {
			t.Errorf("%s: each holds %d KB", accept, each>>10)
		} else {
			t.Logf("%s: each holds %d KB", accept, each>>10)
		}
		for i := range many {
			if all[i] == nil {
				continue
			}
			_, _ = io.WriteString(all[i], text[2*piece:])
			_ = all[i].Close()
			freeEncoder(chosen[i], all[i])
			if i%100 != 0 {
				continue
			}
			opened := NewDecoder(chosen[i], io.NopCloser(&lines[i]))
			if got, err := io.ReadAll(opened); err != nil || string(got) != text {
				t.Errorf("%s, the %d-th in %s: %d bytes of %d, %v", accept, i, chosen[i], len(got), len(text), err)
			}
		}
	}
	if inCodings.Load() != 0 || taken.Load() != takenBefore {
		t.Errorf("%d encoders and %d finders are said to be in use", inCodings.Load(), taken.Load()-takenBefore)
	}
}

// heapInUse is what is in use after a collection, in bytes.
func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // what pools kept
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
