package relay

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// A body of which little was read can be read again from its start, also by a
// second reader while the first has gone on; a long one cannot.
func TestReplayableBody(t *testing.T) {
	body := &replayable{src: io.NopCloser(strings.NewReader("a form's fields"))}
	first := body.reader()
	half := make([]byte, 6)
	if _, err := io.ReadFull(first, half); err != nil {
		t.Fatal(err)
	}
	second, err := body.again()
	if err != nil {
		t.Fatal(err)
	}
	for _, reader := range []io.Reader{second, io.MultiReader(bytes.NewReader(half), first)} {
		if got, err := io.ReadAll(reader); err != nil || string(got) != "a form's fields" {
			t.Errorf("got %q, %v", got, err)
		}
	}

	long := bytes.Repeat([]byte("0123456789abcdef"), replayLimit/16+100)
	body = &replayable{src: io.NopCloser(bytes.NewReader(long))}
	if got, err := io.ReadAll(body.reader()); err != nil || !bytes.Equal(got, long) {
		t.Errorf("%d of %d bytes, %v", len(got), len(long), err)
	}
	if _, err := body.again(); err == nil {
		t.Error("a body of which a part is lost was offered again")
	}
}
