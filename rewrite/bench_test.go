package rewrite

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

// page is HTML-like text of about size bytes with so many own URLs in a kilobyte.
func page(size int, perKB float64, hosts []string) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields(`the of crossing <div class="entry"> <p> and to in </p> </div> <li> </li> a visitor
		example common company <span style="color: red"> communication window.location sample, domain. complete
		https://other.org/path/ http://www.w3.org/1999/xhtml //cdn.thirdparty.net/lib.js https://en.wikipedia.org/
		function(a,b){return a.exports} 中文 網站 &amp; &nbsp; href="/relative/path.html" src="img/1.png"`)
	var b strings.Builder
	owed := 0.0
	for b.Len() < size {
		before := b.Len()
		if owed >= 1 {
			owed--
			fmt.Fprintf(&b, `<a href="https://%s/some/path?x=%d">`, hosts[rng.IntN(len(hosts))], rng.IntN(1000))
		} else {
			b.WriteString(words[rng.IntN(len(words))])
		}
		b.WriteByte(" \n "[rng.IntN(3)])
		owed += perKB * float64(b.Len()-before) / 1024
	}
	return []byte(b.String())
}

// pairs is a map of n hosts; the first is example.com.
func pairs(n int) (list []Pair, origins []string) {
	for i := range n {
		name := "example"
		if i > 0 {
			name = fmt.Sprintf("host%02d.some-site%d", i, i%7)
		}
		list = append(list, Pair{Base{"https", name + ".cn", ""}, Base{"https", name + ".com", ""}})
		origins = append(origins, name+".com")
	}
	return list, origins
}

func BenchmarkReplace(b *testing.B) {
	for _, c := range []struct {
		name  string
		size  int
		pairs int
		perKB float64
	}{
		{"8MB/1pair/3perKB", 8 << 20, 1, 3},
		{"8MB/1pair/none", 8 << 20, 1, 0},
		{"8MB/50pairs/3perKB", 8 << 20, 50, 3},
		{"8MB/50pairs/none", 8 << 20, 50, 0},
		{"40KB/1pair/170URLs", 40 << 10, 1, 4.25},
	} {
		b.Run(c.name, func(b *testing.B) {
			list, origins := pairs(c.pairs)
			m, err := NewMap(list)
			if err != nil {
				b.Fatal(err)
			}
			text := page(c.size, c.perKB, origins)
			s, out := m.ToPublic().NewStream(), make([]byte, 0, 64<<10)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				s.Reset(m.ToPublic())
				for rest := text; ; {
					n := min(len(rest), 32<<10)
					out = s.Append(out[:0], rest[:n], n == len(rest))
					if rest = rest[n:]; len(rest) == 0 {
						break
					}
				}
			}
		})
	}
}

// BenchmarkBody is a whole answer through Response: 30 bytes, a page of 40 KB, 8 MB; and, as what
// the codings cost alone, "open and close".
func BenchmarkBody(b *testing.B) {
	for _, c := range []struct {
		name         string
		size         int
		came, accept string
	}{
		{"30B/identity", 30, "", ""},
		{"40KB/identity", 40 << 10, "", ""},
		{"40KB/gzip-gzip", 40 << 10, "gzip", "gzip"},
		{"8MB/identity", 8 << 20, "", ""},
		{"8MB/gzip-gzip", 8 << 20, "gzip", "gzip"},
		{"8MB/gzip-zstd", 8 << 20, "gzip", "zstd"},
		{"8MB/gzip-br", 8 << 20, "gzip", "br"},
		{"8MB/br-br", 8 << 20, "br", "br"},
		{"8MB/zstd-zstd", 8 << 20, "zstd", "zstd"},
	} {
		text := string(page(c.size, 4.25, []string{"example.com"}))[:c.size]
		coded := closeIn(c.came, text)
		m := parseMap(b, fuzzMaps[0])
		h := http.Header{"Content-Type": {"text/html; charset=utf-8"}}
		if c.came != "" {
			h.Set("Content-Encoding", c.came)
		}
		length := int64(-1)
		if len(coded) < aheadSize {
			length = int64(len(coded))
		}
		buf := make([]byte, 32<<10)
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			for b.Loop() {
				res := &http.Response{StatusCode: 200, Header: h.Clone(), Body: io.NopCloser(&source{origin: strings.NewReader(coded)}), ContentLength: length}
				m.Response(res, Options{AcceptEncoding: c.accept})
				drainInto(b, res.Body, buf)
				res.Body.Close()
			}
		})
		if c.came == "" || c.came != c.accept {
			continue
		}
		b.Run(c.name+"/open and close alone", func(b *testing.B) {
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			for b.Loop() {
				dec := newDecoder([]string{c.came}, &source{origin: strings.NewReader(coded)})
				enc := newEncoder(c.accept, io.Discard)
				for {
					n, err := dec.Read(buf)
					enc.Write(buf[:n])
					if err != nil {
						break
					}
				}
				enc.Close()
				freeEncoder(c.accept, enc)
				dec.free()
			}
		})
	}
}

func drainInto(b *testing.B, r io.Reader, buf []byte) {
	for {
		if _, err := r.Read(buf); err == io.EOF {
			return
		} else if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHeader is the header of a usual answer.
func BenchmarkHeader(b *testing.B) {
	m := parseMap(b, fuzzMaps[0])
	h := http.Header{"Content-Type": {"text/html"}, "Server": {"nginx"}, "Date": {"Mon, 01 Jan 2024 00:00:00 GMT"}, "Cache-Control": {"max-age=60"},
		"Etag": {`"abc"`}, "Vary": {"Accept-Encoding"}, "Set-Cookie": {"a=b; Path=/; HttpOnly"}, "X-Frame-Options": {"SAMEORIGIN"},
		"Content-Security-Policy": {"default-src 'self'; img-src 'self' data: https://images.other.net"}, "Link": {`</a.css>; rel=preload`}}
	b.ReportAllocs()
	for b.Loop() {
		m.Header(h)
	}
}
