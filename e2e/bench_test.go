package e2e

// What Causeway costs beside nginx, as processor time of the proxies alone.
//
//  1. benchStart starts, once for a benchmark: an origin (nginx), nginx as the
//     proxy that people use today (proxy_pass and sub_filter), Causeway in one
//     process, and Causeway as two, edge and relay (bench_peers_test.go),
//  2. benchSame asks each for the page once: the answers must be the same bytes,
//  3. benchCompare drives them by turns with the same number of requests and
//     takes the processor time of each around it (bench_load_test.go),
//  4. the medians over the rounds are reported, and the median of the ratios of
//     each round: whatever else runs on the machine meets both sides of a ratio.
//
// Run with `make bench`; docs/PERFORMANCE.md says what the rows mean.

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// benchRounds is how often each contender is driven in a benchmark, after one
// round that does not count.
const benchRounds = 9

const (
	benchPageSize  = 40 << 10 // bytes
	benchPageURLs  = 170
	benchSmallBody = "thirty bytes of a small answer" // 30 bytes
	benchBulkSize  = 200_000_000                      // bytes
)

// BenchmarkPage is a 40 KB HTML page with 170 URLs of the origin.
func BenchmarkPage(b *testing.B) {
	s := benchStart(b)
	for _, proto := range []benchProto{benchHTTP1, benchTLSH2} {
		b.Run(proto.name, func(b *testing.B) {
			benchCompare(b, proto, 3000, s.against(benchPublicHost, "/page.html"))
		})
	}
}

// BenchmarkSmall is an answer of 30 bytes.
func BenchmarkSmall(b *testing.B) {
	s := benchStart(b)
	for _, proto := range []benchProto{benchHTTP1, benchTLSH2} {
		b.Run(proto.name, func(b *testing.B) {
			benchCompare(b, proto, 6000, s.against(benchPublicHost, "/small"))
		})
	}
}

// BenchmarkText is 8 MB of HTML with three URLs of the origin in a kilobyte.
func BenchmarkText(b *testing.B) {
	s := benchStart(b)
	for _, proto := range []benchProto{benchHTTP1, benchTLSH2} {
		b.Run(proto.name, func(b *testing.B) {
			benchCompare(b, proto, 64, s.against(benchPublicHost, "/text-8m.html")[:2])
		})
	}
}

// BenchmarkNoMatch is text with no URL of the origin in it, which is searched,
// against the same bytes as application/octet-stream, which are only forwarded.
func BenchmarkNoMatch(b *testing.B) {
	s := benchStart(b)
	for _, size := range []struct {
		name, file string
		requests   int
	}{{"40KB", "nomatch", 3000}, {"1MB", "nomatch-1m", 200}} {
		for _, proto := range []benchProto{benchHTTP1, benchTLSH2} {
			b.Run(size.name+"/"+proto.name, func(b *testing.B) {
				benchCompare(b, proto, size.requests, []benchContender{
					{"rewriting", s.causeway, benchPublicHost, "/" + size.file + ".html"},
					{"forwarding", s.causeway, benchPublicHost, "/" + size.file + ".bin"},
				})
			})
		}
	}
}

// BenchmarkOriginTLS is the page from an origin that is reached over TLS, with
// HTTP/1.1 alone and with HTTP/2 too, which nginx does not speak to origins.
func BenchmarkOriginTLS(b *testing.B) {
	s := benchStart(b)
	for _, origin := range []struct{ name, host string }{{"origin-http1", "tls1.example.cn"}, {"origin-h2", "tls2.example.cn"}} {
		b.Run(origin.name, func(b *testing.B) {
			benchCompare(b, benchTLSH2, 2000, s.against(origin.host, "/page.html")[:2])
		})
	}
}

// BenchmarkBrowser is the page as a browser asks for it, compressed: by nginx
// with gzip at its default level, by Causeway with the coding it likes best of
// those the client takes.
func BenchmarkBrowser(b *testing.B) {
	s := benchStart(b)
	contenders := s.against(benchPublicHost, "/page.html")[:2]
	benchCompare(b, benchBrowser, 1000, contenders)
	for _, c := range contenders {
		b.ReportMetric(float64(benchDiscard(b, c, benchBrowser, "Accept-Encoding: gzip, deflate, br, zstd")), c.name+"-bytes")
	}
}

// BenchmarkKept is an answer that the cache has, as clients that take gzip ask for
// it: beside nginx with proxy_cache, which keeps what its origin compressed and
// rewrites nothing, beside Varnish over HTTP/1.1, and beside what people run today,
// which rewrites and compresses each time; and what is large, where sending is all.
func BenchmarkKept(b *testing.B) {
	s := benchStart(b)
	varnish := benchVarnish(b, s.plan)
	for _, size := range []struct{ name, file string }{{"40KB", "page.html"}, {"1KB", "1k.html"}} {
		for _, proto := range []benchProto{benchHTTP1, benchTLSH2} {
			proto.args = append(slices.Clone(proto.args), "-H", "Accept-Encoding: gzip")
			contenders := []benchContender{
				{"causeway", s.causeway, "kept.example.cn", "/kept/" + size.file},
				{"nginx-cache", s.nginx, "kept.example.cn", "/kept/" + size.file},
				{"recipe", s.nginx, benchPublicHost, "/" + size.file},
				{"edge", &benchProxy{http: s.crossing.http, https: s.crossing.https, processes: s.crossing.processes[1:]}, "kept.example.cn", "/kept/" + size.file},
			}
			if proto.scheme == "http" {
				contenders = append(contenders, benchContender{"varnish", varnish, "kept.example.cn", "/kept/" + size.file})
			}
			b.Run(size.name+"/"+proto.name, func(b *testing.B) {
				for _, c := range contenders {
					benchDiscard(b, c, proto, "Accept-Encoding: gzip")
				}
				benchTurns(b, proto, 6000, contenders)
			})
		}
	}
}

// BenchmarkKeptLarge is the same of 8 MB that are kept in memory, and of 100 MB on
// disk, that no coding makes smaller.
func BenchmarkKeptLarge(b *testing.B) {
	s := benchStart(b)
	benchLargeFiles(b, s.files)
	for _, size := range []struct {
		name, file string
		requests   int
	}{{"8MB", "8m.bin", 64}, {"100MB", "100m.bin", 8}} {
		for _, proto := range []benchProto{benchLargeHTTP1, benchLargeTLSH2} {
			contenders := []benchContender{
				{"causeway", s.causeway, "kept.example.cn", "/large/" + size.file},
				{"nginx-cache", s.nginx, "kept.example.cn", "/large/" + size.file},
			}
			b.Run(size.name+"/"+proto.name, func(b *testing.B) {
				benchSame(b, proto, contenders)
				benchTurns(b, proto, size.requests, contenders)
			})
		}
	}
}

// BenchmarkBulk is the memory of fresh processes while 200 MB of text with URLs
// of the origin stream through them.
func BenchmarkBulk(b *testing.B) {
	for _, proto := range []benchProto{benchHTTP1, benchTLSH2} {
		b.Run(proto.name, func(b *testing.B) {
			s := benchStart(b)
			benchBulkFile(b, s.files)
			for _, c := range s.against(benchPublicHost, "/bulk.txt") {
				if got := benchDiscard(b, c, proto); got < benchBulkSize*9/10 {
					b.Fatalf("%s: %d bytes of 200 MB", c.name, got)
				}
				b.ReportMetric(float64(c.proxy.peakMemory(b))/1e6, c.name+"-MB")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// benchCompare drives the contenders by turns and reports, for each, the median
// processor time of a request, and the median of its ratio to the second one,
// which is the measure of the others.
func benchCompare(b *testing.B, proto benchProto, requests int, contenders []benchContender) {
	b.Helper()
	benchSame(b, proto, contenders)
	benchTurns(b, proto, requests, contenders)
}

// benchTurns is benchCompare of contenders whose answers need not be the same.
func benchTurns(b *testing.B, proto benchProto, requests int, contenders []benchContender) {
	b.Helper()
	costs := make([][]float64, len(contenders))
	for round := range benchRounds + 1 {
		for i, c := range contenders {
			cost := benchDrive(b, c, proto, requests)
			if round > 0 { // the first warms connections, caches and heaps
				costs[i] = append(costs[i], cost)
			}
		}
	}
	const measure = 1
	for i, c := range contenders {
		b.ReportMetric(benchMedian(costs[i]), c.name+"-ns/req")
		if i == measure {
			continue
		}
		ratios := make([]float64, benchRounds)
		for round := range ratios {
			ratios[round] = costs[i][round] / costs[measure][round]
		}
		b.ReportMetric(benchMedian(ratios), c.name+"/"+contenders[measure].name)
		if i == 0 {
			b.ReportMetric(slices.Min(ratios), "least")
			b.ReportMetric(slices.Max(ratios), "most")
		}
	}
	b.ReportMetric(0, "ns/op")
}

func benchMedian(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// benchPage is HTML with 170 URLs of host, spread evenly, and prose between them:
// 40 KB, the same at every run.
func benchPage(host string) string { return benchText(host, benchPageSize, benchPageURLs) }

// benchText is HTML of so many bytes with so many URLs of host.
func benchText(host string, size, urls int) string {
	words := strings.Fields("the tea of spring is picked before the rain and dried by hand over a small fire while " +
		"the leaves of autumn are left to wither in the sun until they turn dark and sweet like honey " +
		"visitors who walk up the hill find a house with a red roof where water boils all day long")
	random := rand.New(rand.NewPCG(1, 2))
	var page strings.Builder
	page.WriteString("<!doctype html>\n<html><head><meta charset=\"utf-8\"><title>Tea</title></head>\n<body>\n")
	const end = "</body></html>\n"
	for i := range urls {
		fmt.Fprintf(&page, "<p><a href=\"https://%s/tea/%d?from=list&amp;sort=age\" class=\"item\">", host, random.IntN(100000))
		until := (size - len(end)) * (i + 1) / urls
		for page.Len() < until-24 {
			page.WriteString(words[random.IntN(len(words))])
			page.WriteByte(' ')
		}
		page.WriteString("</a></p>\n")
	}
	page.WriteString(strings.Repeat(".", max(0, size-len(end)-page.Len())))
	page.WriteString(end)
	return page.String()
}
