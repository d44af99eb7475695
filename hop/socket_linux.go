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
	fd   int // while each is within take, -1 otherwise: the socket is there
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
	return &socket{conn, raw, -1}
}

// each reads into the room that it is given, again and again, until take says that
// it is done: take is told of n bytes more and gives the room for the next. It may
// write, and set deadlines; it must not close the connection.
func (s *socket) each(room []byte, take func(n int) (room []byte, done bool)) error {
	var failed error
	err := s.raw.Read(func(fd uintptr) bool {
		for {
			n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&room[0])), uintptr(len(room)), unix.MSG_DONTWAIT, 0, 0)
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
			s.fd = int(fd)
			var done bool
			room, done = take(int(n))
			if s.fd = -1; done {
				return true
			}
		}
	})
	if err == nil {
		err = failed
	}
	return s.named("read", err)
}

// write writes first and then second, which is put behind first where there is room:
// one piece costs the kernel less than two.
func (s *socket) write(first, second []byte, who waiter) (n int64, err error) {
	if len(second) <= cap(first)-len(first) {
		first, second = append(first, second...), nil
	}
	rest := unsent{first: first, second: second}
	if s.fd < 0 || !rest.send(uintptr(s.fd)) {
		rest, err = s.writeRest(rest, who)
	}
	if err == nil {
		err = rest.err
	}
	return rest.sent, s.named("write", err)
}

// writeRest goes on where there may be no room.
func (s *socket) writeRest(rest unsent, who waiter) (unsent, error) {
	told := int64(-1) // what was sent when who was told
	err := s.raw.Write(func(fd uintptr) bool {
		if rest.send(fd) {
			return true
		}
		if told != rest.sent {
			told = rest.sent
			who.wait()
		}
		return false
	})
	return rest, err
}

// unsent is what is yet to be sent.
type unsent struct {
	first, second []byte
	sent          int64
	err           error
}

// send sends what there is room for: false is the wait for more.
func (u *unsent) send(fd uintptr) (done bool) {
	for len(u.first) > 0 || len(u.second) > 0 {
		if len(u.first) == 0 {
			u.first, u.second = u.second, nil
		}
		var n uintptr
		var errno syscall.Errno
		if len(u.second) == 0 {
			n, _, errno = syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&u.first[0])), uintptr(len(u.first)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		} else {
			both := [2]syscall.Iovec{{Base: &u.first[0]}, {Base: &u.second[0]}}
			both[0].SetLen(len(u.first))
			both[1].SetLen(len(u.second))
			n, _, errno = syscall.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&both[0])), 2)
		}
		switch errno {
		case 0:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		default:
			u.err = os.NewSyscallError("write", errno)
			return true
		}
		u.sent += int64(n)
		m := min(int(n), len(u.first))
		u.first, u.second = u.first[m:], u.second[int(n)-m:]
	}
	return true
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
