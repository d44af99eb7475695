package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkPassedIdle is the memory that an edge and a relay take for each of
// 10 000 connections that pass through and are idle, each after one request. The
// relay ends their TLS.
func BenchmarkPassedIdle(b *testing.B) {
	const connections = 10_000
	ca := newAuthority(b)
	origin := newOrigin(b, ca, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }))
	c := newCrossing(b, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(origin) + "    entry: passthrough\n", more: "limits: {idle_timeout: 10m}"})
	visit := func() (*tls.Conn, error) {
		conn, err := tls.Dial("tcp", c.https, &tls.Config{ServerName: "example.cn", RootCAs: ca.pool(b), NextProtos: []string{"http/1.1"}})
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: example.cn\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
		}
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s", res.Status)
		}
		return conn, err
	}
	var open sync.Map
	b.Cleanup(func() {
		open.Range(func(conn, _ any) bool { conn.(*tls.Conn).Close(); return true })
	})
	fill := func(n int) (failed int64, first error) {
		var failures atomic.Int64
		var why atomic.Pointer[error]
		var visitors sync.WaitGroup
		at := make(chan struct{}, 20)
		for range n {
			at <- struct{}{}
			visitors.Go(func() {
				conn, err := visit()
				if conn != nil {
					open.Store(conn, true)
				}
				if err != nil {
					failures.Add(1)
					why.CompareAndSwap(nil, &err)
				}
				<-at
			})
		}
		visitors.Wait()
		if p := why.Load(); p != nil {
			first = *p
		}
		return failures.Load(), first
	}
	fill(100) // what the first ones need is there
	time.Sleep(2 * time.Second)
	before := map[*node]int64{}
	for _, n := range c.nodes() {
		before[n] = n.memory(b)
	}
	if failed, first := fill(connections); failed > 0 {
		b.Fatalf("%d of %d failed, the first: %v\n%s", failed, connections, first, tail(c.edge.failures(), 2<<10))
	}
	time.Sleep(5 * time.Second) // garbage of the handshakes may go, or not
	for _, n := range c.nodes() {
		name := "edge"
		if n != c.edge {
			name = "relay"
		}
		b.ReportMetric(float64(n.memory(b)-before[n])/connections/1000, name+"-KB/connection")
	}
	b.ReportMetric(connections, "connections")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPassed is the processor time that an edge and a relay take for a connection
// that passes through, new and with one request, and for a megabyte each way: medians of
// nine.
func BenchmarkPassed(b *testing.B) {
	const size, rounds, connections = 100 << 20, 9, 500
	ca := newAuthority(b)
	origin := newOrigin(b, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/large" {
			_, _ = io.Copy(w, io.LimitReader(zeros{}, size))
			return
		}
		fmt.Fprint(w, n)
	}))
	c := newCrossing(b, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(origin) + "    entry: passthrough\n"})
	do := func(client *http.Client, req *http.Request) (length int64) {
		res, err := client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		defer res.Body.Close()
		length, err = io.Copy(io.Discard, res.Body)
		if err != nil || res.StatusCode != http.StatusOK {
			b.Fatal(res.Status, err)
		}
		return length
	}
	for _, what := range []struct {
		name string
		per  float64
		do   func()
	}{
		{"µs/connection", connections / 1e6, func() {
			for range connections {
				client := c.client(b, 1)
				do(client, newRequest(b, http.MethodGet, "https://example.cn/", nil))
				client.CloseIdleConnections()
			}
		}},
		{"ms/MB-down", size / 1e6 / 1e3, func() {
			if n := do(c.client(b, 1), newRequest(b, http.MethodGet, "https://example.cn/large", nil)); n != size {
				b.Fatal(n)
			}
		}},
		{"ms/MB-up", size / 1e6 / 1e3, func() {
			do(c.client(b, 1), newRequest(b, http.MethodPut, "https://example.cn/", io.LimitReader(zeros{}, size)))
		}},
	} {
		spent := make(map[*node][]float64)
		for round := range rounds + 1 { // the first does not count
			before := make(map[*node]float64)
			for _, n := range c.nodes() {
				before[n] = (&benchProxy{processes: []*process{n.process}}).cpu(b).Seconds()
			}
			what.do()
			for _, n := range c.nodes() {
				if round > 0 {
					spent[n] = append(spent[n], ((&benchProxy{processes: []*process{n.process}}).cpu(b).Seconds()-before[n])/what.per)
				}
			}
		}
		for _, n := range c.nodes() {
			name := "edge"
			if n != c.edge {
				name = "relay"
			}
			slices.Sort(spent[n])
			b.ReportMetric(spent[n][rounds/2], name+"-"+what.name)
		}
	}
	b.ReportMetric(0, "ns/op")
}
