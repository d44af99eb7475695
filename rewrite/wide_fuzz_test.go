package rewrite

import (
	"bytes"
	"testing"
)

// FuzzWide: whatever comes as UTF-16 comes out as it was when nothing in between changes it, in
// whatever pieces it came, well-formed or not.
func FuzzWide(f *testing.F) {
	f.Add([]byte("\xff\xfeh\x00t\x00"), byte(1), false)
	f.Add([]byte("\xd8\x34\xdd\x1e\xd8\x00a"), byte(3), true)
	f.Fuzz(func(t *testing.T, text []byte, size byte, big bool) {
		w := &wide{big: big}
		var out []byte
		for rest := text; ; {
			n := min(len(rest), 1+int(size))
			final := n == len(rest)
			narrow := w.toNarrow(rest[:n], final)
			for i, c := range narrow { // and to the Stream's liking: in pieces too
				out = append(out, w.toWide([]byte{c}, final && i == len(narrow)-1)...)
			}
			if final && len(narrow) == 0 {
				out = append(out, w.toWide(nil, true)...)
			}
			if rest = rest[n:]; final {
				break
			}
		}
		if !bytes.Equal(out, text) {
			t.Fatalf("%q became %q", text, out)
		}
	})
}
