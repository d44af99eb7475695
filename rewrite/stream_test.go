package rewrite

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// fuzzMaps are the maps that fuzzing runs over.
var fuzzMaps = []string{
	"https://example.cn https://example.com",
	"https://localhost:8443 https://example.com\nhttps://a.localhost:8443 https://a.example.com",
	"https://example.cn https://example.com\nhttps://*.example.cn https://*.example.com\nhttps://fonts.example.cn https://fonts.googleapis.com",
	"https://example.cn http://10.0.0.5:3000\nhttps://x.cn https://h.ws\nhttps://localhost:8443 http://localhost:3000",
	"https://*.cn.example.com https://*.example.com\nhttp://y.cn https://ttp",
}

// fragments are what fuzzed texts are made of: byte i of the input is fragment i.
var fragments = strings.Split(`/|\|//|\/\/|\\\/\\\/|\u002f|\\u002F|\x2f|%2F|%2f%2F|%252F|%25252f|%5C|%5c%2F|&#47;|&#x2F;|&sol;|&#x2f`+
	`|:|%3A|%253a|\u003a|\x3A|&#58;|&colon;|http|https|HTTPS|ws|wss|h|w|ht|ttp|s|p|ftp`+
	`|example.com|EXAMPLE.com|example.cn|.example.com|a.example.com|fonts.googleapis.com|10.0.0.5|localhost|h.ws|ttp|x.cn`+
	`|3000|8443|443|80|0|25|2|%|%2|%25|&|&#|\u00|\x|\u|x2f|u002f|.|..|-|_|*|@|%40|%2E|\u002e|;|"|%22|&quot;|\"|\u0022|\n|=|%3D`+
	"| |\n|<|>|(|,|a|n|e|é|中|\xa4a|\x00|https://|//example.com|https://example.com|http://localhost:3000", "|")

func compose(input []byte) string {
	var b strings.Builder
	for _, c := range input {
		b.WriteString(fragments[int(c)%len(fragments)])
	}
	return b.String()
}

// checkStream holds the properties of one text in one direction.
func checkStream(t *testing.T, r *Replacer, text string, seed uint64) {
	t.Helper()
	want := reference(r, text)
	if got := string(r.Append(nil, []byte(text))); got != want {
		t.Fatalf("\n     text %q\n      got %q\nreference %q", text, got, want)
	}
	if again := r.String(want); again != want {
		t.Fatalf("\n     text %q\n  becomes %q\nand then %q", text, want, again)
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	longest := 1 + rng.IntN([]int{1, 4, 30, 2 * maxSeam}[rng.IntN(4)])
	s, src, out := r.NewStream(), []byte(text), []byte(nil)
	for {
		n := min(len(src), 1+rng.IntN(longest))
		out = s.Append(out, src[:n], n == len(src))
		if s.Held() > maxHeld {
			t.Fatalf("%d bytes held", s.Held())
		}
		if src = src[n:]; len(src) == 0 {
			break
		}
	}
	if string(out) != want {
		t.Fatalf("in chunks\n     text %q\n      got %q\nreference %q", text, out, want)
	}
	if out := passed(s, r, text, rng, longest); out != want {
		t.Fatalf("passed in chunks\n     text %q\n      got %q\nreference %q", text, out, want)
	}
}

// passed is text through Pass, where that does, and Append.
func passed(s *Stream, r *Replacer, text string, rng *rand.Rand, longest int) string {
	s.Reset(r)
	src, out := []byte(text), []byte(nil)
	for {
		n := min(len(src), 1+rng.IntN(longest))
		b := make([]byte, s.Held()+n)
		copy(b[s.CopyHeld(b):], src)
		if done, ok := s.Pass(b, n == len(src)); ok {
			out = append(out, b[:done]...)
		} else {
			out = s.Append(out, src[:n], n == len(src))
		}
		if src = src[n:]; len(src) == 0 {
			return string(out)
		}
	}
}

func FuzzStream(f *testing.F) {
	for _, c := range tables(f, "body") {
		f.Add([]byte(c.in), uint64(1), false)
	}
	var maps []*Map
	for _, m := range fuzzMaps {
		maps = append(maps, parseMap(f, m))
	}
	f.Fuzz(func(t *testing.T, input []byte, seed uint64, composed bool) {
		text := string(input)
		if composed {
			text = compose(input[:min(len(input), 200)])
		}
		m := maps[seed%uint64(len(maps))]
		for _, r := range []*Replacer{m.ToPublic(), m.ToOrigin()} {
			checkStream(t, r, text, seed)
			checkStream(t, r.withBare, text, seed)
		}
	})
}

// spellings of what a URL is made of, in order; one of each, and now and then any fragment between.
var parts = [][]string{
	{"", "", "\"", " ", "a", "/", "\n", "\\n", "%22", "%20", "&quot;", "\\u0022", "=", "é", "\xa4a", "z\xa4\\", "+", ".", ":", "\\", ";", "a;", "%3D", "ftp", "x"},
	{"", "", "http", "https", "ws", "wss", "HTTP", "ftp"},
	{"", ":", ":", ":", "%3A", "%253A", "\\u003a", "\\\\x3A", "&#58;"},
	{"/", "/", "\\/", "\\\\\\/", "%2F", "%2f", "%252F", "\\u002f", "\\\\u002F", "\\x2f", "&#47;", "&#x2F;", "&sol;", "%5C%2F", "\\u005c\\u002f", "\\\\%2F"},
	{"=", "=", "=", "/", "\\/", "%2F", "\\u002f", "&sol;"},
	{"example.com", "example.com", "a.example.com", "EXAMPLE.COM", "fonts.googleapis.com", "10.0.0.5", "localhost", "h.ws", "example.cn", "localhost:8443", "a.b.example.com", "*.example.com", "fonts.example.com", "x.example.com.example.com", "notexample.com", "ttp", "a.cn.example.com"},
	{"", "", ":3000", ":443", "%3A443", "\\u003a3000", ":", ":80", ":8443", "%3a8443", ".", "&#58;3000"},
	{"", "/", "\\/", "%2F", "\"", " ", ".", "@", "%40", ".x", "%2Ex", "a", "5", "\\u002e", "&#46;", "?", "&", "%", "中", "\\", ":x", "//example.com"},
}

// quotes, and what is none, round a bare host.
var quotes = []string{`"`, `"`, `'`, "`", `\"`, `\\\"`, "&quot;", "&#39;", "&#x22;", "&amp;", `\u0022`, "%22", " ", `\`}

func quoted(rng *rand.Rand) string {
	quote := quotes[rng.IntN(len(quotes))]
	hosts, ports := parts[5], []string{"", "", "", ":8443", ":443", ":", ":3000", ".", "/", "x"}
	host, port := hosts[rng.IntN(len(hosts))], ports[rng.IntN(len(ports))]
	end := quote
	if rng.IntN(4) == 0 {
		end = quotes[rng.IntN(len(quotes))]
	}
	return quote + host + port + end
}

func urlish(rng *rand.Rand) string {
	if rng.IntN(4) == 0 {
		return quoted(rng)
	}
	var b strings.Builder
	last := ""
	for _, choice := range parts {
		next := choice[rng.IntN(len(choice))]
		if next == "=" && last != "" {
			next = last
		}
		b.WriteString(next)
		last = next
		if rng.IntN(40) == 0 {
			b.WriteString(fragments[rng.IntN(len(fragments))])
		}
	}
	return b.String()
}

// TestRandomTexts is FuzzStream over texts that look like URLs, and long ones too.
func TestRandomTexts(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	var maps []*Map
	for _, m := range fuzzMaps {
		maps = append(maps, parseMap(t, m))
	}
	replaced, texts := 0, 8000
	if raceEnabled {
		texts = 1000
	}
	for range texts {
		n := 1 + rng.IntN(3)
		if rng.IntN(200) == 0 {
			n = 100
		}
		var b strings.Builder
		for range n {
			b.WriteString(urlish(rng))
		}
		m := maps[rng.IntN(len(maps))]
		for _, r := range []*Replacer{m.ToPublic(), m.ToOrigin()} {
			if rng.IntN(2) == 0 {
				r = r.withBare
			}
			checkStream(t, r, b.String(), rng.Uint64())
		}
		if m.ToPublic().String(b.String()) != b.String() {
			replaced++
		}
	}
	if replaced < texts/20 {
		t.Errorf("only %d texts had a URL to exchange", replaced)
	}
}

// TestHostileTexts: what never ends keeps neither memory nor the rest of the text waiting, and
// chunks still make no difference.
func TestHostileTexts(t *testing.T) {
	long := []string{
		strings.Repeat(`\`, 31), strings.Repeat(`\`, 33), strings.Repeat(`\`, 400), strings.Repeat("%5C", 40), "%" + strings.Repeat("25", 9), "%" + strings.Repeat("25", 300),
		strings.Repeat(`\u005c`, 4), strings.Repeat(`\u005c`, 40), strings.Repeat(`\\\\\\\\\\\\\u005c`, 3), strings.Repeat(`\`, 30) + `u005c`, strings.Repeat(`\`, 31) + "u002f",
		strings.Repeat("a", 240), strings.Repeat("a", 1000), strings.Repeat("a.", 500), strings.Repeat("/", 700), strings.Repeat("//", 3), strings.Repeat("https:", 200),
		strings.Repeat("*", 300), "[" + strings.Repeat("f:", 400), "&" + strings.Repeat("#", 20), strings.Repeat("//example.com", 100), strings.Repeat("example.com.", 40), "https://", "//", "/", "%2F", `\u002f`, "u002f",
		"example.com", ":", "8443", `\u003a`, `\`, "w", "h",
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		var b strings.Builder
		for range 1 + rng.IntN(7) {
			b.WriteString(long[rng.IntN(len(long))])
		}
		r := parseMap(t, fuzzMaps[rng.IntN(len(fuzzMaps))]).ToPublic()
		want := r.String(b.String())
		s, src, out := r.NewStream(), []byte(b.String()), []byte(nil)
		longest := []int{1, 7, 100, 1500}[rng.IntN(4)]
		for len(src) > 0 {
			n := min(len(src), 1+rng.IntN(longest))
			out = s.Append(out, src[:n], n == len(src))
			src = src[n:]
			if s.Held() > maxHeld {
				t.Fatalf("%d bytes held of %q", s.Held(), b.String())
			}
		}
		if string(out) != want {
			t.Fatalf("text %q\n got %q\nwant %q", b.String(), out, want)
		}
	}
}

// TestNothingHeld: what cannot be the start of a URL goes out with its chunk.
func TestNothingHeld(t *testing.T) {
	s := parseMap(t, fuzzMaps[0]).ToPublic().NewStream()
	for _, chunk := range []string{"data: {\"a\":1}\n\n", "Hello", ", ", "word", "\r\n", "data: https://example.com/\n\n", "</p>", "中文"} {
		s.Append(nil, []byte(chunk), false)
		if s.Held() != 0 {
			t.Errorf("%q leaves %d bytes held", chunk, s.Held())
		}
	}
	for _, chunk := range []string{"see h", "ttps", ":/", "/exam", "ple.com", ".", "x "} {
		s.Append(nil, []byte(chunk), false)
	}
	if s.Held() != 0 {
		t.Errorf("%d bytes held", s.Held())
	}
}

// TestThereAndBack: what becomes of a mapped URL leads back to it.
func TestThereAndBack(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, text := range fuzzMaps {
		m := parseMap(t, text)
		for range 3000 {
			pair := m.pairs[rng.IntN(len(m.pairs))]
			labels := []string{"a", "login", "fonts", "x.y", "cn", "a.cn"}[rng.IntN(6)]
			slashes := []string{"://", `:\/\/`, "%3A%2F%2F", `:\u002f\u002f`, "%253A%252F%252F", "&#58;&#47;&#47;"}[rng.IntN(6)]
			colon := map[string]string{"%3A%2F%2F": "%3A", "%253A%252F%252F": "%253A", "&#58;&#47;&#47;": "&#58;"}[slashes]
			if colon == "" {
				colon = ":"
			}
			for _, way := range []struct {
				r, back *Replacer
				b       Base
			}{{m.ToPublic(), m.ToOrigin(), pair.Origin}, {m.ToOrigin(), m.ToPublic(), pair.Public}} {
				b := way.b.fill(labels)
				url := b.Scheme + slashes + strings.ReplaceAll(b.Authority(), ":", colon)
				there := way.r.String(url)
				if there == url {
					continue
				}
				if back := way.back.String(there); back != url {
					t.Fatalf("%s -> %s -> %s", url, there, back)
				}
			}
		}
	}
}

// TestNoAllocation: a chunk costs no memory once the output has its size.
func TestNoAllocation(t *testing.T) {
	list, origins := pairs(50)
	m, err := NewMap(list)
	if err != nil {
		t.Fatal(err)
	}
	text, s, out := page(32<<10, 5, origins), m.ToPublic().NewStream(), make([]byte, 0, 64<<10)
	if n := testing.AllocsPerRun(100, func() { out = s.Append(out[:0], text, false) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
