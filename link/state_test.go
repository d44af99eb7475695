package link_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"causeway/cert"
	"causeway/link"
	"causeway/simnet"
)

// callersOf serves a relay on ln and gives the edges that it has.
func (p *pair) callersOf(handler http.Handler, ln net.Listener) *link.Callers {
	p.t.Helper()
	identity, err := cert.LinkTLS(p.pki, "relay-1")
	if err != nil {
		p.t.Fatal(err)
	}
	callers := &link.Callers{Name: cert.PeerNode, Log: p.logger}
	server := link.NewServer(handler, identity.Server([]string{"edge-1"}), p.logger)
	served := make(chan struct{})
	go func() { defer close(served); _ = callers.Serve(server, ln) }()
	p.stop = append(p.stop, func() { server.Close(); <-served })
	return callers
}

// A relay knows of its edges: how many connections, what is on them, what came.
func TestCallers(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newLine(t, pki, simnet.Line{RTT: 20 * time.Millisecond})
		defer p.close()
		ln, err := p.line.Listen("relay-1")
		if err != nil {
			t.Fatal(err)
		}
		answer := make(chan struct{})
		callers := p.callersOf(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-answer
			_, _ = io.WriteString(w, "tea")
		}), ln)
		if states := callers.State(); len(states) != 0 {
			t.Errorf("before any came: %+v", states)
		}
		p.transport = p.connect(pki, "edge-1")
		p.warm()
		synctest.Wait()
		if states := callers.State(); len(states) != 1 || states[0].Edge != "edge-1" || len(states[0].Conns) != 3 || states[0].Requests != 0 {
			t.Fatalf("idle: %+v", states)
		}
		var asking sync.WaitGroup
		for range 4 {
			asking.Go(func() {
				if _, _, err := get(t, p.transport, "/"); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Second)
		busy := callers.State()[0]
		if busy.InFlight != 4 || busy.Requests != 4 {
			t.Errorf("busy: %+v", busy)
		}
		for slot, conn := range busy.Conns {
			if conn.Slot != slot || conn.Received == 0 || conn.Sent == 0 || conn.Info.Known {
				t.Errorf("busy: %+v", conn)
			}
		}
		close(answer)
		asking.Wait()
		p.close() // both nodes
		p.stop = nil
		if gone := callers.State()[0]; gone.InFlight != 0 || gone.Requests != 4 || len(gone.Conns) != 0 ||
			gone.Totals.Connections < 3 || gone.Totals.Sent <= busy.Totals.Sent || gone.Totals.Received < busy.Totals.Received {
			t.Errorf("gone: %+v, before %+v", gone, busy)
		}
	})
}

// Strangers are no edges.
func TestCallersKnowNoStrangers(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newLine(t, pki, simnet.Line{RTT: 20 * time.Millisecond})
		defer p.close()
		ln, err := p.line.Listen("relay-1")
		if err != nil {
			t.Fatal(err)
		}
		callers := p.callersOf(http.NotFoundHandler(), ln)
		transport := p.connect(pki, "edge-2") // which the file does not name
		time.Sleep(10 * time.Second)
		if states := callers.State(); len(states) != 0 || transport.Up() != 0 {
			t.Errorf("%+v", states)
		}
	})
}

// A relay asks the kernel about its edges' connections.
func TestCallersSockets(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("TCP_INFO is Linux's")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := newLine(t, newPKI(t), simnet.Line{})
	defer p.close()
	callers := p.callersOf(http.NotFoundHandler(), ln)
	identity, err := cert.LinkTLS(p.pki, "edge-1")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", ln.Addr().String(), identity.Client("relay-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil { // the relay's SETTINGS: it let us in
		t.Fatal(err)
	}
	states := callers.State()
	if len(states) != 1 || len(states[0].Conns) != 1 {
		t.Fatalf("%+v", states)
	}
	if c := states[0].Conns[0]; !c.Info.Known || c.Info.RTT <= 0 || c.Info.Congestion == "" || c.Remote != conn.LocalAddr().String() {
		t.Errorf("%+v", c)
	}
}
