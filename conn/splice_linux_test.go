package conn

import (
	"io"
	"net"
	"os"
	"testing"
	"time"
)

const spliceable = true

// TestIdleHoldsNothing sees that pairs that have nothing to pass hold no pipe.
func TestIdleHoldsNothing(t *testing.T) {
	const pairs = 100
	var far []*net.TCPConn
	var done []<-chan Joined
	before := descriptors(t)
	for range pairs {
		a, client := tcpPair(t)
		b, target := tcpPair(t)
		done = append(done, join(t, a, b, Joint{Idle: time.Minute}))
		far = append(far, client)
		client.Write([]byte("x"))
		if _, err := io.ReadFull(target, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if more := descriptors(t) - before - 4*pairs; more > 2*pipesKept {
		t.Errorf("%d pairs hold %d descriptors besides their own", pairs, more)
	}
	for i, client := range far {
		client.SetLinger(0)
		client.Close()
		<-done[i]
	}
}

// TestStalledWaitsInPipes sees that a reader that takes nothing, and then all,
// gets all, and that its pipe is bounded by those allowed.
func TestStalledWaitsInPipes(t *testing.T) {
	most := pipes.most
	defer func() { pipes.most = most }()
	for _, allowed := range []int{0, 1000} {
		pipes.most = func() int { return allowed }
		pipes.mu.Lock()
		for _, p := range pipes.free {
			p.close()
		}
		pipes.open -= len(pipes.free)
		pipes.free = nil
		pipes.mu.Unlock()

		a, client := tcpPair(t)
		b, target := tcpPair(t)
		done := join(t, a, b, Joint{Idle: time.Minute})
		const size = 32 << 20
		go func() {
			client.Write(make([]byte, size))
			client.CloseWrite()
		}()
		time.Sleep(20 * time.Millisecond) // the queues fill; if they have not, all passes as well
		if n, err := io.Copy(io.Discard, target); n != size || err != nil {
			t.Fatalf("got %d bytes: %v", n, err)
		}
		target.Close()
		joined := <-done
		if joined.Sent != size || joined.Why != WhyDone || (joined.Spliced > 0) != (allowed > 0) {
			t.Errorf("with %d pipes: %+v", allowed, joined)
		}
	}
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
