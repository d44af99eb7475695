//go:build !linux

package conn

import "syscall"

// Without asking a socket how it is: a reset of a half-closed connection is seen at
// the next write, and what waits in a socket's queue does not count against
// idleness.

func readSocket(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

func writeSocket(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Write(int(fd), p)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

func socketError(uintptr) error { return nil }

func acknowledged(syscall.RawConn) (bytes uint64, waiting bool) { return 0, false }
