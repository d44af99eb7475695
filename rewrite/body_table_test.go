package rewrite

import "testing"

func (c testCase) replacer() *Replacer {
	r := c.m.ToPublic()
	if c.back {
		r = c.m.ToOrigin()
	}
	if c.bare {
		r = r.withBare
	}
	return r
}

func TestBodyTables(t *testing.T) {
	for _, c := range tables(t, "body") {
		r := c.replacer()
		if got := r.String(c.in); got != c.want {
			t.Errorf("%s\n  in %s\n got %s\nwant %s", c.where, c.in, got, c.want)
		}
		for size := 1; size <= len(c.in); size++ {
			if got := inChunks(r, c.in, size); got != c.want {
				t.Errorf("%s: in chunks of %d\n got %s\nwant %s", c.where, size, got, c.want)
				break
			}
		}
	}
}

// inChunks puts the text through a stream in chunks of one size.
func inChunks(r *Replacer, text string, size int) string {
	s := r.NewStream()
	var out []byte
	for len(text) > size {
		out = s.Append(out, []byte(text[:size]), false)
		text = text[size:]
	}
	return string(s.Append(out, []byte(text), true))
}
