package resolve

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An answer is believed for its TTL; when the name server fails, the old
// addresses serve on for a while.
func TestAnswersLiveAsLongAsTheirTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, ip, fails := 0, "192.0.2.1", false
		r := New()
		r.lookupIP = func(context.Context, string) ([]netip.Addr, time.Duration, error) {
			asked++
			if fails {
				return nil, 0, errors.New("server failure")
			}
			return []netip.Addr{netip.MustParseAddr(ip)}, 30 * time.Second, nil
		}
		look := func(want string, generation uint64, times int) {
			t.Helper()
			ips, err := r.Lookup(t.Context(), "example.com")
			if got := r.Generation("example.com"); err != nil || len(ips) != 1 || ips[0].String() != want || got != generation || asked != times {
				t.Fatalf("got %v, generation %d, asked %d, %v", ips, got, asked, err)
			}
		}
		look("192.0.2.1", 1, 1)
		time.Sleep(29 * time.Second)
		look("192.0.2.1", 1, 1)
		ip = "192.0.2.2"
		time.Sleep(2 * time.Second)
		look("192.0.2.2", 2, 2)
		fails = true
		time.Sleep(time.Minute)
		look("192.0.2.2", 2, 3)
		time.Sleep(time.Hour)
		if _, err := r.Lookup(t.Context(), "example.com"); err == nil {
			t.Error("addresses of an hour ago are still believed")
		}
	})
}

// The TTL is read off real messages, the smallest of all answers.
func TestTTLOfRealAnswers(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); answerDNS(t, server) }()
	defer func() { server.Close(); <-done }()
	ips, ttl, err := lookupTTL(server.LocalAddr().String())(t.Context(), "origin.test")
	if err != nil {
		t.Fatal(err)
	}
	if len(ips) != 2 || ttl != 17*time.Second {
		t.Errorf("got %v for %v, want two addresses for 17s", ips, ttl)
	}
}

// answerDNS is a name server that knows one name: A for 60 s, AAAA for 17 s.
func answerDNS(t *testing.T, conn net.PacketConn) {
	buffer := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		var question dnsmessage.Message
		if err := question.Unpack(buffer[:n]); err != nil {
			t.Error(err)
			return
		}
		reply := dnsmessage.Message{Header: dnsmessage.Header{ID: question.ID, Response: true, RecursionAvailable: true}, Questions: question.Questions}
		asked := question.Questions[0]
		header := dnsmessage.ResourceHeader{Name: asked.Name, Class: dnsmessage.ClassINET, Type: asked.Type}
		switch asked.Type {
		case dnsmessage.TypeA:
			header.TTL = 60
			reply.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}}}}
		case dnsmessage.TypeAAAA:
			header.TTL = 17
			reply.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("2001:db8::1").As16()}}}
		}
		packed, err := reply.Pack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = conn.WriteTo(packed, from)
	}
}

// FuzzSmallestTTL shows messages of strangers to the tap: it must not panic.
func FuzzSmallestTTL(f *testing.F) {
	f.Add([]byte{0, 1, 0x81, 0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4})
	f.Fuzz(func(_ *testing.T, message []byte) {
		var seen smallestTTL
		seen.look(message)
	})
}
