package cache

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
)

// sketch estimates how often a key was asked for of late ("TinyLFU", Einziger,
// Friedman, Manes 2017): four counters of four bits for a key, all in one cache
// line, the least of which is the estimate. It is safe for concurrent use; what
// two writers at once lose doesn't matter.
type sketch struct {
	words []atomic.Uint64 // 16 counters each, a power of two of them
}

const (
	lineWords = 8 // 64 bytes
	// ageEvery is how many notes it takes on average to halve one word: ten for
	// each counted key, as in the paper, at one word a key.
	ageEvery = 10
)

// newSketch makes one for so many keys.
func newSketch(keys int64) *sketch {
	n := int64(1) << bits.Len64(uint64(max(keys, 1024)-1))
	return &sketch{words: make([]atomic.Uint64, n)}
}

// hashOf is what the sketch knows of a key, which is a hash itself.
func hashOf(key Key) uint64 { return binary.LittleEndian.Uint64(key[8:]) }

// line is the first word of the line that counts hash.
func (s *sketch) line(hash uint64) int {
	return int((hash*0x9e3779b97f4a7c15)>>32) & (len(s.words) - 1) &^ (lineWords - 1)
}

// counter is the word in the line, and the shift in the word, of the i-th counter.
func counter(hash uint64, i int) (word, shift int) {
	part := hash >> (i * 6)
	return 2*i + int(part&1), int(part>>1&15) * 4
}

// note counts a request.
func (s *sketch) note(hash uint64) {
	line := s.line(hash)
	for i := range 4 {
		word, shift := counter(hash, i)
		at := &s.words[line+word]
		if was := at.Load(); was>>shift&15 < 15 {
			at.CompareAndSwap(was, was+1<<shift)
		}
	}
	if random := rand.Uint64(); random%ageEvery == 0 {
		at := &s.words[int(random>>8)&(len(s.words)-1)]
		was := at.Load()
		at.CompareAndSwap(was, was>>1&0x7777777777777777)
	}
}

// estimate is how often it was.
func (s *sketch) estimate(hash uint64) int {
	line, least := s.line(hash), 15
	for i := range 4 {
		word, shift := counter(hash, i)
		least = min(least, int(s.words[line+word].Load()>>shift&15))
	}
	return least
}
