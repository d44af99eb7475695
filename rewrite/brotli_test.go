package rewrite

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// TestBrotliPieces: a stream is whole in whatever pieces it comes, also when the last byte comes
// alone.
func TestBrotliPieces(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	words := strings.Fields(`<script> </script> <link href= integrity= sha256-AAAA https://example.com/ "a" 'b' text 中文 = > < class= id=`)
	for range 2000 {
		var b strings.Builder
		for b.Len() < 4000 {
			b.WriteString(words[rng.IntN(len(words))])
		}
		coded := []byte(closeIn("br", b.String()))
		for _, tail := range []int{1, 2, 3} {
			src := io.MultiReader(bytes.NewReader(coded[:len(coded)-tail]), bytes.NewReader(coded[len(coded)-tail:]))
			var r brotliReader
			if err := r.open(bufio.NewReader(src)); err != nil {
				t.Fatal(err)
			}
			if text, err := io.ReadAll(&r); err != nil || string(text) != b.String() {
				t.Fatalf("%d bytes, the last %d alone: got %d of %d: %v", len(coded), tail, len(text), b.Len(), err)
			}
		}
	}
}

// TestBrotliComesAtOnce: what was flushed is read without waiting for more, however long it is.
func TestBrotliComesAtOnce(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	w, r := newBrotliWriter(), new(brotliReader)
	for size := range 1000 {
		text := make([]byte, size+1)
		for i := range text {
			text[i] = byte('a' + rng.IntN(26))
		}
		var coded bytes.Buffer
		w.Reset(&coded)
		_, _ = w.Write(text)
		_ = w.Flush()
		if err := r.open(bufio.NewReader(io.MultiReader(&coded, iotest.ErrReader(errTooFar)))); err != nil {
			t.Fatal(err)
		}
		for n, room := 0, make([]byte, size+100); n <= size; {
			more, err := r.Read(room)
			if n += more; err != nil {
				t.Fatalf("%d bytes, of which it gave %d: %v", size+1, n, err)
			}
		}
	}
}

var errTooFar = errors.New("it waits for more than it needs")
