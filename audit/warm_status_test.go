package audit

import "testing"

// What Cache-Status says of whether a page is kept now.
func TestReadCacheStatus(t *testing.T) {
	for field, want := range map[string]cacheSaid{
		"causeway; hit; ttl=5":                                 {hit: true, why: "not said"},
		"causeway; fwd=uri-miss; stored":                       {stored: true, why: "not said"},
		"causeway; fwd=stale; fwd-status=304; ttl=9":           {stored: true, why: "not said"}, // it is kept on
		"causeway; fwd=uri-miss; collapsed":                    {stored: true, why: "not said"}, // by who came first
		`causeway; fwd=uri-miss; collapsed; detail="private"`:  {why: "private"},
		`causeway; fwd=uri-miss; fwd-status=200; detail="big"`: {why: "big"},
		"other; hit": {why: "no cache"},
		"":           {why: "no cache"},
	} {
		if said := readCacheStatus(field); said.hit != want.hit || said.stored != want.stored || said.why != want.why {
			t.Errorf("%q: %+v, want %+v", field, said, want)
		}
	}
}
