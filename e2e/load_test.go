package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is visitors that ask for one page again and again, each in a way of its
// own, and none of whom tries twice.
type load struct {
	fetched atomic.Int64
	stop    context.CancelFunc
	workers sync.WaitGroup

	mu       sync.Mutex // guards failures
	failures []string
}

// visitors is how many a load has.
const visitors = 6

// startLoad keeps asking the edge for https://example.cn/ over connections that
// are kept alive and over fresh ones, with HTTP/1.1 and HTTP/2. check looks at
// each answer. It ends with the test at the latest.
func startLoad(t testing.TB, c *crossing, check func(status int, body string) error) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stop: cancel}
	settings := c.tls(t)
	settings.ServerName = "example.cn"
	// net/http sends a GET again when a kept-alive connection was closed under
	// it; only a connection read by hand shows whether one was dropped.
	l.work(ctx, "kept alive by hand", &byHand{place: c.china, address: c.https, settings: settings}, check)
	l.work(ctx, "kept alive by hand too", &byHand{place: c.china, address: c.https, settings: settings}, check)
	for _, major := range []int{1, 2} {
		kept := c.client(t, major)
		l.work(ctx, fmt.Sprintf("HTTP %d, kept alive", major), fetcher(kept), check)
		fresh := c.client(t, major)
		fresh.Transport.(*http.Transport).DisableKeepAlives = true
		l.work(ctx, fmt.Sprintf("HTTP %d, fresh", major), fetcher(fresh), check)
	}
	t.Cleanup(func() { l.stop(); l.workers.Wait() })
	return l
}

// asks fetches the page once.
type asks interface {
	ask(ctx context.Context) (status int, body string, err error)
}

// work asks until ctx ends.
func (l *load) work(ctx context.Context, name string, client asks, check func(int, string) error) {
	l.workers.Go(func() {
		if closer, ok := client.(io.Closer); ok {
			defer closer.Close()
		}
		for ctx.Err() == nil {
			limited, cancel := context.WithTimeout(context.Background(), patience)
			status, body, err := client.ask(limited)
			cancel()
			if err == nil {
				err = check(status, body)
			}
			if err != nil {
				l.mu.Lock()
				l.failures = append(l.failures, fmt.Sprintf("%s: %v", name, err))
				l.mu.Unlock()
				time.Sleep(10 * time.Millisecond)
			}
			l.fetched.Add(1)
		}
	})
}

// some waits until so many more pages were fetched.
func (l *load) some(t testing.TB, more int64) {
	t.Helper()
	from := l.fetched.Load()
	eventually(t, fmt.Sprintf("%d more pages were fetched", more), func() bool { return l.fetched.Load() >= from+more })
}

// end stops the load and gives what failed.
func (l *load) end(t testing.TB) []string {
	t.Helper()
	l.stop()
	l.workers.Wait()
	t.Logf("%d pages, %d failed", l.fetched.Load(), len(l.failures))
	return l.failures
}

// none fails the test when a request failed.
func (l *load) none(t testing.TB) {
	t.Helper()
	failures := l.end(t)
	for _, failure := range failures[:min(5, len(failures))] {
		t.Error(failure)
	}
}

// cutAtMost is none but for answers that were under way, their header past the
// edge, when a relay was killed: they must be cut. kills is how many were.
func (l *load) cutAtMost(t testing.TB, kills int) {
	t.Helper()
	cut := 0
	for _, failure := range l.end(t) {
		if strings.HasSuffix(failure, "EOF") || strings.Contains(failure, "stream error") {
			cut++
		} else {
			t.Error(failure)
		}
	}
	if most := kills * visitors; cut > most {
		t.Errorf("%d answers were cut, at most %d were under way", cut, most)
	}
}

// is checks for one page.
func is(want string) func(int, string) error {
	return func(status int, body string) error {
		if status != http.StatusOK || body != want {
			return fmt.Errorf("status %d, body %q, want %q", status, body, want)
		}
		return nil
	}
}

// fetcher asks with an http.Client.
func fetcher(client *http.Client) asks { return fetches{client} }

type fetches struct{ *http.Client }

func (f fetches) ask(ctx context.Context) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://example.cn/", nil)
	if err != nil {
		return 0, "", err
	}
	res, err := f.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

// byHand asks over one HTTP/1.1 connection until the edge says that it closes
// it.
type byHand struct {
	place    place
	address  string
	settings *tls.Config
	conn     net.Conn
	reader   *bufio.Reader
}

func (h *byHand) ask(ctx context.Context) (status int, body string, err error) {
	if h.conn == nil {
		plain, err := h.place.dial(ctx, "tcp", h.address)
		if err != nil {
			return 0, "", err
		}
		conn := tls.Client(plain, h.settings)
		if err := conn.HandshakeContext(ctx); err != nil {
			plain.Close()
			return 0, "", err
		}
		h.conn = conn
		h.reader = bufio.NewReader(h.conn)
	}
	status, body, keep, err := h.exchange(ctx)
	if !keep || err != nil {
		h.Close()
	}
	return status, body, err
}

func (h *byHand) exchange(ctx context.Context) (status int, body string, keep bool, err error) {
	end, _ := ctx.Deadline()
	_ = h.conn.SetDeadline(end)
	if _, err := io.WriteString(h.conn, "GET / HTTP/1.1\r\nHost: example.cn\r\n\r\n"); err != nil {
		return 0, "", false, fmt.Errorf("a connection that was not said to close: %w", err)
	}
	res, err := http.ReadResponse(h.reader, nil)
	if err != nil {
		return 0, "", false, fmt.Errorf("a connection that was not said to close: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), !res.Close, err
}

func (h *byHand) Close() error {
	if h.conn == nil {
		return nil
	}
	defer func() { h.conn = nil }()
	return h.conn.Close()
}
