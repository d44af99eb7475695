package cache

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

// A draft, from Begin to Keep or Discard:
//
//  1. Write fills pieces of memory,
//  2. when they are too many, or memory is short, they go to a temporary file,
//     and what follows too,
//  3. without a disk they may be more; then Write fails,
//  4. ReadAt reads from where the bytes are, up to what size says.
//
// The writer alone changes it; readers look at it under its lock, which nobody
// holds while writing.

const (
	// spillAt is how much of a draft is held in memory when there is a disk.
	spillAt = mostPromoted
	// leastPiece and mostPiece are the pieces of a body whose size isn't known:
	// each as large as what there is.
	leastPiece = 4 << 10
	mostPiece  = 64 << 10
	// reserveStep is how much room on disk a draft takes at a time.
	reserveStep = 1 << 20
)

var (
	errNoRoom = errors.New("no room in the cache")
	errOver   = errors.New("the draft is kept or discarded")
)

type draft struct {
	tiers  *Tiers
	expect int64        // -1 is not known
	size   atomic.Int64 // written
	bytes  uint32       // checksum of that; the writer's
	failed error        // the writer's
	room   int64        // of the disk, reserved; the writer's
	id     uint64       // names the temporary file; the writer's
	over   bool         // kept or discarded; the writer's
	held   int64        // of memory, reserved; the writer's
	spill  bool         // tried; the writer's
	path   string       // of the file, "" when it's kept; the writer's

	mu     sync.RWMutex // guards the rest
	pieces [][]byte
	file   *os.File
}

func addSum(sum uint32, b []byte) uint32 { return crc32.Update(sum, castagnoli, b) }

// Write appends.
func (d *draft) Write(b []byte) (n int, err error) {
	if d.over {
		return 0, errOver
	}
	if d.failed != nil {
		return 0, d.failed
	}
	if d.file == nil && d.size.Load()+int64(len(b)) > spillAt {
		d.toDisk()
	}
	for len(b) > 0 && err == nil {
		var wrote int
		if d.file != nil {
			wrote, err = d.writeFile(b)
		} else {
			wrote, err = d.writeMemory(b)
		}
		d.bytes = addSum(d.bytes, b[:wrote])
		d.size.Add(int64(wrote))
		n, b = n+wrote, b[wrote:]
	}
	d.failed = err
	return n, err
}

// writeMemory writes some of b. Nothing, and no error, means that the draft went
// to disk meanwhile.
func (d *draft) writeMemory(b []byte) (int, error) {
	last := len(d.pieces) - 1
	if last < 0 || len(d.pieces[last]) == cap(d.pieces[last]) {
		length := d.nextPiece()
		if !d.tiers.hold(length) {
			if d.toDisk() {
				return 0, nil
			}
			return 0, errNoRoom
		}
		d.held += length
		d.mu.Lock()
		d.pieces = append(d.pieces, make([]byte, 0, length))
		d.mu.Unlock()
		last++
	}
	piece := d.pieces[last]
	n := min(len(b), cap(piece)-len(piece))
	copy(piece[len(piece):cap(piece)], b[:n])
	d.mu.Lock()
	d.pieces[last] = piece[:len(piece)+n]
	d.mu.Unlock()
	return n, nil
}

// nextPiece is how long the next piece is to be.
func (d *draft) nextPiece() int64 {
	size := d.size.Load()
	if rest := d.expect - size; rest > 0 {
		return min(rest, spillAt)
	}
	return min(max(size, leastPiece), mostPiece)
}

// writeFile writes b behind what there is.
func (d *draft) writeFile(b []byte) (int, error) {
	end := headSize + d.size.Load() + int64(len(b))
	for end > d.room {
		step := max(reserveStep, end-d.room)
		if d.expect >= 0 && d.room == 0 {
			step = max(step, headSize+d.expect)
		}
		if !d.tiers.room(step) {
			return 0, errNoRoom
		}
		d.room += step
	}
	n, err := d.file.WriteAt(b, headSize+d.size.Load())
	if err != nil {
		d.tiers.disk.failed(fmt.Errorf("write a draft: %w", err))
	}
	return n, err
}

// toDisk moves the draft to a temporary file, if that can be.
func (d *draft) toDisk() bool {
	if d.spill || !d.tiers.disk.usable() {
		return false
	}
	d.spill = true
	size := d.size.Load()
	if !d.tiers.room(headSize + size) {
		return false
	}
	d.room = headSize + size
	d.id = d.tiers.disk.newID()
	file, err := d.tiers.disk.create(d.id, 0)
	if err == nil {
		d.path = file.Name()
		at := int64(headSize)
		for _, piece := range d.pieces {
			if _, err = file.WriteAt(piece, at); err != nil {
				break
			}
			at += int64(len(piece))
		}
	}
	if err != nil {
		d.tiers.disk.failed(fmt.Errorf("write a draft: %w", err))
		if file != nil {
			file.Close()
			os.Remove(d.path)
		}
		d.tiers.disk.give(d.room)
		d.room, d.path = 0, ""
		return false
	}
	d.mu.Lock()
	d.pieces, d.file = nil, file
	d.mu.Unlock()
	d.tiers.memory.release(d.held)
	d.held = 0
	return true
}

// ReadAt reads what was written.
func (d *draft) ReadAt(b []byte, off int64) (n int, err error) {
	size := d.size.Load()
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.file == nil {
		return readPieces(d.pieces, size, b, off)
	}
	if off >= size {
		return 0, io.EOF
	}
	if int64(len(b)) <= size-off {
		return d.file.ReadAt(b, headSize+off)
	}
	n, err = d.file.ReadAt(b[:size-off], headSize+off)
	if err == nil {
		err = io.EOF
	}
	return n, err
}

// close ends the writing, and tells whether there is a body to keep.
func (d *draft) close() bool {
	if d.over {
		return false
	}
	if d.failed != nil || d.expect >= 0 && d.size.Load() != d.expect {
		d.Discard()
		return false
	}
	d.over = true
	return true
}

// whole is the bytes in memory, in one piece where that's no more than spillAt.
func (d *draft) whole() *pieces {
	size := d.size.Load()
	list := d.pieces
	if len(list) == 0 {
		list = [][]byte{{}}
	}
	if last := list[len(list)-1]; len(list) > 1 && size <= spillAt {
		one := make([]byte, 0, size)
		for _, piece := range list {
			one = append(one, piece...)
		}
		list = [][]byte{one}
	} else if spare := cap(last) - len(last); spare > cap(last)/8 {
		list = append(list[:len(list)-1:len(list)-1], append(make([]byte, 0, len(last)), last...))
	}
	d.mu.Lock()
	d.pieces = list
	d.mu.Unlock()
	return newPieces(list, size)
}

// Discard lets go of it. After Keep it closes the file that readers of the draft
// had; where nobody calls it then, the collector does.
func (d *draft) Discard() {
	d.mu.Lock()
	file := d.file
	d.file, d.pieces = nil, nil
	d.mu.Unlock()
	if file != nil {
		file.Close()
	}
	if d.over {
		return
	}
	d.over = true
	d.tiers.abandon(d)
}
