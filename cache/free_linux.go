package cache

import "golang.org/x/sys/unix"

// freeIn is how many bytes of a disk are free for us; not ok where that is not known.
func freeIn(dir string) (n int64, ok bool) {
	var said unix.Statfs_t
	if err := unix.Statfs(dir, &said); err != nil || said.Blocks == 0 {
		return 0, false
	}
	return int64(said.Bavail) * said.Bsize, true
}
