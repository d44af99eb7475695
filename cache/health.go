package cache

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A disk that fails is left alone: nothing is written to it, and memory is the
// cache; what it has is read as long as it can be. After a while it's tried, and
// again after twice that, and so on. When it is well, it is used again; if it's
// another one by then, or was emptied, the index of it begins anew. The log has a
// line when it falls and one when it's back.
//
// On one that others fill as well, the store makes room before there is none: it
// takes no more than leaves a reserve, and lets go of its own when others come near
// it (spare). One that falls again soon is tried as seldom as before.

const (
	leastRest = time.Second
	mostRest  = time.Minute
	// steady is how long a disk is well before it counts as one that never fell.
	steady = 10 * time.Minute
	// spareEvery is how often the free bytes of the disk are looked at.
	spareEvery = 10 * time.Second
)

// errLocked is of a folder that another process has.
var errLocked = errors.New("another process has the folder")

// health is how a disk does.
type health struct {
	well     atomic.Bool
	failures atomic.Uint64
	fell     chan struct{}

	mu     sync.Mutex // guards the rest
	lock   *os.File   // nil until the folder is ours
	doomed []string   // files that could not be removed
	purged []Match    // while the disk was not well: it may be another by then
}

const (
	// mostDoomed bounds that list. What is beyond it is found again by the next
	// process.
	mostDoomed = 1 << 16
	// mostPurged bounds that one: beyond it all is purged.
	mostPurged = 1 << 10
)

// unseen notes a purge, for what is on a disk that can't be looked at.
func (d *disk) unseen(match Match) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.well.Load() && !d.holds() {
		d.failed(errors.New("its folder is another, or gone"))
	}
	switch {
	case d.well.Load() || slices.Contains(d.purged, match):
	case len(d.purged) < mostPurged:
		d.purged = append(d.purged, match)
	default:
		d.purged = []Match{{}}
	}
}

// owing reports whether a purge is not on the disk yet.
func (d *disk) owing() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.doomed) > 0 || !d.well.Load() && !d.holds()
}

// failed notes an error of the disk, which is left alone from then on; unless it's
// only that we have too many files open.
func (d *disk) failed(err error) {
	d.failures.Add(1)
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		d.full.Store(true)
		free, known := freeIn(d.dir)
		d.quota.Store(!known || free > d.reserve())
	}
	if !d.well.Swap(false) {
		return
	}
	d.log.Error("the cache's disk fails: memory is the cache until it's well", "dir", d.dir, "error", err)
	select {
	case d.fell <- struct{}{}:
	default:
	}
}

// unlink removes a file, now or when the disk is well.
func (d *disk) unlink(path string) {
	err := os.Remove(path)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return
	}
	d.mu.Lock()
	if len(d.doomed) < mostDoomed {
		d.doomed = append(d.doomed, path)
	}
	d.mu.Unlock()
	d.failed(fmt.Errorf("remove a file of the cache: %w", err))
}

// nudge wakes the evictor.
func (d *disk) nudge() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// tend is the goroutine of the disk: it evicts when the disk is nearly full, and
// tries the disk again when it failed.
func (t *Tiers) tend() {
	rest := leastRest
	var wellSince time.Time
	look := time.NewTicker(spareEvery)
	defer look.Stop()
	var again <-chan time.Time
	if !t.disk.well.Load() && t.disk.limit.Load() > 0 {
		again = time.After(rest)
	}
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-t.disk.fell:
			if again == nil {
				if rest = min(2*rest, mostRest); time.Since(wellSince) > steady {
					rest = leastRest
				}
				again = time.After(rest)
			}
		case <-look.C:
			t.spare()
		case <-again:
			again = nil
			switch err := t.tryAgain(); {
			case err == nil:
				wellSince = time.Now()
				continue
			case errors.Is(err, errLocked): // and will be let go
				rest = leastRest
			default:
				rest = min(2*rest, mostRest)
			}
			again = time.After(rest)
		case <-t.disk.journal.due:
			t.compact()
		case <-t.disk.wake:
			t.evict()
			if !t.disk.well.Load() && again == nil && t.disk.limit.Load() > 0 {
				again = time.After(0) // the disk was off until now
			}
		}
	}
}

// tryAgain tries a disk that failed.
func (t *Tiers) tryAgain() error {
	t.relieve()
	if err := t.revive(); err != nil {
		return err
	}
	t.log.Info("the cache's disk is well", "dir", t.disk.dir)
	return nil
}

// compact writes the journal anew, once the index is whole.
func (t *Tiers) compact() {
	if !t.disk.well.Load() {
		return // asked for again when it is
	}
	t.awaitRecovery()
	if err := t.rewriteJournal(); err != nil && t.ctx.Err() == nil {
		t.disk.failed(err)
	}
}

// revive makes the folder ours, if it isn't, and tries to write to it. If it is
// another folder than before, what was in that is forgotten.
func (t *Tiers) revive() error {
	d := t.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.MkdirAll(d.dir+"/tmp", 0o700); err != nil {
		return fmt.Errorf("make the folder of the cache: %w", err)
	}
	if !d.holds() {
		lock, err := lockFile(d.lockPath())
		if err != nil {
			return err
		}
		known := d.lock != nil
		if known {
			d.lock.Close()
		}
		d.lock = lock
		if known {
			t.forgetDisk()
		}
		if err := d.sweepTemporary(); err != nil {
			lock.Close()
			d.lock = nil
			return err
		}
		if d.overtaken() {
			d.log.Info("an earlier version of the cache had the disk meanwhile: nothing from before is found", "dir", d.dir)
			d.purged = []Match{{}}
		}
		bound, err := d.loadState()
		if err != nil {
			d.give(bound)
			lock.Close()
			d.lock = nil
			return err
		}
		segments, err := d.journal.restart()
		if err != nil {
			d.give(bound)
			lock.Close()
			d.lock = nil
			return err
		}
		t.beginRecovery(bound, segments)
	}
	if err := d.probe(); err != nil {
		return err
	}
	for i, path := range d.doomed {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			d.doomed = d.doomed[i:]
			return fmt.Errorf("remove a file of the cache: %w", err)
		}
	}
	d.doomed, d.purged = nil, nil
	if d.journal.incomplete() {
		d.journal.ask()
	}
	d.well.Store(true)
	return nil
}

func (d *disk) lockPath() string { return d.dir + "/lock" }

// holds reports whether the lock that we have is still that of the folder. The
// caller has mu.
func (d *disk) holds() bool {
	if d.lock == nil {
		return false
	}
	ours, err := d.lock.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(d.lockPath())
	return err == nil && os.SameFile(ours, there)
}

// sweepTemporary removes what an earlier process was writing.
func (d *disk) sweepTemporary() error {
	names, err := namesIn(d.dir + "/tmp")
	if err != nil {
		return fmt.Errorf("read the folder of the cache: %w", err)
	}
	for _, name := range names {
		if err := os.Remove(d.dir + "/tmp/" + name); err != nil {
			return fmt.Errorf("remove a file of the cache: %w", err)
		}
	}
	return nil
}

// probe writes a file, and removes it.
func (d *disk) probe() error {
	path := d.dir + "/tmp/probe"
	err := os.WriteFile(path, make([]byte, 2*headSize), 0o600)
	if gone := os.Remove(path); err == nil {
		err = gone
	}
	if err != nil {
		return fmt.Errorf("write to the cache: %w", err)
	}
	return nil
}

// close gives the folder up.
func (d *disk) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lock == nil {
		return nil
	}
	var err error
	if d.well.Swap(false) {
		err = d.lower()
	}
	err = errors.Join(err, d.journal.close(), d.lock.Close())
	d.lock = nil
	return err
}

// namesIn is what is in a folder.
func namesIn(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
