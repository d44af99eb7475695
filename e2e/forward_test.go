package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"causeway/outcome"
)

// forwarding is a node that does forwards.
type forwarding struct {
	*node
	file string
}

// startForwards runs a node with a list of forwards.
func startForwards(t testing.TB, netns place, forwards string) *forwarding {
	t.Helper()
	admin := freeAddress(t)
	f := &forwarding{file: filepath.Join(t.TempDir(), "causeway.yaml")}
	f.node = &node{admin: admin, place: netns}
	f.write(t, forwards)
	f.node = launchNodeIn(t, netns, admin, "run", "--config", f.file)
	f.ready(t)
	return f
}

// write replaces the file.
func (f *forwarding) write(t testing.TB, forwards string) {
	t.Helper()
	writeFile(t, filepath.Dir(f.file), filepath.Base(f.file), fmt.Sprintf("listen: {admin: %q}\nforwards:\n%s\n", f.admin, forwards))
}

// connectionRecord is a line of the access log about a connection.
type connectionRecord struct {
	Level, Msg, Forward, Client, Peer, Local, Name, Target, Address, End, Err string
	Client_port, Tries                                                        int
	In, Out                                                                   int64
}

// connections are the access log so far.
func (f *forwarding) connections(t testing.TB) []connectionRecord {
	t.Helper()
	var all []connectionRecord
	for _, line := range f.stdoutLines() {
		var r connectionRecord
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Msg != "connection" {
			t.Fatalf("the access log has a line %q: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

// labelled is the value of a metric with labels; -1 when there is none.
func (f *forwarding) labelled(name string) float64 {
	_, text := f.ask("/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			var n float64
			_, _ = fmt.Sscan(value, &n)
			return n
		}
	}
	return -1
}

// startTargets are three nginx that each say their name, and wait for the
// requests in time.
func startTargets(t testing.TB, more string) []*nginx {
	t.Helper()
	var all []*nginx
	for _, name := range []string{"a", "b", "c"} {
		address := freeAddress(t)
		all = append(all, startNginx(t, address, fmt.Sprintf(`keepalive_timeout 0; server { listen %s; %s location / { return 200 %q; } }`, address, more, name)))
	}
	return all
}

// A target that dies costs nobody a connection: those that are dialled are tried
// elsewhere, and after the checks have failed nobody is sent there.
func TestForwardDeadTarget(t *testing.T) {
	targets := startTargets(t, "")
	at := freeAddress(t)
	f := startForwards(t, "", fmt.Sprintf(`  - {name: app, listen: %q, targets: [%q, %q, %q]}`, at, targets[0].address, targets[1].address, targets[2].address))
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	visit := func(n int) map[string]int {
		t.Helper()
		seen := map[string]int{}
		for range n {
			seen[string(get(t, client, "http://"+at+"/").body)]++
		}
		return seen
	}
	if seen := visit(30); seen["a"] != 10 || seen["b"] != 10 || seen["c"] != 10 {
		t.Errorf("by turns: %v", seen)
	}
	targets[1].kill()
	seen := visit(60) // before and while it is found out
	if seen["a"]+seen["c"] != 60 {
		t.Errorf("while it is found out: %v", seen)
	}
	down := fmt.Sprintf("causeway_forward_target_state{address=\"127.0.0.1\",forward=\"app\",state=\"down\",target=%q}", targets[1].address)
	eventually(t, "it is down", func() bool { return f.labelled(down) == 1 })
	tried := f.labelled(fmt.Sprintf("causeway_forward_dials_total{forward=\"app\",target=%q}", targets[1].address))
	visit(60)
	if now := f.labelled(fmt.Sprintf("causeway_forward_dials_total{forward=\"app\",target=%q}", targets[1].address)); now != tried {
		t.Errorf("a target that is down was dialled %v times", now-tried)
	}
	targets[1].start(t)
	eventually(t, "it is up", func() bool { return f.labelled(down) == 0 })
	if seen := visit(30); seen["b"] == 0 {
		t.Errorf("back again: %v", seen)
	}
	for _, r := range f.connections(t) {
		if r.End != "done" || r.Forward != "app" || r.Client != "127.0.0.1" || r.Client_port == 0 {
			t.Errorf("record %+v", r)
		}
	}
}

// A target whose packets are lost answers neither with an end nor with a reset.
// Dials in flight to it are tried elsewhere, when its checks find it out or half
// of the time to dial is over, and then nobody is sent there.
func TestForwardBlackHole(t *testing.T) {
	require(t, "nft")
	n := newNetworks(t)
	gateway, visitor := place(n.gateway), place(n.visitor)
	startNginxIn(t, n.origin, n.private+":81", `keepalive_timeout 0; server { listen 81; listen 82; location / { return 200 $server_port; } }`)
	hole := func(verb string) {
		t.Helper()
		rules := "delete table inet hole"
		if verb == "dig" {
			rules = "table inet hole { chain in { type filter hook input priority 0; tcp dport 82 drop; }; }"
		}
		mustRun(t, "ip", "netns", "exec", n.origin, "nft", rules)
	}
	for _, c := range []struct{ name, checks string }{
		{"found out by its checks", "health: {every: 100ms, timeout: 300ms}, limits: {dial_timeout: 1m}"},
		{"found out by connections", "health: {check: off}, limits: {dial_timeout: 1s}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := startForwards(t, gateway, fmt.Sprintf(`  - {name: app, listen: "%s:8443", targets: ["%s:81", "%[2]s:82"], %s}`, n.public, n.private, c.checks))
			client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
				DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return visitor.dial(ctx, network, n.public+":8443")
				}}}
			visit := func(at int) map[string]int {
				t.Helper()
				var mu sync.Mutex // guards seen
				seen := map[string]int{}
				var visitors sync.WaitGroup
				for range at {
					visitors.Go(func() {
						said := "nothing"
						if res, err := client.Get("http://app/"); err == nil {
							body, _ := io.ReadAll(res.Body)
							res.Body.Close()
							said = string(body)
						}
						mu.Lock()
						defer mu.Unlock()
						seen[said]++
					})
				}
				visitors.Wait()
				return seen
			}
			if seen := visit(10); seen["81"] != 5 || seen["82"] != 5 {
				t.Fatalf("by turns: %v", seen)
			}
			hole("dig")
			if seen := visit(20); seen["81"] != 20 {
				t.Errorf("while it is found out: %v", seen)
			}
			state := func(word string) bool {
				return f.labelled(fmt.Sprintf(`causeway_forward_target_state{address="%s",forward="app",state=%q,target="%[1]s:82"}`, n.private, word)) == 1
			}
			eventually(t, "it is left out", func() bool { return state("down") || state("ejected") })
			if seen := visit(20); seen["81"] != 20 {
				t.Errorf("afterwards: %v", seen)
			}
			var records []connectionRecord
			eventually(t, "all have a record", func() bool { records = f.connections(t); return len(records) == 50 })
			retried := 0
			for i, r := range records {
				if r.End != "done" || r.Tries > 2 || i >= 30 && r.Tries != 1 {
					t.Errorf("record %d: %+v", i, r)
				}
				retried += r.Tries - 1
			}
			if retried == 0 {
				t.Error("no connection was tried again")
			}
			hole("fill")
		})
	}
}

// The targets' log shows the client's address, of a real nginx with PROXY, and a
// stranger's claim ends the connection.
func TestForwardTellsTheClient(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		address, at, behind := freeAddress(t), freeAddress(t), freeAddress(t)
		origin := startNginx(t, address, fmt.Sprintf(`log_format client '$proxy_protocol_addr $proxy_protocol_port $request';
			server { listen %s proxy_protocol; access_log DIR/client.log client; location / { return 200 "hello"; } }`, address))
		f := startForwards(t, "", fmt.Sprintf(`
  - {name: app, listen: %q, targets: [%q], proxy: {send: %s}}
  - {name: behind, listen: %q, targets: [%q], proxy: {send: %[3]s, accept: [127.0.0.1]}, health: {check: http}}`, at, address, version, behind, address))
		if got := curl(t, "--interface", "127.0.0.9", "http://"+at+"/direct"); got.stdout != "hello" {
			t.Fatalf("%s: %+v", version, got)
		}
		c, err := net.Dial("tcp", behind)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, "PROXY TCP4 198.51.100.7 198.51.100.10 12345 443\r\nGET /behind HTTP/1.0\r\n\r\n")
		answer, _ := io.ReadAll(c)
		c.Close()
		if !strings.HasSuffix(string(answer), "hello") {
			t.Errorf("%s: behind a balancer: %q", version, answer)
		}
		if c, err = net.Dial("tcp", at); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, "PROXY TCP4 198.51.100.7 198.51.100.10 12345 443\r\nGET /stranger HTTP/1.0\r\n\r\n")
		answer, _ = io.ReadAll(c)
		c.Close()
		if strings.Contains(string(answer), "hello") {
			t.Errorf("%s: a stranger was served: %q", version, answer)
		}
		var log string
		eventually(t, "the requests are in nginx's log", func() bool {
			text, _ := os.ReadFile(filepath.Join(origin.dir, "client.log"))
			log = string(text)
			return strings.Contains(log, "/behind") && strings.Contains(log, "/direct")
		})
		if !strings.Contains(log, "127.0.0.9 ") || !strings.Contains(log, "198.51.100.7 12345 GET /behind") || strings.Contains(log, "stranger") {
			t.Errorf("%s: nginx saw\n%s", version, log)
		}
		eventually(t, "the stranger is in the access log", func() bool { return strings.Contains(f.stdoutText(), `"end":"proxy_stranger"`) })
		if state := f.labelled(fmt.Sprintf("causeway_forward_target_state{address=\"127.0.0.1\",forward=\"behind\",state=\"up\",target=%q}", address)); state != 1 {
			t.Errorf("%s: the check says %v", version, state)
		}
	}
}

// A reload, one that is refused, and one that takes the forward away leave
// connections alone.
func TestForwardReload(t *testing.T) {
	echo := echoServer(t)
	at, other := freeAddress(t), freeAddress(t)
	f := startForwards(t, "", fmt.Sprintf(`  - {name: app, listen: %q, targets: [%q]}`, at, echo))
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lines := bufio.NewReader(c)
	still := func(when string) {
		t.Helper()
		fmt.Fprintln(c, when)
		if line, err := lines.ReadString('\n'); err != nil || line != when+"\n" {
			t.Fatalf("%s: %q, %v", when, line, err)
		}
	}
	still("at first")
	for _, direction := range []string{"in", "out"} {
		eventually(t, "bytes are counted while they move", func() bool {
			return f.labelled(fmt.Sprintf(`causeway_forward_bytes_total{direction=%q,forward="app"}`, direction)) == float64(len("at first\n"))
		})
	}
	f.write(t, fmt.Sprintf(`  - {name: app, listen: [%q, %q], targets: [%q], balance: hash}`, at, other, echo))
	if !f.reload(t) {
		t.Fatal(f.stderrText())
	}
	still("after a change")
	f.write(t, `  - {name: app, listen: ":1", targets: []}`)
	if f.reload(t) {
		t.Error("a wrong file is served")
	}
	still("after a wrong file")
	f.write(t, fmt.Sprintf(`  - {name: app, listen: %q, targets: [%q]}`, echo, at))
	if f.reload(t) {
		t.Error("a file with an address that is taken is served")
	}
	still("after an address that is taken")
	f.write(t, fmt.Sprintf(`  - {name: other, listen: %q, targets: [%q]}`, other, echo))
	if !f.reload(t) {
		t.Fatal(f.stderrText())
	}
	still("after its end")
	if _, err := net.Dial("tcp", at); err == nil {
		t.Error("the forward that is no more listens")
	}
	f.signal(t, syscall.SIGTERM)
	still("while it stops")
	c.Close()
	if code := f.wait(t); code != 0 {
		t.Errorf("exit %d", code)
	}
	if got := f.connections(t); len(got) != 1 || got[0].End != "done" {
		t.Errorf("records %+v", got)
	}
}

// echoServer sends back what it is sent.
func echoServer(t testing.TB) string {
	t.Helper()
	socket, err := net.Listen("tcp", freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	go func() {
		for {
			c, err := socket.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	return socket.Addr().String()
}

// Twice as many connections as the limit: so many are served, the others reset,
// and nothing is left when they are gone. 20 000 against 10 000 take 60 000
// descriptors on one machine, of which this process and the node have 20 000
// each here at the least: so 4 000 against 2 000.
func TestForwardFlood(t *testing.T) {
	const most, coming = 2000, 4000
	echo := echoServer(t)
	at := freeAddress(t)
	f := startForwards(t, "", fmt.Sprintf(`  - {name: app, listen: %q, targets: [%q], limits: {connections: %d}}`, at, echo, most))
	files := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", f.pid()))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	goroutines := func() string { return f.metric(t, "go_goroutines") }
	filesBefore := files()
	var served, refused atomic.Int64
	var mu sync.Mutex // guards open
	var open []net.Conn
	var visitors sync.WaitGroup
	for range 40 {
		visitors.Go(func() {
			for range coming / 40 {
				c, err := net.Dial("tcp", at)
				if err != nil {
					refused.Add(1)
					continue
				}
				_ = c.SetDeadline(time.Now().Add(patience))
				b := []byte("x")
				if _, err = c.Write(b); err == nil {
					_, err = io.ReadFull(c, b)
				}
				if err != nil {
					refused.Add(1)
					c.Close()
					continue
				}
				served.Add(1)
				mu.Lock()
				open = append(open, c)
				mu.Unlock()
			}
		})
	}
	visitors.Wait()
	if served.Load() != most || refused.Load() != coming-most {
		t.Errorf("%d served, %d refused", served.Load(), refused.Load())
	}
	if n := f.labelled(`causeway_forward_connections{forward="app"}`); n != most {
		t.Errorf("%v are open", n)
	}
	for _, c := range open {
		c.Close()
	}
	eventually(t, "all ended", func() bool { return f.labelled(`causeway_forward_connections_total{end="done",forward="app"}`) == most })
	if n := f.labelled(`causeway_forward_connections_total{end="limit",forward="app"}`); n != coming-most {
		t.Errorf("%v were refused for the limit", n)
	}
	eventually(t, "no goroutine is left", func() bool { return len(goroutines()) <= 2 })
	eventually(t, "the descriptors are back, but for the pipes that are kept", func() bool { return files() <= filesBefore+2*64+10 })
	t.Logf("%d descriptors before, %d after; %s goroutines", filesBefore, files(), goroutines())
}

// When no port is left for one target another is tried; when none is left for
// any, the record says so.
func TestForwardNoPorts(t *testing.T) {
	n := newNetworks(t)
	startNginxIn(t, n.origin, n.private+":80", `keepalive_timeout 60; server { listen 80; listen 81; location / { return 200 "hello"; } }`)
	mustRun(t, "ip", "netns", "exec", n.gateway, "sh", "-c", "echo 40000 40003 >/proc/sys/net/ipv4/ip_local_port_range")
	at := n.public + ":8443"
	f := startForwards(t, place(n.gateway), fmt.Sprintf(`  - {name: app, listen: %q, targets: ["%s:80", "%[2]s:81"], health: {check: off}}`, at, n.private))
	gate := place(n.visitor)
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	served := 0
	for range 12 {
		c, err := gate.dial(t.Context(), "tcp", at)
		if err != nil {
			continue
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
			served++
		}
		open = append(open, c)
	}
	eventually(t, "the records of those that found no port", func() bool { return strings.Contains(f.stdoutText(), `"end":"no_ports"`) })
	if served < 4 || served > 8 { // four ports for each of two targets
		t.Errorf("%d were served", served)
	}
	for _, r := range f.connections(t) {
		if r.End != string(outcome.EndNoPorts) || r.Tries != 2 || r.Level != "ERROR" || !strings.Contains(r.Err, "cannot assign requested address") {
			t.Errorf("record %+v", r)
		}
	}
	if n := f.labelled(`causeway_forward_ejections_total{forward="app",target="` + n.private + `:80"}`); n != 0 {
		t.Errorf("the target was blamed %v times", n)
	}
}
