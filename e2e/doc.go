// Package e2e holds the tests of the whole program against real peers: nginx,
// curl, Chromium and a Go origin, over real sockets. It has no code of its own.
//
// The path of a test:
//
//  1. TestMain takes the binary named by CAUSEWAY, or builds it once,
//  2. a test starts its origin (startNginx, newOrigin) and a crossing in front
//     of it (newCrossing: one process, or an edge and a relay),
//  3. it acts as the visitor does: a Go client, curl, Chromium, raw bytes,
//  4. it holds what the visitor and the origin saw, and what the nodes logged,
//     against what must be,
//  5. every process, connection and folder ends with the test.
//
// It refuses to look inside: the program is a binary, a file, signals and
// sockets here. It measures no times; bench_test.go compares speed with a peer
// in the same run.
package e2e
