package cache

import "sync/atomic"

// Stats is how the store does, for metrics.
type Stats struct {
	Objects       int64 // in all
	MemoryObjects int64 // those that memory knows; they may be on disk too
	DiskObjects   int64
	MemoryBytes   int64 // bodies, headers and drafts
	DraftBytes    int64 // of these
	DiskBytes     int64 // of files, also those being written; a bound while recovering
	MemoryLimit   int64
	DiskLimit     int64

	MemoryEvictions uint64 // what left memory for want of room; it may be on disk still
	DiskEvictions   uint64
	DiskErrors      uint64
	Corrupt         uint64 // files that were not what had been written

	Degraded   bool    // there is a disk, and it fails
	Short      bool    // others leave less room on it than DiskLimit
	Recovering bool    // what an earlier process left isn't all indexed
	Recovered  float64 // which part of it is; 1 is all
}

// counts are the counters that are nobody else's.
type counts struct {
	evictions atomic.Uint64
	corrupt   atomic.Uint64
	kept      atomic.Uint32 // objects: the time that eviction from the disk goes by, which no clock sets back
	memoryIDs atomic.Uint64 // names of objects where there is no disk
}

// Stats says how the store does. It goes through the shards, not their entries.
func (t *Tiers) Stats() Stats {
	stats := Stats{Recovered: 1, DiskEvictions: t.evictions.Load(), Corrupt: t.corrupt.Load()}
	for i := range t.index.shards {
		s := &t.index.shards[i]
		s.mu.Lock()
		stats.Objects += int64(s.entries)
		stats.DiskObjects += int64(s.filed)
		s.mu.Unlock()
	}
	m := t.memory
	m.mu.Lock()
	stats.MemoryObjects, stats.MemoryBytes, stats.DraftBytes = int64(m.items), m.used, m.drafts
	stats.MemoryLimit, stats.MemoryEvictions = m.limit, m.evicts
	m.mu.Unlock()
	if t.disk == nil {
		return stats
	}
	stats.DiskBytes, stats.DiskLimit = t.disk.used.Load()+t.disk.journal.length.Load(), t.disk.limit.Load()
	stats.DiskErrors = t.disk.failures.Load()
	stats.Degraded = stats.DiskLimit > 0 && !t.disk.well.Load()
	stats.Short = t.disk.short.Load() != 0
	if scan := t.scan.Load(); scan != nil {
		stats.Recovered = float64(scan.folders.Load()) / folders
		stats.Recovering = stats.Recovered < 1
	}
	return stats
}
