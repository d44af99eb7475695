package rewrite

import "testing"

// A route's own origin becomes the public host too; the way back does not change.
func TestWith(t *testing.T) {
	site := Pair{Base{"https", "example.cn", ""}, Base{"https", "example.com", ""}}
	m, err := NewMap([]Pair{site})
	if err != nil {
		t.Fatal(err)
	}
	wider, err := m.With(Pair{site.Public, Base{"http", "10.0.1.5", "3000"}})
	if err != nil {
		t.Fatal(err)
	}
	in := "https://example.com/a http://10.0.1.5:3000/b http://10.0.1.5/c"
	if got, want := wider.ToPublic().String(in), "https://example.cn/a https://example.cn/b http://10.0.1.5/c"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if origin, ok := wider.OriginOf("example.cn"); !ok || origin != site.Origin {
		t.Errorf("example.cn leads to %v", origin)
	}
	if _, err := m.With(Pair{site.Public, site.Origin}); err == nil {
		t.Error("an origin that the map has was taken")
	}
}
