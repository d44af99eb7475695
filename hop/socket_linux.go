package hop

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A short answer is a few microseconds of the kernel's, and to tell Go's scheduler of
// every read and write of a socket, as package net does, costs a tenth of that, and
// more when it gives the processor away meanwhile. A socket is read and written
// without: the calls never wait. Where there is nothing to read, or no room to write,
// the goroutine waits as it would in package net, with the deadlines of the
// connection.
type socket struct {
	conn *net.TCPConn
	raw  syscall.RawConn
}

// newSocket is conn's socket, nil when there is none.
func newSocket(conn *net.TCPConn) *socket {
	if conn == nil {
		return nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	return &socket{conn, raw}
}

// each reads into the room that it is given, again and again, until take says that
// it is done: take is told of n bytes more and gives the room for the next. It may
// write, and set deadlines; it must not close the connection.
func (s *socket) each(room []byte, take func(n int) (room []byte, done bool)) error {
	var failed error
	err := s.raw.Read(func(fd uintptr) bool {
		for {
			n, _, errno := syscall.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&room[0])), uintptr(len(room)))
			switch {
			case errno == unix.EINTR:
				continue
			case errno == unix.EAGAIN:
				return false
			case errno != 0:
				failed = os.NewSyscallError("read", errno)
				return true
			case n == 0:
				failed = io.EOF
				return true
			}
			var done bool
			if room, done = take(int(n)); done {
				return true
			}
		}
	})
	if err == nil {
		err = failed
	}
	return s.named("read", err)
}

// write writes all pieces, of which there are two at most that are not empty, and
// calls patient before it waits for room, unless nothing
// was taken since.
func (s *socket) write(first, second []byte, patient func()) (n int64, err error) {
	var failed error
	moved := true
	err = s.raw.Write(func(fd uintptr) bool {
		for len(first) > 0 || len(second) > 0 {
			if len(first) == 0 {
				first, second = second, nil
			}
			vec := [2]unix.Iovec{{Base: &first[0], Len: uint64(len(first))}}
			count := uintptr(1)
			if len(second) > 0 {
				vec[1] = unix.Iovec{Base: &second[0], Len: uint64(len(second))}
				count = 2
			}
			k, _, errno := syscall.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&vec[0])), count)
			switch {
			case errno == unix.EINTR:
				continue
			case errno == unix.EAGAIN:
				if moved {
					moved = false
					patient()
				}
				return false
			case errno != 0:
				failed = os.NewSyscallError("writev", errno)
				return true
			}
			moved = true
			n += int64(k)
			m := min(int(k), len(first))
			first, second = first[m:], second[int(k)-m:]
		}
		return true
	})
	if err == nil {
		err = failed
	}
	return n, s.named("write", err)
}

// named is err as package net has it.
func (s *socket) named(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	var whole *net.OpError
	if errors.As(err, &whole) {
		err = whole.Err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: s.conn.LocalAddr(), Addr: s.conn.RemoteAddr(), Err: err}
}
