package relay

import (
	"testing"

	"causeway/rewrite"
)

// Which coding a body crosses in, by what its header says, how long it is, and
// how much of it has come.
func TestCrossingCodings(t *testing.T) {
	const codings = "br, zstd"
	for _, c := range []struct {
		told   string
		length int64
		came   int
		want   string
	}{
		{"", 100, 100, ""},
		{"", rewrite.MinCrossing, 0, "br"}, // a file whose header comes first
		{"", -1, 5000, "br"},
		{"", -1, 0, ""}, // may be a stream that says something now and then
		{"", -1, 100, ""},
		{"gzip", 5000, 5000, "gzip"}, // br saves too little
		{"gzip", minRecoded, 0, "br"},
		{"gzip", -1, 100, "gzip"},
		{"gzip", -1, 5000, "br"},
		{"br", 100, 100, "br"}, // the client's own
		{"zstd", -1, 0, "zstd"},
		{"zstd", 1 << 20, 1 << 10, "zstd"},
	} {
		if got := (&crossing{codings, c.told}).coding(c.length, c.came); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
	if got := (&crossing{"future", "gzip"}).coding(1<<20, 1<<10); got != "gzip" {
		t.Errorf("an edge that opens nothing of ours: %q", got)
	}
}
