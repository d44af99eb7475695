package hop

import (
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// peersServer has a body of so many bytes at hand for what begins with /kept.
func peersServer(t *testing.T, h http.HandlerFunc, body int) string {
	l := listen(t)
	ahead := &Ahead{Idle: time.Minute, Header: time.Minute, Send: 5 * time.Second, Answer: func(a *Asked) bool {
		if !strings.HasPrefix(a.Request.URL.Path, "/kept") {
			return false
		}
		_, err := a.Write([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"), make([]byte, body))
		return err != ErrNotNow
	}}
	s := &http.Server{Handler: h, MaxHeaderBytes: 64 << 10, ErrorLog: log.New(io.Discard, "", 0), Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{WriteByteTimeout: 8 * time.Second}}
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(framesListener{l, &StrictOptions{HeaderBytes: 64 << 10, Ahead: ahead}}) }()
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

// rawPeer is a client that keeps to its own ways.
type rawPeer struct {
	conn net.Conn
	out  bytes.Buffer
	fr   *http2.Framer
	enc  *hpack.Encoder
	eb   bytes.Buffer
}

func dialRaw(t *testing.T, addr string) *rawPeer {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &rawPeer{conn: conn}
	c.fr = http2.NewFramer(&c.out, conn)
	c.enc = hpack.NewEncoder(&c.eb)
	c.out.WriteString(http2.ClientPreface)
	return c
}
func (c *rawPeer) get(id uint32, path string) {
	_ = c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndStream: true, EndHeaders: true, BlockFragment: coded(c.enc, &c.eb, ":method: GET", ":scheme: https", ":authority: a", ":path: "+path)})
}
func (c *rawPeer) flush() { _, _ = c.conn.Write(c.out.Bytes()); c.out.Reset() }

// Chromium says more of its window when more than half of it is used, and not before:
// the server must have that much.
func TestFramesChromium(t *testing.T) {
	const total, size = 15 << 20, 12 << 20
	addr := peersServer(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, size)) }, 10)
	c := dialRaw(t, addr)
	_ = c.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 6291456})
	_ = c.fr.WriteWindowUpdate(0, 15663105)
	c.get(1, "/big")
	c.flush()
	got, conn, stream := 0, 0, 0
	for {
		_ = c.conn.SetReadDeadline(time.Now().Add(4 * time.Second))
		f, err := c.fr.ReadFrame()
		if err != nil {
			t.Fatalf("after %d of %d: %v", got, size, err)
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = c.fr.WriteSettingsAck()
			}
		case *http2.DataFrame:
			n := len(f.Data())
			got, conn, stream = got+n, conn+n, stream+n
			if conn > total/2 {
				_ = c.fr.WriteWindowUpdate(0, uint32(conn))
				conn = 0
			}
			if stream > 6291456/2 {
				_ = c.fr.WriteWindowUpdate(1, uint32(stream))
				stream = 0
			}
			if f.StreamEnded() {
				return
			}
		}
		c.flush()
	}
}

// Some clients (nghttp) hold a new stream to the first window until they have read that
// the server knows theirs.
func TestFramesBeforeAck(t *testing.T) {
	addr := peersServer(t, func(w http.ResponseWriter, r *http.Request) {}, 100<<10)
	for range 100 {
		c := dialRaw(t, addr)
		_ = c.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10 << 20})
		_ = c.fr.WriteWindowUpdate(0, 10<<20)
		c.get(1, "/kept")
		time.Sleep(3 * time.Millisecond)
		c.flush()
		got, acked := 0, false
		_ = c.conn.SetReadDeadline(time.Now().Add(4 * time.Second))
		for {
			f, err := c.fr.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if s, ok := f.(*http2.SettingsFrame); ok && s.IsAck() {
				acked = true
			}
			if d, ok := f.(*http2.DataFrame); ok {
				if got += len(d.Data()); got > 65535 && !acked {
					t.Fatalf("%d bytes before the server's word", got)
				}
				if d.StreamEnded() {
					break
				}
			} else if f.Header().Flags.Has(1) && f.Header().Type == http2.FrameHeaders {
				break
			}
		}
		c.conn.Close()
	}
}

// A block of the server's that takes several frames is not broken up by an answer.
func TestFramesLongBlock(t *testing.T) {
	big := strings.Repeat("~", 20<<10)
	addr := peersServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Big", big)
		w.WriteHeader(200)
	}, 10)
	c := dialRaw(t, addr)
	_ = c.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10 << 20})
	_ = c.fr.WriteWindowUpdate(0, 1<<30)
	c.flush()
	stop := make(chan bool)
	go func() {
		for id := uint32(1); ; {
			select {
			case <-stop:
				return
			default:
			}
			c.get(id, "/other")
			id += 2
			for range 20 {
				c.get(id, "/kept")
				id += 2
				c.flush()
				time.Sleep(3 * time.Microsecond)
			}
		}
	}()
	defer close(stop)
	_ = c.conn.SetReadDeadline(time.Now().Add(15 * time.Second))
	for n := 0; n < 60000; n++ {
		f, err := c.fr.ReadFrame()
		if err != nil {
			t.Fatalf("after %d frames: %v, %v", n, err, c.fr.ErrorDetail())
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			t.Fatal(g)
		}
	}
}

// While the server writes to a client that takes nothing for now, its upload goes on.
func TestFramesUploadBehindDownload(t *testing.T) {
	for _, update := range []bool{false, true} {
		got := make(chan int64, 1)
		addr := peersServer(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				n, _ := io.Copy(io.Discard, r.Body)
				got <- n
				return
			}
			_, _ = w.Write(make([]byte, 200<<20))
		}, 10)
		c := dialRaw(t, addr)
		_ = c.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		_ = c.fr.WriteWindowUpdate(0, 1<<30)
		c.get(1, "/big")
		c.flush()
		time.Sleep(time.Second) // nothing is read
		if update {
			_ = c.fr.WriteWindowUpdate(0, 1000)
		}
		_ = c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, EndHeaders: true, BlockFragment: coded(c.enc, &c.eb, ":method: POST", ":scheme: https", ":authority: a", ":path: /up")})
		_ = c.fr.WriteData(3, true, make([]byte, 10000))
		c.flush()
		select {
		case n := <-got:
			if n != 10000 {
				t.Errorf("window update %v: %d bytes", update, n)
			}
		case <-time.After(3 * time.Second):
			t.Errorf("window update %v: the upload does not arrive", update)
		}
	}
}

// A header that is too long is refused, and its connection goes on.
func TestFramesHeaderTooLong(t *testing.T) {
	address := peersServer(t, func(http.ResponseWriter, *http.Request) {}, 10)
	for _, crumbs := range []int{640, 700, 800} {
		c := dialRaw(t, address)
		_ = c.fr.WriteSettings()
		fields := []string{":method: GET", ":scheme: https", ":authority: a", ":path: /"}
		for i := range crumbs {
			fields = append(fields, "cookie: "+strings.Repeat("a", 70)+string(rune('a'+i%26))) // short once they are in the table
		}
		block := coded(c.enc, &c.eb, fields...)
		for first := true; len(block) > 0; first = false {
			part := block[:min(len(block), 16384)]
			if block = block[len(part):]; first {
				_ = c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, EndHeaders: len(block) == 0, BlockFragment: part})
			} else {
				_ = c.fr.WriteContinuation(1, len(block) == 0, part)
			}
		}
		c.flush()
		_ = c.conn.SetReadDeadline(time.Now().Add(4 * time.Second))
		decoder := hpack.NewDecoder(4096, nil)
		for {
			f, err := c.fr.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if f, ok := f.(*http2.GoAwayFrame); ok {
				t.Fatalf("%d fields: %v", crumbs, f)
			}
			if f, ok := f.(*http2.HeadersFrame); ok {
				if got, _ := decoder.DecodeFull(f.HeaderBlockFragment()); len(got) == 0 || got[0].Value != "431" {
					t.Errorf("%d fields: %v", crumbs, got)
				}
				break
			}
		}
	}
}
