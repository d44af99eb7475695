package rewrite

import (
	"encoding/binary"
	"math/bits"
)

// Every page is searched for three words, in whatever case, so that it has to be quick. Two of them
// end in "rity" or have it: nextPair looks for an r with a y three bytes further on, which is rare,
// and nextWord at what stands around; the third, csp=, has a c with a "=" at the same distance. One
// byte alone is too frequent: to look at each y of a page takes a third of the time of the whole
// rewriting, at each pair with AVX2 a twentieth.
const (
	integrityWord = "integrity"
	policyWord    = "security-policy"
	frameWord     = "csp="
)

// nextWord is the first of the words in b that begins at b[i] or later, and where it ends; "" when
// there is none. An integrity or csp is one where an attribute's name may begin.
func nextWord(b []byte, i int) (word string, end int) {
	for {
		n := nextPair(b[i:])
		if n < 0 {
			return "", 0
		}
		from := i
		i += n + len("rity")
		if start := i - len(frameWord); start > 0 && b[i-1] == '=' {
			if startsName(b[start-1]) && equalFold(b[start:i], frameWord) {
				return frameWord, i
			}
			continue
		}
		if start := i - len(integrityWord); start > 0 && start >= from && startsName(b[start-1]) && equalFold(b[start:i], integrityWord) {
			return integrityWord, i
		}
		start := i - len("security")
		if end = start + len(policyWord); start >= from && end <= len(b) && equalFold(b[start:end], policyWord) {
			return policyWord, end
		}
	}
}

// startsName says whether an attribute's name may follow c.
func startsName(c byte) bool { return isSpace(c) || c == '/' || c == '"' || c == '\'' }

// nextPair is the first r in b with a y three bytes further on, in either case, or c with a "=" there;
// -1 when there is none.
func nextPair(b []byte) int {
	at := 0
	if hasAVX2 {
		var found bool
		if at, found = pairAVX2(b); found {
			return at
		}
	}
	if n := pairByWords(b[at:]); n >= 0 {
		return at + n
	}
	return -1
}

// pairByWords is nextPair for the last bytes, and for processors without AVX2: eight bytes a turn.
func pairByWords(b []byte) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
		lower = 0x20 * ones
	)
	rest := b
	for len(rest) >= 11 {
		first := binary.LittleEndian.Uint64(rest) | lower
		second := binary.LittleEndian.Uint64(rest[3:]) | lower
		rity := (first ^ 'r'*ones) | (second ^ 'y'*ones) // 0 in the place of a pair
		csp := (first ^ 'c'*ones) | (second ^ '='*ones)
		if found := ((rity-ones)&^rity | (csp-ones)&^csp) & highs; found != 0 {
			return len(b) - len(rest) + bits.TrailingZeros64(found)/8 // the lowest is exact
		}
		rest = rest[8:]
	}
	for i := len(b) - len(rest); i+3 < len(b); i++ {
		if first, second := b[i]|0x20, b[i+3]|0x20; first == 'r' && second == 'y' || first == 'c' && second == '=' {
			return i
		}
	}
	return -1
}
