package cache

import (
	"encoding/binary"
	"hash/crc32"
	"os"
)

// stampOf is what a file looks like from outside: which it is, how long, and when it
// was changed, in 32 bits. A file that looks as it did when its checksum was right
// is not read for that again; one that was altered by somebody looks otherwise.
// 0 is none: a file that was not checked.
func stampOf(info os.FileInfo) uint32 {
	var room [32]byte
	b := binary.LittleEndian.AppendUint64(room[:0], uint64(info.Size()))
	b = binary.LittleEndian.AppendUint64(b, uint64(info.ModTime().UnixNano()))
	return max(1, crc32.Checksum(appendIdentity(b, info), castagnoli))
}

// stampOfFile is that of an open one, 0 when it can't be had.
func stampOfFile(f *os.File) uint32 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return stampOf(info)
}
