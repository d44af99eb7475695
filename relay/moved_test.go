package relay

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"causeway/resolve"
)

// A name in use is looked up again when its answer is due, without a dial and
// without a request that waits.
func TestNamesInUseAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ip := "192.0.2.1"
		r := resolve.With(func(context.Context, string) ([]netip.Addr, time.Duration, error) {
			time.Sleep(time.Second) // a slow name server
			return []netip.Addr{netip.MustParseAddr(ip)}, 30 * time.Second, nil
		})
		d := newDialer(nil, r, time.Second)
		if d.moved("example.com:443") {
			t.Error("moved before the first answer")
		}
		if _, err := r.Lookup(t.Context(), "example.com"); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if d.moved("example.com:443") {
				t.Error("moved with the first answer")
			}
		}
		ip = "192.0.2.2"
		time.Sleep(31 * time.Second)
		before := time.Now()
		if d.moved("example.com:443") || time.Since(before) != 0 {
			t.Error("the request that found the answer old waited for the next")
		}
		time.Sleep(2 * time.Second)
		if !d.moved("example.com:443") || d.moved("example.com:443") {
			t.Error("the move is not told once")
		}
		r.Close()
	})
}
