package rewrite

import "bytes"

// Every page is searched for two words, in whatever case, so that it has to be quick. Both end in
// "rity" or have it: nextPair looks for an r with a y three bytes further on, which is rare, and
// nextWord at what stands around. One byte alone is too frequent: to look at each y of a page takes
// a third of the time of the whole rewriting, at each pair with AVX2 a thirtieth.
const (
	integrityWord = "integrity"
	policyWord    = "security-policy"
)

// nextWord is the first of the words in b that begins at b[i] or later, and where it ends; "" when
// there is none. An integrity is one where an attribute's name may begin.
func nextWord(b []byte, i int) (word string, end int) {
	for {
		n := nextPair(b[i:])
		if n < 0 {
			return "", 0
		}
		from := i
		i += n + len("rity")
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

// nextPair is the first r in b with a y three bytes further on, in either case; -1 when there is
// none.
func nextPair(b []byte) int {
	at := 0
	if hasAVX2 {
		var found bool
		if at, found = pairAVX2(b); found {
			return at
		}
	}
	if n := pairByBytes(b[at:]); n >= 0 {
		return at + n
	}
	return -1
}

// pairByBytes is nextPair for the last bytes, and for processors without AVX2.
func pairByBytes(b []byte) int {
	const piece = 4 << 10 // so that a letter that never comes is not looked for again and again
	for from := 3; from < len(b); from += piece {
		to, found := min(from+piece, len(b)), -1
		for _, y := range []byte("yY") {
			for i := from; ; i++ {
				n := bytes.IndexByte(b[i:to], y)
				if n < 0 {
					break
				}
				if i += n; lower(b[i-3]) == 'r' {
					to, found = i, i-3
					break
				}
			}
		}
		if found >= 0 {
			return found
		}
	}
	return -1
}
