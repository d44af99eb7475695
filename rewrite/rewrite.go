// Package rewrite exchanges host names: the origin's for the public ones in what the origin
// says, and back in what the client says.
package rewrite
