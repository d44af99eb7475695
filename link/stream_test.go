package link_test

import (
	"net"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"causeway/conn"
	"causeway/link"
	"causeway/simnet"
)

// A stream whose client has gone before anybody accepted it is let go; the next
// one is served, and says who its client is.
func TestStreamThatNobodyAccepts(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		streams := link.NewStreams()
		p := newPair(t, pki, simnet.Line{RTT: 20 * time.Millisecond}, streams.Handler(http.NotFoundHandler()))
		defer p.close()
		p.warm()
		open := func(client string) net.Conn {
			t.Helper()
			stream, relay, err := link.OpenStream(t.Context(), p.transport, "example.cn")
			if err != nil || relay != "relay-1" {
				t.Fatalf("over %q: %v", relay, err)
			}
			header := conn.ProxyHeader{
				Source:      net.TCPAddrFromAddrPort(netip.MustParseAddrPort(client)),
				Destination: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("198.51.100.1:443")),
			}
			before, err := header.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Write(before); err != nil {
				t.Fatal(err)
			}
			return stream
		}
		gone := open("192.0.2.1:1000")
		time.Sleep(time.Second)
		gone.Close()
		time.Sleep(time.Second)
		synctest.Wait()
		stays := open("192.0.2.2:1000")
		defer stays.Close()
		time.Sleep(time.Second)
		accepted, err := streams.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		if from := accepted.RemoteAddr().String(); from != "192.0.2.2:1000" {
			t.Errorf("accepted is the stream of %s", from)
		}
	})
}
