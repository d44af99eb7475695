package daemon

import (
	"math"
	"os"
	"runtime/debug"
	"testing"
	"testing/fstest"
)

// The room is the least that any control group of the process, or the machine,
// allows.
func TestMemoryRoom(t *testing.T) {
	const machine = 8 << 30
	for name, test := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"no control groups": {map[string]string{}, machine},
		"version 2, no limit": {map[string]string{
			"proc/self/cgroup":                                       "0::/system.slice/causeway.service\n",
			"sys/fs/cgroup/system.slice/memory.max":                  "max\n",
			"sys/fs/cgroup/system.slice/causeway.service/memory.max": "max\n",
		}, machine},
		"version 2, a service's": {map[string]string{
			"proc/self/cgroup":                                        "0::/system.slice/causeway.service\n",
			"sys/fs/cgroup/system.slice/memory.max":                   "max\n",
			"sys/fs/cgroup/system.slice/causeway.service/memory.max":  "536870912\n",
			"sys/fs/cgroup/system.slice/causeway.service/memory.high": "max\n",
		}, 512 << 20},
		"version 2, where it is slowed down": {map[string]string{
			"proc/self/cgroup":                   "0::/causeway\n",
			"sys/fs/cgroup/causeway/memory.max":  "536870912\n",
			"sys/fs/cgroup/causeway/memory.high": "268435456\n",
		}, 256 << 20},
		"version 2, of the group above": {map[string]string{
			"proc/self/cgroup":                      "0::/pod/causeway\n",
			"sys/fs/cgroup/pod/memory.max":          "134217728\n",
			"sys/fs/cgroup/pod/causeway/memory.max": "536870912\n",
		}, 128 << 20},
		"version 2, in a container": {map[string]string{
			"proc/self/cgroup":         "0::/\n",
			"sys/fs/cgroup/memory.max": "67108864\n",
		}, 64 << 20},
		"version 2, outside of the namespace": {map[string]string{
			"proc/self/cgroup":         "0::/../../other\n",
			"sys/fs/cgroup/memory.max": "67108864\n",
		}, 64 << 20},
		"version 1": {map[string]string{
			"proc/self/cgroup":                                     "5:devices:/x\n4:cpuset,memory:/docker/0a\n0::/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":           "9223372036854771712\n",
			"sys/fs/cgroup/memory/docker/0a/memory.limit_in_bytes": "268435456\n",
			"sys/fs/cgroup/devices/x/memory.limit_in_bytes":        "1\n",
		}, 256 << 20},
		"version 1, in a container that sees the host's path": {map[string]string{
			"proc/self/cgroup":                           "4:memory:/docker/0a\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "268435456\n",
		}, 256 << 20},
		"version 1, no limit": {map[string]string{
			"proc/self/cgroup":                           "4:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, machine},
		"nonsense": {map[string]string{
			"proc/self/cgroup":                           "memory\n4:memory\n::\n0::/a\n",
			"sys/fs/cgroup/a/memory.max":                 "-7\n",
			"sys/fs/cgroup/memory.max":                   "lots\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "",
		}, machine},
	} {
		system := fstest.MapFS{"proc/meminfo": {Data: []byte("MemTotal:        8388608 kB\nMemFree:  1 kB\n")}}
		for file, text := range test.files {
			system[file] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := memoryRoom(system); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
	if got := memoryRoom(fstest.MapFS{}); got != 0 {
		t.Errorf("no such files: %d", got)
	}
	if got := memoryRoom(fstest.MapFS{"proc/meminfo": {Data: []byte("MemTotal: lots\n")}}); got != 0 {
		t.Errorf("a machine that does not say: %d", got)
	}
}

// A limit is set where there is none, and none where the environment has one.
func TestMemoryLimit(t *testing.T) {
	room := memoryRoom(os.DirFS("/"))
	if room == 0 {
		t.Skip("this system does not say how much memory there is")
	}
	percent := debug.SetGCPercent(100)
	defer debug.SetGCPercent(percent)
	before := debug.SetMemoryLimit(math.MaxInt64)
	defer debug.SetMemoryLimit(before)
	t.Setenv("GOMEMLIMIT", "off")
	tuneGC()
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("the environment says none, and it is %d", got)
	}
	t.Setenv("GOMEMLIMIT", "")
	tuneGC()
	if got := debug.SetMemoryLimit(-1); got >= room || got < room/2 {
		t.Errorf("%d of %d", got, room)
	}
}

// TestLinkWindow: all connections of a path hold a quarter of the memory at most.
func TestLinkWindow(t *testing.T) {
	for _, c := range []struct {
		room        int64
		connections int
		want        int
	}{
		{0, 16, 0}, {1 << 30, 16, 16 << 20}, {8 << 30, 16, 128 << 20}, {64 << 30, 16, 256 << 20}, {8 << 30, 0, 256 << 20},
	} {
		if got := linkWindow(c.room, c.connections); got != c.want {
			t.Errorf("%d bytes, %d connections: %d, not %d", c.room, c.connections, got, c.want)
		}
	}
}
