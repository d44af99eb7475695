//go:build race

package cache

// raceEnabled: the race detector makes everything ten times as slow.
const raceEnabled = true
