package e2e

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
)

// BenchmarkUpload is the processor time of a megabyte of a request's body that an
// edge sends to a relay, and that to its origin: medians of nine uploads.
func BenchmarkUpload(b *testing.B) {
	const size, rounds = 200 << 20, 9
	ca := newAuthority(b)
	origin := newOrigin(b, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}))
	c := newCrossing(b, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(origin)})
	client := c.client(b, 1)
	spent := make(map[*node][]float64)
	for round := range rounds + 1 { // the first does not count
		before := make(map[*node]float64)
		for _, n := range c.nodes() {
			before[n] = (&benchProxy{processes: []*process{n.process}}).cpu(b).Seconds()
		}
		res, err := client.Do(newRequest(b, http.MethodPut, "https://example.cn/", io.LimitReader(zeros{}, size)))
		if err != nil {
			b.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(text) != fmt.Sprint(size) {
			b.Fatalf("%q %v", text, err)
		}
		for _, n := range c.nodes() {
			if round > 0 {
				took := (&benchProxy{processes: []*process{n.process}}).cpu(b).Seconds() - before[n]
				spent[n] = append(spent[n], took*1000/(size/1e6))
			}
		}
	}
	for _, n := range c.nodes() {
		name := "edge"
		if n != c.edge {
			name = "relay"
		}
		slices.Sort(spent[n])
		b.ReportMetric(spent[n][rounds/2], name+"-ms/MB")
	}
	b.ReportMetric(0, "ns/op")
}
