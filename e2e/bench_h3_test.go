package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// BenchmarkHTTP3 is the edge's processor time for an answer that it keeps, over
// HTTP/3 beside HTTP/2: the same clients in Go, 8 connections with 4 requests at a
// time each, by turns.
func BenchmarkHTTP3(b *testing.B) {
	for _, size := range []struct {
		name            string
		bytes, requests int
	}{{"1KB", 1 << 10, 6000}, {"40KB", 40 << 10, 3000}, {"1MB", 1 << 20, 200}} {
		b.Run(size.name, func(b *testing.B) {
			proxy, address := h3Node(b, size.bytes)
			clients2, clients3 := h3Clients(b, address, false, 8), h3Clients(b, address, true, 8)
			var ratios, h2, h3 []float64
			for round := range benchRounds + 1 {
				two, three := h3Drive(b, proxy, clients2, size.requests, size.bytes), h3Drive(b, proxy, clients3, size.requests, size.bytes)
				if round > 0 {
					h2, h3, ratios = append(h2, two), append(h3, three), append(ratios, three/two)
				}
			}
			b.ReportMetric(benchMedian(h2)/1000, "h2-µs/req")
			b.ReportMetric(benchMedian(h3)/1000, "h3-µs/req")
			b.ReportMetric(benchMedian(ratios), "h3/h2")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkHTTP3Idle is the memory of a connection of a visitor that has had an
// answer and waits.
func BenchmarkHTTP3Idle(b *testing.B) {
	for _, proto := range []struct {
		name string
		h3   bool
	}{{"h2", false}, {"h3", true}} {
		b.Run(proto.name, func(b *testing.B) {
			const connections = 1000
			proxy, address := h3Node(b, 1<<10)
			h3Drive(b, proxy, h3Clients(b, address, proto.h3, 1), 10, 1<<10)
			before := proxy.processes[0].memory(b)
			h3Drive(b, proxy, h3Clients(b, address, proto.h3, connections), connections, 1<<10)
			time.Sleep(5 * time.Second) // garbage of the handshakes may go, or not
			b.ReportMetric(float64(proxy.processes[0].memory(b)-before)/connections/1024, "KB/conn")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// h3Node is a node that keeps an answer of so many bytes that no coding makes
// smaller, and its https address.
func h3Node(b *testing.B, size int) (*benchProxy, string) {
	b.Helper()
	body := make([]byte, size)
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(body)
	}))
	b.Cleanup(origin.Close)
	authority := newAuthority(b)
	certFile, keyFile := authority.issue(b, "shop", "example.cn")
	https, admin := freeAddress(b), freeAddress(b)
	file := writeFile(b, b.TempDir(), "causeway.yaml", fmt.Sprintf(`
listen: {https: %q, h3: true, admin: %q}
log: {access: false}
sites:
  - {name: shop, hosts: {example.cn: %q}, tls: {cert: %s, key: %s}}
`, https, admin, origin.URL, certFile, keyFile))
	node := startNode(b, admin, "run", "--config", file)
	return &benchProxy{https: https, processes: []*process{node.process}}, https
}

// h3Clients are clients with a connection each.
func h3Clients(b *testing.B, address string, h3 bool, n int) (list []*http.Client) {
	b.Helper()
	settings := &tls.Config{InsecureSkipVerify: true} // the certificate is other tests' matter
	for range n {
		var transport http.RoundTripper
		if h3 {
			t := &http3.Transport{TLSClientConfig: settings, DisableCompression: true,
				Dial: func(ctx context.Context, _ string, settings *tls.Config, config *quic.Config) (*quic.Conn, error) {
					return quic.DialAddr(ctx, address, settings, config)
				}}
			b.Cleanup(func() { t.Close() })
			transport = t
		} else {
			t := &http.Transport{TLSClientConfig: settings, DisableCompression: true, ForceAttemptHTTP2: true,
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "tcp", address)
				}}
			b.Cleanup(t.CloseIdleConnections)
			transport = t
		}
		list = append(list, &http.Client{Transport: transport})
	}
	return list
}

// h3Drive sends so many requests, four at a time over each connection (one over
// each of many), and gives the nanoseconds of the proxy's time for each.
func h3Drive(b *testing.B, proxy *benchProxy, clients []*http.Client, requests, size int) float64 {
	b.Helper()
	before := proxy.cpu(b)
	var left atomic.Int64
	left.Store(int64(requests))
	var all sync.WaitGroup
	drive := func(client *http.Client, most int) {
		for range most {
			if left.Add(-1) < 0 {
				return
			}
			res, err := client.Get("https://example.cn/kept")
			if err != nil {
				b.Error(err)
				return
			}
			n, err := io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if err != nil || n != int64(size) || res.StatusCode != 200 {
				b.Errorf("%s: %d bytes, %v", res.Status, n, err)
				return
			}
		}
	}
	if len(clients) > 100 { // a handshake each: not all at once
		for start := 0; start < len(clients); start += 20 {
			for _, client := range clients[start:min(len(clients), start+20)] {
				all.Go(func() { drive(client, 1) })
			}
			all.Wait()
		}
	} else {
		for _, client := range clients {
			for range 4 {
				all.Go(func() { drive(client, requests) })
			}
		}
		all.Wait()
	}
	if b.Failed() {
		b.FailNow()
	}
	return float64((proxy.cpu(b) - before).Nanoseconds()) / float64(requests)
}
