// Package cache keeps answers as RFC 9111 lets a shared cache, and gives them
// again: an http.RoundTripper before another one.
//
// It refuses to give anybody what was made for somebody else: an answer is kept
// only when the RFC, or a rule that the owner wrote, says so. It knows nothing of
// nodes, links or files of configuration.
package cache
