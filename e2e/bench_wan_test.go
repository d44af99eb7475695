package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"image"
	"image/png"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// wanLosses are the chances at which the line loses a packet, each way.
var wanLosses = []float64{0, 0.01, 0.02}

// wanScene is the usual recipe (seeds: HAProxy in TCP mode in China, nginx with
// sub_filter overseas) and Causeway side by side: one line, one origin, one kind
// of certificate.
type wanScene struct {
	*wan
	line       *line
	dir        string // of the origin's files
	ca         *authority
	contenders []wanContender
	pages      int // handed out so far: every page is one that nobody has seen
	runs       int
	congestion string // what both places use
}

// wanContender is one of the two.
type wanContender struct {
	name    string
	address string // in china, where visitors reach it
}

// BenchmarkWAN is what visitors in China have of each, over 200 ms and
// 50 Mbit/s, and what crosses the border for it.
//
// WAN_RUNS is how often each thing is measured (5), WAN_CONGESTION the
// congestion control of both places and so of both contenders (bbr).
func BenchmarkWAN(b *testing.B) {
	s := newWANScene(b)
	var table strings.Builder
	for _, loss := range wanLosses {
		s.line.set(longLine(loss))
		for _, m := range []struct {
			name    string
			measure func(*wanScene, testing.TB, wanContender) []float64
			figures []wanFigure // what it gives
		}{
			{"first-byte", (*wanScene).firstByte, []wanFigure{{"first byte, new visitor", "ms"}}},
			{"page", (*wanScene).page, []wanFigure{{"page of 24 assets in Chromium", "ms"}, {"bytes over the border for it", "KB"}}},
			{"kept", (*wanScene).kept, []wanFigure{{"the same, its assets asked for before", "ms"}, {"bytes over the border for it", "KB"}, {"all of it with no browser's own time", "ms"}}},
			{"whole", (*wanScene).whole, []wanFigure{{"a page kept whole, for a new visitor", "ms"}, {"bytes over the border for it", "KB"}}},
			{"download", (*wanScene).download, []wanFigure{{"20 MB download", "Mbit/s"}, {"its second half", "Mbit/s"}}},
			{"beside", (*wanScene).beside, []wanFigure{{"30 KB beside a download, p95", "ms"}}},
		} {
			b.Run(fmt.Sprintf("loss=%g%%/%s", 100*loss, m.name), func(b *testing.B) {
				got := make([][][]float64, len(s.contenders)) // by contender, run, figure
				for range s.runs {
					for i, c := range s.contenders { // by turns
						got[i] = append(got[i], m.measure(s, b, c))
						s.quiet(b)
					}
				}
				for i, figure := range m.figures {
					fmt.Fprintf(&table, "| %s | %g %% |", figure.name, 100*loss)
					medians := make([]float64, len(got))
					for j, c := range s.contenders {
						var values []float64
						for _, run := range got[j] {
							values = append(values, run[i])
						}
						medians[j] = benchMedian(values)
						fmt.Fprintf(&table, " %s %s (%s–%s) |", wanDigits(medians[j]), figure.unit, wanDigits(slices.Min(values)), wanDigits(slices.Max(values)))
						b.ReportMetric(medians[j], fmt.Sprintf("%s-%s-%d", c.name, strings.ReplaceAll(figure.unit, "/", "p"), i+1))
					}
					fmt.Fprintf(&table, " %.2f |\n", medians[1]/medians[0])
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
	fmt.Printf("\n200 ms, 50 Mbit/s, congestion control of both: %s; medians of %d runs (least–most)\n\n| | loss each way | %s | %s | ratio |\n|---|---|---|---|---|\n%s\n",
		s.congestion, s.runs, s.contenders[0].name, s.contenders[1].name, table.String())
}

// wanFigure is one that is measured, and its unit.
type wanFigure struct{ name, unit string }

// wanDigits is a value with the three digits that count.
func wanDigits(value float64) string {
	if value >= 100 {
		return strconv.FormatFloat(value, 'f', 0, 64)
	}
	return strconv.FormatFloat(value, 'g', 3, 64)
}

// quiet waits until nothing crosses the line any more, so that what a
// contender left under way is not the next one's burden. It gives up waiting
// for a line that is never idle.
func (s *wanScene) quiet(b testing.TB) {
	b.Helper()
	for before, tries := int64(-1), 0; tries < 50; tries++ {
		now := s.line.bytes()
		if now-before < 500 { // pings
			return
		}
		before = now
		time.Sleep(500 * time.Millisecond)
	}
}

// visitor is a client in china with a connection of its own.
func (s *wanScene) visitor(b testing.TB, c wanContender) *http.Client {
	b.Helper()
	transport := &http.Transport{
		DisableCompression: true, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{RootCAs: s.ca.pool(b)},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return s.china.dial(ctx, network, c.address)
		},
	}
	b.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 5 * time.Minute}
}

// ask sends a request as a browser does; the answer must be a good one.
func (s *wanScene) ask(ctx context.Context, client *http.Client, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+benchPublicHost+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "gzip, deflate, br, zstd")
	res, err := client.Do(req)
	if err == nil && res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("GET %s: %s", path, res.Status)
	}
	return res, err
}

// fetch asks for a path and reads it whole.
func (s *wanScene) fetch(ctx context.Context, client *http.Client, path string) error {
	res, err := s.ask(ctx, client, path)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// unseen is the path of a page that nobody has asked for yet.
func (s *wanScene) unseen() string {
	s.pages++
	return fmt.Sprintf("/page-%d.html", s.pages)
}

// firstByte is the milliseconds from a new visitor's connection to the first
// byte of a page that no cache may have.
func (s *wanScene) firstByte(b testing.TB, c wanContender) []float64 {
	b.Helper()
	var first time.Time
	ctx := httptrace.WithClientTrace(b.Context(), &httptrace.ClientTrace{GotFirstResponseByte: func() { first = time.Now() }})
	began := time.Now()
	if err := s.fetch(ctx, s.visitor(b, c), s.unseen()); err != nil {
		b.Fatalf("%s: %v", c.name, err)
	}
	return []float64{wanMilliseconds(first.Sub(began))}
}

func wanMilliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// page is the milliseconds until a page with its 24 assets is loaded in a new
// Chromium, and the kilobytes over the border for it.
func (s *wanScene) page(b testing.TB, c wanContender) []float64 {
	b.Helper()
	return s.load(b, c, s.unseen())
}

// kept is page of one that another visitor has loaded before: the origin forbids
// to keep the page itself, and lets its assets be kept. And the milliseconds until
// a new visitor who draws nothing has the page and all its assets.
func (s *wanScene) kept(b testing.TB, c wanContender) []float64 {
	b.Helper()
	path := s.unseen()
	s.load(b, c, path)
	return append(s.load(b, c, path), s.fetchAll(b, c, path))
}

// wanAsset is the path of an asset in a page of the origin's.
var wanAsset = regexp.MustCompile(`https://` + regexp.QuoteMeta(benchOriginHost) + `(/assets/[^"]+)"`)

// fetchAll is the milliseconds in which a new visitor has a page and then, asking
// for them all at once, its assets.
func (s *wanScene) fetchAll(b testing.TB, c wanContender, path string) float64 {
	b.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, path))
	if err != nil {
		b.Fatal(err)
	}
	assets := wanAsset.FindAllStringSubmatch(string(text), -1)
	if len(assets) != 24 {
		b.Fatalf("%d assets", len(assets))
	}
	client := s.visitor(b, c)
	began := time.Now()
	if err := s.fetch(b.Context(), client, path); err != nil {
		b.Fatalf("%s: %v", c.name, err)
	}
	var fetching sync.WaitGroup
	for _, asset := range assets {
		fetching.Go(func() {
			if err := s.fetch(b.Context(), client, asset[1]); err != nil {
				b.Errorf("%s: %v", c.name, err)
			}
		})
	}
	fetching.Wait()
	return wanMilliseconds(time.Since(began))
}

// whole is page of one that another visitor has loaded before, and that may be kept
// as its assets are.
func (s *wanScene) whole(b testing.TB, c wanContender) []float64 {
	b.Helper()
	path := "/whole" + s.unseen()
	s.load(b, c, path)
	return s.load(b, c, path)
}

// load is what a new Chromium has of a page.
func (s *wanScene) load(b testing.TB, c wanContender, path string) []float64 {
	b.Helper()
	browser := startBrowserIn(b, s.china, filepath.Join(s.ca.dir, "site.pem"), fmt.Sprintf("MAP %s:443 %s, MAP * ~NOTFOUND", benchPublicHost, c.address))
	defer browser.close()
	s.quiet(b)
	before := s.line.bytes()
	browser.follow(b, "open the page", chromedp.Navigate("https://"+benchPublicHost+path))
	loaded := read(b, browser, "read the time", chromedp.Evaluate[float64](`performance.getEntriesByType('navigation')[0].loadEventStart`))
	seen := read(b, browser, "count what was loaded", chromedp.Evaluate[int](`performance.getEntriesByType('resource').length + 1000 * [...document.images].filter(i => i.naturalWidth > 0).length`))
	if seen != 12024 || len(browser.failed) > 0 {
		b.Fatalf("%s: assets and 1000 times pictures: %d; failed: %q", c.name, seen, browser.failed)
	}
	s.quiet(b) // acknowledgements
	return []float64{loaded, float64(s.line.bytes()-before) / 1000}
}

const wanDownload = 20_000_000

// download is the Mbit/s at which a new visitor gets 20 MB, and at which the
// second half of them comes, when the sender has found out what the line can do.
func (s *wanScene) download(b testing.TB, c wanContender) []float64 {
	b.Helper()
	began := time.Now()
	res, err := s.ask(b.Context(), s.visitor(b, c), "/download.bin")
	if err != nil {
		b.Fatalf("%s: %v", c.name, err)
	}
	defer res.Body.Close()
	first, err := io.CopyN(io.Discard, res.Body, wanDownload/2)
	half := time.Now()
	if err != nil {
		b.Fatalf("%s: %d bytes, %v", c.name, first, err)
	}
	second, err := io.Copy(io.Discard, res.Body)
	if err != nil || first+second != wanDownload {
		b.Fatalf("%s: %d bytes, %v", c.name, first+second, err)
	}
	rate := func(bytes int64, since time.Time) float64 {
		return float64(bytes) * 8 / time.Since(since).Seconds() / 1e6
	}
	return []float64{rate(wanDownload, began), rate(second, half)}
}

// beside is the p95 of the milliseconds that 30 KB take four visitors who are
// there already, while another one downloads all that the line can carry.
func (s *wanScene) beside(b testing.TB, c wanContender) []float64 {
	b.Helper()
	const visitors, requests = 4, 10
	ctx, cancel := context.WithTimeout(b.Context(), 2*time.Minute)
	defer cancel()
	var took []float64
	var mu sync.Mutex // guards took
	downloading, stop := context.WithCancel(ctx)
	var bulk, small sync.WaitGroup
	glutton := s.visitor(b, c)
	bulk.Go(func() {
		for downloading.Err() == nil {
			if err := s.fetch(downloading, glutton, "/download.bin"); err != nil && downloading.Err() == nil {
				b.Errorf("%s: the download: %v", c.name, err)
				return
			}
		}
	})
	clients := make([]*http.Client, visitors)
	for i := range clients {
		clients[i] = s.visitor(b, c)
		if err := s.fetch(ctx, clients[i], "/small.bin"); err != nil {
			b.Fatalf("%s: %v", c.name, err)
		}
	}
	time.Sleep(3 * time.Second) // until the download has found out how fast the line is
	for i, client := range clients {
		small.Go(func() {
			for j := range requests {
				began := time.Now()
				if err := s.fetch(ctx, client, fmt.Sprintf("/small.bin?%d-%d", i, j)); err != nil {
					b.Errorf("%s: %v", c.name, err)
					return
				}
				mu.Lock()
				took = append(took, wanMilliseconds(time.Since(began)))
				mu.Unlock()
			}
		})
	}
	small.Wait()
	stop()
	bulk.Wait()
	if len(took) < visitors*requests {
		b.FailNow()
	}
	slices.Sort(took)
	return []float64{took[len(took)*95/100-1]}
}

// newWANScene starts everything; it ends with the benchmark.
func newWANScene(b *testing.B) *wanScene {
	b.Helper()
	require(b, "nginx", "haproxy", "chromium")
	runs := 5
	if text := os.Getenv("WAN_RUNS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			b.Fatalf("WAN_RUNS=%s is no number of runs", text)
		}
		runs = n
	}
	congestion := os.Getenv("WAN_CONGESTION")
	if congestion == "" {
		congestion = "bbr"
	}
	s := &wanScene{wan: newWAN(b, congestion, longLine(0)), ca: newAuthority(b), runs: runs, congestion: congestion}
	s.line = s.lines[0]
	dir, origin := b.TempDir(), freeAddress(b)
	s.dir = dir
	wanFiles(b, dir, len(wanLosses)*4*2*runs)
	cert, key := s.ca.issue(b, "origin", benchOriginHost)
	startNginxIn(b, string(s.overseas), origin, fmt.Sprintf(`
	sendfile on; tcp_nopush on; root %s; ssl_certificate %s; ssl_certificate_key %s;
	server {
		listen %s ssl; server_name %s;
		location / { add_header Cache-Control no-store; }
		location /whole/ { alias %s/; add_header Cache-Control "public, max-age=86400"; }
		location /assets/ { add_header Cache-Control "public, max-age=86400"; }
	}`, dir, cert, key, origin, benchOriginHost, dir))
	causeway := newCrossing(b, spec{layout: edgeAndRelay, wan: s.wan, ca: s.ca, hosts: []string{benchPublicHost}, sites: fmt.Sprintf(`
  - name: site
    hosts: {%s: "https://%s"}
    origin: {connect: [%q], tls: {ca: CA}}
    tls: {cert: CERT, key: KEY}
`, benchPublicHost, benchOriginHost, origin)})
	s.contenders = []wanContender{{"recipe", s.recipe(b, origin)}, {"causeway", causeway.https}}
	return s
}

// recipe starts what people run today and gives its address in china. It has
// the certificate of the crossing.
func (s *wanScene) recipe(b testing.TB, origin string) string {
	b.Helper()
	cert, key := filepath.Join(s.ca.dir, "site.pem"), filepath.Join(s.ca.dir, "site.key")
	_, port, _ := net.SplitHostPort(freeAddress(b))
	overseas, china := net.JoinHostPort(s.line.overseas, port), freeAddress(b)
	startNginxIn(b, string(s.overseas), overseas, fmt.Sprintf(`
	server {
		listen %s ssl http2; server_name %s;
		ssl_certificate %s; ssl_certificate_key %s;
		ssl_session_timeout 5m; ssl_protocols TLSv1.2 TLSv1.3; ssl_prefer_server_ciphers on;
		location / {
			proxy_pass https://%s;
			proxy_set_header Host %s; proxy_ssl_server_name on; proxy_ssl_name %[6]s;
			sub_filter_types *; sub_filter https://%[6]s https://%[2]s; sub_filter_once off;
			proxy_set_header Accept-Encoding "";
		}
	}`, overseas, benchPublicHost, cert, key, origin, benchOriginHost))
	conf := writeFile(b, b.TempDir(), "haproxy.cfg", fmt.Sprintf(`defaults
	mode tcp
	timeout connect 10s
	timeout client 5m
	timeout server 5m
listen HTTPS
	bind %s
	server us-nginx %s
`, china, overseas))
	command := inside(string(s.china), "haproxy", "-db", "-f", conf)
	haproxy := startProcess(b, command[0], command[1:]...)
	eventually(b, "HAProxy listens", func() bool {
		if haproxy.ended() {
			b.Fatalf("haproxy ended:\n%s", haproxy.stderrText())
		}
		conn, err := s.china.dial(b.Context(), "tcp", china)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return china
}

// wanScripts and wanStyles are real ones, of Debian's WordPress.
const wanTree = "/usr/share/wordpress/wp-includes/"

var (
	wanScripts = []string{
		"js/jquery/jquery.min.js", "js/jquery/jquery-migrate.min.js", "js/jquery/jquery.form.min.js", "js/underscore.min.js",
		"js/backbone.min.js", "js/masonry.min.js", "js/clipboard.min.js", "js/plupload/plupload.min.js",
	}
	wanStyles = []string{"css/admin-bar.min.css", "css/buttons.min.css", "css/editor.min.css", "css/media-views.min.css"}
)

// wanFiles writes what the origin serves: pages of 40 KB that differ only in
// where their 24 assets are, the assets (eight scripts, four styles, twelve
// pictures), a download and a small answer that do not compress.
func wanFiles(b testing.TB, dir string, pages int) {
	b.Helper()
	random := rand.New(rand.NewPCG(3, 4))
	var head, body strings.Builder
	for _, name := range append(slices.Clone(wanStyles), wanScripts...) {
		text, err := os.ReadFile(wanTree + name)
		if err != nil {
			b.Skipf("wordpress is not installed: make deps PACKAGES=wordpress: %v", err)
		}
		file := filepath.Base(name)
		writeFile(b, dir, "assets/"+file, string(text))
		if strings.HasSuffix(file, ".css") {
			fmt.Fprintf(&head, "<link rel=\"stylesheet\" href=\"https://%s/assets/%s?v=VERSION\">\n", benchOriginHost, file)
		} else {
			fmt.Fprintf(&head, "<script defer src=\"https://%s/assets/%s?v=VERSION\"></script>\n", benchOriginHost, file)
		}
	}
	for i := range 12 {
		file := fmt.Sprintf("picture-%d.png", i)
		writeFile(b, dir, "assets/"+file, string(wanPicture(b, random)))
		fmt.Fprintf(&body, "<img src=\"https://%s/assets/%s?v=VERSION\" width=\"64\" height=\"64\" alt=\"\">\n", benchOriginHost, file)
	}
	page := strings.Replace(benchPage(benchOriginHost), "</head>", head.String()+"</head>", 1)
	page = strings.Replace(page, "</body>", body.String()+"</body>", 1)
	for i := range pages {
		writeFile(b, dir, fmt.Sprintf("page-%d.html", i+1), strings.ReplaceAll(page, "VERSION", fmt.Sprint(i+1)))
	}
	for name, size := range map[string]int{"download.bin": wanDownload, "small.bin": 30_000} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		writeFile(b, dir, name, string(data))
	}
}

// wanPicture is a PNG of about 15 KB of noise: a photograph, for a proxy.
func wanPicture(b testing.TB, random *rand.Rand) []byte {
	b.Helper()
	picture := image.NewGray(image.Rect(0, 0, 124, 124))
	for i := range picture.Pix {
		picture.Pix[i] = byte(random.Uint32())
	}
	var out bytes.Buffer
	if err := png.Encode(&out, picture); err != nil {
		b.Fatal(err)
	}
	return out.Bytes()
}
