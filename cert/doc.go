// Package cert holds the certificates Causeway shows and the ones it trusts:
// site certificates from files and by ACME, a small authority of its own, and the mutual
// TLS identity of a node on the link.
//
// The path of a certificate:
//
//  1. files.go: a [Store] has the certificates of files, which package keypair
//     reads, and follows the files: what is good is swapped in, what is not keeps
//     the one before. Its GetCertificate finds a certificate by the
//     server name of the hello: exact, then the one-label wildcard, then (no
//     name sent) the local address. staple.go asks for OCSP answers, state.go is
//     what it says of each, look.go the same where no node runs.
//  2. authority.go: an [Authority] is a private CA in a folder. It signs leaf
//     certificates for the demo's and publish's sites and for nodes.
//  3. request.go: a [Request] makes a key and asks a provider for its certificate;
//     install.go puts the certificate that came in its place.
//  4. write.go: how key and certificate files come to be, whole or not at all.
//  5. linktls.go: a [LinkIdentity] turns a node's folder (ca.pem, NAME.pem,
//     NAME.key) into the two tls.Configs of the link, and follows the files
//     when they change.
//  5. acme.go: an [ACME] orders a certificate for each of its names, keeps it in a
//     certmagic.Storage and renews it; acmeorder.go is one order, acmechallenge.go
//     what proves that a name is ours, acmewords.go what went wrong.
//
// It refuses: a certificate without subject alternative names, a key that is
// not the certificate's, to overwrite an authority, a link peer whose
// certificate another authority signed or that names no allowed node, and any
// link below TLS 1.3 or without "h2".
package cert
