package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// forwardPeer is a program that passes TCP on.
type forwardPeer struct {
	name string
	*benchProxy
	at string // host:port
}

// startHAProxy runs HAProxy in TCP mode with more lines for its frontend.
func startHAProxy(b *testing.B, target, more string) forwardPeer {
	b.Helper()
	require(b, "haproxy")
	at := freeAddress(b)
	conf := writeFile(b, b.TempDir(), "haproxy.cfg", fmt.Sprintf(`global
    maxconn 7500
defaults
    mode tcp
    timeout connect 5s
    timeout client 10m
    timeout server 10m
    option splice-auto
frontend in
    bind %s
%s    default_backend out
backend out
    server one %s
`, at, more, target))
	return waitForward(b, "haproxy", at, startProcess(b, "haproxy", "-db", "-f", conf))
}

// startPreread runs nginx with ssl_preread.
func startPreread(b *testing.B, target string) (forwardPeer, bool) {
	b.Helper()
	const module = "/usr/lib/nginx/modules/ngx_stream_module.so"
	if _, err := os.Stat(module); err != nil {
		return forwardPeer{}, false
	}
	at, dir := freeAddress(b), b.TempDir()
	conf := writeFile(b, dir, "nginx.conf", fmt.Sprintf(`load_module %s;
daemon off; master_process off; pid %s/nginx.pid; error_log stderr warn; user root;
events { worker_connections 16384; }
stream {
	map $ssl_preread_server_name $to { app.mydomain.com %s; default ""; }
	server { listen %s; ssl_preread on; proxy_pass $to; }
}
`, module, dir, target, at))
	return waitForward(b, "nginx", at, startProcess(b, "nginx", "-p", dir, "-c", conf, "-e", "stderr")), true
}

// startForward runs causeway; more are further keys of the forward.
func startForward(b *testing.B, target, more string) forwardPeer {
	b.Helper()
	at := freeAddress(b)
	f := startForwards(b, "", fmt.Sprintf("  - {name: app, listen: %q, targets: [%q], health: {check: off}%s}\nlog: {access: false}", at, target, more))
	return waitForward(b, "causeway", at, f.process)
}

func waitForward(b *testing.B, name, at string, p *process) forwardPeer {
	b.Helper()
	eventually(b, name+" listens", func() bool {
		if p.ended() {
			b.Fatalf("%s ended: %s", name, p.stderrText())
		}
		c, err := net.Dial("tcp", at)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return forwardPeer{name, &benchProxy{processes: []*process{p}}, at}
}

// bothTurns measures each peer twice, in turns that go there and back, and
// reports the means and the ratio to the others.
func bothTurns(b *testing.B, unit string, peers []forwardPeer, measure func(forwardPeer) float64) {
	b.Helper()
	sums := map[string]float64{}
	for _, turn := range [][]int{{0, 1, 2}, {2, 1, 0}} {
		for _, i := range turn {
			if i < len(peers) {
				sums[peers[i].name] += measure(peers[i]) / 2
			}
		}
	}
	for _, p := range peers {
		b.ReportMetric(sums[p.name], p.name+"-"+unit)
		if p.name != "causeway" {
			b.ReportMetric(sums["causeway"]/sums[p.name], "x-"+p.name)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkForwardBulk is the processor time that a GB takes, from a target to a
// client over one connection.
func BenchmarkForwardBulk(b *testing.B) {
	const size = 4 << 30
	target := benchListen(b, func(c net.Conn) {
		chunk := make([]byte, 256<<10)
		_, _ = io.ReadFull(c, chunk[:1])
		for sent := 0; sent < size; sent += len(chunk) {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	})
	peers := []forwardPeer{startForward(b, target, ""), startHAProxy(b, target, "")}
	bothTurns(b, "cpu-ms/GB", peers, func(p forwardPeer) float64 {
		before := p.cpu(b)
		c, err := net.Dial("tcp", p.at)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		_, _ = c.Write([]byte("x"))
		buffer, got := make([]byte, 256<<10), 0
		for {
			n, err := c.Read(buffer)
			got += n
			if err != nil {
				break
			}
		}
		if got != size {
			b.Fatalf("%s: %d of %d bytes", p.name, got, size)
		}
		return float64((p.cpu(b) - before).Milliseconds()) / (float64(size) / 1e9)
	})
}

// BenchmarkForwardConnections is the processor time of a new connection: made,
// a byte there and back, ended.
func BenchmarkForwardConnections(b *testing.B) {
	target := benchListen(b, func(c net.Conn) { _, _ = io.Copy(c, c) })
	peers := []forwardPeer{startForward(b, target, ""), startHAProxy(b, target, "")}
	bothTurns(b, "cpu-us/conn", peers, func(p forwardPeer) float64 { return benchConnect(b, p, "x", 1) })
}

// BenchmarkForwardSNI is that of a connection whose TLS hello says where it goes.
// The target answers with an alert.
func BenchmarkForwardSNI(b *testing.B) {
	hello := benchHello("app.mydomain.com")
	target := benchListen(b, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "\x15\x03\x03\x00\x02\x02\x28")
	})
	peers := []forwardPeer{startForward(b, target, ", sni: [app.mydomain.com]")}
	if nginx, ok := startPreread(b, target); ok {
		peers = append(peers, nginx)
	}
	peers = append(peers, startHAProxy(b, target, "    tcp-request inspect-delay 5s\n    tcp-request content reject if !{ req.ssl_sni -i app.mydomain.com }\n"))
	bothTurns(b, "cpu-us/conn", peers, func(p forwardPeer) float64 { return benchConnect(b, p, hello, 7) })
}

// BenchmarkForwardIdle is the memory of an idle connection that has sent and got
// a byte. 10 000 would take 20 000 descriptors, and pipes, of HAProxy, and of this
// ends of them: it has that many in all.
func BenchmarkForwardIdle(b *testing.B) {
	const connections = 7000
	target := benchListen(b, func(c net.Conn) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 16))
	})
	peers := []forwardPeer{startForward(b, target, ""), startHAProxy(b, target, "")}
	for _, p := range peers {
		before := p.processes[0].memory(b)
		var open []net.Conn
		for range connections {
			c, err := net.Dial("tcp", p.at)
			if err != nil {
				b.Fatal(err)
			}
			open = append(open, c)
			one := []byte("x")
			_, _ = c.Write(one)
			if _, err := io.ReadFull(c, one); err != nil {
				b.Fatalf("%s: connection %d: %v", p.name, len(open), err)
			}
		}
		time.Sleep(2 * time.Second)
		b.ReportMetric(float64(p.processes[0].memory(b)-before)/connections/1000, p.name+"-KB/conn")
		for _, c := range open {
			c.Close()
		}
		time.Sleep(time.Second) // this process's own ends of them
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkForwardBesideBulk is how long a new connection that says a byte waits for
// its answer, eight at a time, while others carry as much as they can.
func BenchmarkForwardBesideBulk(b *testing.B) {
	target := benchListen(b, func(c net.Conn) {
		one := make([]byte, 1)
		_, _ = io.ReadFull(c, one)
		for chunk := make([]byte, 1<<20); one[0] == 'b'; {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
		_, _ = c.Write(one)
	})
	for _, p := range []forwardPeer{startForward(b, target, ""), startHAProxy(b, target, "")} {
		for _, bulk := range []int{20, 200} {
			var all []net.Conn
			for range bulk {
				c, err := net.Dial("tcp", p.at)
				if err != nil {
					b.Fatal(err)
				}
				all = append(all, c)
				_, _ = io.WriteString(c, "b")
				go func() {
					_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 1<<20))
				}()
			}
			time.Sleep(time.Second)
			var mu sync.Mutex
			var took []time.Duration
			var clients sync.WaitGroup
			end := time.Now().Add(5 * time.Second)
			for range 8 {
				clients.Go(func() {
					for time.Now().Before(end) {
						began := time.Now()
						c, err := net.Dial("tcp", p.at)
						if err != nil {
							b.Error(err)
							return
						}
						_, _ = io.WriteString(c, "s")
						_, _ = io.ReadAll(c)
						c.Close()
						mu.Lock()
						took = append(took, time.Since(began))
						mu.Unlock()
					}
				})
			}
			clients.Wait()
			for _, c := range all {
				c.Close()
			}
			slices.Sort(took)
			for _, percent := range []int{50, 99} {
				b.ReportMetric(float64(took[len(took)*percent/100].Microseconds())/1000, fmt.Sprintf("%s-beside-%d-p%d-ms", p.name, bulk, percent))
			}
		}
	}
	b.ReportMetric(0, "ns/op")
}

// benchConnect makes many connections, sixteen at a time, and gives the
// microseconds of processor time that each cost.
func benchConnect(b *testing.B, p forwardPeer, say string, answer int) float64 {
	b.Helper()
	const each, atATime = 500, 16
	before := p.cpu(b)
	var clients sync.WaitGroup
	for range atATime {
		clients.Go(func() {
			buffer := make([]byte, answer)
			for range each {
				c, err := net.Dial("tcp", p.at)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.WriteString(c, say)
				if _, err := io.ReadFull(c, buffer); err != nil {
					b.Errorf("%s: %v", p.name, err)
				}
				c.Close()
			}
		})
	}
	clients.Wait()
	time.Sleep(100 * time.Millisecond) // the ends
	return float64((p.cpu(b) - before).Microseconds()) / (each * atATime)
}

// benchListen serves connections for as long as the benchmark runs.
func benchListen(b *testing.B, handle func(net.Conn)) string {
	b.Helper()
	socket, err := net.Listen("tcp", freeAddress(b))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { socket.Close() })
	go func() {
		for {
			c, err := socket.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); handle(c) }()
		}
	}()
	return socket.Addr().String()
}

// benchHello is a TLS hello of the usual size that asks for a name.
func benchHello(name string) string {
	two := func(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }
	sni := "\x00\x00" + two(two("\x00"+two(name)))
	padding := "\x00\x15" + two(strings.Repeat("\x00", 300)) // RFC 7685
	body := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + two("\x13\x01\x13\x02") + "\x01\x00" + two(sni+padding)
	return "\x16\x03\x01" + two("\x01\x00"+two(body))
}
