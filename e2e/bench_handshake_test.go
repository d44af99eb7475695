package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"
)

const (
	benchHandshakes = 3000 // a turn
	benchShaking    = 8    // at a time
)

// benchTLSKind is a way to shake hands.
type benchTLSKind struct {
	name    string
	version uint16
	curve   tls.CurveID
	resumes bool
	alone   bool // nginx's OpenSSL does not know it
}

// BenchmarkHandshake is the processor time of a handshake, of Causeway and nginx
// by turns: the same certificate (ECDSA P-256), version, suite and key exchange.
// The client closes the connection once it is done.
func BenchmarkHandshake(b *testing.B) {
	ca, origin, nginxTLS := newAuthority(b), freeAddress(b), freeAddress(b)
	cert, key := ca.issue(b, "site", benchPublicHost)
	peer := startNginx(b, origin, fmt.Sprintf(`
	ssl_certificate %s; ssl_certificate_key %s;
	ssl_protocols TLSv1.2 TLSv1.3; ssl_ecdh_curve X25519:prime256v1;
	server { listen %s; listen %s ssl http2; location / { return 200 "here"; } }`, cert, key, origin, nginxTLS))
	c := newCrossing(b, spec{layout: oneProcess, ca: ca, hosts: []string{benchPublicHost}, sites: fmt.Sprintf(`
  - {name: site, hosts: {%s: "http://%s"}, origin: {connect: [%q]}, tls: {cert: CERT, key: KEY}}`, benchPublicHost, benchOriginHost, origin)})
	causeway := &benchProxy{https: c.https, processes: []*process{c.edge.process}}
	nginx := &benchProxy{https: nginxTLS, processes: []*process{peer.process}}
	for _, hello := range []benchTLSKind{
		{name: "full", version: tls.VersionTLS13, curve: tls.X25519},
		{name: "resumed", version: tls.VersionTLS13, curve: tls.X25519, resumes: true},
		{name: "full-tls12", version: tls.VersionTLS12, curve: tls.X25519},
		{name: "resumed-tls12", version: tls.VersionTLS12, curve: tls.X25519, resumes: true},
		{name: "full-X25519MLKEM768", version: tls.VersionTLS13, curve: tls.X25519MLKEM768, alone: true},
	} {
		b.Run(hello.name, func(b *testing.B) {
			contenders := []benchContender{{"causeway", causeway, benchPublicHost, "/"}, {"nginx", nginx, benchPublicHost, "/"}}
			if hello.alone {
				contenders = contenders[:1]
			}
			suites, clients := map[uint16]bool{}, make([]*tls.Config, len(contenders))
			for i, c := range contenders {
				var state tls.ConnectionState
				clients[i], state = benchSession(b, c, hello)
				suites[state.CipherSuite] = true
			}
			if len(suites) != 1 {
				b.Fatalf("suites %v: not the same for all", suites)
			}
			spent := make([][]float64, len(contenders))
			for b.Loop() {
				for range 7 {
					for i, c := range contenders {
						spent[i] = append(spent[i], benchShake(b, c, hello, clients[i]))
					}
				}
			}
			b.ReportMetric(0, "ns/op")
			for i, c := range contenders {
				b.ReportMetric(benchMedian(spent[i])/1000, c.name+"-µs")
			}
			if !hello.alone { // handshakes in a second of processor time
				b.ReportMetric(benchMedian(spent[1])/benchMedian(spent[0]), "of-nginx")
			}
		})
	}
}

// benchSession makes one connection with a request, whose answer brings a ticket,
// and gives the settings of those that follow.
func benchSession(b *testing.B, c benchContender, hello benchTLSKind) (*tls.Config, tls.ConnectionState) {
	b.Helper()
	settings := &tls.Config{
		ServerName: c.host, InsecureSkipVerify: true, // which costs the client alone
		MinVersion: hello.version, MaxVersion: hello.version, CurvePreferences: []tls.CurveID{hello.curve, tls.CurveP256}, // that of the certificate
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, NextProtos: []string{"http/1.1"},
	}
	if hello.resumes {
		settings.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	conn, err := tls.Dial("tcp", c.proxy.https, settings)
	if err != nil {
		b.Fatalf("%s: %v", c.name, err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", c.path, c.host)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		b.Fatalf("%s: %v", c.name, err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	if state := conn.ConnectionState(); state.CurveID == hello.curve && state.Version == hello.version {
		return settings, state
	}
	b.Fatalf("%s: %+v", c.name, conn.ConnectionState())
	return nil, tls.ConnectionState{}
}

// benchShake gives the nanoseconds of processor time of a handshake.
func benchShake(b *testing.B, c benchContender, hello benchTLSKind, settings *tls.Config) float64 {
	b.Helper()
	var shaking sync.WaitGroup
	failed := make(chan error, benchShaking)
	before := c.proxy.cpu(b)
	for range benchShaking {
		shaking.Go(func() {
			for range benchHandshakes / benchShaking {
				conn, err := tls.Dial("tcp", c.proxy.https, settings)
				if err == nil && conn.ConnectionState().DidResume != hello.resumes {
					err = fmt.Errorf("resumed %v", !hello.resumes)
				}
				if conn != nil {
					conn.Close()
				}
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	shaking.Wait()
	time.Sleep(20 * time.Millisecond) // the last ones are closed
	spent := c.proxy.cpu(b) - before
	select {
	case err := <-failed:
		b.Fatalf("%s: %v", c.name, err)
	default:
	}
	return float64(spent.Nanoseconds()) / (benchHandshakes / benchShaking * benchShaking)
}
