package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// CheckDir says why a store could not keep files in dir, as far as can be seen
// without making anything: what is there is no folder, or may not be written to, or
// the one in which it would be made. A folder that another process has is fine.
func CheckDir(dir string) error {
	_, err := placeOf(dir)
	return err
}

// DiskOf is how many bytes the disk has in all that a store would have in dir, free
// or not; not ok where that is not known.
func DiskOf(dir string) (bytes int64, ok bool) {
	at, err := placeOf(dir)
	if err != nil {
		return 0, false
	}
	return allIn(at)
}

// Memory is how many bytes of memory this machine has; not ok where that is not known.
func Memory() (bytes int64, ok bool) { return allMemory() }

// placeOf is the folder that is there of those in dir, and says why a store could not
// keep files there.
func placeOf(dir string) (at string, err error) {
	for at = newDisk(dir, 0, nil).dir; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		var cause *fs.PathError
		switch {
		case err == nil && !info.IsDir():
			return at, fmt.Errorf("%s is no folder", at)
		case err == nil:
			if err := writable(at); err != nil {
				return at, fmt.Errorf("%s can't be written to: %w", at, err)
			}
			if holdsNothing(at) {
				return at, fmt.Errorf("%s is the kernel's, which keeps no files there", at)
			}
			return at, nil
		case errors.Is(err, syscall.ENOTDIR): // one of those above is none
		case errors.Is(err, fs.ErrNotExist) && filepath.Dir(at) != at:
			if _, err := os.Lstat(at); err == nil {
				return at, fmt.Errorf("%s is a link to what does not exist", at)
			}
		case errors.As(err, &cause):
			return at, fmt.Errorf("%s can't be looked at: %w", at, cause.Err)
		default:
			return at, fmt.Errorf("look at %s: %w", at, err)
		}
	}
}
