//go:build !linux

package conn

const asksSockets = false
