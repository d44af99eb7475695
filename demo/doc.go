// Package demo is a complete crossing on loopback, origin included.
//
// shop.go is that origin: a small overseas tea shop that believes it lives at
// https://example.com and does what real sites do, so that a crossing has
// something to get wrong:
//
//  1. [NewShop] takes a request by its Host: example.com, login., api. or
//     static.example.com; any other host is refused with 421.
//  2. Pages name their own hosts in every plain form: absolute,
//     protocol-relative, JSON-escaped, percent-encoded, in srcset, in CSS, in
//     headers (Link, Location, Content-Security-Policy, Set-Cookie, CORS).
//  3. The session made on login.example.com is a cookie of the whole domain;
//     the API trusts https://example.com alone, the WebSocket too.
//  4. Text leaves gzipped when the client takes it, with an entity tag of those
//     bytes; downloads of any size are made as they are read.
//
// It refuses to redirect off its own site, to take a form from another one, and
// to remember a visitor: all state is in the visitor's cookies.
package demo
