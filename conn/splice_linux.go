package conn

import (
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Splicing from socket to socket, by a pipe. Go's own (net.TCPConn.ReadFrom) holds
// one as long as it copies, two descriptors for a way that may be idle for hours, and
// says nothing of its progress. A lane takes one when bytes are there, and gives it
// back when none are: then it waits with none. pipes keeps a few for the next, and
// opens no more than its share of the descriptors: a lane that gets none copies.

// splice moves what it can at once, up to what a pipe holds. It never waits, and is
// as readSocket: a GB takes an eighth less so. It keeps a collection of garbage
// waiting for some 100 µs at most.
func splice(from, to int) (int, error) {
	for {
		n, _, err := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, pipeSize, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if err == 0 {
			return int(n), nil
		}
		if err != unix.EINTR {
			return 0, err
		}
	}
}

const (
	// pipeSize is asked of the kernel for a pipe. CPU seconds per GB on loopback,
	// four connections, the median of three: 64 KB 0.29, 256 KB 0.25, 1 MB (the
	// kernel's usual limit) 0.21, HAProxy 2.6 with splice-auto 0.64. Yielding
	// between two turns, and SPLICE_F_MORE, gained nothing.
	pipeSize = 1 << 20
	// pipeLeast is what a pipe must hold to be worth it: the kernel gives a user
	// who has too many of them one or two pages.
	pipeLeast = 64 << 10
	// pipesKept are kept for the next: more than ways are under way at the same
	// moment, for those that wait for room have one of their own.
	pipesKept = 64
)

type pipe struct{ read, write int }

// pipeStore has the pipes of the process.
type pipeStore struct {
	most func() int // that may be open

	mu   sync.Mutex // guards the rest
	free []*pipe
	open int
}

var pipes = pipeStore{most: sync.OnceValue(pipeShare)}

// pipeShare is a quarter of the descriptors that the process may have, two a
// pipe.
func pipeShare() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return pipesKept
	}
	return int(min(limit.Cur/8, 1<<20))
}

// get gives an empty pipe, nil when none is to be had.
func (s *pipeStore) get() *pipe {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		p := s.free[n-1]
		s.free = s.free[:n-1]
		return p
	}
	if s.open >= s.most() {
		return nil
	}
	p := newPipe()
	if p != nil {
		s.open++
	}
	return p
}

// put takes an empty pipe back.
func (s *pipeStore) put(p *pipe) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) < pipesKept {
		s.free = append(s.free, p)
		return
	}
	s.open--
	p.close()
}

// drop takes a pipe back that is not empty.
func (s *pipeStore) drop(p *pipe) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	p.close()
}

func newPipe() *pipe {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil
	}
	p := &pipe{read: fds[0], write: fds[1]}
	if _, err := unix.FcntlInt(uintptr(p.read), unix.F_SETPIPE_SZ, pipeSize); err != nil {
		// The user has many pipes, and is not root.
		if size, err := unix.FcntlInt(uintptr(p.read), unix.F_GETPIPE_SZ, 0); err != nil || size < pipeLeast {
			p.close()
			return nil
		}
	}
	return p
}

func (p *pipe) close() {
	unix.Close(p.read)
	unix.Close(p.write)
}

// readSocket reads what is there, into p, which has room. As it never waits, Go's
// scheduler is not told of the call: telling it costs more than reading a few
// bytes, the more so when it gives the processor away meanwhile.
func readSocket(fd uintptr, p []byte) (int, error) {
	for {
		n, _, err := syscall.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		if err == 0 {
			return int(n), nil
		}
		if err != unix.EINTR {
			return 0, err
		}
	}
}

// writeSocket writes what there is room for, of p, which has some. It is as
// readSocket.
func writeSocket(fd uintptr, p []byte) (int, error) {
	for {
		n, _, err := syscall.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		if err == 0 {
			return int(n), nil
		}
		if err != unix.EINTR {
			return 0, err
		}
	}
}

// socketError takes the error that a socket has, nil when it has none.
func socketError(fd uintptr) error {
	code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if code == 0 {
		return nil
	}
	return syscall.Errno(code)
}

// acknowledged is how many bytes the peer of a TCP socket took, and whether it
// has to take more.
func acknowledged(raw syscall.RawConn) (bytes uint64, waiting bool) {
	_ = raw.Control(func(fd uintptr) { bytes, waiting = acknowledgedBy(int(fd)) })
	return bytes, waiting
}

func acknowledgedBy(fd int) (bytes uint64, waiting bool) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return info.Bytes_acked, info.Unacked > 0 || info.Notsent_bytes > 0
}
