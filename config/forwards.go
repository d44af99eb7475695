package config

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Forward is connections that are passed on as they are, without a relay: what
// a load balancer for TCP does. TLS is not ended, so no key is needed. One that
// comes is taken on `listen`, its target chosen, and the bytes go both ways
// until both have ended.
type Forward struct {
	// Name of the forward in logs and metrics: letters, digits, `-`, `_` and
	// `.`, at most 63 of them. Unique among the forwards.
	Name string `yaml:"name" example:"app"`

	// The edges that do it. Left out, every edge does, or the only node.
	Nodes []string `yaml:"nodes,omitempty" example:"[shanghai-1]"`

	// Where connections come in: an address or a list of them, each `:port`,
	// `host:port`, or a range of ports, `:9000-9010`. Several forwards may have
	// one address when each has `sni`.
	Listen Addresses `yaml:"listen" example:"[\":8443\", \"[::]:9000-9010\"]"`

	// How connections are taken. `passthrough`: by Causeway, which can tell
	// names apart, try another target, and say who the client is. `kernel`: by
	// rules of the kernel (nftables), for the least processor time, and for UDP.
	Entry ForwardEntry `yaml:"entry,omitempty" enum:"passthrough|kernel" default:"passthrough"`

	// What is forwarded, `tcp`, `udp` or both. Left out, `tcp`. `udp` needs
	// `entry: kernel`.
	Protocols []string `yaml:"protocols,omitempty" kind:"protocol" example:"[tcp]"`

	// The names (SNI) for which TLS clients may ask; `*.` stands for one or
	// more labels. An exact name goes before a wildcard, a longer wildcard
	// before a shorter one. Who asks for another, for none, or speaks no TLS is
	// refused. Left out, every connection is forwarded, TLS or not.
	SNI []string `yaml:"sni,omitempty" kind:"sni" example:"[app.example.cn, \"*.app.example.cn\"]"`

	// Where connections go: `host:port`, or `{to: host:port, weight: 2}`. A
	// name is looked up again when its TTL is over, and each of its addresses
	// is a target that shares its weight. Without a port, the one that the
	// client came to is taken.
	Targets []Target `yaml:"targets" example:"[\"203.0.113.10:443\", {to: \"203.0.113.11:443\", weight: 2}]"`

	// Which target a connection goes to. `weighted`: by turns, as the weights
	// say. `least`: to the one with the fewest connections for its weight.
	// `hash`: a client's address (of IPv6 its /64) to the same target always, on
	// every edge; when a target goes or comes, only the clients move that must.
	Balance Balance `yaml:"balance,omitempty" enum:"weighted|least|hash" default:"weighted"`

	// How it is found out whether a target answers. As it is by default, one
	// that is dead gets no connection after two seconds.
	Health ForwardHealth `yaml:"health,omitempty" example:"{check: https, host: example.com, path: /healthz}"`

	// For how long a target that has come back gets fewer connections than its
	// weight says: a tenth at first, growing evenly. 0: all at once.
	SlowStart time.Duration `yaml:"slow_start,omitempty" default:"0s" min:"0s" max:"1h"`

	// The PROXY protocol, which says who the client is.
	Proxy ForwardProxy `yaml:"proxy,omitempty" example:"{send: v2}"`

	// The clients that are let in, as addresses and prefixes. Left out,
	// everybody; an empty list lets nobody in.
	Allow []string `yaml:"allow,omitempty" kind:"prefix" example:"[198.51.100.0/24, \"2001:db8::/32\"]"`

	// What connections may take.
	Limits ForwardLimits `yaml:"limits,omitempty"`

	// With `entry: kernel`, whether targets see this node as the client. With
	// `false` they see the client itself, and must route their answers back
	// through this node.
	Masquerade bool `yaml:"masquerade,omitempty" default:"true"`

	spans         []span
	names         map[string]bool // SNI
	allow, accept []netip.Prefix
}

// ForwardEntry is how the connections of a forward are taken.
type ForwardEntry string

// The values of ForwardEntry.
const (
	ForwardPassthrough ForwardEntry = "passthrough"
	ForwardKernel      ForwardEntry = "kernel"
)

// Balance is how the target of a connection is chosen.
type Balance string

// The values of Balance.
const (
	BalanceWeighted Balance = "weighted"
	BalanceLeast    Balance = "least"
	BalanceHash     Balance = "hash"
)

// Addresses are where a forward listens: one text or a list of them.
type Addresses []string

// Target is where connections of a forward go.
type Target struct {
	// `host:port`, or a host alone for the port that the client came to.
	To string `yaml:"to" kind:"connect" example:"203.0.113.10:443"`

	// Share of the connections: one with 2 gets twice those of one with 1. 0:
	// none, for a target that is to be taken out.
	Weight int `yaml:"weight,omitempty" default:"1" min:"0" max:"1000"`
}

// ForwardHealth is how a forward finds out whether its targets answer. Each
// address is checked by itself, by every node. When none is well, all are
// tried: the checks may be what is wrong. A target that connections find dead
// is left out for a while whatever the checks say.
type ForwardHealth struct {
	// `tcp`: a connection is made and closed. `tls`: a handshake, too. `http`,
	// `https`: a GET, too. `off`: only what connections meet counts.
	Check HealthCheck `yaml:"check,omitempty" enum:"tcp|tls|http|https|off" default:"tcp"`

	// Path to ask for, with `http` and `https`. Default: `/`.
	Path string `yaml:"path,omitempty" example:"/healthz"`

	// The name to ask for: the Host, and in TLS the name (SNI) that the
	// certificate must be for. Default: the host of the target, if it is a name,
	// or else the first of `sni` without a wildcard.
	Host string `yaml:"host,omitempty" kind:"checkhost" example:"example.com"`

	// Statuses of a target that is well. Left out, any from 200 to 399 is.
	Status []int `yaml:"status,omitempty" min:"100" max:"599" example:"[200, 204]"`

	// `false`: a `tls` or `https` check takes any certificate.
	Verify bool `yaml:"verify,omitempty" default:"true"`

	// A PEM file of the authorities that may sign the certificate, in place of
	// the system's. Read by the edges that do the forward.
	CA string `yaml:"ca,omitempty" kind:"path" example:"ca.pem"`

	// The port to check, for targets without a port. Default: the first port of
	// `listen`.
	Port int `yaml:"port,omitempty" min:"1" max:"65535" example:"443"`

	// From the start of one check to the start of the next.
	Every time.Duration `yaml:"every,omitempty" default:"500ms" min:"100ms" max:"1h"`

	// How long a check may take.
	Timeout time.Duration `yaml:"timeout,omitempty" default:"1s" min:"50ms" max:"1m"`

	// Checks in a row that must fail for a target to get no more connections.
	Fall int `yaml:"fall,omitempty" default:"2" min:"1" max:"100"`

	// Checks in a row that must succeed for it to get them again.
	Rise int `yaml:"rise,omitempty" default:"2" min:"1" max:"100"`
}

// HealthCheck is what a check of a target does.
type HealthCheck string

// The values of HealthCheck.
const (
	CheckTCP   HealthCheck = "tcp"
	CheckTLS   HealthCheck = "tls"
	CheckHTTP  HealthCheck = "http"
	CheckHTTPS HealthCheck = "https"
	CheckOff   HealthCheck = "off"
)

// ForwardProxy is the PROXY protocol of a forward, both ways.
type ForwardProxy struct {
	// Send targets a PROXY header of this version, which they must expect
	// (nginx: `listen 443 ssl proxy_protocol`). Checks send one too. `v2` says
	// the name asked for and the id in the log besides the addresses.
	Send string `yaml:"send,omitempty" enum:"v1|v2" example:"v2"`

	// Whose PROXY header counts: a load balancer of yours in front. Who is
	// listed must send one; from everybody else it ends the connection, so that
	// nobody can claim to be another.
	Accept []string `yaml:"accept,omitempty" kind:"prefix" example:"[10.0.0.0/8]"`
}

// ForwardLimits is what the connections of a forward may take.
type ForwardLimits struct {
	// Most connections at a time. One more is reset.
	Connections int `yaml:"connections,omitempty" default:"10000" min:"1" max:"16777216"`

	// Most connections at a time of one client's address, of IPv6 of its /64.
	// 0: no limit.
	ConnectionsPerClient int `yaml:"connections_per_client,omitempty" default:"0" min:"0" max:"16777216"`

	// Longest wait until a client has said, in its TLS hello, which name it
	// wants, and who it is in a PROXY header.
	HelloTimeout time.Duration `yaml:"hello_timeout,omitempty" default:"5s" min:"100ms" max:"1m"`

	// Longest wait for a connection to a target, all tries together.
	DialTimeout time.Duration `yaml:"dial_timeout,omitempty" default:"5s" min:"100ms" max:"10m"`

	// How long no byte may come or go, either way.
	IdleTimeout time.Duration `yaml:"idle_timeout,omitempty" default:"10m" min:"1s" max:"720h"`

	// `idle_timeout` once one side has ended what it sends.
	HalfCloseTimeout time.Duration `yaml:"half_close_timeout,omitempty" default:"30s" min:"1s" max:"720h"`
}

// span is a range of ports at an address.
type span struct {
	host      string // "" is every address
	low, high int
}

// Ports are the addresses to listen on, each `host:port`, in the order of the
// file.
func (f *Forward) Ports() []string {
	var all []string
	for _, s := range f.spans {
		for port := s.low; port <= s.high; port++ {
			all = append(all, net.JoinHostPort(s.host, strconv.Itoa(port)))
		}
	}
	return all
}

// Span is a range of ports at an address.
type Span struct {
	Host      string // "" is every address
	Low, High int
}

// Spans are the ranges of listen, in the order of the file.
func (f *Forward) Spans() []Span {
	var all []Span
	for _, s := range f.spans {
		all = append(all, Span{s.host, s.low, s.high})
	}
	return all
}

// AllowList are the prefixes of allow.
func (f *Forward) AllowList() []netip.Prefix { return f.allow }

// FirstPort is the first port of listen.
func (f *Forward) FirstPort() int { return f.spans[0].low }

// Admits says whether a client's address is let in.
func (f *Forward) Admits(client netip.Addr) bool {
	return f.Allow == nil || contains(f.allow, client)
}

// Accepts are the prefixes whose PROXY header counts.
func (f *Forward) Accepts() []netip.Prefix { return f.accept }

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// CheckName is the name that a check of a target asks for, "" when there is
// none.
func (f *Forward) CheckName(t Target) string {
	if f.Health.Host != "" {
		return f.Health.Host
	}
	if host, _ := splitTarget(t.To); !isAddress(host) {
		return host
	}
	for _, name := range f.SNI {
		if !isWild(name) {
			return name
		}
	}
	return ""
}

// Split is the host of the target and its port, 0 for the one that came.
func (t Target) Split() (host string, port int) { return splitTarget(t.To) }

func splitTarget(to string) (string, int) {
	host, text, err := net.SplitHostPort(to)
	if err != nil {
		return to, 0
	}
	port, _ := strconv.Atoi(text) // parseConnect has looked
	return host, port
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// ForwardsOf are the forwards that node n does.
func (c *Config) ForwardsOf(n *Node) []*Forward {
	var all []*Forward
	for _, f := range c.Forwards {
		if n.IsEdge() && (f.Nodes == nil || slices.Contains(f.Nodes, n.Name)) {
			all = append(all, f)
		}
	}
	return all
}
