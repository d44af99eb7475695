package cache

import (
	"testing"

	"go.uber.org/goleak"
)

// open opens a store until the end of the test, when it leaves no goroutine.
func open(t testing.TB, o TiersOptions) *Tiers {
	t.Helper()
	before := goleak.IgnoreCurrent()
	s, err := OpenTiers(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t, before)
	})
	return s
}

func TestStore(t *testing.T) {
	for name, o := range map[string]TiersOptions{
		"memory":              {Memory: 64 << 20},
		"memory and disk":     {Memory: 64 << 20, Disk: 64 << 20},
		"disk with no memory": {Disk: 64 << 20},
		"disk, little memory": {Memory: 1 << 20, Disk: 64 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			storeConformance(t, func(t *testing.T) Store {
				o := o
				if o.Disk > 0 {
					o.Dir = t.TempDir()
				}
				return open(t, o)
			})
		})
	}
}
