//go:build !linux

package cache

import (
	"io"
	"os"
)

// opened is a folder of files whose heads are read one after the other.
type opened struct {
	dir  *os.File
	head [headSize]byte
}

// openFolder opens one. The caller closes it.
func openFolder(dir string) (*opened, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	return &opened{dir: f}, nil
}

func (o *opened) close() { o.dir.Close() }

// names are those of the files.
func (o *opened) names() ([]string, error) { return o.dir.Readdirnames(-1) }

// read reads the first block of a file, which is good until the next, and says how
// long the file is.
func (o *opened) read(name string) (head []byte, size int64, err error) {
	f, err := os.Open(o.dir.Name() + "/" + name)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	n, err := f.ReadAt(o.head[:], 0)
	if err != nil && err != io.EOF {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	return o.head[:n], info.Size(), nil
}
