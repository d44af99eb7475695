package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// BenchmarkManyCertificates is what a whole node with 10 000 certificates takes, in
// a hundred sites and in as many as there are certificates: seconds and processor
// seconds until it serves, and its memory at rest, then and after a reload.
func BenchmarkManyCertificates(b *testing.B) {
	const many = 10_000
	ca := newAuthority(b)
	var hosts, pairs [many]string
	for i := range many {
		hosts[i] = fmt.Sprintf("h%d.example.cn", i)
		certFile, key := ca.issue(b, fmt.Sprintf("c%d", i), hosts[i])
		pairs[i] = fmt.Sprintf("{cert: %s, key: %s}", certFile, key)
	}
	for _, sites := range []int{100, many} {
		b.Run(fmt.Sprintf("%d sites", sites), func(b *testing.B) {
			admin, https := freeAddress(b), freeAddress(b)
			var file strings.Builder
			fmt.Fprintf(&file, "listen: {https: %q, admin: %q}\nsites:\n", https, admin)
			for s := range sites {
				fmt.Fprintf(&file, "- name: s%d\n  hosts:\n", s)
				own := many / sites
				for i := s * own; i < (s+1)*own; i++ {
					fmt.Fprintf(&file, "    %s: https://h%d.x.com\n", hosts[i], i)
				}
				fmt.Fprintf(&file, "  tls: {certs: [%s]}\n", strings.Join(pairs[s*own:(s+1)*own], ", "))
			}
			began := time.Now()
			n := startNode(b, admin, "run", "--config", writeFile(b, b.TempDir(), "causeway.yaml", file.String()))
			b.ReportMetric(time.Since(began).Seconds(), "s")
			b.ReportMetric((&benchProxy{processes: []*process{n.process}}).cpu(b).Seconds(), "cpu-s")
			time.Sleep(5 * time.Second)
			b.ReportMetric(float64(n.memory(b))/1e6, "MB")
			if !n.reload(b) {
				b.Fatal(n.stderrText())
			}
			time.Sleep(5 * time.Second)
			b.ReportMetric(float64(n.memory(b))/1e6, "MB/reloaded")
			b.ReportMetric(0, "ns/op")
		})
	}
}
