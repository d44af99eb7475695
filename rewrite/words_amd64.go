package rewrite

import "golang.org/x/sys/cpu"

var hasAVX2 = cpu.X86.HasAVX2

// pairAVX2 is nextPair but for up to the last 66 bytes of b: when it has found nothing, they begin
// at at.
//
//go:noescape
func pairAVX2(b []byte) (at int, found bool)
