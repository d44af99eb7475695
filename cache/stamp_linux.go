package cache

import (
	"encoding/binary"
	"os"
	"syscall"
)

// appendIdentity appends the inode and when that was changed, which nobody sets back.
func appendIdentity(b []byte, info os.FileInfo) []byte {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		b = binary.LittleEndian.AppendUint64(b, stat.Ino)
		b = binary.LittleEndian.AppendUint64(b, uint64(stat.Ctim.Nano()))
	}
	return b
}
