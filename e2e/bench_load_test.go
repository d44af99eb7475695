package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// benchProto is how the load comes: 32 requests at a time, over connections that
// are kept.
type benchProto struct {
	name, scheme string
	args         []string // of h2load
}

var (
	benchHTTP1 = benchProto{"http1", "http", []string{"--h1", "-c", "32", "-m", "1"}}
	// One cipher for all: nginx and Go would each choose another.
	benchTLSH2 = benchProto{"tls-h2", "https", []string{"-c", "8", "-m", "4", "--tls13-ciphers=TLS_AES_128_GCM_SHA256"}}
	// Four at a time, of what is large.
	benchLargeHTTP1 = benchProto{"http1", "http", []string{"--h1", "-c", "4", "-m", "1"}}
	benchLargeTLSH2 = benchProto{"tls-h2", "https", []string{"-c", "4", "-m", "1", "--tls13-ciphers=TLS_AES_128_GCM_SHA256"}}
	// What browsers say.
	benchBrowser = benchProto{"tls-h2", "https", append(benchTLSH2.args, "-H", "Accept-Encoding: gzip, deflate, br, zstd")}
)

// benchContender is a proxy and what it is asked for.
type benchContender struct {
	name  string
	proxy *benchProxy
	host  string // the public host
	path  string
}

// benchDrive sends so many requests and gives the nanoseconds of processor time
// that each cost the contender.
func benchDrive(b *testing.B, c benchContender, proto benchProto, requests int) float64 {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 2*time.Minute)
	defer cancel()
	args := append([]string{"-t", "1", "-n", strconv.Itoa(requests), "--connect-to", c.proxy.address(proto)}, proto.args...)
	load := exec.CommandContext(ctx, "h2load", append(args, proto.scheme+"://"+c.host+c.path)...)
	before := c.proxy.cpu(b)
	out, err := load.CombinedOutput()
	spent := c.proxy.cpu(b) - before
	if err != nil {
		b.Fatalf("h2load: %v\n%s", err, out)
	}
	if done := benchDone.FindSubmatch(out); done == nil || string(done[1]) != strconv.Itoa(requests) {
		b.Fatalf("%s did not answer all of %d requests:\n%s", c.name, requests, out)
	}
	return float64(spent.Nanoseconds()) / float64(requests)
}

// benchDone is h2load's line of statuses.
var benchDone = regexp.MustCompile(`status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx`)

// benchSame fetches the page from every contender and wants the same bytes, and
// none of the origin's names.
func benchSame(b *testing.B, proto benchProto, contenders []benchContender) {
	b.Helper()
	var first []byte
	for i, c := range contenders {
		body, err := io.ReadAll(benchGet(b, c, proto).Body)
		if err != nil {
			b.Fatal(err)
		}
		if bytes.Contains(body, []byte(benchOriginHost)) {
			b.Fatalf("%s: the answer names %s", c.name, benchOriginHost)
		}
		if i == 0 {
			first = body
		} else if !bytes.Equal(body, first) {
			b.Fatalf("%s and %s answer differently: %d and %d bytes", contenders[0].name, c.name, len(first), len(body))
		}
	}
}

// benchDiscard fetches the page and gives its length.
func benchDiscard(b *testing.B, c benchContender, proto benchProto, fields ...string) int64 {
	b.Helper()
	n, err := io.Copy(io.Discard, benchGet(b, c, proto, fields...).Body)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// benchGet asks for the page. The body is closed with the benchmark.
func benchGet(b *testing.B, c benchContender, proto benchProto, fields ...string) *http.Response {
	b.Helper()
	transport := &http.Transport{
		DisableCompression: true, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the certificates are other benchmarks' matter
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, c.proxy.address(proto))
		},
	}
	b.Cleanup(transport.CloseIdleConnections)
	res, err := (&http.Client{Transport: transport}).Do(newRequest(b, http.MethodGet, proto.scheme+"://"+c.host+c.path, nil, fields...))
	if err != nil {
		b.Fatalf("%s: %v", c.name, err)
	}
	b.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		b.Fatalf("%s: %s", c.name, res.Status)
	}
	return res
}

// cpu is the processor time the proxy's processes have used, user and system:
// the sum that /proc/PID/stat shows in hundredths of a second (utime + stime),
// read to the nanosecond from the process's clock.
func (p *benchProxy) cpu(b *testing.B) time.Duration {
	b.Helper()
	var total time.Duration
	pids := slices.Clone(p.children)
	for _, process := range p.processes {
		pids = append(pids, process.pid())
	}
	for _, pid := range pids {
		// clock_getcpuclockid(3): the complement of the process id, and 2 for
		// CPUCLOCK_SCHED.
		clock := uintptr(^pid<<3 | 2)
		var spent syscall.Timespec
		if _, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&spent)), 0); errno != 0 {
			b.Fatalf("clock of process %d: %v", pid, errno)
		}
		total += time.Duration(spent.Nano())
	}
	return total
}

// peakMemory is the most memory that the proxy's processes ever held, in bytes.
func (p *benchProxy) peakMemory(b *testing.B) (total int64) {
	b.Helper()
	for _, process := range p.processes {
		total += process.peakMemory(b)
	}
	return total
}
