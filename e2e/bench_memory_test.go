package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkIdleLink is the memory that one more link takes at each end while
// nothing crosses it: of a node with eleven links less one with one. The
// garbage of the handshakes, which a node that serves soon uses again, is left
// out by collecting it early.
func BenchmarkIdleLink(b *testing.B) {
	const more = 10
	b.Setenv("GOGC", "10")
	for _, side := range []string{"edge", "relay"} {
		b.Run(side, func(b *testing.B) {
			few := idleNode(b, side, 1)
			many := idleNode(b, side, 1+more)
			b.ReportMetric(float64(many-few)/more/1000, "KB/link")
			b.ReportMetric(float64(few)/1e6, "MB/node-with-one")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// idleNode is the memory of a node that has so many links.
func idleNode(b *testing.B, side string, links int) int64 {
	b.Helper()
	dir, ca := b.TempDir(), newAuthority(b)
	certFile, key := ca.issue(b, "site", "example.cn")
	edges, relays := 1, links
	if side == "relay" {
		edges, relays = links, 1
	}
	var nodes, names, admins []string
	for i := range edges {
		names, admins = append(names, fmt.Sprint("edge-", i)), append(admins, freeAddress(b))
		nodes = append(nodes, fmt.Sprintf("  - {name: edge-%d, role: edge, listen: {https: %q, admin: %q}}", i, freeAddress(b), admins[i]))
	}
	for i := range relays {
		link := freeAddress(b)
		names, admins = append(names, fmt.Sprint("relay-", i)), append(admins, freeAddress(b))
		nodes = append(nodes, fmt.Sprintf("  - {name: relay-%d, role: relay, listen: {link: %q, admin: %q}, address: %q}", i, link, admins[edges+i], link))
	}
	file := writeFile(b, dir, "causeway.yaml", fmt.Sprintf(`pki: pki
nodes:
%s
sites:
  - name: site
    hosts: {example.cn: https://example.com}
    tls: {cert: %s, key: %s}
`, strings.Join(nodes, "\n"), certFile, key))
	mustRun(b, binary, append([]string{"link-ca", "--dir", filepath.Join(dir, "pki")}, names...)...)
	started := map[string]*node{}
	for i := len(names) - 1; i >= 0; i-- { // the relays first
		started[names[i]] = startNode(b, admins[i], "run", "--config", file, "--node", names[i])
	}
	for i := range edges {
		edge := started[fmt.Sprint("edge-", i)]
		for j := range relays {
			name := fmt.Sprintf("causeway_link_connections{relay=%q}", fmt.Sprint("relay-", j))
			eventually(b, "every link is up", func() bool { return edge.metric(b, name) != "0" })
		}
	}
	time.Sleep(5 * time.Second) // garbage of the handshakes may go, or not
	memory := started[side+"-0"].memory(b)
	for _, n := range started {
		n.kill()
	}
	return memory
}

// memory is what the process holds in memory of its own now, in bytes (RssAnon
// of proc(5)).
func (p *process) memory(t testing.TB) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "RssAnon:")
	var kilobytes int64
	if _, err := fmt.Sscan(after, &kilobytes); err != nil {
		t.Fatalf("read RssAnon: %v", err)
	}
	return kilobytes << 10
}

// BenchmarkStreams is the memory of an edge and a relay while 10 000 answers
// are under way at a time: each has its header and some of its body, and waits
// for the rest. Text is rewritten, other bodies pass.
func BenchmarkStreams(b *testing.B) {
	for name, kind := range map[string]string{"text": "text/html", "other": "application/octet-stream"} {
		b.Run(name, func(b *testing.B) { benchStreams(b, kind) })
	}
}

func benchStreams(b *testing.B, kind string) {
	const streams = 10_000
	release := make(chan struct{})
	var under atomic.Int64
	ca := newAuthority(b)
	origin := newOrigin(b, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text(kind, page)(w, r)
		_ = http.NewResponseController(w).Flush()
		under.Add(1)
		defer under.Add(-1)
		select {
		case <-release:
			_, _ = io.WriteString(w, page)
		case <-r.Context().Done():
		}
	}))
	c := newCrossing(b, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(origin)})
	before := map[*node]int64{}
	for _, n := range c.nodes() {
		before[n] = n.memory(b)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var visitors sync.WaitGroup
	var begun, failed atomic.Int64
	var first atomic.Pointer[error]
	const perConnection = 200
	beginning := make(chan struct{}, 100) // not all at once: connections are not what is measured
	for range streams / perConnection {
		client := c.client(b, 2)
		for range perConnection {
			visitors.Go(func() {
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://example.cn/", nil)
				beginning <- struct{}{}
				res, err := client.Do(req)
				<-beginning
				if err == nil {
					begun.Add(1)
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if err == nil && res.StatusCode != http.StatusOK {
						err = errors.New(res.Status)
					}
				}
				if err != nil {
					failed.Add(1)
					first.CompareAndSwap(nil, &err)
				}
			})
		}
	}
	for end := time.Now().Add(3 * patience); begun.Load() < streams && failed.Load() == 0 && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	b.ReportMetric(float64(begun.Load()), "streams")
	b.ReportMetric(float64(under.Load()), "at-the-origin")
	for _, n := range c.nodes() {
		name := "edge"
		if n != c.edge {
			name = "relay"
		}
		b.ReportMetric(float64(n.memory(b)-before[n])/1e6, name+"-MB")
		b.ReportMetric(float64(n.peakMemory(b))/1e6, name+"-peak-MB")
	}
	close(release)
	visitors.Wait()
	if failed.Load() > 0 {
		b.Errorf("%d of %d failed, the first: %v\n%s", failed.Load(), streams, *first.Load(), tail(c.edge.failures(), 2<<10))
	}
	b.ReportMetric(0, "ns/op")
}
