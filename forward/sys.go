package forward

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of a loop for which package unix has none that fits: it makes an
// object of each address, and tells Go's scheduler of calls that never wait.

// accept takes a connection off a listening socket that does not wait.
func accept(fd int) (socket int, from netip.AddrPort, err error) {
	var addr unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&addr)), uintptr(unsafe.Pointer(&size)), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0, 0)
		if errno == 0 {
			return int(n), addrOf(&addr), nil
		}
		if errno != unix.EINTR {
			return -1, netip.AddrPort{}, os.NewSyscallError("accept4", errno)
		}
	}
}

// connect begins a connection.
func connect(to netip.AddrPort) (fd int, err error) {
	family := unix.AF_INET6
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	var addr unix.RawSockaddrAny
	size := putAddr(&addr, to)
	_, _, errno := syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&addr)), size)
	if errno != 0 && errno != unix.EINPROGRESS && errno != unix.EINTR { // EINTR: it goes on all the same (connect(2))
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("connect", errno)
	}
	return fd, nil
}

// local is the address of a socket.
func local(fd int) netip.AddrPort {
	var addr unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	if _, _, errno := syscall.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&addr)), uintptr(unsafe.Pointer(&size))); errno != 0 {
		return netip.AddrPort{}
	}
	return addrOf(&addr)
}

// addrOf is the address in a socket address; of IPv6 without what only looks like it.
func addrOf(addr *unix.RawSockaddrAny) netip.AddrPort {
	switch addr.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(addr))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), fromNetwork(in.Port))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(addr))
		ip := netip.AddrFrom16(in.Addr).Unmap()
		if in.Scope_id != 0 && ip.Is6() {
			ip = ip.WithZone(zoneName(int(in.Scope_id)))
		}
		return netip.AddrPortFrom(ip, fromNetwork(in.Port))
	}
	return netip.AddrPort{}
}

// putAddr is addrOf the other way. It gives the size.
func putAddr(addr *unix.RawSockaddrAny, of netip.AddrPort) uintptr {
	if of.Addr().Is4() {
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(addr))
		in.Family, in.Port, in.Addr = unix.AF_INET, fromNetwork(of.Port()), of.Addr().As4()
		return unix.SizeofSockaddrInet4
	}
	in := (*unix.RawSockaddrInet6)(unsafe.Pointer(addr))
	in.Family, in.Port, in.Addr = unix.AF_INET6, fromNetwork(of.Port()), of.Addr().As16()
	in.Scope_id = uint32(zoneIndex(of.Addr().Zone()))
	return unix.SizeofSockaddrInet6
}

// fromNetwork puts the bytes of a port into the machine's order, or back.
func fromNetwork(port uint16) uint16 {
	var p [2]byte
	binary.NativeEndian.PutUint16(p[:], port)
	return binary.BigEndian.Uint16(p[:])
}

// zoneName is the name of a network interface, as package net has it.
func zoneName(index int) string {
	if found, err := net.InterfaceByIndex(index); err == nil {
		return found.Name
	}
	return strconv.Itoa(index)
}

func zoneIndex(name string) int {
	if name == "" {
		return 0
	}
	if found, err := net.InterfaceByName(name); err == nil {
		return found.Index
	}
	index, _ := strconv.Atoi(name)
	return index
}
