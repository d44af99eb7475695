package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"
)

// compressions are what coder/websocket knows of permessage-deflate.
var compressions = map[string]websocket.CompressionMode{
	"plain": websocket.CompressionDisabled, "context takeover": websocket.CompressionContextTakeover, "no context takeover": websocket.CompressionNoContextTakeover,
}

// talker says each text again, and what it heard in base64, which nobody maps. It
// compresses as the query says.
func talker(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: compressions[r.URL.Query().Get("mode")]})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	conn.SetReadLimit(64 << 20)
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		if kind == websocket.MessageText {
			message = fmt.Append(message, "\n", base64.StdEncoding.EncodeToString(message))
		}
		if conn.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}

// TestWebSocketNames: texts are mapped both ways, compressed or not, small and
// large; binary messages are not.
func TestWebSocketNames(t *testing.T) {
	everyWay(t, http.HandlerFunc(talker), func(t *testing.T, w way) {
		if w.major == 2 {
			t.Skip("no WebSocket over HTTP/2 (RFC 8441)")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		for mode, compression := range compressions {
			conn, res, err := websocket.Dial(ctx, "wss://"+w.public+"/?"+strings.ReplaceAll("mode="+mode, " ", "+"), &websocket.DialOptions{HTTPClient: w.client, CompressionMode: compression})
			if err != nil {
				t.Fatal(err)
			}
			if agreed := res.Header.Get("Sec-Websocket-Extensions"); (agreed != "") != (mode != "plain") {
				t.Errorf("%s: agreed on %q", mode, agreed)
			}
			conn.SetReadLimit(64 << 20)
			prose := strings.Repeat("tea and more tea, ", 60)
			for _, message := range []string{"hello", "https://" + w.public + "/", prose, prose + "https://" + w.public + "/a", prose, strings.Repeat(prose+"//"+w.public+"/b ", 9000), prose} {
				if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
					t.Fatal(err)
				}
				_, got, err := conn.Read(ctx)
				said, coded, _ := strings.Cut(string(got), "\n")
				heard, _ := base64.StdEncoding.DecodeString(coded)
				if want := strings.ReplaceAll(message, w.public, w.origin); err != nil || said != message || string(heard) != want {
					t.Fatalf("%s: %d bytes %.60q came back as %d %.60q, the origin heard %d %.60q, %v", mode, len(message), message, len(said), said, len(heard), heard, err)
				}
				if err := conn.Write(ctx, websocket.MessageBinary, []byte(message)); err != nil {
					t.Fatal(err)
				}
				if kind, got, err := conn.Read(ctx); kind != websocket.MessageBinary || string(got) != message {
					t.Fatalf("%s: binary %.60q came back as %v %.60q, %v", mode, message, kind, got, err)
				}
			}
			if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
				t.Errorf("%s: %v", mode, err)
			}
		}
	})
}

// TestWebSocketThatBreaks: a client that breaks the protocol loses its
// connection, and the record says so.
func TestWebSocketThatBreaks(t *testing.T) {
	ca := newAuthority(t)
	c := newCrossing(t, spec{layout: oneProcess, ca: ca, sites: siteOf(newOrigin(t, ca, http.HandlerFunc(talker)))})
	req := newRequest(t, http.MethodGet, "https://example.cn/broken", nil, "Connection: Upgrade", "Upgrade: websocket", "Sec-Websocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-Websocket-Version: 13")
	res, err := c.client(t, 1).Do(req)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", res, err)
	}
	defer res.Body.Close()
	conn := res.Body.(io.ReadWriter)
	if _, err := conn.Write([]byte("\x83\x80abcd")); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 10)); err == nil {
		t.Errorf("the client read %d bytes more", n)
	}
	if r := c.edge.record(t, "/broken"); r.Status != 101 || r.Kind != "bad_request" || !strings.Contains(r.Err, "read the client's WebSocket: a frame with the reserved opcode 3") {
		t.Errorf("record %+v", r)
	}
}

// TestWebSocketInTheBrowser: Chromium asks for compression, and a script hears
// and says the names of the site it is on.
func TestWebSocketInTheBrowser(t *testing.T) {
	ca := newAuthority(t)
	origin := newOrigin(t, ca, serve(map[string]http.HandlerFunc{"/": text("text/html", "<!doctype html><title>talk</title>"), "/talk": talker}))
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(origin)})
	b := startBrowser(t, filepath.Join(ca.dir, "site.pem"), "MAP *.example.cn "+c.https+", MAP example.cn "+c.https+", MAP * ~NOTFOUND")
	b.follow(t, "open the page", chromedp.Navigate("https://example.cn/"))
	for mode, extension := range map[string]string{"context+takeover": "permessage-deflate", "no+context+takeover": "permessage-deflate; client_no_context_takeover; server_no_context_takeover", "plain": ""} {
		got := read(t, b, "talk "+mode, chromedp.Evaluate[string](`new Promise((done) => {
			const socket = new WebSocket("wss://" + location.host + "/talk?mode=`+mode+`"), said = [], prose = "tea and more tea, ".repeat(60);
			const lines = ["hi", "at " + location.href, prose, prose + JSON.stringify({at: location.href}), prose, (prose + location.href + " ").repeat(3000), prose];
			socket.onopen = () => lines.forEach((line) => socket.send(line));
			socket.onmessage = (e) => {
				const [line, heard] = e.data.split("\n"), want = lines[said.length];
				said.push(line === want && atob(heard) === want.replaceAll("example.cn", "example.com") ? "good" : "bad " + line.slice(0, 100) + " " + atob(heard).slice(0, 100));
				if (said.length === lines.length) { socket.close(1000); done(socket.extensions + "|" + said.join(" ")); }
			};
			socket.onclose = (e) => done("closed " + e.code + " after " + said.join(" "));
		})`, chromedp.EvalAwaitPromise))
		if got != extension+"|good good good good good good good" {
			t.Errorf("%s: %s", mode, got)
		}
	}
}
