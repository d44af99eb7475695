package link_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"causeway/link"
	"causeway/simnet"
)

// Over a line that loses nearly half of all packets a page may take long, but it
// comes: one that was sent elsewhere as often as it may waits, as an order does.
func TestLossyLine(t *testing.T) {
	for seed := range uint64(5) {
		inBubble(t, func(t *testing.T, pki string) {
			p := newLine(t, pki, simnet.Line{RTT: 200 * time.Millisecond, Loss: 0.4, Seed: seed})
			defer p.close()
			p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, 20<<10)) }))
			p.transport = p.connect(pki, "edge-1")
			group := link.NewGroup([]link.Member{{Transport: p.transport}}, 10*time.Second)
			for p.transport.Up() == 0 {
				time.Sleep(100 * time.Millisecond)
			}
			var running sync.WaitGroup
			for range 12 {
				running.Go(func() {
					for range 20 {
						if _, _, err := get(t, group, "/"); err != nil {
							t.Errorf("seed %d: %v", seed, err)
						}
					}
				})
			}
			running.Wait()
		})
	}
}
