package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/andybalholm/brotli"

	"causeway/admin"
)

// versioned is an origin whose bodies follow from their path and version, and have
// their checksum before them. A version stays until next.
type versioned struct {
	started atomic.Int64 // which process fetches now

	mu       sync.Mutex // guards the rest
	versions map[string]int
}

func (o *versioned) version(path string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.versions[path]
}

func (o *versioned) next(path string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.versions[path]++
	return o.versions[path]
}

// bodyOf is the body of a version: text, or what no coding makes shorter, of 300
// bytes to 1.5 MB.
func (o *versioned) bodyOf(path string, version int) (kind string, body []byte) {
	hash := fnv.New64a()
	_, _ = io.WriteString(hash, path)
	n := hash.Sum64()
	size := []int{300, 4000, 20_000, 20_001, 120_000, 120_001, 400_000, 1_500_000}[n%8]
	name := path + "@" + strconv.Itoa(version) + "\n"
	if n/8%3 > 0 {
		return "text/plain", summedOf(bytes.Repeat([]byte(name), size/len(name)+1))
	}
	body = make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(name))).Read(body)
	return "application/octet-stream", summedOf(body)
}

// summedOf is a body with its checksum before it.
func summedOf(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append(append([]byte(hex.EncodeToString(sum[:])), '\n'), body...)
}

func (o *versioned) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	version := o.version(r.URL.Path)
	kind, body := o.bodyOf(r.URL.Path, version)
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Etag", fmt.Sprintf(`"%d"`, version))
	w.Header().Set("X-Version", strconv.Itoa(version))
	w.Header().Set("X-Started", strconv.FormatInt(o.started.Load(), 10))
	w.Header().Set("Cache-Control", "max-age=3600")
	if strings.HasPrefix(r.URL.Path, "/short") { // is asked for again, and its meta written anew
		w.Header().Set("Cache-Control", "max-age=1, stale-while-revalidate=60")
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

// killedSite is a crossing in one process whose visitors count what they get.
type killedSite struct {
	*crossing
	origin *versioned
	edge   atomic.Pointer[node] // that of now

	pause sync.RWMutex // held for reading by who visits

	mu    sync.Mutex // guards floor
	floor map[string]int

	whole, parts, hits, kept, cut, refused, purged atomic.Int64
}

func newKilledSite(t *testing.T, cache string) *killedSite {
	t.Helper()
	ca := newAuthority(t)
	s := &killedSite{origin: &versioned{versions: map[string]int{}}, floor: map[string]int{}}
	address := newOrigin(t, ca, s.origin)
	s.crossing = newCrossing(t, spec{layout: oneProcess, ca: ca, sites: siteOf(address) + "    http: serve\n", more: "cache: " + cache})
	s.edge.Store(s.crossing.edge)
	return s
}

// visitors come until ctx ends.
func (s *killedSite) visitors(ctx context.Context, t *testing.T) *sync.WaitGroup {
	var visiting sync.WaitGroup
	for i := range 9 {
		client, scheme := s.client(t, 1+i%2), "https"
		if i%3 == 0 { // what is on the disk goes by sendfile
			client, scheme = s.client(t, 1), "http"
		}
		visiting.Go(func() {
			for ctx.Err() == nil {
				s.pause.RLock()
				s.visit(t, client, scheme)
				s.pause.RUnlock()
			}
		})
	}
	return &visiting
}

func (s *killedSite) floorOf(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.floor[path]
}

// path draws one: of a few that are asked for again and again, or a new one.
func (s *killedSite) path() string {
	switch n := rand.IntN(10); {
	case n < 6:
		return fmt.Sprintf("/old/%d", rand.IntN(60))
	case n < 8:
		return fmt.Sprintf("/short/%d", rand.IntN(20))
	}
	return fmt.Sprintf("/new/%d", rand.IntN(1_000_000))
}

// visit asks for one thing and looks at each byte.
func (s *killedSite) visit(t *testing.T, client *http.Client, scheme string) {
	path, coding, part := s.path(), []string{"", "gzip", "br", "gzip, br"}[rand.IntN(4)], ""
	if rand.IntN(5) == 0 {
		coding, part = "", fmt.Sprintf("bytes=%d-%d", rand.IntN(200), 200+rand.IntN(20_000))
	}
	floor, started := s.floorOf(path), s.origin.started.Load()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://example.cn"+path, nil)
	if err != nil {
		t.Error(err)
		return
	}
	req.Header.Set("Accept-Encoding", coding)
	if part != "" {
		req.Header.Set("Range", part)
	}
	res, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			t.Errorf("%s: %v", path, err)
		}
		s.refused.Add(1)
		time.Sleep(2 * time.Millisecond)
		return
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		s.cut.Add(1)
		return
	}
	said := res.Header.Get("Cache-Status")
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusPartialContent {
		t.Errorf("%s %s: %s %q", path, part, res.Status, said)
		return
	}
	version, _ := strconv.Atoi(res.Header.Get("X-Version"))
	if version < floor {
		t.Errorf("%s: version %d, and what was before %d is purged: %q", path, version, floor, said)
	}
	_, want := s.origin.bodyOf(path, version)
	if res.StatusCode == http.StatusPartialContent {
		var from, to, of int
		if _, err := fmt.Sscanf(res.Header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &of); err != nil || of != len(want) || to >= of || from > to {
			t.Errorf("%s %s: Content-Range %q of %d", path, part, res.Header.Get("Content-Range"), len(want))
			return
		}
		want = want[from : to+1]
		s.parts.Add(1)
	}
	if body, err = decoded(res.Header.Get("Content-Encoding"), body); err != nil || !bytes.Equal(body, want) {
		t.Errorf("%s %s version %d in %q: wrong bytes, %d of %d, %v: %q", path, part, version, res.Header.Get("Content-Encoding"), len(body), len(want), err, said)
	}
	s.whole.Add(1)
	if strings.Contains(said, "hit") {
		s.hits.Add(1)
		if by, _ := strconv.ParseInt(res.Header.Get("X-Started"), 10, 64); by < started {
			s.kept.Add(1)
		}
	}
}

// decoded is a body without its coding.
func decoded(coding string, body []byte) ([]byte, error) {
	switch coding {
	case "":
		return body, nil
	case "gzip":
		r, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	case "br":
		return io.ReadAll(brotli.NewReader(bytes.NewReader(body)))
	}
	return nil, errors.New("a coding that was not asked for")
}

// purge makes a page another at the origin, and has the old one forgotten.
func (s *killedSite) purge(t *testing.T, client *http.Client) {
	path := fmt.Sprintf("/old/%d", rand.IntN(60))
	version := s.origin.next(path)
	order := fmt.Sprintf(`{"match":[{"url":"https://example.cn%s"},{"url":"http://example.cn%s"}]}`, path, path)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.edge.Load().admin+"/cache/purge", strings.NewReader(order))
	if err != nil {
		t.Error(err)
		return
	}
	req.Header.Set(admin.Field, "1")
	res, err := client.Do(req)
	if err != nil {
		return // it may be forgotten, or not
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
		if err == nil {
			t.Errorf("purge: %s", res.Status)
		}
		return
	}
	s.mu.Lock()
	s.floor[path] = max(s.floor[path], version)
	s.mu.Unlock()
	s.purged.Add(1)
}

// TestCacheKilled kills the program with SIGKILL at moments drawn at random, while it
// starts and while it serves, and starts it again on the same folder; visitors come
// all the time. Each byte that they get is that of the version which the answer says
// it is, over HTTP/1.1 and HTTP/2, in each coding, whole and in part; no version
// comes again that was purged; and no file is corrupt. KILLS=1000 for as many.
func TestCacheKilled(t *testing.T) {
	kills, err := strconv.Atoi(os.Getenv("KILLS"))
	if err != nil {
		kills = 60
	}
	s := newKilledSite(t, "{memory: 4MiB, disk: 48MiB, dir: kept, object_bytes: 4MiB}")
	ctx, stop := context.WithCancel(t.Context())
	visiting := s.visitors(ctx, t)
	visiting.Go(func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
		for ctx.Err() == nil {
			s.purge(t, client)
			time.Sleep(5 * time.Millisecond)
		}
	})
	begun, early, starts := time.Now(), 0, []time.Duration{}
	for n := range kills {
		edge := s.edge.Load()
		if n%4 == 3 { // while it starts
			early++
			time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
			if edge.ended() {
				t.Fatalf("causeway ended with %d:\n%s", edge.cmd.ProcessState.ExitCode(), edge.stderrText())
			}
		} else {
			start := time.Now()
			edge.ready(t)
			starts = append(starts, time.Since(start))
			if corrupt := edge.metric(t, "causeway_cache_corrupt_total"); corrupt != "0" {
				t.Errorf("kill %d: %s corrupt files", n, corrupt)
			}
			time.Sleep(time.Duration(rand.IntN(250)) * time.Millisecond)
		}
		edge.kill()
		s.origin.started.Add(1)
		s.edge.Store(launchNode(t, edge.admin, s.args[""]...))
	}
	s.edge.Load().ready(t)
	time.Sleep(200 * time.Millisecond)
	stop()
	visiting.Wait()
	slices.Sort(starts)
	t.Logf("%d kills in %.0f s, %d of them while it started: %d answers (%d parts), each byte right, %d of them hits, %d of what a process kept that was killed; %d cut, %d not connected; %d purges, none undone; ready after %v (median), %v (longest)",
		kills, time.Since(begun).Seconds(), early, s.whole.Load(), s.parts.Load(), s.hits.Load(), s.kept.Load(), s.cut.Load(), s.refused.Load(), s.purged.Load(),
		starts[len(starts)/2].Round(time.Millisecond), starts[len(starts)-1].Round(time.Millisecond))
	if s.kept.Load() == 0 || s.purged.Load() == 0 || s.cut.Load() == 0 {
		t.Error("that shows nothing")
	}
	if corrupt := s.edge.Load().metric(t, "causeway_cache_corrupt_total"); corrupt != "0" {
		t.Errorf("%s corrupt files", corrupt)
	}
}

// TestCacheDiskFaults has visitors all the time while the disk of the cache becomes
// full, and has room again; can be written no more, and can be again; and while bytes
// of its files are altered, under the program and before it starts. Nobody is told of
// an error, and each byte is right.
func TestCacheDiskFaults(t *testing.T) {
	mayMakeMachines(t)
	disk := t.TempDir()
	mounted := func(what string, flags uintptr) {
		t.Helper()
		var err error
		if what == "tmpfs" {
			err = syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=40m")
		} else {
			err = syscall.Mount(disk, disk, "", flags, "")
		}
		if err != nil {
			t.Fatalf("mount: %v", err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	}
	mounted("tmpfs", 0)
	s := newKilledSite(t, fmt.Sprintf("{memory: 4MiB, disk: 30MiB, dir: %q, object_bytes: 2MiB}", disk+"/kept"))
	ctx, stop := context.WithCancel(t.Context())
	visiting := s.visitors(ctx, t)
	defer visiting.Wait()
	defer stop()
	ill := func(want string) {
		t.Helper()
		eventually(t, "causeway_cache_disk_ill is "+want, func() bool { return s.edge.Load().metric(t, "causeway_cache_disk_ill") == want })
	}
	// during says what visitors got while something was so.
	during := func(what string, is func()) {
		t.Helper()
		whole, hits, cut, refused := s.whole.Load(), s.hits.Load(), s.cut.Load(), s.refused.Load()
		is()
		t.Logf("%s: %d answers, each byte right, %d of them hits; %d cut, %d not connected", what, s.whole.Load()-whole, s.hits.Load()-hits, s.cut.Load()-cut, s.refused.Load()-refused)
		if s.whole.Load() == whole || s.hits.Load() == hits {
			t.Errorf("%s: that shows nothing", what)
		}
	}
	// some answers, so that a time has as many on every machine.
	some := func(n int64) {
		t.Helper()
		till := s.whole.Load() + n
		eventually(t, "visitors were answered", func() bool { return s.whole.Load() >= till || t.Failed() })
	}
	during("well", func() { some(500) })
	during("full", func() {
		if err := os.WriteFile(disk+"/others", make([]byte, 40<<20), 0o600); err == nil {
			t.Error("it is not full")
		}
		some(1000)
	})
	if err := os.Remove(disk + "/others"); err != nil {
		t.Fatal(err)
	}
	ill("0")
	during("has room again", func() { some(500) })
	during("can be read only", func() {
		mounted("over itself", syscall.MS_BIND)
		mounted("read-only", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY)
		ill("1")
		some(1000)
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	})
	ill("0")
	during("can be written again", func() { some(500) })
	spoil := func() (spoilt int) {
		files, err := filepath.Glob(disk + "/kept/v2/???/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if rand.IntN(2) == 0 {
				continue
			}
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			if err != nil {
				continue // it is gone
			}
			if info, err := f.Stat(); err == nil && info.Size() > 5000 {
				if _, err = f.WriteAt([]byte("spoilt"), 4096+rand.Int64N(info.Size()-4106)); err == nil {
					spoilt++
				}
			}
			f.Close()
		}
		return spoilt
	}
	spoilt := 0
	during("altered under the program", func() {
		for range 3 {
			s.pause.Lock() // bytes that are on their way are nobody's to look at
			spoilt += spoil()
			s.pause.Unlock()
			some(300)
		}
	})
	found := s.edge.Load().metric(t, "causeway_cache_corrupt_total")
	s.edge.Load().kill()
	during("altered before a start", func() {
		spoilt += spoil()
		edge := s.edge.Load()
		s.edge.Store(launchNode(t, edge.admin, s.args[""]...))
		s.edge.Load().ready(t)
		some(1000)
	})
	after := s.edge.Load().metric(t, "causeway_cache_corrupt_total")
	t.Logf("%d files altered; %s and %s of them were found out as they were asked for", spoilt, found, after)
	if found == "0" || after == "0" {
		t.Error("that shows nothing")
	}
}
