package nft

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkBulk sends the same gigabytes from the client to a target four ways,
// by turns: by plain routing, by plain routing on a host that tracks
// connections, through a forward, and through HAProxy in TCP mode with splice.
// Said of each is the median:
//
//	Gbit/s    what arrived
//	cpu-s/GB  of the whole machine, both ends included
//
// and of the forward, with what plain routing takes at both ends taken off, its
// share of what HAProxy takes (of-haproxy), and its throughput as a share of
// plain routing's (of-routing). It needs the machine for itself.
func BenchmarkBulk(b *testing.B) {
	for _, tool := range []string{"iperf3", "haproxy"} {
		if _, err := exec.LookPath(tool); err != nil {
			b.Skip(tool, "is not installed: apt-get install iperf3 haproxy")
		}
	}
	l := newLab(b)
	server := l.targets[0].start(b, "iperf3", "-s", "-p", "5201")
	defer server()
	awaitPort(b, l.client, at(v4(1, 2), 5201))
	config := filepath.Join(b.TempDir(), "haproxy.cfg")
	text := fmt.Sprintf("defaults\n mode tcp\n option splice-auto\n timeout connect 5s\n timeout client 60s\n timeout server 60s\nlisten bulk\n bind :5203\n server t1 %s\n", at(v4(1, 2), 5201))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	proxy := l.edge.start(b, "haproxy", "-db", "-f", config)
	defer proxy()
	awaitPort(b, l.client, at(edge4, 5203))

	f := Forward{Name: "bulk", Listen: listenOn(5202), Protocols: []string{"tcp"}, Targets: []Target{target(1, 5201)}}
	type way struct {
		name, address string
		port          int
		before        func()
		rates, costs  []float64
	}
	remove := func() {
		if err := l.edge.do(Remove); err != nil {
			b.Fatal(err)
		}
		l.edge.sh(b, "nft flush ruleset")
	}
	ways := []*way{
		{name: "routing", address: v4(1, 2), port: 5201, before: remove},
		{name: "tracking", address: v4(1, 2), port: 5201, before: func() {
			remove()
			l.edge.sh(b, "nft 'table ip t { chain c { type filter hook forward priority 0; ct state invalid drop; }; }'")
		}},
		{name: "forward", address: edge4, port: 5202, before: func() { remove(); l.edge.apply(b, f) }},
		{name: "haproxy", address: edge4, port: 5203, before: remove},
	}
	const rounds = 7
	b.ResetTimer()
	for range rounds {
		for _, w := range ways {
			w.before()
			rate, cost := l.send(b, w.address, w.port)
			w.rates, w.costs = append(w.rates, rate), append(w.costs, cost)
		}
	}
	b.StopTimer()
	median := func(of []float64) float64 { return slices.Sorted(slices.Values(of))[len(of)/2] }
	// What a way takes more than plain routing just before it: the machine's
	// own mood changes over minutes more than that.
	more := func(w *way) float64 {
		var differences []float64
		for i := range w.costs {
			differences = append(differences, w.costs[i]-ways[0].costs[i])
		}
		return median(differences)
	}
	for _, w := range ways {
		b.Logf("%-9s %6.2f Gbit/s  %.4f cpu-s/GB  %.3f", w.name, median(w.rates), median(w.costs), w.costs)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(ways[2].rates)/median(ways[0].rates), "of-routing")
	b.ReportMetric(more(ways[2])/more(ways[3]), "of-haproxy")
	b.ReportMetric(median(ways[2].costs), "cpu-s/GB")
	b.ReportMetric(median(ways[3].costs), "haproxy-cpu-s/GB")
	b.ReportMetric(median(ways[0].costs), "routing-cpu-s/GB")
}

// send sends three gigabytes from the client, and gives Gbit/s and CPU seconds
// of the machine for each gigabyte.
func (l *lab) send(b *testing.B, address string, port int) (rate, cost float64) {
	b.Helper()
	before := busy(b)
	out := run(b, "ip", "netns", "exec", string(l.client), "iperf3", "-J", "-c", address, "-p", strconv.Itoa(port), "-n", "3G")
	used := busy(b) - before
	var report struct {
		End struct {
			Received struct {
				Bytes         float64 `json:"bytes"`
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		b.Fatal(err)
	}
	return report.End.Received.BitsPerSecond / 1e9, used / (report.End.Received.Bytes / 1e9)
}

// busy gives the CPU seconds that the machine was not idle.
func busy(b *testing.B) float64 {
	b.Helper()
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		b.Fatal(err)
	}
	first, _, _ := strings.Cut(string(stat), "\n")
	ticks := 0
	for i, field := range strings.Fields(first)[1:] {
		n, err := strconv.Atoi(field)
		if err != nil {
			b.Fatal(err)
		}
		if i != 3 && i != 4 && i < 8 { // idle, iowait; guests are in user
			ticks += n
		}
	}
	return float64(ticks) / 100 // USER_HZ
}

// start runs a program in the place; what it gives ends it.
func (p place) start(b *testing.B, name string, args ...string) (stop func()) {
	b.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", string(p), name}, args...)...)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	}
}

// awaitPort waits until somebody listens.
func awaitPort(b *testing.B, from place, address string) {
	b.Helper()
	for range 100 {
		conn, err := from.dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.Fatalf("nobody listens at %s", address)
}

// BenchmarkConnect opens connections through a table of 1 and of 500 forwards,
// the last of them, and by plain routing: the chain listen is a list, and this
// is what it costs.
func BenchmarkConnect(b *testing.B) {
	l := newLab(b)
	l.targets[0].serve(b, "t1", 80)
	for _, n := range []int{0, 1, 500} {
		b.Run(fmt.Sprint("forwards=", n), func(b *testing.B) {
			address := at(v4(1, 2), 80)
			var fs []Forward
			for i := range n {
				port := uint16(10000 + i)
				fs = append(fs, Forward{Name: fmt.Sprint("f", i), Listen: listenOn(port), Protocols: []string{"tcp"},
					Targets: []Target{target(1, 80)}, Masquerade: true})
				address = at(edge4, int(port))
			}
			if n > 0 {
				l.edge.apply(b, fs...)
			}
			err := l.client.do(func() error {
				for b.Loop() {
					conn, err := net.Dial("tcp", address)
					if err != nil {
						return err
					}
					conn.(*net.TCPConn).SetLinger(0)
					conn.Close()
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkApply programs 500 forwards of three targets over those that are there.
func BenchmarkApply(b *testing.B) {
	host := bare(b, "host")
	var fs []Forward
	for i := range 500 {
		fs = append(fs, Forward{Name: fmt.Sprint("f", i), Listen: listenOn(uint16(10000 + i)), Protocols: []string{"tcp"},
			Targets: []Target{target(1, 80), target(2, 80), target(3, 80)}, Masquerade: true})
	}
	for b.Loop() {
		host.apply(b, fs...)
	}
}
