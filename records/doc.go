// Package records sets and removes DNS records at whoever serves a domain: the
// answers of DNS-01 (RFC 8555 8.4), and what else a domain must say.
//
// The path through it:
//
//  1. New makes the Provider that a Config names: alidns, route53, rfc2136 or
//     hook.
//  2. AppendRecords and DeleteRecords (the interfaces of libdns) read the
//     records: the absolute name, the type, the value.
//  3. Each provider finds the zone that the name lies in by itself, the longest
//     that it serves; the zone that the caller believes in only completes a name.
//  4. A value is set beside those that the name has, and only the value that is
//     meant is removed: two challenges for one name (example.com and
//     *.example.com) live side by side, also when two nodes set them at once.
//  5. What went wrong is said with the mend, where the provider's code has one.
//
// Secrets are read from their files each time they are needed, so that a new one
// counts at once. Nothing is kept between two calls, and no goroutine outlives
// one.
//
// It refuses to guess: a name in no zone of the provider, or in two, is an error.
// It does not wait until the world sees a record: only the provider's own servers
// are waited for, where the provider says when they have it (route53).
package records
