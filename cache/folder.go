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
	for at := newDisk(dir, 0, nil).dir; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		var cause *fs.PathError
		switch {
		case err == nil && !info.IsDir():
			return fmt.Errorf("%s is no folder", at)
		case err == nil:
			if err := writable(at); err != nil {
				return fmt.Errorf("%s can't be written to: %w", at, err)
			}
			return nil
		case errors.Is(err, syscall.ENOTDIR): // one of those above is none
		case errors.Is(err, fs.ErrNotExist) && filepath.Dir(at) != at:
			if _, err := os.Lstat(at); err == nil {
				return fmt.Errorf("%s is a link to what does not exist", at)
			}
		case errors.As(err, &cause):
			return fmt.Errorf("%s can't be looked at: %w", at, cause.Err)
		default:
			return fmt.Errorf("look at %s: %w", at, err)
		}
	}
}
