//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package cache

import "golang.org/x/sys/unix"

// writable says why nothing can be made in a folder: EACCES, EROFS.
func writable(dir string) error { return unix.Access(dir, unix.W_OK|unix.X_OK) }
