package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// The state file says what must hold from one process to the next: how often the
// store was opened, so that names are never given twice, and a bound of the bytes
// that its files take, so that there is room to be had before they are counted.
// The bound is raised ahead of use, and seldom, and no further than the disk has
// room for beside what others keep there. Where the file is missing or
// can't be true, the folders are looked through for the highest name, and the
// disk counts as full until its files are counted.

const stateSize = 32

// serial names objects: how often the store was opened, and a number.
type serial struct {
	opened uint64 // 24 bits of it are in a name; health.mu guards it
	next   atomic.Uint64

	boundMu sync.Mutex // guards the writing of the file
	bound   atomic.Int64
	short   atomic.Int64 // since when there is less room than the limit, as the log had it last, Unix nanoseconds; 0 for enough
	shut    atomic.Int64 // until then there is no more room, as far as is known: Unix nanoseconds
}

// numberBits is how many bits of a name count the objects of one process.
const numberBits = 40

// newID gives a name that was never given.
func (d *disk) newID() uint64 { return d.next.Add(1) }

// loadState reads the state, and writes that of this process. The bound that it
// gives is of what earlier ones left.
func (d *disk) loadState() (bound int64, err error) {
	d.boundMu.Lock()
	defer d.boundMu.Unlock()
	opened := uint64(0)
	b, err := os.ReadFile(d.dir + "/state")
	switch {
	case err == nil && len(b) == stateSize && string(b[:8]) == magic && checksum(b[:28]) == binary.LittleEndian.Uint32(b[28:]):
		opened, bound = binary.LittleEndian.Uint64(b[8:]), int64(binary.LittleEndian.Uint64(b[16:]))
	case err == nil || errors.Is(err, fs.ErrNotExist):
		var files int
		if opened, files, err = d.highest(); err != nil {
			return 0, err
		}
		if files > 0 {
			bound = max(d.limit.Load(), 1)
		}
	default:
		return 0, fmt.Errorf("read the state of the cache: %w", err)
	}
	d.opened = max(d.opened, opened) + 1
	d.next.Store(d.opened << numberBits)
	d.used.Add(bound)
	return bound, d.writeState(d.used.Load())
}

// highest looks for the highest name in the folders.
func (d *disk) highest() (opened uint64, files int, err error) {
	for n := range folders {
		names, err := namesIn(d.folder(n))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, 0, fmt.Errorf("read a folder of the cache: %w", err)
		}
		for _, name := range names {
			if _, id, _, ok := parseName(name); ok {
				opened, files = max(opened, id>>numberBits), files+1
			}
		}
	}
	return opened, files, nil
}

// writeState writes the state with another bound. The caller has boundMu. A kill leaves the old or the new.
func (d *disk) writeState(bound int64) error {
	b := make([]byte, 0, stateSize)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint64(b, d.opened)
	b = binary.LittleEndian.AppendUint64(b, uint64(bound))
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, checksum(b))
	temporary := d.dir + "/tmp/state"
	err := os.WriteFile(temporary, b, 0o600)
	if err == nil {
		err = os.Rename(temporary, d.dir+"/state")
	}
	if err != nil {
		return fmt.Errorf("write the state of the cache: %w", err)
	}
	d.bound.Store(bound)
	return nil
}

// take takes room, if there is.
func (d *disk) take(n int64) bool {
	for {
		used := d.used.Load()
		if used+n > d.limit.Load()-d.journal.length.Load() {
			return false
		}
		if !d.used.CompareAndSwap(used, used+n) {
			continue
		}
		if used+n <= d.bound.Load() {
			return true
		}
		if err := d.raise(); err != nil {
			d.give(n)
			if !errors.Is(err, errNoRoom) {
				d.failed(err)
			}
			return false
		}
		return true
	}
}

// raise raises the bound above what is used.
func (d *disk) raise() error {
	d.boundMu.Lock()
	defer d.boundMu.Unlock()
	used, bound := d.used.Load(), d.bound.Load()
	if used <= bound {
		return nil
	}
	step := max(d.limit.Load()/64, 1<<20)
	if free, ok := freeIn(d.dir); ok {
		if free -= d.reserve(); used-bound > free {
			d.shortOf(free + d.reserve())
			return errNoRoom
		}
		d.short.Store(0)
		step = min(step, (free-(used-bound))/2)
	}
	if d.quota.Load() && time.Now().UnixNano() < d.shut.Load() {
		return errNoRoom
	}
	return d.writeState(used + step)
}

// reserve is how much of a disk is left to others, and to what is not counted.
func (d *disk) reserve() int64 { return 64<<10 + min(d.limit.Load()/256, 1<<30) }

// shortEvery is how often the log has it that there is no more room.
const shortEvery = 10 * time.Minute

// shortOf notes that others leave no more room than the store has.
func (d *disk) shortOf(free int64) {
	now := time.Now().UnixNano()
	if was := d.short.Load(); was != 0 && now-was < int64(shortEvery) {
		return
	}
	d.short.Store(now)
	d.log.Warn("the cache's disk has no room for all that the file gives it", "dir", d.dir, "free", free, "left_to_others", d.reserve(),
		"used", d.used.Load(), "limit", d.limit.Load())
}

// shutFor is how long a disk on which there is no more room for us, for a reason that
// can't be seen, as a quota, is not tried for more.
const shutFor = 10 * time.Minute

// hold keeps the store from growing, as there is no more room than it has.
func (d *disk) hold() {
	d.boundMu.Lock()
	defer d.boundMu.Unlock()
	d.shut.Store(time.Now().Add(shutFor).UnixNano())
	d.bound.Store(min(d.bound.Load(), d.used.Load())) // that of the file is higher, which does no harm
}

// lower brings the bound down to what is used, if that is worth it.
func (d *disk) lower() error {
	d.boundMu.Lock()
	defer d.boundMu.Unlock()
	step := max(d.limit.Load()/64, 1<<20)
	if d.used.Load()+2*step >= d.bound.Load() {
		return nil
	}
	// Who took room before it sees the new bound is counted below; who takes it
	// after that raises the bound when we are done.
	d.bound.Store(d.used.Load() + step)
	return d.writeState(max(d.bound.Load(), d.used.Load()))
}
