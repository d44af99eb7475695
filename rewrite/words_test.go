package rewrite

import (
	"bytes"
	"math/rand/v2"
	"regexp"
	"testing"
)

// TestNextPair: with AVX2 and without it, at every place and length.
func TestNextPair(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 20000 {
		text := make([]byte, rng.IntN(300))
		for i := range text {
			text[i] = "rRyYcC=.\x52\xd2\x12\x1d\x43\xe3 "[rng.IntN(15)]
			if rng.IntN(3) > 0 {
				text[i] = '.'
			}
		}
		want := -1
		if at := regexp.MustCompile(`(?s)[rR]..[yY]|[cC]..[=\x1d]`).FindIndex(latin(text)); at != nil {
			want = len([]rune(string(latin(text)[:at[0]])))
		}
		if got := nextPair(text); got != want {
			t.Fatalf("%q: %d, want %d", text, got, want)
		}
		if got := pairByWords(text); got != want {
			t.Fatalf("by words: %q: %d, want %d", text, got, want)
		}
	}
	long := append(bytes.Repeat([]byte("yY."), 5000), "R..y"...)
	if got := pairByWords(long); got != 15000 {
		t.Errorf("%d", got)
	}
}

// latin is text with each byte as a rune, for regexp.
func latin(text []byte) []byte {
	var out []rune
	for _, c := range text {
		out = append(out, rune(c))
	}
	return []byte(string(out))
}

func TestNextWord(t *testing.T) {
	for text, want := range map[string]string{
		" integrity=": "integrity", "\nINTEGRITY": "integrity", "/Integrity ": "integrity", `"integrity`: "integrity",
		"integrity": "", ".integrity": "", "dataintegrity": "", "-integrity": "", "security": "", "security-polic": "", " integrit": "",
		"Content-Security-Policy": "security-policy", "SECURITY-POLICY": "security-policy", "security-policy": "security-policy",
		` csp="`: "csp=", "\"CSP=x": "csp=", "/Csp=": "csp=", "csp=": "", "-csp=": "", " csp =": "", " cap=": "", " csp=csp=": "csp=", "r csp=y": "csp=",
		"security policy": "", "rity integrity": "integrity", "integrity integrity": "integrity", "security-security-policy": "security-policy",
	} {
		for _, before := range []string{"", "<p>very ordinary text, primarily", "ryyy", "\x00"} {
			whole := []byte(before + text)
			word, end := nextWord(whole, len(before))
			if before != "" && (text == "integrity" || text == "csp=") || word == "" && want == "" && end == 0 {
				continue
			}
			if word != want || !equalFold(whole[end-len(word):end], word) {
				t.Errorf("%q: %q, ends at %d, want %q", whole, word, end, want)
			}
		}
	}
}
