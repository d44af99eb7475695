package relay_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"causeway/config"
	"causeway/outcome"
	"causeway/relay"
)

// compressions are what coder/websocket can offer and choose.
var compressions = map[string]websocket.CompressionMode{
	"plain": websocket.CompressionDisabled, "context takeover": websocket.CompressionContextTakeover, "no context takeover": websocket.CompressionNoContextTakeover,
}

// TestWebSocket: two real peers hear each other with the names mapped, compressed or not.
func TestWebSocket(t *testing.T) {
	for offered, client := range compressions {
		for chosen, server := range compressions {
			t.Run(offered+" offered, "+chosen+" chosen", func(t *testing.T) { talk(t, client, server) })
		}
	}
}

// talk has a client say messages to an origin that says them again, and what it heard as binary.
func talk(t *testing.T, client, server websocket.CompressionMode) {
	ended := make(chan struct{})
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: server})
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.CloseNow()
		conn.SetReadLimit(64 << 20)
		for {
			kind, message, err := conn.Read(r.Context())
			if err != nil {
				if websocket.CloseStatus(err) != websocket.StatusNormalClosure {
					t.Errorf("the origin reads: %v", err)
				}
				return
			}
			for _, kind := range []websocket.MessageType{kind, websocket.MessageBinary} {
				if err := conn.Write(r.Context(), kind, message); err != nil {
					t.Errorf("the origin writes: %v", err)
					return
				}
			}
		}
	})
	near := httptest.NewServer(newRelay(t, o.keys(), ""))
	defer near.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, res, err := websocket.Dial(ctx, near.URL+"/live", &websocket.DialOptions{Host: "example.cn", CompressionMode: client})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	compressed := client != websocket.CompressionDisabled && server != websocket.CompressionDisabled
	if agreed := res.Header.Get("Sec-Websocket-Extensions"); (agreed != "") != compressed {
		t.Errorf("agreed on %q", agreed)
	}
	conn.SetReadLimit(64 << 20)
	hear := func(wantKind websocket.MessageType, want string) {
		t.Helper()
		kind, got, err := conn.Read(ctx)
		if err != nil || kind != wantKind || string(got) != want {
			t.Fatalf("heard %v %d bytes %.80q, %v; want %v %d bytes %.80q", kind, len(got), got, err, wantKind, len(want), want)
		}
	}
	prose := strings.Repeat("a long message about tea, ", 50)
	for i, message := range []string{
		"", "hello", "https://example.cn/", prose, prose + `{"at":"https:\/\/example.cn\/"}`, prose, prose + prose, "wss://a.example.cn/x",
		strings.Repeat(prose+"https://example.cn/ ", 10<<20/len(prose)), prose,
	} {
		if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
			t.Fatal(err)
		}
		hear(websocket.MessageText, message)
		hear(websocket.MessageBinary, strings.ReplaceAll(message, "example.cn", "example.com"))
		if i%3 > 0 {
			continue
		}
		if err := conn.Write(ctx, websocket.MessageBinary, []byte(message)); err != nil {
			t.Fatal(err)
		}
		hear(websocket.MessageBinary, message)
		hear(websocket.MessageBinary, message)
	}

	// A ping in the middle of a message, which is answered before the message is whole.
	w, err := conn.Writer(ctx, websocket.MessageText)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, prose, "https://exam")
	reading, stop := context.WithCancel(ctx)
	heard := make(chan []byte, 2)
	go func() { // a ping is answered while somebody reads
		for range 2 {
			_, message, err := conn.Read(reading)
			if err != nil {
				t.Errorf("read: %v", err)
			}
			heard <- message
		}
	}()
	if err := conn.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, "ple.cn/ ", prose)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if first, second := <-heard, <-heard; string(first) != prose+"https://example.cn/ "+prose || string(second) != prose+"https://example.com/ "+prose {
		t.Errorf("heard %.80q and %.80q", first, second)
	}
	stop()
	_ = conn.Close(websocket.StatusNormalClosure, "")
	<-ended
}

// A WebSocket that breaks the protocol is ended, and the record says by whom.
func TestBrokenWebSocket(t *testing.T) {
	for _, c := range []struct {
		name           string
		client, origin string // what each says
		want           outcome.Kind
	}{
		{"the client", "\x01\x80abcd\x81\x80abcd", "\x81\x02hi", outcome.BadRequest},
		{"the origin", "\x81\x82abcd\x00\x00", "\x81\x02hi\x83\x00", outcome.Unprocessed},
	} {
		o := newOrigin(t, func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"+c.origin)
			_, _ = io.Copy(io.Discard, conn)
		})
		records := make(recorded, 1)
		cfg, err := config.Parse("causeway.yaml", fmt.Appendf(nil, "listen: {http: \"127.0.0.1:0\"}\nsites:\n  - {name: shop, hosts: {example.cn: https://example.com}, origin: {%s}, http: serve}", o.keys()))
		if err != nil {
			t.Fatal(err)
		}
		r, err := relay.New(cfg, relay.Options{Sink: records, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		near := httptest.NewServer(r)
		conn, err := net.Dial("tcp", near.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "GET /live HTTP/1.1\r\nHost: example.cn\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"+c.client)
		all, err := io.ReadAll(conn)
		_, said, _ := bytes.Cut(all, []byte("\r\n\r\n"))
		if err != nil || !strings.HasPrefix("\x81\x02hi", string(said)) || c.want == outcome.Unprocessed && string(said) != "\x81\x02hi" {
			t.Errorf("%s: heard %q, %v", c.name, said, err)
		}
		if rec := <-records; rec.Kind != c.want || rec.Status != 101 {
			t.Errorf("%s: record %d %s %v", c.name, rec.Status, rec.Kind, rec.Err)
		}
		conn.Close()
		near.Close()
		r.Close()
	}
}

// recorded takes the records of requests.
type recorded chan outcome.Record

func (r recorded) Emit(rec *outcome.Record) { r <- *rec }
