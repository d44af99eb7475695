package cache

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
)

// The files of the disk tier:
//
//	DIR/v2/lock          held by the process whose DIR it is
//	DIR/v2/state         see state.go
//	DIR/v2/index/        see journal.go
//	DIR/v2/tmp/ID.N      being written
//	DIR/v2/3f8/KEYID     the form that came, of an object
//	DIR/v2/3f8/KEYID.N   another form of it
//
// KEY has 40 hexadecimal digits, the first three of which name the folder; ID has
// 16, and names nothing else ever. So what is under a name is one thing, or is
// gone. What has another name is not looked at; what an earlier version left, whose keys
// nobody asks for, is removed (recover.go).
//
// A file is written under tmp and renamed when it is whole. Nothing is synced: a
// kill leaves what was written to the kernel, and the fall of the machine leaves
// what the checksums say.

const folders = 1 << 12 // a million objects are 244 a folder

// disk writes and names files; it knows nothing of the index.
type disk struct {
	dir string // with the version
	log *slog.Logger

	limit atomic.Int64
	used  atomic.Int64 // by files, also those being written
	serial
	health
	journal journal
	wake    chan struct{} // the evictor
	full    atomic.Bool   // the last failure was for want of room
	quota   atomic.Bool   // which the disk does not show
}

func newDisk(dir string, limit int64, log *slog.Logger) *disk {
	d := &disk{dir: filepath.Join(dir, "v"+strconv.Itoa(version)), log: log, wake: make(chan struct{}, 1)}
	d.limit.Store(limit)
	d.fell = make(chan struct{}, 1)
	d.journal.disk, d.journal.due = d, make(chan struct{}, 1)
	return d
}

// usable reports whether there is a disk to write to.
func (d *disk) usable() bool { return d != nil && d.well.Load() && d.limit.Load() > 0 }

// folder is the number of the folder of a URL.
func folder(head Head) int { return int(head[0])<<4 | int(head[1]>>4) }

func (d *disk) folder(n int) string {
	const digits = "0123456789abcdef"
	return d.dir + "/" + string([]byte{digits[n>>8], digits[n>>4&15], digits[n&15]})
}

// path is where a form is.
func (d *disk) path(key Key, id uint64, number uint8) string {
	return d.folder(folder(key.head())) + "/" + fileName(key, id, number)
}

func fileName(key Key, id uint64, number uint8) string {
	name := make([]byte, 0, nameLength+4)
	name = hex.AppendEncode(name, key[:])
	name = hex.AppendEncode(name, []byte{byte(id >> 56), byte(id >> 48), byte(id >> 40), byte(id >> 32), byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)})
	if number > 0 {
		name = strconv.AppendUint(append(name, '.'), uint64(number), 10)
	}
	return string(name)
}

// nameLength is that of the name of the form that came.
const nameLength = 2 * (len(Key{}) + 8)

// parseName reads such a name.
func parseName(name string) (key Key, id uint64, number uint8, ok bool) {
	if len(name) < nameLength {
		return key, 0, 0, false
	}
	var raw [nameLength / 2]byte
	if _, err := hex.Decode(raw[:], []byte(name[:nameLength])); err != nil {
		return key, 0, 0, false
	}
	copy(key[:], raw[:])
	for _, c := range raw[len(key):] {
		id = id<<8 | uint64(c)
	}
	if rest := name[nameLength:]; rest != "" {
		n, err := strconv.ParseUint(rest[1:], 10, 8)
		if rest[0] != '.' || err != nil || n == 0 {
			return key, 0, 0, false
		}
		number = uint8(n)
	}
	return key, id, number, id != 0 && name == fileName(key, id, number)
}

// create makes a temporary file. The caller closes it.
func (d *disk) create(id uint64, number uint8) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("%s/tmp/%016x.%d", d.dir, id, number), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
}

// seal writes the head of a temporary file whose body is there, and gives it its
// name. It says how long the file is.
func (d *disk) seal(f *os.File, h *header, meta []byte) (size int64, err error) {
	h.metaLen, h.metaSum = len(meta), checksum(meta)
	h.metaAt = h.place(len(meta), true)
	if h.metaEnd() <= headSize {
		head := make([]byte, headSize)
		copy(head, h.bytes())
		copy(head[h.metaAt:], meta)
		_, err = f.WriteAt(head, 0)
	} else {
		if _, err = f.WriteAt(meta, h.metaAt); err == nil {
			_, err = f.WriteAt(h.bytes(), 0)
		}
	}
	if err == nil && h.size == 0 {
		err = f.Truncate(h.end()) // the head block is whole also without a body
	}
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", f.Name(), err)
	}
	return h.end(), d.publish(f.Name(), h.key, h.id, h.number)
}

// publish gives a temporary file its name.
func (d *disk) publish(from string, key Key, id uint64, number uint8) error {
	to := d.path(key, id, number)
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.Mkdir(filepath.Dir(to), 0o700); err == nil || errors.Is(err, fs.ErrExist) {
			err = os.Rename(from, to)
		}
	}
	if err != nil {
		return fmt.Errorf("name a file of the cache: %w", err)
	}
	return nil
}

// renew writes another meta into a file, or only that it's stale. It says how
// long the file is, and how it looked and looks.
func (d *disk) renew(path string, meta []byte, stale bool) (size int64, was, is uint32, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("renew: %w", err)
	}
	defer f.Close()
	was = stampOfFile(f)
	head := make([]byte, headerSize)
	if _, err := f.ReadAt(head, 0); err != nil {
		return 0, 0, 0, fmt.Errorf("renew: %w", err)
	}
	h, err := parseHeader(head)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("renew: %w", err)
	}
	h.stale = stale
	if meta != nil {
		h.metaAt = h.place(len(meta), false)
		h.metaLen, h.metaSum = len(meta), checksum(meta)
		if _, err := f.WriteAt(meta, h.metaAt); err != nil {
			return 0, 0, 0, fmt.Errorf("renew: %w", err)
		}
	}
	if _, err := f.WriteAt(h.bytes(), 0); err != nil {
		return 0, 0, 0, fmt.Errorf("renew: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, 0, 0, fmt.Errorf("renew: %w", err)
	}
	return info.Size(), was, stampOf(info), nil
}

// pagesOf is how many pages a file of a size takes.
func pagesOf(size int64) int64 { return (size + headSize - 1) / headSize }

// give gives room back.
func (d *disk) give(n int64) {
	if d != nil {
		d.used.Add(-n)
	}
}
