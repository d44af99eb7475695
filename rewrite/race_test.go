//go:build race

package rewrite

// raceEnabled: the race detector makes everything ten times as slow.
const raceEnabled = true
