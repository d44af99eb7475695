// Package rewrite is the host map of a site over headers and streaming bodies: it exchanges the
// origin's names for the public ones in what the origin says, and back in what the client says.
// It knows no network and no HTTP server.
//
//  1. NewMap compiles pairs of bases into two Replacers, one for each direction (base.go, map.go,
//     replacer.go); WithRules adds what a site chooses for itself (rules.go).
//  2. Request takes a client's request to the origin's names: header fields, query, entity tags
//     (request.go, etag.go), cookies (cookies.go), and the body (requestbody.go, form.go).
//  3. Response takes the answer back: header fields by one table (headers.go), text bodies by a
//     wrapped Body (types.go, body.go) that opens and closes content codings (coding.go, brotli.go,
//     bomb.go) and UTF-16 (wide.go).
//  4. Pages go through stages before that: document sees to what a page says about texts that are
//     rewritten (page.go, tag.go, words.go, inline.go, integrity.go), and for a site that asks for
//     it a script is put in that does in the browser what can't be done before (runtime*.go).
//  5. Text messages of a WebSocket are mapped as they pass, both ways (websocket.go, frame.go,
//     message.go), compressed ones too (permessage.go).
//  6. A Replacer looks for literal host names (search.go), reads what stands around one in whatever
//     spelling (spelling.go, unicode.go), decides whether that is a URL of the map (match.go,
//     bare.go), and writes the new host, port and, where it must, scheme in the old spelling
//     (stream.go). Stream does so over chunks.
//
// All hosts of a map are matched in one pass and nothing that was written is read again. A body
// takes a constant 200 KiB beside its decoder and encoder, however long it is, and no goroutine
// but for what looks like a bomb; a page that has to be read before its header goes out, up to 8 MiB
// more while it is read.
//
// It refuses to guess. What is no URL stays: a host without two slashes before it (but in the
// fields where a word is a host, and with Rules.Bare), a longer name that contains a mapped one, a user's name before
// "@", a port that is not mapped, another scheme. Parts (206), binary types and codings that it
// cannot open pass as they are. A body that is cut short, broken, or a bomb ends with an error
// and never as if it were whole.
package rewrite
