package cache

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// opened is a folder of files whose heads are read one after the other: names are
// looked up in it, not from the root, and a head is four calls of the kernel.
type opened struct {
	fd   int
	head [headSize]byte
}

// openFolder opens one. The caller closes it.
func openFolder(dir string) (*opened, error) {
	fd, err := retried(func() (int, error) { return unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return &opened{fd: fd}, nil
}

func (o *opened) close() { _ = unix.Close(o.fd) }

// retried makes a call again that a signal came into.
func retried(call func() (int, error)) (n int, err error) {
	for n, err = call(); err == unix.EINTR; n, err = call() {
	}
	return n, err
}

var direntBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// names are those of the files, in the order of their inodes, which is that in which
// they lie on the disk, more or less.
func (o *opened) names() ([]string, error) {
	type named struct {
		inode uint64
		name  string
	}
	var all []named
	buffer := direntBuffers.Get().(*[32 << 10]byte)
	defer direntBuffers.Put(buffer)
	for {
		n, err := retried(func() (int, error) { return unix.Getdents(o.fd, buffer[:]) })
		if err != nil {
			return nil, os.NewSyscallError("getdents64", err)
		}
		if n <= 0 {
			break
		}
		// A linux_dirent64: inode, offset, its length in 16 bits, a type, the name, 0.
		for rest := buffer[:n]; len(rest) > 19; {
			length := int(binary.NativeEndian.Uint16(rest[16:]))
			if length < 19 || length > len(rest) {
				return nil, fmt.Errorf("getdents64: a record of %d bytes", length)
			}
			name := rest[19:length]
			if end := slices.Index(name, 0); end >= 0 {
				name = name[:end]
			}
			all = append(all, named{binary.NativeEndian.Uint64(rest), string(name)})
			rest = rest[length:]
		}
	}
	slices.SortFunc(all, func(a, b named) int { return cmp.Compare(a.inode, b.inode) })
	names := make([]string, 0, len(all))
	for _, one := range all {
		names = append(names, one.name)
	}
	return names, nil
}

// read reads the first block of a file, which is good until the next, and says how
// long the file is.
func (o *opened) read(name string) (head []byte, size int64, err error) {
	fd, err := retried(func() (int, error) { return unix.Openat(o.fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, 0, &os.PathError{Op: "openat", Path: name, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	n, err := retried(func() (int, error) { return unix.Pread(fd, o.head[:], 0) })
	if err != nil {
		return nil, 0, &os.PathError{Op: "pread", Path: name, Err: err}
	}
	var said unix.Stat_t
	if _, err := retried(func() (int, error) { return 0, unix.Fstat(fd, &said) }); err != nil {
		return nil, 0, &os.PathError{Op: "fstat", Path: name, Err: err}
	}
	return o.head[:n], said.Size, nil
}
