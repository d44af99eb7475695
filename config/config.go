// Package config reads causeway.yaml: a strict file becomes one typed,
// validated, immutable Config, or every error of the file at once.
//
// The path through it:
//
//  1. Load reads the file (at most 4 MiB); Parse turns it into YAML nodes
//     and refuses what is not one plain document.
//  2. decode.go walks the nodes and the structs of this file side by side:
//     unknown and duplicate keys, wrong types, missing keys, values out of
//     range, defaults. It remembers where everything stood.
//  3. The rules of sites.go, routes.go, nodes.go and forwardrules.go look at the whole:
//     hosts that loop or clash, routes never reached, links to nowhere.
//  4. Errors are sorted by their place and returned together, each as
//     `file:line:column: path: what is wrong; the mend`.
//  5. Config.CheckFiles looks at the files named by the part of one node.
//
// It refuses to guess: no key is ignored, no value is corrected, nothing is
// taken from the environment. It opens no socket and resolves no name.
//
// The comments on the fields below, and in forwards.go, caching.go, front.go, certs.go, acme.go, dns.go and pending.go, are the manual: docs/CONFIG.md and
// schema.json are made from them.
package config

import (
	"log/slog"
	"time"

	"causeway/cache"
	"causeway/rewrite"
)

// Config is the whole file, defaulted and normalised, with absolute paths.
// It is made by Load or Parse and never changed afterwards, so that any number
// of goroutines may share it.
type Config struct {
	// Path of the file, as given to Load or Parse.
	Path string `yaml:"-"`

	// Where a file without `nodes` listens: one process is then both edge and
	// relay. Left out, it listens on `:80`, `:443`, if there are sites, and, for
	// the admin endpoint, on `127.0.0.1:9900`. A member left out of a written
	// `listen` stays off. A file with `nodes` has a `listen` in each node instead.
	Listen *Listen `yaml:"listen,omitempty"`

	// The sites published. At least one, or a forward.
	Sites []*Site `yaml:"sites,omitempty" example:"[{name: shop, hosts: {example.cn: https://example.com}}]"`

	// Connections that are passed on as they are, without a relay.
	Forwards []*Forward `yaml:"forwards,omitempty" example:"[{name: app, listen: \":8443\", targets: [\"203.0.113.10:443\"]}]"`

	// The authorities whose certificates may be shown to visitors, for owners
	// who are bound to some. Left out, any.
	ApprovedIssuers *ApprovedIssuers `yaml:"approved_issuers,omitempty" example:"{names: [CFCA], otherwise: refuse}"`

	// How certificates are ordered, for sites with `tls: {acme: {}}`.
	ACME ACME `yaml:"acme,omitempty" example:"{email: ops@example.com}"`

	// Folder of the private certificates with which nodes know each other:
	// `ca.pem`, and `NAME.pem` and `NAME.key` of each node, made by
	// `causeway link-ca --dir pki NAME…`. A node needs `ca.pem` and its own
	// two files. Required in a file with `nodes`, if there are sites.
	PKI string `yaml:"pki,omitempty" kind:"path" example:"pki"`

	// The processes of the crossing. Every node reads the same file and takes
	// its part by name (`--node NAME`). Left out, one process is both edge and
	// relay.
	Nodes []*Node `yaml:"nodes,omitempty"`

	// Which edge uses which relay. Left out, every edge uses every relay with
	// the same preference. An edge goes to the relays of its smallest
	// `prefer` first and to the next when those fail.
	Links []*Link `yaml:"links,omitempty"`

	// Where edges keep answers, so that they need not cross again. Left out,
	// 256 MiB of memory; `cache: off` keeps nothing.
	Cache Cache `yaml:"cache,omitempty" example:"{memory: 1GiB, disk: 50GiB, dir: /var/cache/causeway}"`

	// What a connection or a request may take. The defaults carry a large
	// site; a value of 0 turns a limit off only where the key says so.
	Limits Limits `yaml:"limits,omitempty"`

	// What is written about requests and about the program itself.
	Log Log `yaml:"log,omitempty"`

	places places    // where each value stood in the file
	index  hostIndex // public hosts, for Lookup
	entries
}

// Listen is where a node accepts connections. Addresses are `:port` (every
// address of the machine) or `host:port`. A member left out stays off.
type Listen struct {
	// Plain HTTP from clients. What is answered there is said by the `http`
	// of each site.
	HTTP string `yaml:"http,omitempty" kind:"listen" example:":80"`

	// HTTPS from clients: HTTP/1.1 and HTTP/2 over TLS 1.2 or later.
	HTTPS string `yaml:"https,omitempty" kind:"listen" example:":443"`

	// HTTP/3 too: QUIC on UDP, with the address and the port of `https`. Answers
	// over https say that it is there, and browsers then use it where UDP comes
	// through. For sites whose TLS ends here; a site with entry `passthrough`
	// stays with TCP.
	H3 bool `yaml:"h3,omitempty" default:"false"`

	// Links from edges, for a relay only. Other nodes alone are let in, by
	// their certificates from `pki`.
	Link string `yaml:"link,omitempty" kind:"listen" example:":7443"`

	// Health, readiness and metrics (`/healthz`, `/readyz`, `/metrics`), and what
	// the verbs ask of a running node: reload, drain, what is kept and letting go of
	// it, ordering certificates. There is no password on it: whoever reaches it may
	// all of that. So its host must be written out: `:9900` is
	// refused, `127.0.0.1:9900` and, for those who mean it, `0.0.0.0:9900`
	// are taken.
	Admin string `yaml:"admin,omitempty" kind:"admin" example:"127.0.0.1:9900"`
}

// Site is one web service: the public hosts under which visitors see it and
// the origin hosts it lives on.
type Site struct {
	// Name of the site in logs and metrics: letters, digits, `-`, `_` and
	// `.`, at most 63 of them. Unique in the file.
	Name string `yaml:"name" example:"shop"`

	// Public host: origin base URL. The public host is what visitors type; it
	// may be an international name, carry a port (`localhost:8443`) or begin
	// with `*.`, which stands for one or more labels and then needs the same
	// in the origin. An exact host goes before a wildcard, a longer wildcard
	// before a shorter one. In what the origin answers its hosts become the
	// public ones; in what the client sends, the other way round. So no two
	// public hosts of a site may have one origin host, and no public host of
	// the file may be an origin host of the file.
	//
	// The origin is `http://` or `https://`, a host and perhaps a port. A host
	// that is dialled in a way of its own is written
	// `example.cn: {to: https://example.com, connect: ["203.0.113.10:443"]}`.
	//
	// A host whose origin has another registered domain than that of the
	// first host is a third party carried along, such as
	// `fonts.example.cn: https://fonts.googleapis.com`. It is sent neither the
	// site's cookies nor the client's address, and its own cookies are dropped.
	Hosts []Host `yaml:"hosts" example:"{example.cn: https://example.com}"`

	// How the origin is reached, for all hosts of the site. Left out, origin
	// hosts are looked up in the DNS and trusted by the system's authorities.
	Origin Origin `yaml:"origin,omitempty"`

	// How an edge takes a connection. `terminate`: the edge ends TLS with the
	// certificate of `tls`, and sees and rewrites HTTP. `passthrough`: the edge
	// reads no more than the name that the TLS client asks for and passes the
	// connection on, over the link, to a relay, which ends TLS and sees and
	// rewrites HTTP. The files of `tls` then lie on the relays alone, and
	// nothing of the site can `stay`. Plain HTTP is the edge's all the same.
	Entry Entry `yaml:"entry,omitempty" enum:"terminate|passthrough" default:"terminate"`

	// Takes the https connections whose client asks for a name that no site
	// has, or for none, which are refused otherwise. For one site with entry
	// `passthrough`.
	Default bool `yaml:"default,omitempty" default:"false"`

	// The certificate for the public hosts. Left out, the site is plain HTTP,
	// and `http: serve` must say so.
	TLS *TLS `yaml:"tls,omitempty" example:"{cert: example.cn.pem, key: example.cn.key}"`

	// What plain HTTP answers. `redirect`: 301, or 308 when the request is
	// neither GET nor HEAD, to the same address under https. `serve`: the site
	// itself, without encryption. `off`: nothing, 421. Default: `redirect` for
	// a site with `tls`; a site without must have `serve` written.
	HTTP HTTPMode `yaml:"http,omitempty" enum:"redirect|serve|off"`

	// The site is not open yet: before its filing is through, or its
	// certificate is there. Its public hosts answer a page that says so (503),
	// over plain HTTP, unless `http: off`, and over https where there is a
	// certificate; `tls` may be left out. `pending: true`, or
	// `{page: holding.html, test_host: preview.example.net}`.
	Pending Pending `yaml:"pending,omitempty" example:"true"`

	// Paths with a rule of their own. The first that matches, in the order of
	// the file, counts; other paths go to the origin host of the public host.
	Routes []Route `yaml:"routes,omitempty"`

	// How names are exchanged in bodies, beyond the usual.
	Rewrite Rewrite `yaml:"rewrite,omitempty"`

	// What is kept at the edge, and for how long, where it is not what the
	// origin says. `cache: off` keeps nothing of the site.
	Cache *Caching `yaml:"cache,omitempty" example:"{default_ttl: 1m, stale_if_error: 24h}"`

	// What is added to answers.
	Headers Headers `yaml:"headers,omitempty"`

	// Map between the public and the origin hosts of the site.
	Map *rewrite.Map `yaml:"-"`

	// Test is the site under pending.test_host, nil without one. It is in no
	// list of sites, and Lookup finds it.
	Test *Site `yaml:"-"`
	// Tests says that this is the Test of another.
	Tests bool `yaml:"-"`

	maps   ruledMaps      // Map with the rules of Rewrite
	others []rewrite.Base // third parties
	policy *cache.Policy  // where no route matches
}

// Host is one public host and the origin behind it.
type Host struct {
	// Public base: scheme https when the site has tls, else http.
	Public rewrite.Base `yaml:"-"`

	// The origin base URL: `https://example.com`, `http://10.0.1.5:3000`.
	To rewrite.Base `yaml:"to" example:"https://example.com"`

	// Where to dial for this host, in place of the `origin.connect` of the
	// site: `host:port`, the port by default that of the origin URL.
	Connect []string `yaml:"connect,omitempty" kind:"connect" example:"[\"203.0.113.10:443\"]"`

	// For a third party: pass cookies both ways, and the client's address.
	Cookies bool `yaml:"cookies,omitempty" default:"false"`

	written string // the key in the file, for messages
}

// Origin is how the origin of a site is reached.
type Origin struct {
	// Addresses to dial in place of what the DNS says of the origin host, in
	// turn; one that fails is left out for a while. `host:port`, the port by
	// default that of the origin URL. The certificate is still checked against
	// the origin host.
	Connect []string `yaml:"connect,omitempty" kind:"connect" example:"[\"203.0.113.10:443\"]"`

	// What to trust.
	TLS OriginTLS `yaml:"tls,omitempty"`

	// How edges find out, over each relay, whether the origin answers. Left
	// out, they learn it from the requests of visitors: a relay that could not
	// reach the origin is passed over for some seconds while another can.
	Health *Health `yaml:"health,omitempty" example:"{path: /healthz}"`
}

// Health is a request that an edge sends from time to time, over each relay, to
// a site's first public host without a wildcard. Two that fail in a row make
// the relay one to avoid for the site, while another is well; one that succeeds
// ends that.
type Health struct {
	// Path to ask for with GET.
	Path string `yaml:"path" example:"/healthz"`

	// Pause between two requests over a relay.
	Every time.Duration `yaml:"every,omitempty" default:"10s" min:"1s" max:"1h"`

	// How long an answer may take to begin.
	Timeout time.Duration `yaml:"timeout,omitempty" default:"5s" min:"100ms" max:"1m"`

	// Status of an origin that is well. Left out, any from 200 to 399 is.
	Status int `yaml:"status,omitempty" min:"0" max:"599" example:"200"`
}

// OriginTLS is what is trusted at the origin of a site. There is no way to
// turn verification off.
type OriginTLS struct {
	// A PEM file of the authorities that may sign the origin's certificate, in
	// place of the system's. Read by relays.
	CA string `yaml:"ca,omitempty" kind:"path" example:"ca.pem"`
}

// TLS is the certificate of a site.
type TLS struct {
	// The certificate for every public host of the site, then the intermediate
	// ones: a PEM file, or a PKCS#12 file called `.p12` or `.pfx`, which holds
	// the key too. Read where TLS ends, and again when it changes.
	Cert string `yaml:"cert,omitempty" kind:"path" example:"example.cn.pem"`

	// A PEM file: the private key of the certificate. Read where TLS ends.
	Key string `yaml:"key,omitempty" kind:"path" example:"example.cn.key"`

	// A file whose first line is the password of the key, or of the PKCS#12
	// file. Left out, they need none.
	Secret string `yaml:"secret,omitempty" kind:"path" example:"example.cn.pass"`

	// Several certificates, in place of `cert`, `key` and `secret`: an ECDSA and
	// an RSA one, of which a client gets the first that it knows, ECDSA before
	// RSA; or some for other hosts of the site.
	Certs []CertFiles `yaml:"certs,omitempty" example:"[{cert: ec.pem, key: ec.key}, {cert: rsa.pem, key: rsa.key}]"`

	// Certificates for the public hosts are ordered from an authority, and renewed
	// in time, in place of `cert` and `certs`: `acme: {}`, with the account and
	// the rest in the `acme` of the file, or in part here. Each host gets a
	// certificate of its own.
	ACME *SiteACME `yaml:"acme,omitempty" example:"{}"`

	// The lowest version of TLS. `1.3` leaves clients of before 2018 outside.
	Min string `yaml:"min,omitempty" enum:"1.2|1.3" default:"1.2"`

	// The cipher suites of TLS 1.2, by their IANA or OpenSSL names. Left out, all
	// that have forward secrecy and AEAD; others can't be had. In which order
	// they are chosen is not for the file: by what both machines are fast at.
	// The suites of TLS 1.3 are always on.
	Suites []string `yaml:"suites,omitempty" kind:"suite" example:"[TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]"`

	// The key exchanges. Left out, the hybrid post-quantum `X25519MLKEM768`
	// (and, of the same kind, those of the NIST's curves) for clients that know
	// it, else `X25519`, `secp256r1`, `secp384r1` or `secp521r1`. Their order is
	// not for the file.
	Curves []string `yaml:"curves,omitempty" kind:"curve" example:"[X25519MLKEM768, X25519]"`

	// Visitors must show a certificate that one of these authorities signed:
	// `clients: clients.pem`, or `{ca: clients.pem, require: false}`. The origin
	// gets it in the field Client-Cert (RFC 9440). Left out, none is asked for.
	Clients *Clients `yaml:"clients,omitempty" example:"clients.pem"`

	// Tell browsers to keep to https (Strict-Transport-Security, RFC 6797), in
	// place of what the origin says. Left out, the `max-age` of the origin is
	// passed on, without its includeSubDomains and preload, which are promises
	// for other hosts than its own here; with `http: serve` it is dropped.
	HSTS *HSTS `yaml:"hsts,omitempty" example:"{max_age: 8760h}"`
}

// Entry is how an edge takes a connection.
type Entry string

// The values of Entry.
const (
	Terminate   Entry = "terminate"   // TLS ends at the edge
	Passthrough Entry = "passthrough" // TLS ends at the relay
)

// HTTPMode is what a site answers on plain HTTP.
type HTTPMode string

// The values of HTTPMode.
const (
	HTTPRedirect HTTPMode = "redirect" // to https, keeping path and query
	HTTPServe    HTTPMode = "serve"    // the site itself
	HTTPOff      HTTPMode = "off"      // nothing
)

// Rewrite is how names are exchanged in what crosses, beyond the usual.
type Rewrite struct {
	// `false`: bodies, both ways, and queries stay as they are. Header fields
	// are mapped all the same.
	Bodies bool `yaml:"bodies,omitempty" default:"true"`

	// What stays as it is, as with `bodies: false`, for what is signed: paths as
	// in `routes` (`/signed/*`), paths asked for with a query parameter
	// (`/files/*?X-Amz-Signature`), and every path with one
	// (`?X-Amz-Signature`), which lets anyone who adds it see any page as the
	// origin wrote it.
	Exclude []string `yaml:"exclude,omitempty" kind:"exclude" example:"[/signed/*, \"/files/*?X-Amz-Signature\"]"`

	// Media types that are text beside the usual ones; with a `-` before it,
	// one of the usual ones that is not.
	Types []string `yaml:"types,omitempty" kind:"mediatype" example:"[application/x-shop, -text/csv]"`

	// Map a host without a scheme too where it is a whole string in quotes, in
	// JSON, JavaScript and HTML: `{"domain": "example.com"}`.
	Bare bool `yaml:"bare,omitempty" default:"false"`

	// Cookies whose values hold URLs of the site, by name (`return_to`), or
	// all that begin so (`comment_author_url_*`). Other values are passed as they
	// are.
	Cookies []string `yaml:"cookies,omitempty" kind:"cookie" example:"[return_to, comment_author_url_*]"`

	// Longest body of a request that is mapped as a whole and keeps its
	// length. A longer one is mapped as it comes, and sent in chunks; but an
	// upload that is inside a file by then keeps its length, and the form's
	// fields behind that file are passed as they are.
	BodyBytes Size `yaml:"body_bytes,omitempty" default:"1MiB" min:"1KiB" max:"64MiB"`

	// Put a script into pages that maps the URLs which other scripts put
	// together in the browser. The script names the origin's hosts.
	Runtime bool `yaml:"runtime,omitempty" default:"false"`
}

// Route is a path rule inside a site. It has an `origin`, perhaps with `stay`,
// a `rewrite`, a `cache`, or several of them.
type Route struct {
	// The path, compared after percent-decoding and without empty segments, dot
	// segments and `;parameters`, as an origin may read it: exact (`/api/login`), or
	// everything that begins with it when it ends in `*` (`/api/*`).
	Path string `yaml:"path" example:"/api/entries*"`

	// The methods the rule is for, in capitals. Left out, all. GET includes
	// HEAD.
	Methods []string `yaml:"methods,omitempty" kind:"method" example:"[POST]"`

	// `cn`: requests of this route are answered inside China, by an edge of
	// region `cn`, and never cross. Needs an `origin` that is in China.
	Stay string `yaml:"stay,omitempty" enum:"cn"`

	// Base URL of the origin for this route alone. It is dialled as it is
	// written; with `stay`, by the edge. It is a server of your own: unlike a
	// third party among the hosts it gets cookies and the client's address.
	Origin *rewrite.Base `yaml:"origin,omitempty" example:"http://10.0.1.5:3000"`

	// How names are exchanged, in place of the whole `rewrite` of the site.
	Rewrite *Rewrite `yaml:"rewrite,omitempty" example:"{bodies: false}"`

	// What is kept at the edge, in place of the whole `cache` of the site.
	// `cache: off` keeps nothing of the route; what stays is never kept.
	Cache *Caching `yaml:"cache,omitempty" example:"{ttl: 24h}"`

	maps   ruledMaps // the site's Map with the rules of Rewrite
	policy *cache.Policy
}

// Headers is what a site adds to answers.
type Headers struct {
	// Add `X-Request-Id`, the id under which the request is in the log.
	RequestID bool `yaml:"request_id,omitempty" default:"false"`

	// Add `Server-Timing`, the time each leg of the crossing took. Browsers
	// show it in their developer tools.
	ServerTiming bool `yaml:"server_timing,omitempty" default:"false"`
}

// Role is the part a node plays.
type Role string

// The values of Role. RoleBoth is the one node of a file without nodes and
// cannot be written.
const (
	RoleEdge  Role = "edge"
	RoleRelay Role = "relay"
	RoleBoth  Role = "both"
)

// Node is one process of the crossing.
type Node struct {
	// Name of the node, the NAME of `--node NAME` and of its certificate in
	// `pki`: small letters, digits and `-`, at most 63. Unique in the file.
	Name string `yaml:"name" example:"shanghai-1"`

	// `edge`: the side clients reach. `relay`: the side that reaches origins.
	Role Role `yaml:"role" enum:"edge|relay" example:"edge"`

	// Where it stands: `cn` for mainland China; anything short elsewhere
	// (`us`, `hk`). A `stay: cn` route needs an edge of region `cn`.
	Region string `yaml:"region,omitempty" example:"cn"`

	// Where it listens: an edge on `http` or `https` or both, which one with
	// `forwards` need not, a relay on `link`.
	Listen Listen `yaml:"listen" example:"{http: \":80\", https: \":443\"}"`

	// Where edges reach this relay, `host:port`. For a relay only.
	Address string `yaml:"address,omitempty" kind:"address" example:"10.1.0.5:7443"`
}

// IsEdge says whether clients reach this node.
func (n *Node) IsEdge() bool { return n.Role == RoleEdge || n.Role == RoleBoth }

// IsRelay says whether this node reaches origins.
func (n *Node) IsRelay() bool { return n.Role == RoleRelay || n.Role == RoleBoth }

// Link is one edge using one relay.
type Link struct {
	// Name of the edge.
	From string `yaml:"from" example:"shanghai-1"`

	// Name of the relay.
	To string `yaml:"to" example:"virginia-1"`

	// Address to reach the relay at by this path, `host:port`, such as that of
	// a private line. Left out, it is the relay's `address`. An edge may have
	// several links to one relay, each with its own `via`.
	Via string `yaml:"via,omitempty" kind:"address" example:"10.1.0.5:7443"`

	// The smaller, the sooner this path is used: others carry requests when no
	// path with a smaller number is up and well. Paths with the same number
	// share the requests.
	Prefer int `yaml:"prefer,omitempty" default:"1" min:"1" max:"1000"`

	// Share of the requests among paths with the same `prefer`: one with 3
	// gets three times those of one with 1. Where the weights are equal, the
	// less loaded of two paths is taken.
	Weight int `yaml:"weight,omitempty" default:"1" min:"1" max:"1000"`

	// Send a request over another path, too, when its answer has not begun
	// after the time within which 95 of 100 answers do, and take the answer
	// that comes first. Only what changes nothing: GET, HEAD, OPTIONS and
	// TRACE without a body.
	// It makes slow answers rarer, and costs up to 5 % more requests at the
	// origin.
	Hedge Hedge `yaml:"hedge,omitempty" default:"off" enum:"off|p95"`

	// What the line costs, for the figures in `causeway links` and the metrics.
	Price *Price `yaml:"price,omitempty" example:"{per_mbps_month: 120, currency: CNY}"`
}

// Price is what a line costs.
type Price struct {
	// A month of 1 Mbit/s, for a line that is paid by its rate: counted are the
	// busiest five minutes of the last thirty days, in the busier direction.
	PerMbpsMonth Money `yaml:"per_mbps_month,omitempty" example:"120"`

	// 1 GB (10⁹ bytes), for a line that is paid by what crosses it: counted
	// are the bytes of both directions.
	PerGB Money `yaml:"per_gb,omitempty" example:"0.8"`

	// The currency of both, three capital letters (ISO 4217).
	Currency string `yaml:"currency,omitempty" kind:"currency" default:"CNY" example:"CNY"`
}

// Hedge is when a request is sent over a second path.
type Hedge string

// The values of Hedge.
const (
	HedgeOff Hedge = "off"
	HedgeP95 Hedge = "p95" // after the time within which 95 of 100 answers begin
)

// Limits is what a connection or a request may take. Sizes are bytes, or
// written `64KiB`, `10MB`; times are written `500ms`, `15s`, `1h`.
type Limits struct {
	// Largest header of a request, in all, and of an answer.
	HeaderBytes Size `yaml:"header_bytes,omitempty" default:"64KiB" min:"4KiB" max:"16MiB"`

	// Longest wait for the whole header of a request, and for a TLS handshake.
	HeaderTimeout time.Duration `yaml:"header_timeout,omitempty" default:"15s" min:"100ms" max:"1h"`

	// How long a client's connection without a request is kept open.
	IdleTimeout time.Duration `yaml:"idle_timeout,omitempty" default:"75s" min:"100ms" max:"24h"`

	// Largest body of a request. 0: no limit.
	BodyBytes Size `yaml:"body_bytes,omitempty" default:"10GiB" min:"0" max:"1PiB"`

	// Longest wait between two pieces of a request body.
	BodyTimeout time.Duration `yaml:"body_timeout,omitempty" default:"60s" min:"100ms" max:"24h"`

	// Lowest mean speed of a request body, in bytes a second, counted from the
	// first `body_timeout` on. 0: no limit.
	BodyRate Size `yaml:"body_rate,omitempty" default:"240B" min:"0" max:"1GiB"`

	// Longest wait for a client to take bytes of an answer.
	SendTimeout time.Duration `yaml:"send_timeout,omitempty" default:"60s" min:"100ms" max:"24h"`

	// Longest wait for a connection to an origin or a relay, TLS included.
	ConnectTimeout time.Duration `yaml:"connect_timeout,omitempty" default:"10s" min:"100ms" max:"10m"`

	// Longest wait for the header of the origin's answer, once the request is
	// sent.
	OriginTimeout time.Duration `yaml:"origin_timeout,omitempty" default:"60s" min:"100ms" max:"24h"`

	// Longest wait between two pieces of an origin's answer.
	OriginIdleTimeout time.Duration `yaml:"origin_idle_timeout,omitempty" default:"60s" min:"100ms" max:"24h"`

	// `send_timeout` and `origin_idle_timeout` for what stays open by nature:
	// WebSockets and other upgraded connections, and event streams.
	StreamTimeout time.Duration `yaml:"stream_timeout,omitempty" default:"1h" min:"1s" max:"720h"`

	// Most connections of clients at a time, for each listener. Who comes on top
	// waits to be accepted, as long as the kernel keeps them.
	Connections int `yaml:"connections,omitempty" default:"16384" min:"1" max:"16777216"`

	// How long requests may take to finish when the program is told to stop.
	DrainTimeout time.Duration `yaml:"drain_timeout,omitempty" default:"30s" min:"0s" max:"24h"`

	// Warm connections of an edge on each of its links.
	LinkConnections int `yaml:"link_connections,omitempty" default:"4" min:"1" max:"256"`

	// Most connections of an edge on each of its links: another is opened for
	// each that carries a long body, and when all carry many requests, so that
	// short answers need not queue behind long ones, and closed after a minute
	// without a request. Less than `link_connections` is as many. A relay refuses
	// an edge more than four times as many.
	LinkConnectionsMost int `yaml:"link_connections_most,omitempty" default:"16" min:"1" max:"256"`

	// How much of one body may be under way on a link unread: at least what the
	// line carries in a round trip, or a lone download can't fill it. 4MiB is
	// 160 Mbit/s at 200 ms. The end that receives has the word: an edge for
	// answers, a relay for the bodies of requests. A connection may hold eight
	// times as much, and of answers as much as the memory of the machine allows.
	LinkWindow Size `yaml:"link_window,omitempty" default:"4MiB" min:"64KiB" max:"64MiB"`
}

// Log is what is written to standard output and standard error.
type Log struct {
	// Write a JSON line for every request to standard output.
	Access bool `yaml:"access,omitempty" default:"true"`

	// The least important message of the program that is still written to
	// standard error.
	Level slog.Level `yaml:"level,omitempty" enum:"debug|info|warn|error" default:"info"`
}
