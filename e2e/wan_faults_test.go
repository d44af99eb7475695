package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Every test here breaks something of a crossing over a long line, under load.
// What may be repeated must not fail, and no order may come to the origin
// twice. How long visitors waited is logged, and stands in
// docs/RELIABILITY.md.

// whole is for what stands in docs/RELIABILITY.md: faults that last as long as
// it says, over the line of make bench-wan. Without it the tests are quick.
var whole = os.Getenv("FAULTS") == "whole"

// faultLasts is how long a fault of some duration lasts.
func faultLasts(said time.Duration) time.Duration {
	if whole {
		return said
	}
	return 2 * time.Second
}

// faultLine is the line of these tests.
func faultLine() quality {
	if whole {
		return longLine(0)
	}
	const rate = 50e6 / 8
	return quality{rate: rate, delay: 25 * time.Millisecond, queue: rate / 10}
}

// traffic is visitors in china who fetch a page and place orders, each again
// and again, and try nothing twice.
type traffic struct {
	c       *crossing
	shop    *shop
	stop    context.CancelFunc
	workers sync.WaitGroup

	mu     sync.Mutex     // guards the rest
	gets   []fetched      // by their end
	orders map[string]int // status by number; 0 is an error
	marks  []mark

	longest time.Duration // that an order waited
}

// fetched is one page.
type fetched struct {
	began, ended time.Time
	failure      string
}

// mark is when something was done to the crossing.
type mark struct {
	at   time.Time
	what string
}

// shop is the origin: it counts the orders by their number.
type shop struct {
	address string

	mu     sync.Mutex // guards orders
	orders map[string]int
}

const shopPage = `<p><a href="https://example.com/tea">tea</a>`

// newShopFar starts the shop in a place.
func newShopFar(t testing.TB, p place, ca *authority) *shop {
	t.Helper()
	s := &shop{orders: map[string]int{}}
	long := strings.Repeat("<!-- tea -->\n", 10<<10)
	s.address = newOriginIn(t, p, ca, "127.0.0.1:0", serve(map[string]http.HandlerFunc{
		"GET /": text("text/html", shopPage),
		"GET /slow": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			for range 40 { // four seconds
				if _, err := io.WriteString(w, long[:1300]); err != nil {
					return
				}
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(100 * time.Millisecond):
				case <-r.Context().Done():
					return
				}
			}
		},
		"POST /order": func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			s.mu.Lock()
			s.orders[r.URL.Query().Get("id")]++
			s.mu.Unlock()
			text("text/plain", "taken")(w, r)
		},
	})).Addr().String()
	return s
}

// count is a copy of the orders so far.
func (s *shop) count() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.orders)
}

// newTraffic makes a crossing over a wan with a shop as its origin, and sends
// visitors. It is under way when it is given.
func newTraffic(t *testing.T, w *wan, s spec) *traffic {
	t.Helper()
	s.ca = newAuthority(t)
	far := newShopFar(t, w.overseas, s.ca)
	s.layout, s.wan, s.sites = edgeAndRelay, w, siteOf(far.address)
	tr := &traffic{shop: far, orders: map[string]int{}, c: newCrossing(t, s)}
	for relay := range tr.c.relays {
		tr.linked(t, relay)
	}
	ctx, cancel := context.WithCancel(context.Background())
	tr.stop = cancel
	t.Cleanup(func() { tr.stop(); tr.workers.Wait() })
	for i := range 12 {
		client := tr.visitor(t, 1+i%2)
		if i%4 == 3 {
			client.Transport.(*http.Transport).DisableKeepAlives = true
		}
		tr.workers.Go(func() {
			for ctx.Err() == nil {
				tr.fetch(client)
			}
		})
	}
	// Orders come whether those before were answered or not: one under way on a
	// dead line may wait long, as nobody may send it again.
	buyers := []*http.Client{tr.visitor(t, 1), tr.visitor(t, 2)}
	tr.workers.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			tr.workers.Go(func() { tr.order(buyers[n%2], fmt.Sprint("order-", n)) })
			time.Sleep(30 * time.Millisecond)
		}
	})
	tr.some(t)
	return tr
}

// visitor is a client who does not wait for ever.
func (tr *traffic) visitor(t *testing.T, major int) *http.Client {
	t.Helper()
	client := tr.c.client(t, major)
	client.Timeout = 2 * patience
	return client
}

// linked waits until the edge has a link to a relay.
func (tr *traffic) linked(t *testing.T, relay string) {
	t.Helper()
	eventually(t, "the link to "+relay+" is up", func() bool { return tr.open(t, relay) > 0 })
}

// open is how many connections the edge has to a relay.
func (tr *traffic) open(t *testing.T, relay string) (connections int) {
	t.Helper()
	text := tr.c.edge.metric(t, fmt.Sprintf("causeway_link_connections{relay=%q}", relay))
	if _, err := fmt.Sscan(text, &connections); err != nil {
		t.Fatal(err)
	}
	return connections
}

// fetch gets the page once.
func (tr *traffic) fetch(client *http.Client) {
	f := fetched{began: time.Now()}
	res, err := client.Get("https://example.cn/")
	if err == nil {
		var body []byte
		body, err = io.ReadAll(res.Body)
		res.Body.Close()
		if want := strings.ReplaceAll(shopPage, "example.com", "example.cn"); err == nil && (res.StatusCode != http.StatusOK || string(body) != want) {
			err = fmt.Errorf("status %d, body %.300q", res.StatusCode, body)
		}
	}
	f.ended = time.Now()
	if err != nil {
		f.failure = err.Error()
		time.Sleep(10 * time.Millisecond)
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.gets = append(tr.gets, f)
}

// order places an order once. It may fail: nobody may repeat it.
func (tr *traffic) order(client *http.Client, id string) {
	status := 0
	began := time.Now()
	res, err := client.Post("https://example.cn/order?id="+id, "application/x-www-form-urlencoded", strings.NewReader("tea=green"))
	if err == nil {
		if _, err = io.Copy(io.Discard, res.Body); err == nil {
			status = res.StatusCode
		}
		res.Body.Close()
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.orders[id] = status
	tr.longest = max(tr.longest, time.Since(began))
}

// some waits until visitors got pages, and placed orders, that they asked for
// after now.
func (tr *traffic) some(t *testing.T) {
	t.Helper()
	from := time.Now()
	orders := func() (placed int) {
		for _, status := range tr.orders {
			if status == http.StatusOK {
				placed++
			}
		}
		return placed
	}
	tr.mu.Lock()
	first, before := len(tr.gets), orders()
	tr.mu.Unlock()
	eventually(t, "visitors get pages and place orders", func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		pages := 0
		for _, f := range tr.gets[first:] {
			if f.failure == "" && f.began.After(from) {
				pages++
			}
		}
		return pages >= 50 && orders() >= before+8
	})
}

// did notes what is done to the crossing now.
func (tr *traffic) did(what string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.marks = append(tr.marks, mark{time.Now(), what})
}

// end sends the visitors home and holds what they got against what must be.
func (tr *traffic) end(t *testing.T) {
	t.Helper()
	tr.stop()
	tr.workers.Wait()
	failed := 0
	for _, f := range tr.gets {
		if f.failure == "" {
			continue
		}
		if failed++; failed <= 5 {
			t.Errorf("a page failed %v after the beginning: %s", f.ended.Sub(tr.gets[0].began).Round(time.Millisecond), f.failure)
		}
	}
	if failed > 5 {
		t.Errorf("%d pages failed", failed)
	}
	came, refused := tr.shop.count(), map[int]int{}
	for id, times := range came {
		if times > 1 {
			t.Errorf("the order %s came to the origin %d times", id, times)
		}
	}
	for id, status := range tr.orders {
		if status == http.StatusOK && came[id] != 1 {
			t.Errorf("the order %s was answered well and came to the origin %d times", id, came[id])
		}
		if status != http.StatusOK {
			refused[status]++
		}
	}
	t.Logf("%d pages, %d failed; %d orders, of which not answered well (by status): %v; one waited %v", len(tr.gets), failed, len(tr.orders), refused, tr.longest.Round(time.Millisecond))
	tr.tell(t)
}

// tell logs how long visitors waited after each mark: the longest of those who
// asked or waited between it and the next, and when the last of the slow ones
// had the page. Slow is four times the median of all.
func (tr *traffic) tell(t *testing.T) {
	t.Helper()
	var took []time.Duration
	for _, f := range tr.gets {
		took = append(took, f.ended.Sub(f.began))
	}
	slices.Sort(took)
	median := took[len(took)/2]
	slow := 4 * median
	for i, m := range tr.marks {
		until := tr.gets[len(tr.gets)-1].ended
		if i+1 < len(tr.marks) {
			until = tr.marks[i+1].at
		}
		var longest, last time.Duration
		many := 0
		for _, f := range tr.gets {
			if f.ended.Before(m.at) || f.began.After(until) {
				continue
			}
			longest = max(longest, f.ended.Sub(f.began))
			if f.ended.Sub(f.began) > slow {
				many++
				last = max(last, f.ended.Sub(m.at))
			}
		}
		t.Logf("%6.2f s: %s: longest wait %v; %d waited over %v, the last until %v after it", m.at.Sub(tr.gets[0].began).Seconds(), m.what,
			longest.Round(time.Millisecond), many, slow.Round(time.Millisecond), last.Round(time.Millisecond))
	}
	t.Logf("median of a page: %v", median.Round(time.Millisecond))
}

// TestFaultRelayKilled: kill -9 of one of two relays.
func TestFaultRelayKilled(t *testing.T) {
	w := newWAN(t, "", faultLine(), faultLine())
	tr := newTraffic(t, w, spec{relays: []string{"relay-1", "relay-2"}})
	for _, relay := range []string{"relay-1", "relay-2"} {
		tr.did("kill -9 of " + relay)
		tr.c.relays[relay].kill()
		tr.some(t)
		tr.did(relay + " is back")
		tr.c.restart(t, relay)
		tr.linked(t, relay)
		tr.some(t)
	}
	tr.end(t)
}

// TestFaultBlackHole: the address of one of two relays is a black hole: no
// reset, no answer. It is found out, and found again when it is back.
func TestFaultBlackHole(t *testing.T) {
	w := newWAN(t, "", faultLine(), faultLine())
	tr := newTraffic(t, w, spec{relays: []string{"relay-1", "relay-2"}})
	tr.did("the address of relay-1 is a black hole")
	w.lines[0].cut()
	eventually(t, "the edge knows that relay-1 is gone", func() bool { return tr.open(t, "relay-1") == 0 })
	tr.did("the edge has no connection to it")
	tr.some(t)
	tr.did("the address is there again")
	w.lines[0].restore()
	tr.linked(t, "relay-1")
	tr.some(t)
	tr.end(t)
}

// TestFaultPrivateLine: of the two lines to one relay the preferred one is cut
// for a while, and used again when it is back.
func TestFaultPrivateLine(t *testing.T) {
	w := newWAN(t, "", faultLine(), faultLine())
	private, public := w.lines[0], w.lines[1]
	tr := newTraffic(t, w, spec{more: fmt.Sprintf(`links:
  - {from: edge-1, to: relay-1, via: "%s:RELAYPORT", prefer: 1}
  - {from: edge-1, to: relay-1, via: "%s:RELAYPORT", prefer: 2}`, private.overseas, public.overseas)})
	// used waits until one line brings pages, and the other pings at most.
	used := func(l, other *line, what string) {
		t.Helper()
		eventually(t, what, func() bool {
			before, otherBefore := l.home.deliveredAll.Load(), other.home.deliveredAll.Load()
			time.Sleep(200 * time.Millisecond)
			brought := l.home.deliveredAll.Load() - before
			return brought > 2_000 && brought > 3*(other.home.deliveredAll.Load()-otherBefore)
		})
	}
	used(private, public, "the private line is used")
	tr.did("the private line is cut")
	private.cut()
	began := time.Now()
	used(public, private, "the public line is used")
	tr.some(t)
	time.Sleep(faultLasts(20*time.Second) - time.Since(began))
	tr.did("the private line is back")
	private.restore()
	used(private, public, "the private line is used again")
	tr.did("the private line is used again")
	tr.some(t)
	tr.end(t)

}

// TestFaultRelayRestarted: one of two relays is told to stop, and started
// again; then the other. Orders do not fail either.
func TestFaultRelayRestarted(t *testing.T) {
	w := newWAN(t, "", faultLine(), faultLine())
	tr := newTraffic(t, w, spec{relays: []string{"relay-1", "relay-2"}})
	for _, relay := range []string{"relay-1", "relay-2"} {
		tr.did(relay + " is told to stop")
		tr.restart(t, relay)
		tr.some(t)
	}
	tr.end(t)
	tr.allOrders(t)
}

// TestFaultRelayDrained is the same after causeway drain.
func TestFaultRelayDrained(t *testing.T) {
	w := newWAN(t, "", faultLine(), faultLine())
	tr := newTraffic(t, w, spec{relays: []string{"relay-1", "relay-2"}})
	for _, relay := range []string{"relay-1", "relay-2"} {
		tr.did(relay + " drains")
		drain := inside(string(w.overseas), binary, "drain", relay, "--config", tr.c.file, "--wait", patience.String())
		mustRun(t, drain[0], drain[1:]...)
		tr.did(relay + " is told to stop")
		tr.restart(t, relay)
		tr.some(t)
	}
	tr.end(t)
	tr.allOrders(t)
}

// restart tells a relay to stop, and starts it again when it has.
func (tr *traffic) restart(t *testing.T, relay string) {
	t.Helper()
	tr.c.relays[relay].signal(t, syscall.SIGTERM)
	if code := tr.c.relays[relay].wait(t); code != 0 {
		t.Errorf("%s ended with %d", relay, code)
	}
	tr.did(relay + " is started again")
	tr.c.restart(t, relay)
	tr.linked(t, relay)
}

// allOrders fails the test when an order was not answered well.
func (tr *traffic) allOrders(t *testing.T) {
	t.Helper()
	for id, status := range tr.orders {
		if status != http.StatusOK {
			t.Errorf("the order %s was answered with %d", id, status)
		}
	}
}

// TestFaultLoss: the only line loses 30 % of all packets, each way, for ten
// seconds.
func TestFaultLoss(t *testing.T) {
	w := newWAN(t, "", faultLine())
	tr := newTraffic(t, w, spec{})
	tr.did("30 % loss")
	bad := faultLine()
	bad.loss = 0.3
	w.lines[0].set(bad)
	time.Sleep(faultLasts(10 * time.Second))
	tr.did("no loss")
	w.lines[0].set(faultLine())
	tr.some(t)
	tr.end(t)
}

// TestFaultCertificates: certificates of the site and of the nodes are made
// anew and the nodes told, under load and with a page under way. Nothing fails,
// not even an order, and the new ones are in use.
func TestFaultCertificates(t *testing.T) {
	w := newWAN(t, "", faultLine())
	tr := newTraffic(t, w, spec{})
	c := tr.c
	serial := func() string {
		t.Helper()
		plain, err := c.china.dial(t.Context(), "tcp", c.https)
		if err != nil {
			t.Fatal(err)
		}
		conn := tls.Client(plain, &tls.Config{RootCAs: c.ca.pool(t), ServerName: "example.cn"})
		defer conn.Close()
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	res, err := c.client(t, 2).Get("https://example.cn/slow")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()

	tr.did("new certificates, SIGHUP")
	c.ca.issue(t, "site", "example.cn", "*.example.cn")
	mustRun(t, binary, "link-ca", "--dir", filepath.Join(c.dir, "pki"), "edge-1", "relay-1")
	for _, n := range c.nodes() {
		if !n.reload(t) {
			t.Fatal("the reload failed")
		}
	}
	tr.some(t)
	if serial() == before {
		t.Error("the site still has its old certificate")
	}
	if n, err := io.Copy(io.Discard, res.Body); err != nil || n != 40*1300 {
		t.Errorf("the page under way: %d bytes, %v", n, err)
	}
	tr.end(t)
	tr.allOrders(t)

	// New connections are made with the new ones.
	c.relays["relay-1"].kill()
	c.restart(t, "relay-1")
	tr.linked(t, "relay-1")
}

// TestFaultClock: the clock of a node is set, by half an hour forth and back:
// nothing fails, as what is timed goes by another clock. By years, past what its
// certificates are good for: what is connected stays so; a new connection is
// refused and says why, and comes when the clock is right again.
func TestFaultClock(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the standard library anew")
	}
	usual, clocks := binary, t.TempDir()
	binary = settable(t)
	defer func() { binary = usual }()
	t.Setenv("TEST_CLOCKS", clocks)
	w := newWAN(t, "", faultLine())
	tr := newTraffic(t, w, spec{})
	set := func(n *node, ahead time.Duration) {
		t.Helper()
		before := len(n.stderrText())
		writeFile(t, clocks, fmt.Sprint(n.pid()), fmt.Sprintf("%d\n", int(ahead.Seconds())))
		eventually(t, "the node's clock is set", func() bool {
			n.reload(t) // whatever comes of it, it is a line in the log with the time
			for line := range strings.Lines(n.stderrText()[before:]) {
				at, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
				said, err := time.Parse(time.RFC3339, at)
				if off := time.Until(said) - ahead; err == nil && off.Abs() < 5*time.Minute {
					return true
				}
			}
			return false
		})
	}
	for name, n := range map[string]*node{"edge-1": tr.c.edge, "relay-1": tr.c.relays["relay-1"]} {
		for _, ahead := range []time.Duration{30 * time.Minute, -30 * time.Minute, 0} {
			tr.did(fmt.Sprintf("the clock of %s is %v ahead", name, ahead))
			set(n, ahead)
			tr.some(t)
		}
	}
	tr.did("the clock of edge-1 is twenty years ahead")
	set(tr.c.edge, 20*365*24*time.Hour)
	tr.some(t)
	tr.end(t)
	tr.allOrders(t)

	tr.c.relays["relay-1"].kill()
	tr.c.restart(t, "relay-1")
	eventually(t, "the edge says why it has no link", func() bool {
		return strings.Contains(tr.c.edge.stderrText(), "expired")
	})
	writeFile(t, clocks, fmt.Sprint(tr.c.edge.pid()), "0\n")
	tr.linked(t, "relay-1")
}

// settable is the program built with a clock that can be set while it runs: the
// file TEST_CLOCKS/PID has the seconds that it is ahead. As when a system's
// clock is set, only the time of day jumps, and not what durations are measured
// by.
func settable(t *testing.T) string {
	t.Helper()
	require(t, "go", "cp")
	// A copy of the standard library, as that of a toolchain may not be overlaid.
	tools := strings.TrimSpace(mustRun(t, "go", "env", "GOROOT").stdout)
	root := t.TempDir()
	mustRun(t, "cp", "-r", filepath.Join(tools, "src"), root)
	mustRun(t, "cp", "-s", filepath.Join(tools, "go.env"), filepath.Join(tools, "VERSION"), root)
	for _, folder := range []string{"bin", "pkg"} {
		if err := os.Symlink(filepath.Join(tools, folder), filepath.Join(root, folder)); err != nil {
			t.Fatal(err)
		}
	}
	source := filepath.Join(root, "src/time/time.go")
	original, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	const now = "\tsec, nsec, mono := runtimeNow()\n"
	if !strings.Contains(string(original), now) {
		t.Fatalf("%s reads the clock in another way than this test knows", source)
	}
	writeFile(t, root, "src/time/time.go", strings.ReplaceAll(string(original), now, now+"\tsec += testAhead.Load()\n"))
	writeFile(t, root, "src/time/ahead.go", `package time

import (
	"strconv"
	"sync/atomic"
	"syscall"
)

var testAhead atomic.Int64 // seconds

func init() {
	dir, ok := syscall.Getenv("TEST_CLOCKS")
	if !ok {
		return
	}
	go func() {
		for ; ; Sleep(20 * Millisecond) {
			fd, err := syscall.Open(dir+"/"+strconv.Itoa(syscall.Getpid()), syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			text := make([]byte, 32)
			n, _ := syscall.Read(fd, text)
			syscall.Close(fd)
			if n > 0 && text[n-1] == '\n' {
				if seconds, err := strconv.ParseInt(string(text[:n-1]), 10, 64); err == nil {
					testAhead.Store(seconds)
				}
			}
		}
	}()
}
`)
	program := filepath.Join(t.TempDir(), "causeway")
	build := exec.Command(filepath.Join(tools, "bin/go"), "build", "-trimpath", "-o", program, "causeway/cmd/causeway")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOROOT="+root, "GOTOOLCHAIN=local")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build causeway with a clock that can be set: %v\n%s", err, out)
	}
	return program
}
