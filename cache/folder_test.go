//go:build linux

package cache

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// TestCheckDir shows what is said of a folder before it is used, and that nothing is
// made by that.
func TestCheckDir(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "nowhere"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "used", "v1"), 0o700); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]string{
		"": "", "new": "", "new/deep/er": "", "used": "",
		"file": file + " is no folder", "file/deep": file + " is no folder",
		"../../../../../../proc/x/y": "/proc is the kernel's, which keeps no files there",
		"../../../../../../sys/fs/x": "/sys/fs is the kernel's, which keeps no files there",
		"link":                       filepath.Join(dir, "link") + " is a link to what does not exist",
	} {
		err := CheckDir(filepath.Join(dir, at))
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: %v", at, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); !errors.Is(err, os.ErrNotExist) {
		t.Error("made a folder")
	}
}

// TestDiskOf shows that the disk is that of the folder which is there.
func TestDiskOf(t *testing.T) {
	dir := mount(t, "size=3m")
	if n, ok := DiskOf(dir + "/new/cache"); n != 3<<20 || !ok {
		t.Errorf("%d, %t", n, ok)
	}
	if n, ok := DiskOf("/proc/x"); ok {
		t.Errorf("/proc has %d", n)
	}
	if n, ok := Memory(); n < 64<<20 || !ok {
		t.Errorf("%d of memory, %t", n, ok)
	}
}

func TestCheckDirReadOnly(t *testing.T) {
	dir := mount(t, "size=1m,ro")
	for _, at := range []string{"", "/new/cache"} {
		if err := CheckDir(dir + at); !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", at, err)
		}
	}
}

// TestCheckDirForbidden looks as another user.
func TestCheckDirForbidden(t *testing.T) {
	dir := mount(t, "size=1m,mode=755")
	said := make(chan error)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread ends with its user
		const nobody, same = 65534, ^uintptr(0)
		if _, _, failed := syscall.RawSyscall(syscall.SYS_SETREUID, nobody, same, 0); failed != 0 {
			said <- failed
			return
		}
		said <- CheckDir(dir + "/new")
	}()
	if err := <-said; !errors.Is(err, syscall.EACCES) || !strings.HasPrefix(err.Error(), dir+" can't be written to: ") {
		t.Error(err)
	}
}
