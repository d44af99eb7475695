package rewrite

import (
	"encoding/binary"
	"math/bits"
)

// Frames (RFC 6455 section 5.2).
const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opControl      = 8 // and above
	opPong         = 10

	finBit         = 0x80
	compressedBit  = 0x40 // RSV1 (RFC 7692 section 6)
	otherReserved  = 0x30
	maskBit        = 0x80
	maxControl     = 125 // bytes of payload
	maxFrameHeader = 2 + 8 + 4
)

// frame is what a frame's header says.
type frame struct {
	first  byte   // FIN, the reserved bits and the opcode
	masked bool   // the payload is
	key    uint32 // the mask, its first byte in the lowest bits
	length uint64 // of the payload
	size   int    // of the header
}

func (f frame) opcode() byte { return f.first & 0x0f }
func (f frame) fin() bool    { return f.first&finBit != 0 }

// parseFrame reads a header. When it is not whole in b, size is how much of it is needed to know
// more, and ok is false.
func parseFrame(b []byte) (f frame, ok bool) {
	if f.size = 2; len(b) < f.size {
		return f, false
	}
	f.first, f.masked, f.length = b[0], b[1]&maskBit != 0, uint64(b[1]&^maskBit)
	extended := f.length
	switch extended {
	case 126:
		f.size += 2
	case 127:
		f.size += 8
	}
	if f.masked {
		f.size += 4
	}
	if len(b) < f.size {
		return f, false
	}
	switch extended {
	case 126:
		f.length = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		f.length = binary.BigEndian.Uint64(b[2:])
	}
	if f.masked {
		f.key = binary.LittleEndian.Uint32(b[f.size-4:])
	}
	return f, true
}

// appendFrame appends a frame like f around a payload.
func appendFrame(dst []byte, f frame, payload []byte) []byte {
	second := byte(0)
	if f.masked {
		second = maskBit
	}
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, f.first, second|byte(n))
	case n <= 0xffff:
		dst = binary.BigEndian.AppendUint16(append(dst, f.first, second|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, f.first, second|127), uint64(n))
	}
	if !f.masked {
		return append(dst, payload...)
	}
	dst = binary.LittleEndian.AppendUint32(dst, f.key)
	dst = append(dst, payload...)
	mask(dst[len(dst)-len(payload):], f.key, 0)
	return dst
}

// mask puts on, or takes off, the mask of a payload whose byte number at is b[0] (RFC 6455 section
// 5.3).
func mask(b []byte, key uint32, at uint64) {
	key = bits.RotateLeft32(key, -8*int(at%4))
	for wide := uint64(key)<<32 | uint64(key); len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^wide)
	}
	for i := range b {
		b[i] ^= byte(key)
		key = bits.RotateLeft32(key, -8)
	}
}
