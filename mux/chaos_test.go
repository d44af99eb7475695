package mux

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestChaos: streams that are written, read, ended, closed, reset and late at random, by
// many goroutines, all end, and no window is lost.
func TestChaos(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			options := func() Options {
				window := 1 << rng.IntN(18)
				return Options{Window: window, Buffer: 1 + rng.IntN(1<<rng.IntN(18)), Streams: 1000}
			}
			b := newBoth(options(), options())
			var does sync.WaitGroup
			for range 1 + rng.IntN(20) {
				near, far := b.pair(t)
				for _, st := range []*Stream{near, far} {
					for who := range 3 {
						own := rand.New(rand.NewPCG(rng.Uint64(), 4))
						does.Go(func() {
							p := make([]byte, 1<<17)
							for range 20 {
								switch own.IntN(12) {
								case 0, 1, 2:
									if who > 0 { // a bubble's clock stops for who waits for a lock
										continue
									}
									st.Write(p[:own.IntN(1<<own.IntN(18))])
								case 3, 4, 5, 6:
									st.Read(p[:own.IntN(1<<own.IntN(18))])
								case 7:
									st.SetDeadline(time.Now().Add(time.Duration(own.IntN(100)) * time.Millisecond))
								case 8:
									if own.IntN(5) == 0 {
										st.CloseWrite()
									}
								case 9:
									if own.IntN(5) == 0 {
										st.Close()
									}
								case 10:
									if own.IntN(5) == 0 {
										st.Reset()
									}
								case 11:
									time.Sleep(time.Duration(own.IntN(50)) * time.Millisecond)
								}
							}
						})
					}
					does.Go(func() { time.Sleep(time.Minute); st.Close() })
				}
			}
			does.Wait()
			synctest.Wait()
			for _, s := range [][2]*Session{{b.open, b.accept}, {b.accept, b.open}} {
				if s[0].err != nil {
					t.Errorf("seed %d: %v", seed, s[0].err)
				}
				if len(s[0].streams) != 0 || s[0].unread != 0 || s[0].promised != 0 || len(s[0].waiting) != 0 {
					t.Errorf("seed %d: left %d %d %d %d", seed, len(s[0].streams), s[0].unread, s[0].promised, len(s[0].waiting))
				}
				if all := s[0].credit + s[1].owed; all != s[1].options.Buffer {
					t.Errorf("seed %d: credit %d owed %d of %d", seed, s[0].credit, s[1].owed, s[1].options.Buffer)
				}
			}
			b.stop()
		})
	}
}
