package hop

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// framesListener has its connections looked at as those of TLS are.
type framesListener struct {
	net.Listener
	options *StrictOptions
}

type framesConn struct {
	net.Conn
	frames *frames
}

func (c framesConn) Read(p []byte) (int, error)  { return c.frames.Read(p) }
func (c framesConn) Write(p []byte) (int, error) { return c.frames.Write(p) }

func (l framesListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return framesConn{conn, newFrames(conn, l.options)}, nil
}

const framesHeaderBytes = 4 << 10

// framesServer serves HTTP/2 without TLS, and with ahead answers kept paths itself.
func framesServer(t testing.TB, ahead *Ahead) (address string) {
	listener := listen(t)
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			body := echoOf(r)
			if !strings.HasPrefix(r.URL.Path, "/kept") {
				body = fmt.Sprintf("%s%d %v", body, n, r.Trailer)
			}
			h := w.Header()
			h.Set("Content-Type", "text/plain")
			h.Set("Content-Length", fmt.Sprint(len(body)))
			h.Set("Date", "now")
			_, _ = io.WriteString(w, body)
		}),
		MaxHeaderBytes: framesHeaderBytes, ErrorLog: log.New(io.Discard, "", 0), Protocols: new(http.Protocols),
	}
	server.Protocols.SetUnencryptedHTTP2(true)
	var open atomic.Int64
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	go func() {
		_ = server.Serve(framesListener{listener, &StrictOptions{HeaderBytes: framesHeaderBytes, Ahead: ahead}})
	}()
	t.Cleanup(func() {
		server.Close()
		for deadline := time.Now().Add(10 * time.Second); open.Load() > 0 && time.Now().Before(deadline); { // a second, of those that were refused
			time.Sleep(10 * time.Millisecond)
		}
	})
	return listener.Addr().String()
}

// visitor is a client of HTTP/2 that holds the server to its windows.
type visitor struct {
	t       testing.TB
	conn    net.Conn
	pending bytes.Buffer // frames to be sent
	framer  *http2.Framer
	fields  bytes.Buffer
	encoder *hpack.Encoder
	decoder *hpack.Decoder
	next    uint32
	window  int64            // of the connection
	stream  int64            // of a new stream
	windows map[uint32]int64 // of streams
	open    map[uint32]bool  // unanswered
	said    map[uint32]string
	bodies  map[uint32]int
	meddled bool   // it had more to say of old streams
	ended   string // how the connection ended
}

func visit(t testing.TB, address string) *visitor {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return newVisitor(t, conn)
}

func newVisitor(t testing.TB, conn net.Conn) *visitor {
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	v := &visitor{t: t, conn: conn, next: 1, window: 65535, stream: 65535, windows: map[uint32]int64{}, open: map[uint32]bool{}, said: map[uint32]string{}, bodies: map[uint32]int{}}
	v.framer, v.encoder = http2.NewFramer(&v.pending, conn), hpack.NewEncoder(&v.fields)
	v.framer.AllowIllegalWrites = true
	v.decoder = hpack.NewDecoder(4096, nil)
	v.pending.WriteString(http2.ClientPreface)
	return v
}

func (v *visitor) settings(list ...http2.Setting) {
	for _, one := range list {
		switch one.ID {
		case http2.SettingInitialWindowSize:
			for id := range v.windows {
				v.windows[id] += int64(one.Val) - v.stream
			}
			v.stream = int64(one.Val)
		case http2.SettingHeaderTableSize:
			v.decoder.SetAllowedMaxDynamicTableSize(one.Val)
		}
	}
	_ = v.framer.WriteSettings(list...)
}

func (v *visitor) more(stream uint32, n uint32) {
	if stream == 0 {
		v.window += int64(n)
	} else if v.open[stream] {
		v.windows[stream] += int64(n)
	}
	_ = v.framer.WriteWindowUpdate(stream, n)
}

// opens is the next stream.
func (v *visitor) opens(param http2.HeadersFrameParam, fields ...string) uint32 {
	id := v.next
	v.next += 2
	v.open[id], v.windows[id] = true, v.stream
	param.StreamID, param.BlockFragment = id, coded(v.encoder, &v.fields, fields...)
	_ = v.framer.WriteHeaders(param)
	return id
}

// answers sends what waits and reads until every stream has its answer, or the
// connection ends.
func (v *visitor) answers() {
	_, _ = v.conn.Write(v.pending.Bytes())
	v.pending.Reset()
	for v.ended == "" && len(v.open) > 0 {
		frame, err := v.framer.ReadFrame()
		if err != nil {
			v.ended = "closed"
			return
		}
		id := frame.Header().StreamID
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = v.framer.WriteSettingsAck()
			}
		case *http2.HeadersFrame:
			fields, err := v.decoder.DecodeFull(f.HeaderBlockFragment())
			if err != nil || !f.HeadersEnded() {
				v.t.Fatalf("an answer's fields: %v", err)
			}
			slices.SortStableFunc(fields, func(a, b hpack.HeaderField) int { return strings.Compare(a.Name, b.Name) })
			for _, field := range fields {
				v.said[id] += field.Name + "=" + field.Value + "\n"
			}
			v.ends(id, f.StreamEnded())
			v.refill(id)
		case *http2.DataFrame:
			n := int64(f.Length)
			if v.windows[id] -= n; v.windows[id] < 0 && n > 0 {
				v.t.Fatalf("%d bytes beyond the window of stream %d", -v.windows[id], id)
			}
			if v.window -= n; v.window < 0 && n > 0 {
				v.t.Fatalf("%d bytes beyond the window of the connection", -v.window)
			}
			v.said[id] += string(f.Data())
			v.bodies[id] += len(f.Data())
			v.ends(id, f.StreamEnded())
			v.refill(id)
		case *http2.RSTStreamFrame:
			v.said[id] += "reset: " + f.ErrCode.String()
			v.ends(id, true)
		case *http2.GoAwayFrame:
			if v.ended = "gone"; f.ErrCode != http2.ErrCodeNo { // which error is the first of several is chance
				v.ended = "refused"
			}
		}
	}
}

// refill lets the answer of a stream come.
func (v *visitor) refill(id uint32) {
	if v.open[id] && v.windows[id] <= 0 {
		v.more(id, uint32(1<<14-v.windows[id]))
	}
	if v.window < 8<<10 && len(v.open) > 0 {
		v.more(0, 1<<15)
	}
	_, _ = v.conn.Write(v.pending.Bytes())
	v.pending.Reset()
}

func (v *visitor) ends(id uint32, ended bool) {
	if ended {
		delete(v.open, id)
	}
}

// usual are requests by their fields, in the ways that clients and others send them.
var usual = []string{
	":method: GET|:scheme: https|:authority: a|:path: /kept",
	":method: GET|:authority: example.cn:443|:scheme: https|:path: /kept/b?x=1|user-agent: tea|accept: */*|cookie: a=1|cookie: b=2|priority: u=1, i",
	":method: HEAD|:scheme: https|:authority: a|:path: /kept/c?|cookie: a=1|accept-encoding: gzip, br",
	":method: GET|:scheme: https|:authority: a|:path: /other|x-a: b|x-a: c",
	":method: GET|:scheme: https|:authority: a|:path: /kept|connection: close",
	":method: GET|:scheme: https|:authority: a|:path: /kept|te: trailers",
	":method: GET|:scheme: https|:authority: a|:path: /kept|te: gzip",
	":method: GET|:scheme: https|:authority: a|:path: /kept|X-Upper: a",
	":method: GET|:scheme: https|:authority: a|:path: /kept|host: a",
	":method: GET|:scheme: https|:authority: a|:path: /kept|host: b",
	":method: GET|:scheme: http|:authority: a|:path: /kept",
	":method: GET|:scheme: https|:path: /kept",
	":method: GET|:scheme: https|:authority: |:path: /kept",
	":method: GET|:scheme: https|:authority: a|:path: //kept",
	":method: GET|:scheme: https|:authority: a|:path: *",
	":method: GET|:scheme: https|:authority: a|:path: /kept%2f%C3%A4",
	":method: GET|:scheme: https|:authority: a|:path: /kept%zz",
	":method: GET|:scheme: https|:authority: a|:path: /kept#f",
	":method: GET|:scheme: https|:authority: a b|:path: /kept",
	":method: GET|:scheme: https|:authority: a|:path: /kept|:path: /kept/2",
	":method: GET|:scheme: https|:authority: a|accept: */*|:path: /kept",
	":method: GET|:scheme: https|:authority: a|:path: /kept|accept: a|accept: b",
	":method: GET|:scheme: https|:authority: a|:path: /kept|content-length: 0",
	":method: GET|:scheme: https|:authority: a|:path: /kept|content-length: 5",
	":method: GET|:scheme: https|:authority: a|:path: /kept|accept: \x01",
	":method: GET|:scheme: https|:authority: a|:path: /kept|accept: ä|referer: ",
	":method: POST|:scheme: https|:authority: a|:path: /kept",
	":method: CONNECT|:authority: a:1",
	":method: GET|:scheme: https|:authority: a|:path: /kept|expect: 100-continue",
	":method: GET|:scheme: https|:authority: a|:path: /kept|:unknown: a",
	":method: GET|:scheme: https|:authority: a|:path: |accept: a",
	":method: GET|:scheme: https|:authority: a|:path: /kept|if-none-match: \"1\"|range: bytes=0-1",
	":method: GET|:scheme: https|:authority: a|:path: /kept/" + strings.Repeat("long", 500),
	":method: GET|:scheme: https|:authority: a|:path: /kept|cookie: " + strings.Repeat("long", 2000),
	":method: GET|:scheme: https|:authority: a|:path: /kept|cookie: " + strings.Repeat("x", 900),
}

// acts has what a client does by these bytes.
func (v *visitor) acts(script []byte) {
	take := func() int {
		if len(script) == 0 {
			return 0
		}
		b := script[0]
		script = script[1:]
		return int(b)
	}
	old := func() uint32 { return uint32(take())*2%(v.next-1) | 1 }
	first := []http2.Setting{{ID: http2.SettingEnablePush, Val: 0}}
	if n := take(); n&1 != 0 {
		first = append(first, http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(n) << 12})
	}
	v.settings(first...)
	if n := take(); n > 0 {
		v.more(0, uint32(n)<<13)
	}
	v.answers()
	for v.ended == "" && len(script) > 0 {
		act := take()
		switch act % 16 {
		default:
			v.opens(http2.HeadersFrameParam{EndHeaders: true, EndStream: true}, strings.Split(usual[take()%len(usual)], "|")...)
		case 9: // a body
			id := v.opens(http2.HeadersFrameParam{EndHeaders: true}, strings.Split(strings.Replace(usual[take()%4], "GET", "POST", 1), "|")...)
			n := take()
			_ = v.framer.WriteData(id, n%3 > 0, make([]byte, n*10))
			if n%3 == 0 {
				_ = v.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndStream: true, EndHeaders: true, BlockFragment: coded(v.encoder, &v.fields, "x-trailer: a")})
			}
		case 10: // in parts, padded, with a priority
			n := take()
			param := http2.HeadersFrameParam{EndHeaders: n&1 == 0, EndStream: true, PadLength: uint8(n & 6)}
			if n&8 != 0 {
				param.Priority = http2.PriorityParam{StreamDep: uint32(n >> 4), Weight: 7}
			}
			id := v.opens(param, strings.Split(usual[take()%len(usual)], "|")...)
			if n&1 != 0 {
				_ = v.framer.WriteContinuation(id, true, coded(v.encoder, &v.fields, "accept-language: zh"))
			}
		case 11:
			if v.answers(); v.next == 1 {
				continue
			}
			v.meddled = true
			switch n := take(); n % 7 {
			case 0:
				v.more(0, uint32(n)+1)
			case 1:
				v.more(old(), uint32(n))
			case 2:
				_ = v.framer.WriteRSTStream(old(), http2.ErrCodeCancel)
			case 3:
				_ = v.framer.WritePriority(old(), http2.PriorityParam{StreamDep: uint32(take()) * 2})
			case 4:
				_ = v.framer.WriteRawFrame(0x42, 7, old(), make([]byte, n))
			case 5:
				_ = v.framer.WriteContinuation(old(), true, nil)
			case 6: // nobody may open a stream twice, and a server need not see it when the first was malformed
				id := old()
				v.open[id], v.windows[id] = true, v.stream
				_ = v.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndStream: true, EndHeaders: true, BlockFragment: coded(v.encoder, &v.fields, strings.Split(usual[0], "|")...)})
			}
		case 12:
			v.answers()
			n := uint32(take())
			v.settings([]http2.Setting{{ID: http2.SettingInitialWindowSize, Val: n << 8}, {ID: http2.SettingHeaderTableSize, Val: n << 5}, {ID: http2.SettingMaxFrameSize, Val: 1<<14 + n}}[n%3])
			for _, i := range []int{0, 3} { // hpack's decoder takes one change of the table at a time, which comes with the server's next block
				v.opens(http2.HeadersFrameParam{EndHeaders: true, EndStream: true}, strings.Split(usual[i], "|")...)
				v.answers()
			}
		case 13:
			_ = v.framer.WritePing(false, [8]byte{1})
		case 14:
			v.answers()
		case 15:
			v.encoder.SetMaxDynamicTableSize(uint32(take()) << 4)
		}
	}
	if v.ended == "" { // a last one, which tells whether the connection still goes
		v.opens(http2.HeadersFrameParam{EndHeaders: true, EndStream: true}, strings.Split(usual[3], "|")...)
	}
	v.answers()
}

// TestFramesScripts runs scripts, the same each time.
func TestFramesScripts(t *testing.T) {
	plain, ahead := framesServer(t, nil), framesServer(t, countedAhead(nil))
	rng := rand.New(rand.NewPCG(1, 2))
	for range 600 {
		script := make([]byte, rng.IntN(60))
		for i := range script {
			script[i] = byte(rng.IntN(256))
		}
		compareScripts(t, plain, ahead, script)
	}
}

func countedAhead(n *atomic.Int64) *Ahead {
	return &Ahead{Idle: time.Minute, Header: time.Minute, Send: time.Minute, Answer: func(asked *Asked) bool {
		ok := echoAhead(asked)
		if ok && n != nil {
			n.Add(1)
		}
		return ok
	}}
}

func compareScripts(t *testing.T, plain, ahead string, script []byte) {
	t.Helper()
	want, got := visit(t, plain), visit(t, ahead)
	defer want.conn.Close()
	defer got.conn.Close()
	want.acts(script)
	got.acts(script)
	for _, said := range want.said {
		if strings.Contains(said, "reset: PROTOCOL_ERROR") && want.meddled {
			return // see ofOurs
		}
	}
	if want.ended != got.ended {
		t.Fatalf("%q: the connection ended %q, want %q\n%v\n%v", script, got.ended, want.ended, got.said, want.said)
	}
	for id := uint32(1); id < max(want.next, got.next); id += 2 {
		if want.ended != "" && (want.open[id] || got.open[id]) {
			continue // whether it was answered before the end is chance
		}
		if want.said[id] != got.said[id] {
			t.Fatalf("%q: stream %d\n got %q\nwant %q", script, id, got.said[id], want.said[id])
		}
	}
}

// FuzzFrames: whatever a client of HTTP/2 does, its answers are those that the server
// would have given alone, and within its windows.
func FuzzFrames(f *testing.F) {
	plain, ahead := framesServer(f, nil), framesServer(f, countedAhead(nil))
	for i := range usual {
		f.Add([]byte{0, 255, 0, 0, 0, byte(i), 14, 0, byte(i), 1, 0, 11, 8, 0, 12, 200, 0, byte(i)})
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 400 {
			return
		}
		compareScripts(t, plain, ahead, script)
	})
}

// TestFramesAnswered: usual requests are answered before the server, in and out of
// order with those that are its own; a small window, a table that was lowered and a
// connection that goes leave them to it.
func TestFramesAnswered(t *testing.T) {
	kept := strings.Split(usual[1], "|")
	get := http2.HeadersFrameParam{EndHeaders: true, EndStream: true}
	for _, test := range []struct {
		what string
		do   func(v *visitor)
		want int64
	}{
		{"a usual client", func(v *visitor) { v.settings(); v.more(0, 15<<20) }, 20},
		{"a small window", func(v *visitor) { v.settings(); v.more(0, 100<<10) }, 0},
		{"streams without a window", func(v *visitor) { v.settings(http2.Setting{ID: 4, Val: 10}); v.more(0, 15<<20) }, 0},
		{"no table", func(v *visitor) { v.settings(http2.Setting{ID: 1, Val: 0}); v.more(0, 15<<20) }, 0},
		{"a larger table", func(v *visitor) { v.settings(http2.Setting{ID: 1, Val: 65536}); v.more(0, 15<<20) }, 20},
	} {
		var n atomic.Int64
		v := visit(t, framesServer(t, countedAhead(&n)))
		test.do(v)
		v.opens(get, strings.Split(usual[3], "|")...) // the server's settings are there then
		v.answers()
		for i := range 20 {
			v.opens(get, kept...)
			if i%4 == 0 {
				v.answers()
			}
		}
		v.answers()
		time.Sleep(50 * time.Millisecond)                                             // an answer is counted when it is out
		if got := n.Load(); got > test.want || got < test.want*3/4 || v.ended != "" { // where the server is at writing, it answers
			t.Errorf("%s: %d were answered ahead, want %d; ended %q", test.what, n.Load(), test.want, v.ended)
		}
		for id := uint32(3); id < v.next; id += 2 {
			if !strings.Contains(v.said[id], ":status=200") || v.bodies[id] == 0 {
				t.Errorf("%s: stream %d: %q", test.what, id, v.said[id])
			}
		}
		v.conn.Close()
	}
}

// TestFramesGoing: a server that stops takes no more requests here either, and those
// under way get their answers.
func TestFramesGoing(t *testing.T) {
	listener := listen(t)
	begun, release := make(chan struct{}), make(chan struct{})
	var n atomic.Int64
	server := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-release
	})}
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() {
		_ = server.Serve(framesListener{listener, &StrictOptions{HeaderBytes: framesHeaderBytes, Ahead: countedAhead(&n)}})
	}()
	defer server.Close()
	v := visit(t, listener.Addr().String())
	defer v.conn.Close()
	v.settings()
	v.more(0, 15<<20)
	get := http2.HeadersFrameParam{EndHeaders: true, EndStream: true}
	slow := v.opens(get, strings.Split(usual[3], "|")...)
	_, _ = v.conn.Write(v.pending.Bytes())
	v.pending.Reset()
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- server.Shutdown(context.Background()) }()
	v.answers() // until it says that it goes
	if v.ended != "gone" {
		t.Fatalf("ended %q", v.ended)
	}
	v.ended = ""
	delete(v.open, slow)
	v.opens(get, strings.Split(usual[0], "|")...)
	_, _ = v.conn.Write(v.pending.Bytes())
	v.pending.Reset()
	time.Sleep(50 * time.Millisecond)
	close(release)
	v.open[slow] = true
	for v.open[slow] && v.ended != "closed" {
		v.ended = ""
		v.answers()
	}
	if !strings.Contains(v.said[slow], ":status=200") || n.Load() != 0 {
		t.Errorf("%q, %d answered ahead", v.said[slow], n.Load())
	}
	v.conn.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestFramesIdle: a connection all of whose requests are answered ahead is not an
// idle one to its server.
func TestFramesIdle(t *testing.T) {
	var n atomic.Int64
	ahead := countedAhead(&n)
	ahead.Idle = 400 * time.Millisecond
	listener := listen(t)
	server := &http.Server{Protocols: new(http.Protocols), IdleTimeout: ahead.Idle, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})}
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() {
		_ = server.Serve(framesListener{listener, &StrictOptions{HeaderBytes: framesHeaderBytes, Ahead: ahead}})
	}()
	defer server.Close()
	v := visit(t, listener.Addr().String())
	defer v.conn.Close()
	v.settings()
	v.more(0, 15<<20)
	for range 40 {
		v.opens(http2.HeadersFrameParam{EndHeaders: true, EndStream: true}, strings.Split(usual[0], "|")...)
		v.answers()
		if v.ended != "" {
			t.Fatalf("ended %q after %d answers", v.ended, n.Load())
		}
		time.Sleep(30 * time.Millisecond)
	}
	if n.Load() < 20 {
		t.Errorf("%d of 40 were answered ahead", n.Load())
	}
}

// TestFramesPanic: a failure of Answer ends its connection, and is told.
func TestFramesPanic(t *testing.T) {
	told := make(chan any, 1)
	address := framesServer(t, &Ahead{Idle: time.Minute, Answer: func(asked *Asked) bool {
		if asked.Request.URL.Path == "/kept/panic" {
			panic("a fault")
		}
		return echoAhead(asked)
	}, Failed: func(failure any) { told <- failure }})
	v := visit(t, address)
	defer v.conn.Close()
	v.settings()
	v.more(0, 15<<20)
	get := http2.HeadersFrameParam{EndHeaders: true, EndStream: true}
	v.opens(get, strings.Split(usual[3], "|")...)
	v.answers()
	v.opens(get, ":method: GET", ":scheme: https", ":authority: a", ":path: /kept/panic")
	v.answers()
	if v.ended != "closed" || fmt.Sprint(<-told) != "a fault" {
		t.Errorf("ended %q", v.ended)
	}
}
