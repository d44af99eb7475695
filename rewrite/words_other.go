//go:build !amd64

package rewrite

const hasAVX2 = false

func pairAVX2([]byte) (at int, found bool) { return 0, false }
