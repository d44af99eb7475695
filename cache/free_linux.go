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

// allIn is how many bytes a disk has; not ok where that is not known.
func allIn(dir string) (n int64, ok bool) {
	var said unix.Statfs_t
	if err := unix.Statfs(dir, &said); err != nil || said.Blocks == 0 {
		return 0, false
	}
	return int64(said.Blocks) * said.Bsize, true
}

// holdsNothing reports whether a folder is of what the kernel shows as files, in which
// root may write, but nobody make any.
func holdsNothing(dir string) bool {
	var said unix.Statfs_t
	if err := unix.Statfs(dir, &said); err != nil {
		return false
	}
	switch said.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC,
		unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.BPF_FS_MAGIC, unix.NSFS_MAGIC:
		return true
	}
	return false
}

// allMemory is Memory.
func allMemory() (n int64, ok bool) {
	var said unix.Sysinfo_t
	if err := unix.Sysinfo(&said); err != nil {
		return 0, false
	}
	return int64(said.Totalram) * int64(said.Unit), true
}
