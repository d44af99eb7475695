//go:build !linux

package cache

// freeIn does not know.
func freeIn(string) (n int64, ok bool) { return 0, false }

// allIn does not know.
func allIn(string) (n int64, ok bool) { return 0, false }

// holdsNothing does not know.
func holdsNothing(string) bool { return false }

// allMemory does not know.
func allMemory() (n int64, ok bool) { return 0, false }
