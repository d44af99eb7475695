package cache

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestKill kills a process that does everything with a store at once, at moments
// drawn at random, and looks at what it left: all that is found is whole, has the
// bytes that its Meta tells, is what the process was told is kept or a later one,
// and not what it was told is purged. KILLS=1000 for as many.
func TestKill(t *testing.T) {
	if dir := os.Getenv("CAUSEWAY_KILLED"); dir != "" {
		killed(t, dir)
		return
	}
	kills, err := strconv.Atoi(os.Getenv("KILLS"))
	if err != nil {
		kills = 10
	}
	o := TiersOptions{Memory: 4 << 20, Disk: 5 << 20, Dir: t.TempDir()}
	objects, forms, stale := 0, 0, 0
	for round := range kills {
		told := killOne(t, o, round)
		s, err := OpenTiers(o)
		if err != nil {
			t.Fatal(err)
		}
		for n := range killKeys {
			found := s.Find(testKey(n))
			for _, object := range found {
				objects++
				v := versionOf(object.Meta)
				if v < told.gone[n] {
					t.Errorf("kill %d: key %d: version %d, which was purged with %d", round, n, v, told.gone[n])
				}
				if v < told.stale[n] {
					if stale++; !object.Meta.Stale {
						t.Errorf("kill %d: key %d: version %d is fresh, and was purged softly with %d", round, n, v, told.stale[n])
					}
				}
				forms += checkVersion(t, object)
			}
			if len(found) > 1 {
				t.Errorf("kill %d: %d objects of one variant", round, len(found))
			}
		}
		s.awaitRecovery()
		if used := s.Stats().DiskBytes; used < usedBytes(t, o.Dir) || used > o.Disk {
			t.Errorf("kill %d: %d bytes in use, %d counted", round, usedBytes(t, o.Dir), used)
		}
		if corrupt := s.Stats().Corrupt; corrupt > 0 {
			t.Errorf("kill %d: %d corrupt files", round, corrupt)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills: found %d objects with %d forms, all whole; %d purged softly", kills, objects, forms, stale)
	if objects == 0 {
		t.Error("nothing was ever found")
	}
}

const killKeys = 40

// told is what a process said before it was killed: the versions below which all
// were purged.
type told struct{ gone, stale map[int]int }

// killOne starts a process, and kills it after a while.
func killOne(t *testing.T, o TiersOptions, round int) told {
	child := exec.Command(os.Args[0], "-test.run", "^TestKill$")
	child.Env = append(os.Environ(), "CAUSEWAY_KILLED="+o.Dir, "KILL_ROUND="+strconv.Itoa(round))
	var out, errs bytes.Buffer
	ready, starts := newSignal()
	child.Stdout, child.Stderr = &tee{to: &out, first: starts}, &errs
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("the child ended: %v\n%s%s", err, out.String(), errs.String())
	}
	// The moment is drawn: no sleep that something must be done by.
	select {
	case err := <-ended:
		t.Fatalf("the child ended: %v\n%s%s", err, out.String(), errs.String())
	case <-time.After(time.Duration(rand.IntN(60_000)) * time.Microsecond):
	}
	child.Process.Kill()
	<-ended
	told := told{gone: map[int]int{}, stale: map[int]int{}}
	lines := strings.Split(out.String(), "\n")
	for _, line := range lines[:len(lines)-1] { // the last may be half
		var what string
		var key, version int
		if n, _ := fmt.Sscan(line, &what, &key, &version); n < 3 {
			continue
		}
		switch what {
		case "gone":
			told.gone[key] = max(told.gone[key], version)
		case "stale":
			told.stale[key] = max(told.stale[key], version)
		}
	}
	return told
}

func newSignal() (done <-chan struct{}, give func()) {
	ch := make(chan struct{})
	return ch, func() { close(ch) }
}

// tee keeps what is written, and tells of the first.
type tee struct {
	to    *bytes.Buffer
	first func()
}

func (w *tee) Write(b []byte) (int, error) {
	if w.first != nil {
		w.first()
		w.first = nil
	}
	return w.to.Write(b)
}

// killed is the process: each worker has keys of its own, and versions that rise.
func killed(t *testing.T, dir string) {
	s, err := OpenTiers(TiersOptions{Memory: 4 << 20, Disk: 5 << 20, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	round, _ := strconv.Atoi(os.Getenv("KILL_ROUND"))
	os.Stdout.WriteString("ready\n")
	const workers = 4
	for w := range workers {
		go func() {
			x := rand.New(rand.NewPCG(uint64(round), uint64(w)))
			for version := round*1_000_000 + 1; ; version++ {
				n := x.IntN(killKeys/workers)*workers + w
				killStep(s, x, n, version)
			}
		}()
	}
	select {}
}

// killStep does one thing with an object.
func killStep(s *Tiers, x *rand.Rand, n, version int) {
	found := s.Find(testKey(n))
	switch op := x.IntN(12); {
	case len(found) == 0 || op < 5:
		meta, b := killMeta(n, version, x.IntN(3))
		d, err := s.Begin(-1)
		if err != nil {
			return
		}
		for len(b) > 0 {
			step := min(len(b), 50_000)
			if _, err := d.Write(b[:step]); err != nil {
				d.Discard()
				return
			}
			b = b[step:]
		}
		s.Keep(meta, d)
	case op < 8:
		meta := *found[0].Meta
		meta.Stale = false
		meta.Header = meta.Header.Clone()
		meta.Header.Set("Version", strconv.Itoa(version))
		meta.Header.Set("Long", strings.Repeat("x", x.IntN(5000)))
		s.Renew(found[0], &meta)
	case op < 10:
		b := formBytes(found[0].Meta)
		d, err := s.Begin(int64(len(b)))
		if err == nil {
			d.Write(b)
			s.Form(found[0], "gzip", d)
		}
	default:
		soft := op == 10
		s.Purge(Match{URL: found[0].Meta.URL}, soft)
		what := "gone"
		if soft {
			what = "stale"
		}
		fmt.Fprintf(os.Stdout, "%s %d %d\n", what, n, version)
	}
}

// killMeta is a Meta and a body of a version: the body by the Etag.
func killMeta(n, version, size int) (*Meta, []byte) {
	length := []int{1000, 60_000, 400_000}[size] + version%1000
	meta := metaOf(n, "a")
	meta.Header.Set("Version", strconv.Itoa(version))
	meta.Header.Set("Etag", strconv.Itoa(version))
	meta.Span.Of = int64(length)
	return meta, bodyOf(version, length)
}

func formBytes(meta *Meta) []byte {
	etag, _ := strconv.Atoi(meta.Header.Get("Etag"))
	return bodyOf(etag+1, 2000)
}

func versionOf(meta *Meta) int {
	version, _ := strconv.Atoi(meta.Header.Get("Version"))
	return version
}

// checkVersion fails unless the bodies of an object are those of its Meta.
func checkVersion(t *testing.T, object *Object) (forms int) {
	etag, _ := strconv.Atoi(object.Meta.Header.Get("Etag"))
	expect(t, object.Forms[0], bodyOf(etag, int(object.Meta.Span.Of)))
	for _, form := range object.Forms[1:] {
		expect(t, form, formBytes(object.Meta))
	}
	return len(object.Forms)
}
