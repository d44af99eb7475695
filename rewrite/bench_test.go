package rewrite

import (
	"fmt"
	"math/rand/v2"
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
