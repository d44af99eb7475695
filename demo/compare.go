package demo

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/klauspost/compress/gzip"

	"causeway/simnet"
)

// visitors is how many go each way, one after the other: of one alone a segment
// that the line loses says more than the way does.
const visitors = 5

// visit is what a fetch of the shop's page came to.
type visit struct {
	way       string
	firstByte time.Duration
	total     time.Duration
	crossed   int64 // bytes over the bad line, both ways
	names     int   // times that the page, or its header, names the origin
}

// compare fetches the page as visitors who were never there: straight over the
// bad line, and through the edge, whose link is warm.
func (s *site) compare(ctx context.Context, out io.Writer) error {
	straight, err := s.median(ctx, "straight over the line", "https://example.com/", s.bare, filepath.Join(s.dir, "overseas", "ca.pem"),
		func(ctx context.Context) (net.Conn, error) { return s.bare.Dial(ctx, "origin") })
	if err != nil {
		return err
	}
	// The link's connections come up in the background; a visitor meets them
	// warm, so wait for them, as an edge is ready before its DNS name is.
	if err := s.warm(ctx); err != nil {
		return err
	}
	through, err := s.median(ctx, "through Causeway", "https://shop.localhost:"+s.port+"/", s.line, filepath.Join(s.dir, "ca.pem"),
		func(ctx context.Context) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "tcp", s.options.HTTPS)
		})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nThe same page, a new visitor (the median of %d), a line of %v and %.3g %% loss:\n\n", visitors, s.options.RTT, s.options.Loss*100)
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tfirst byte\twhole page\tbytes over the line\tnames that say example.com\t")
	for _, v := range []visit{straight, through} {
		fmt.Fprintf(table, "%s\t%d ms\t%d ms\t%d\t%d\t\n", v.way, v.firstByte.Milliseconds(), v.total.Milliseconds(), v.crossed, v.names)
	}
	return table.Flush()
}

// warm waits until the edge has a connection to the relay.
func (s *site) warm(ctx context.Context) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.options.Admin+"/readyz", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// median is what the visitors' fetches come to, each figure by itself; of the
// names that are left, the most.
func (s *site) median(ctx context.Context, way, url string, line *simnet.Network, caFile string, dial func(context.Context) (net.Conn, error)) (visit, error) {
	var visits []visit
	for range visitors {
		v, err := s.visit(ctx, way, url, line, caFile, dial)
		if err != nil {
			return v, err
		}
		visits = append(visits, v)
	}
	return visit{
		way:       way,
		firstByte: middle(visits, func(v visit) time.Duration { return v.firstByte }),
		total:     middle(visits, func(v visit) time.Duration { return v.total }),
		crossed:   middle(visits, func(v visit) int64 { return v.crossed }),
		names:     slices.MaxFunc(visits, func(a, b visit) int { return a.names - b.names }).names,
	}, nil
}

// middle is the median of an odd number of visits.
func middle[T cmp.Ordered](visits []visit, figure func(visit) T) T {
	var figures []T
	for _, v := range visits {
		figures = append(figures, figure(v))
	}
	slices.Sort(figures)
	return figures[len(figures)/2]
}

// visit fetches url over a fresh connection made by dial, trusting caFile, and
// counts what crossed line.
func (s *site) visit(ctx context.Context, way, url string, line *simnet.Network, caFile string, dial func(context.Context) (net.Conn, error)) (visit, error) {
	v := visit{way: way}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return v, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
		ForceAttemptHTTP2: true, DisableCompression: true,
	}
	defer client.CloseIdleConnections()
	there, back := line.Bytes()
	start := time.Now()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotFirstResponseByte: func() { v.firstByte = time.Since(start) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return v, err
	}
	req.Header.Set("Accept-Encoding", "gzip")
	res, err := client.RoundTrip(req)
	if err != nil {
		return v, err
	}
	defer res.Body.Close()
	body, err := readPage(res)
	if err != nil {
		return v, err
	}
	v.total = time.Since(start)
	thereNow, backNow := line.Bytes()
	v.crossed = thereNow - there + backNow - back
	if res.StatusCode != http.StatusOK {
		return v, fmt.Errorf("%s answered %s", url, res.Status)
	}
	v.names = strings.Count(body, "example.com")
	for _, values := range res.Header {
		v.names += strings.Count(strings.Join(values, "\n"), "example.com")
	}
	return v, nil
}

// readPage reads a body, opening gzip.
func readPage(res *http.Response) (string, error) {
	body := io.Reader(res.Body)
	if res.Header.Get("Content-Encoding") == "gzip" {
		opened, err := gzip.NewReader(body)
		if err != nil {
			return "", err
		}
		body = opened
	}
	text, err := io.ReadAll(io.LimitReader(body, 16<<20))
	return string(text), err
}
