//go:build !linux

package hop

import "net"

// socket is nil here: connections are read and written as package net does it.
type waiter interface{ wait() }

type socket struct{ conn *net.TCPConn }

func newSocket(*net.TCPConn) *socket { return nil }

func (s *socket) each([]byte, func(int) ([]byte, bool)) error { panic("no socket") }

func (s *socket) write(_, _ []byte, _ waiter) (int64, error) { panic("no socket") }
