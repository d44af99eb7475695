package cache

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// The file of a form:
//
//	0     the header: what the file is, where its meta and its body are, their
//	      checksums, and its own
//	128   the meta, if the head block has room
//	4096  the body
//	…     the meta, if not
//
// A meta that changes is written where the last one isn't, and then the header,
// which is less than a sector, says where: a kill at any moment leaves the one or
// the other. What the disk makes of it when the machine falls, the checksums tell.

const (
	headerSize = 128
	headSize   = 4096 // a page: the body that follows is aligned
	// version is of this format. Files of another are not read.
	version = 2
	// mostMeta bounds what a file can make us read: a header of an answer is at
	// most 1 MB (net/http's default).
	mostMeta = 2 << 20
	mostBody = 1 << 50
)

// magic begins a file.
const magic = "Causeway"

// castagnoli is CRC-32C: the one that processors compute.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// header is the first bytes of a file.
type header struct {
	key     Key
	id      uint64 // of the object; forms of one have the same
	number  uint8  // of the form; 0 is the one that came
	stale   bool   // purged softly
	size    int64  // of the body
	sum     uint32 // of the body
	metaAt  int64
	metaLen int
	metaSum uint32
}

var (
	errForeign = errors.New("file of another version")
	errCorrupt = errors.New("corrupt file")
)

// bytes is the header as it is written.
func (h *header) bytes() []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	stale := byte(0)
	if h.stale {
		stale = 1
	}
	b = append(b, h.number, stale, 0, 0)
	b = append(b, h.key[:]...)
	b = binary.LittleEndian.AppendUint64(b, h.id)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.size))
	b = binary.LittleEndian.AppendUint32(b, h.sum)
	b = binary.LittleEndian.AppendUint32(b, h.metaSum)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.metaAt))
	b = binary.LittleEndian.AppendUint32(b, uint32(h.metaLen))
	b = binary.LittleEndian.AppendUint32(b, checksum(b))
	return b[:headerSize]
}

// parseHeader reads the first bytes of a file, which may be anything.
func parseHeader(b []byte) (header, error) {
	var h header
	if len(b) < 12 || string(b[:8]) != magic {
		return h, errCorrupt
	}
	if binary.LittleEndian.Uint32(b[8:]) != version {
		return h, errForeign
	}
	if len(b) < headerSize || checksum(b[:72]) != binary.LittleEndian.Uint32(b[72:]) {
		return h, errCorrupt
	}
	h.number, h.stale = b[12], b[13] != 0
	copy(h.key[:], b[16:])
	h.id = binary.LittleEndian.Uint64(b[36:])
	size, at, length := binary.LittleEndian.Uint64(b[44:]), binary.LittleEndian.Uint64(b[60:]), binary.LittleEndian.Uint32(b[68:])
	h.sum, h.metaSum = binary.LittleEndian.Uint32(b[52:]), binary.LittleEndian.Uint32(b[56:])
	if size > mostBody || at > 2*mostBody || length > mostMeta {
		return h, errCorrupt
	}
	h.size, h.metaAt, h.metaLen = int64(size), int64(at), int(length)
	inHead := h.metaAt >= headerSize && h.metaAt < headSize && h.metaEnd() <= headSize
	if !inHead && h.metaAt < headSize+h.size {
		return h, errCorrupt
	}
	return h, nil
}

// metaEnd is where the meta ends.
func (h *header) metaEnd() int64 { return h.metaAt + int64(h.metaLen) }

// end is how long the file is at least.
func (h *header) end() int64 { return max(headSize+h.size, h.metaEnd()) }

// place says where a meta is written, given the header that stands, if any: not
// where the meta of that is.
func (h *header) place(length int, first bool) int64 {
	n := int64(length)
	clear := func(at int64) bool { return first || at+n <= h.metaAt || at >= h.metaEnd() }
	if headerSize+n <= headSize {
		if clear(headerSize) {
			return headerSize
		}
		if at := headSize - n; at >= headerSize && clear(at) {
			return at
		}
	}
	if at := headSize + h.size; clear(at) {
		return at
	}
	return h.metaEnd()
}
