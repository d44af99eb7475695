// Package testca is an ACME authority with a DNS of its own, for tests: Pebble
// (Let's Encrypt's test server) in the process of the test, on loopback.
//
//  1. New starts Pebble behind HTTPS, and a DNS server in which every name is
//     127.0.0.1 and TXT records are what the test says.
//  2. Pebble looks at the ports that the test chose for :80 and :443.
//  3. Fault stands before Pebble: a test makes it refuse, or be slow.
//  4. Stop and Start take the authority down and back, with what it knows.
//
// Nothing that serves people imports it.
package testca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

// Options are what a test wants of the authority.
type Options struct {
	HTTPPort, TLSPort int               // where it looks, in place of 80 and 443
	BadNonces         int               // percent of the good nonces that it refuses
	Life              uint64            // of certificates, in seconds; 0 are 90 days
	EAB               map[string]string // keys by id; not empty, each account must be bound
	Skew              time.Duration     // by how much its clock is before ours, as its own HTTPS certificate tells
	Without           string            // a challenge that it does not offer
	Resolver          string            // host:port of another DNS, over TCP; "" is the CA's own
}

// CA is an authority.
type CA struct {
	URL  string // of the directory
	Root []byte // PEM: who signed for URL
	DNS  string // host:port, UDP and TCP

	handler, manage http.Handler
	without         string
	shown           tls.Certificate
	address         string
	server          *httptest.Server
	fault           atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	orders, all     atomic.Int64
	accounts        atomic.Int64

	mu  sync.Mutex // guards the rest
	txt map[string][]string
	a   map[string]string
}

// New starts an authority, which ends with the test. It sets environment
// variables for Pebble: tests that use it are not parallel.
func New(t testing.TB, options Options) *CA {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_AUTHZREUSE", "0")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", fmt.Sprint(options.BadNonces))
	c := &CA{without: options.Without, txt: make(map[string][]string), a: make(map[string]string), shown: selfSigned(t, time.Now().Add(options.Skew))}
	c.serveDNS(t)
	resolver := options.Resolver
	if resolver == "" {
		resolver = c.DNS
	}
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	for id, key := range options.EAB {
		if err := store.AddExternalAccountKeyByID(id, key); err != nil {
			t.Fatal(err)
		}
	}
	authority := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "the usual", ValidityPeriod: options.Life}})
	front := wfe.New(quiet, store, va.New(quiet, options.HTTPPort, options.TLSPort, false, resolver, store), authority,
		[]string{"testca.example"}, false, len(options.EAB) > 0, 1, 1)
	c.handler, c.manage = front.Handler(), front.ManagementHandler()
	c.Start(t)
	t.Cleanup(c.Stop)
	return c
}

// Start listens, after a Stop at the same address.
func (c *CA) Start(t testing.TB) {
	t.Helper()
	address := c.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c.address = listener.Addr().String()
	c.server = httptest.NewUnstartedServer(http.HandlerFunc(c.serve))
	c.server.Listener.Close()
	c.server.Listener = listener
	c.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	c.server.TLS = &tls.Config{Certificates: []tls.Certificate{c.shown}}
	c.server.StartTLS()
	c.URL = "https://" + c.address + wfe.DirectoryPath
	c.Root = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.shown.Certificate[0]})
}

// selfSigned is a certificate for 127.0.0.1 that is in force for a day about now.
func selfSigned(t testing.TB, now time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "testca"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(23 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Stop refuses connections from now on.
func (c *CA) Stop() {
	if c.server != nil {
		c.server.CloseClientConnections()
		c.server.Close()
		c.server = nil
	}
}

func (c *CA) serve(w http.ResponseWriter, r *http.Request) {
	c.all.Add(1)
	if fault := c.fault.Load(); fault != nil && (*fault)(w, r) {
		return
	}
	if NewOrder(r) {
		c.orders.Add(1)
	}
	if strings.HasSuffix(r.URL.Path, "/sign-me-up") { // Pebble's newAccount
		c.accounts.Add(1)
	}
	if c.without == "" {
		c.handler.ServeHTTP(w, r)
		return
	}
	answer := httptest.NewRecorder()
	c.handler.ServeHTTP(answer, r)
	body := withoutChallenge(answer.Body.Bytes(), c.without)
	maps.Copy(w.Header(), answer.Header())
	w.Header().Del("Content-Length")
	w.WriteHeader(answer.Code)
	_, _ = w.Write(body)
}

// withoutChallenge takes one kind out of an authorization; other answers stay.
func withoutChallenge(body []byte, kind string) []byte {
	var authorization map[string]any
	if json.Unmarshal(body, &authorization) != nil {
		return body
	}
	offered, ok := authorization["challenges"].([]any)
	if !ok {
		return body
	}
	authorization["challenges"] = slices.DeleteFunc(offered, func(one any) bool {
		challenge, _ := one.(map[string]any)
		return challenge["type"] == kind
	})
	less, err := json.Marshal(authorization)
	if err != nil {
		return body
	}
	return less
}

// NewOrder reports whether a request makes an order.
func NewOrder(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/order-plz") }

// Fault has answer look at each request first; true: it has answered. nil ends
// that.
func (c *CA) Fault(answer func(http.ResponseWriter, *http.Request) bool) {
	if answer == nil {
		c.fault.Store(nil)
		return
	}
	c.fault.Store(&answer)
}

// Problem answers as an authority that refuses.
func Problem(w http.ResponseWriter, status int, kind, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "urn:ietf:params:acme:error:" + kind, "detail": detail, "status": status})
}

// Orders is how many orders were made.
func (c *CA) Orders() int { return int(c.orders.Load()) }

// Accounts is how often an account was asked for.
func (c *CA) Accounts() int { return int(c.accounts.Load()) }

// Requests is how many requests came.
func (c *CA) Requests() int { return int(c.all.Load()) }

// IssuerRoot is the root of what it issues, in PEM.
func (c *CA) IssuerRoot() []byte {
	answer := httptest.NewRecorder()
	c.manage.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, wfe.RootCertPath+"0", nil))
	return answer.Body.Bytes()
}

// SetRenewal has the authority suggest a window for a certificate (RFC 9773), as
// JSON.
func (c *CA) SetRenewal(t testing.TB, certificate []byte, window string) {
	t.Helper()
	body, _ := json.Marshal(map[string]string{"Certificate": string(certificate), "ARIResponse": window})
	answer := httptest.NewRecorder()
	request := httptest.NewRequest(http.MethodPost, "/set-renewal-info/", strings.NewReader(string(body)))
	request.Header.Set("User-Agent", "test")
	c.manage.ServeHTTP(answer, request)
	if answer.Code != http.StatusOK {
		t.Fatalf("set the renewal window: %d %s", answer.Code, answer.Body)
	}
}

// SetA has name be another address; "" has it not exist.
func (c *CA) SetA(name, address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.a[dns.Fqdn(name)] = address
}

// AddTXT adds a record, and RemoveTXT removes it.
func (c *CA) AddTXT(name, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.txt[dns.Fqdn(name)] = append(c.txt[dns.Fqdn(name)], value)
}

// RemoveTXT removes what AddTXT added.
func (c *CA) RemoveTXT(name, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var rest []string
	for _, one := range c.txt[dns.Fqdn(name)] {
		if one != value {
			rest = append(rest, one)
		}
	}
	c.txt[dns.Fqdn(name)] = rest
}

// TXT are the records of name.
func (c *CA) TXT(name string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.txt[dns.Fqdn(name)]...)
}

// serveDNS serves over UDP and TCP until the test ends.
func (c *CA) serveDNS(t testing.TB) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.DNS = listener.Addr().String()
	packets, err := net.ListenPacket("udp", c.DNS)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait) // the last of these to run
	for _, server := range []*dns.Server{{Listener: listener}, {PacketConn: packets}} {
		server.Handler = dns.HandlerFunc(c.answer)
		serving.Go(func() { _ = server.ActivateAndServe() })
		t.Cleanup(func() { _ = server.Shutdown() })
	}
}

// zone is the one that every name lies in: its last two labels.
func zone(name string) string {
	labels := dns.SplitDomainName(name)
	return dns.Fqdn(strings.Join(labels[max(0, len(labels)-2):], "."))
}

func (c *CA) answer(w dns.ResponseWriter, query *dns.Msg) {
	answer := new(dns.Msg).SetReply(query)
	answer.Authoritative, answer.RecursionAvailable = true, true
	name := strings.ToLower(query.Question[0].Name)
	header := dns.RR_Header{Name: query.Question[0].Name, Class: dns.ClassINET, Ttl: 1, Rrtype: query.Question[0].Qtype}
	soa := &dns.SOA{Hdr: dns.RR_Header{Name: zone(name), Class: dns.ClassINET, Ttl: 1, Rrtype: dns.TypeSOA}, Ns: "ns." + zone(name), Mbox: "root." + zone(name), Serial: 1, Refresh: 1, Retry: 1, Expire: 1, Minttl: 1}
	c.mu.Lock()
	defer c.mu.Unlock()
	address, known := c.a[name]
	switch query.Question[0].Qtype {
	case dns.TypeA:
		if known && address == "" {
			answer.Rcode = dns.RcodeNameError
			break
		}
		if !known {
			address = "127.0.0.1"
		}
		answer.Answer = append(answer.Answer, &dns.A{Hdr: header, A: net.ParseIP(address)})
	case dns.TypeTXT:
		for _, value := range c.txt[name] {
			answer.Answer = append(answer.Answer, &dns.TXT{Hdr: header, Txt: []string{value}})
		}
	case dns.TypeSOA:
		if name == zone(name) {
			answer.Answer = append(answer.Answer, soa)
		}
	case dns.TypeNS:
		if name == zone(name) {
			answer.Answer = append(answer.Answer, &dns.NS{Hdr: header, Ns: "ns." + zone(name)})
		}
	}
	if len(answer.Answer) == 0 {
		answer.Ns = append(answer.Ns, soa)
	}
	_ = w.WriteMsg(answer)
}
