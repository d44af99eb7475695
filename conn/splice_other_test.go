//go:build !linux

package conn

const spliceable = false
