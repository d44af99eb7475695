package daemon

import (
	"bufio"
	"bytes"
	"io/fs"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
)

// tuneGC trades memory for processor time, and bounds the trade: the live heap
// of a proxy is small, and 800 would spare 3 % more of a small answer for twice
// the heap (docs/PERFORMANCE.md); but a heap that load has made large must not
// become five times as large where there is no room for it, so near the limit
// the collector runs as often as it must. The environment's GOGC and GOMEMLIMIT
// go before.
func tuneGC() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if room := memoryRoom(os.DirFS("/")); room > 0 {
		debug.SetMemoryLimit(softLimit(room))
	}
}

// softLimit is how much of room the Go runtime should keep below: the rest is
// for what it does not count, and for the moment until a collection is done.
func softLimit(room int64) int64 { return room / 5 * 4 }

// memoryRoom is how much memory this process may take: the least of the limits
// of its control group, of those above it, and of the machine. 0 is unknown.
// system is the root of the file system.
func memoryRoom(system fs.FS) int64 {
	room := machineMemory(system)
	for _, limit := range groupLimits(system) {
		if room == 0 || limit < room {
			room = limit
		}
	}
	return room
}

// machineMemory is MemTotal of proc_meminfo(5); 0 is unknown.
func machineMemory(system fs.FS) int64 {
	text, err := fs.ReadFile(system, "proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil || kilobytes < 0 || kilobytes > 1<<50 {
				return 0
			}
			return kilobytes << 10
		}
	}
	return 0
}

// groupLimits are the memory limits of the process's control group and of those
// above it, as far as they can be seen from here: in a container the group's
// path may be that of the host, and then only the root of what is mounted is
// found.
func groupLimits(system fs.FS) (limits []int64) {
	groups, err := fs.ReadFile(system, "proc/self/cgroup")
	if err != nil {
		return nil
	}
	for lines := bufio.NewScanner(bytes.NewReader(groups)); lines.Scan(); {
		_, rest, _ := strings.Cut(lines.Text(), ":") // hierarchy:controllers:path, cgroups(7)
		controllers, group, _ := strings.Cut(rest, ":")
		mount, files := "sys/fs/cgroup", []string{"memory.max", "memory.high"} // version 2
		if controllers != "" {
			if !slices.Contains(strings.Split(controllers, ","), "memory") {
				continue
			}
			mount, files = "sys/fs/cgroup/memory", []string{"memory.limit_in_bytes"} // version 1
		}
		for group = path.Clean("/" + group); ; group = path.Dir(group) {
			for _, file := range files {
				if limit := readLimit(system, path.Join(mount, group, file)); limit > 0 {
					limits = append(limits, limit)
				}
			}
			if group == "/" {
				break
			}
		}
	}
	return limits
}

// readLimit reads a number of bytes; 0 is none, unlimited or not there.
func readLimit(system fs.FS, file string) int64 {
	text, err := fs.ReadFile(system, file)
	if err != nil {
		return 0
	}
	limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil { // version 2 says "max"
		return 0
	}
	return limit
}
