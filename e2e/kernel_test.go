package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKernelForward: the kernel forwards to targets that are well, while the
// node runs, after it was killed, and after it came back; a dead target costs
// nobody a connection once it is found out; `down` takes all away.
func TestKernelForward(t *testing.T) {
	require(t, "nft")
	n := newNetworks(t)
	gateway, visitor := place(n.gateway), place(n.visitor)
	gateway.set(t, "net/ipv4/ip_forward", "1")
	targets := map[string]*nginx{}
	for i, name := range []string{"a", "b", "c"} {
		targets[name] = startNginxIn(t, n.origin, fmt.Sprintf("%s:%d", n.private, 81+i),
			fmt.Sprintf(`keepalive_timeout 0; server { listen %d; location / { return 200 "%s $remote_addr"; } }`, 81+i, name))
	}
	forwards := fmt.Sprintf(`  - {name: app, entry: kernel, listen: ":8443", targets: ["%[1]s:81", "%[1]s:82", "%[1]s:83"]}`, n.private)
	f := startForwards(t, gateway, forwards)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return visitor.dial(ctx, network, n.public+":8443")
		}}}
	visit := func(times int) (seen map[string]int, failed int) {
		seen = map[string]int{}
		for range times {
			res, err := client.Get("http://app/")
			if err != nil {
				failed++
				continue
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			name, from, _ := strings.Cut(string(body), " ")
			if seen[name]++; from != "10.81.2.1" {
				t.Errorf("%s saw %s: it is not masqueraded", name, from)
			}
		}
		return seen, failed
	}
	rules := func() string {
		return mustRun(t, "ip", "netns", "exec", n.gateway, "nft", "--stateless", "list", "ruleset").stdout
	}
	listens := func(port int) bool { return regexp.MustCompile(fmt.Sprintf(`\b%d\b`, port)).MatchString(rules()) } // and no count or seed has it by chance
	eventually(t, "the kernel was told", func() bool { return strings.Contains(rules(), "table inet causeway") })
	if seen, failed := visit(60); failed > 0 || len(seen) != 3 {
		t.Errorf("%v, %d failed", seen, failed)
	}
	shown := mustRun(t, "ip", "netns", "exec", n.gateway, binary, "show", "nft", f.file).stdout
	file := writeFile(t, t.TempDir(), "shown.nft", shown)
	mustRun(t, "ip", "netns", "exec", n.gateway, "nft", "--check", "--file", file)
	if n := f.labelled(`causeway_forward_kernel_connections_total{forward="app"}`); n != 60 {
		t.Errorf("%v connections are counted", n)
	}

	metrics := map[string]string{}
	_, text := f.ask("/metrics")
	addMetrics(metrics, text)
	page := tableOf(t, "docs/logs-and-metrics.md", "metric")
	for name, row := range page {
		if strings.HasPrefix(name, kernelMetrics) && !sameWords(row[1], metrics[name]) {
			t.Errorf("the page has %q for the metric %s with the labels %q", row, name, metrics[name])
		}
	}
	for name := range metrics {
		if page[name] == nil {
			t.Errorf("the page lacks the metric %s", name)
		}
	}

	targets["b"].kill()
	down := fmt.Sprintf(`causeway_forward_target_state{address="%s",forward="app",state="down",target="%[1]s:82"}`, n.private)
	eventually(t, "it is found out", func() bool { return f.labelled(down) == 1 && strings.Contains(f.stderrText(), "2 of 3 are well") })
	if seen, failed := visit(60); failed > 0 || seen["b"] > 0 || len(seen) != 2 {
		t.Errorf("after a target died: %v, %d failed", seen, failed)
	}
	said := mustRun(t, "ip", "netns", "exec", n.gateway, binary, "forwards", "--config", f.file).stdout
	for _, want := range []string{
		`(?m)^app +:8443 +kernel +- +120 +[1-9].* [KM]iB +[1-9].* [KM]iB$`, `(?m)^app +[0-9.]+:81 +up \d+s +1 +50 % +- +[1-9]\d+ +- +well$`,
		`(?m)^app +[0-9.]+:82 +down \d+s +1 +0 % +- +[1-9]\d* +- +failed$`, `(?m)^app: [0-9.]+:82: down: check .*refused$`,
	} {
		if !regexp.MustCompile(want).MatchString(said) {
			t.Errorf("causeway forwards does not say %s:\n%s", want, said)
		}
	}

	f.kill()
	if seen, failed := visit(30); failed > 0 || len(seen) != 2 {
		t.Errorf("after the node was killed: %v, %d failed", seen, failed)
	}
	// A file without forwards of the kernel leaves the rules, and says so.
	other := startForwards(t, gateway, `  - {name: app, listen: "127.0.0.1:9443", targets: ["127.0.0.1:1"]}`)
	eventually(t, "it tells of the rules", func() bool { return strings.Contains(other.stderrText(), "`causeway down` takes them away") })
	other.kill()
	if _, failed := visit(10); failed > 0 {
		t.Errorf("after a node without such forwards: %d failed", failed)
	}
	gateway.set(t, "net/ipv4/ip_forward", "0")
	f = startForwards(t, gateway, forwards)
	eventually(t, "it says what the machine lacks", func() bool { return strings.Contains(f.stderrText(), "net.ipv4.ip_forward=1") })
	gateway.set(t, "net/ipv4/ip_forward", "1")
	eventually(t, "it is found out again", func() bool { return strings.Contains(f.stderrText(), "2 of 3 are well") })
	if seen, failed := visit(30); failed > 0 || seen["b"] > 0 {
		t.Errorf("after it came back: %v, %d failed", seen, failed)
	}

	// A forward that a new file has no more goes, another stays.
	f.write(t, forwards+"\n"+strings.NewReplacer("app", "other", "8443", "8444").Replace(forwards))
	f.signal(t, syscall.SIGHUP)
	eventually(t, "both are there", func() bool { return listens(8444) })
	f.write(t, forwards)
	f.signal(t, syscall.SIGHUP)
	eventually(t, "one is gone", func() bool { return !listens(8444) && listens(8443) })
	if _, failed := visit(10); failed > 0 {
		t.Errorf("after reloads: %d failed", failed)
	}

	mustRun(t, "ip", "netns", "exec", n.gateway, "nft", "delete", "table", "inet", "causeway")
	eventually(t, "it is put back", func() bool { return strings.Contains(rules(), "table inet causeway") })

	f.signal(t, syscall.SIGTERM)
	eventually(t, "the node stops", f.ended)
	if _, failed := visit(10); failed > 0 {
		t.Errorf("after the node stopped: %d failed", failed)
	}
	mustRun(t, "ip", "netns", "exec", n.gateway, binary, "down")
	if text := rules(); strings.Contains(text, "causeway") {
		t.Errorf("down leaves:\n%s", text)
	}
	if _, failed := visit(1); failed != 1 {
		t.Error("after down a connection comes through")
	}
	mustRun(t, "ip", "netns", "exec", n.gateway, binary, "down") // nothing is there: fine
}

// namer answers everybody, over TCP and UDP, with a name and the address that it
// sees.
type namer struct {
	tcp net.Listener
	udp net.PacketConn
}

func startNamer(t *testing.T, at place, address, name string) *namer {
	t.Helper()
	n := &namer{tcp: at.listen(t, address), udp: at.packets(t, address)}
	say := func(to net.Addr) []byte {
		host, _, _ := net.SplitHostPort(to.String())
		return []byte(name + " " + host)
	}
	go func() {
		for {
			c, err := n.tcp.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write(say(c.RemoteAddr()))
			c.Close()
		}
	}()
	go func() {
		for {
			_, from, err := n.udp.ReadFrom(make([]byte, 16))
			if err != nil {
				return
			}
			_, _ = n.udp.WriteTo(say(from), from)
		}
	}()
	return n
}

// answerOf sends a packet on a UDP connection, and gives the answer.
func answerOf(t *testing.T, c net.Conn) string {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	buffer := make([]byte, 64)
	if _, err := c.Write([]byte("?")); err != nil {
		return err.Error()
	}
	n, err := c.Read(buffer)
	if err != nil {
		return err.Error()
	}
	return string(buffer[:n])
}

// TestKernelForwardEveryKind: TCP and UDP, IPv4 and IPv6, through ranges of
// ports; when a target dies, new connections and what was with it go to the
// other, and what is with that stays there.
func TestKernelForwardEveryKind(t *testing.T) {
	n := newNetworks(t)
	gateway, visitor, origin := place(n.gateway), place(n.visitor), place(n.origin)
	gateway.set(t, "net/ipv4/ip_forward", "1")
	gateway.set(t, "net/ipv6/conf/all/forwarding", "1")
	const port = "20001"
	families := []struct{ name, public, first, second, seenAs string }{
		{"four", n.public, n.private, "10.81.2.3", "10.81.2.1"},
		{"six", n.public6, n.private6, "fd81:2::3", "fd81:2::1"},
	}
	mustRun(t, "ip", "-n", n.origin, "address", "add", "10.81.2.3/24", "dev", "left")
	mustRun(t, "ip", "-n", n.origin, "address", "add", "fd81:2::3/64", "dev", "left", "nodad")
	var forwards []string
	dying := map[string]*namer{}
	for _, family := range families {
		forwards = append(forwards, fmt.Sprintf(`  - {name: %s, entry: kernel, protocols: [tcp, udp], listen: %q, targets: [%q, %q], health: {port: %s}}`,
			family.name, net.JoinHostPort(family.public, "20000-20003"), family.first, family.second, port))
		startNamer(t, origin, net.JoinHostPort(family.first, port), "a")
		dying[family.name] = startNamer(t, origin, net.JoinHostPort(family.second, port), "b")
	}
	f := startForwards(t, gateway, strings.Join(forwards, "\n"))
	eventually(t, "the kernel was told", func() bool {
		return strings.Contains(mustRun(t, "ip", "netns", "exec", n.gateway, "nft", "list", "ruleset").stdout, "table inet causeway")
	})
	if !strings.Contains(mustRun(t, "ip", "netns", "exec", n.gateway, binary, "check", "--live", f.file).stdout, "targets: 4 asked: fine") {
		t.Error("check --live does not reach the targets")
	}
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			at := net.JoinHostPort(family.public, port)
			connect := func(network string) net.Conn {
				c, err := visitor.dial(t.Context(), network, at)
				if err != nil {
					t.Fatalf("%s: %v", network, err)
				}
				t.Cleanup(func() { c.Close() })
				return c
			}
			flows := map[string]net.Conn{} // UDP, by the target that they are with
			visit := func(times int) map[string]int {
				seen := map[string]int{}
				for range times {
					answer, _ := io.ReadAll(connect("tcp"))
					seen["tcp "+string(answer)]++
					c := connect("udp")
					answer = []byte(answerOf(t, c))
					seen["udp "+string(answer)]++
					name, _, _ := strings.Cut(string(answer), " ")
					flows[name] = c
				}
				return seen
			}
			want := map[string]bool{}
			for _, answer := range []string{"tcp a ", "tcp b ", "udp a ", "udp b "} {
				want[answer+family.seenAs] = true
			}
			seen := visit(20)
			for answer := range seen {
				if !want[answer] {
					t.Errorf("an answer %q", answer)
				}
			}
			if len(seen) != len(want) {
				t.Errorf("seen: %v", seen)
			}
			if n := f.labelled(fmt.Sprintf(`causeway_forward_kernel_connections_total{forward=%q}`, family.name)); n != 40 {
				t.Errorf("%v connections are counted", n)
			}
			for name, c := range flows {
				if answer := answerOf(t, c); answer != name+" "+family.seenAs {
					t.Errorf("a flow with %s is answered %q", name, answer)
				}
			}
			before := flows
			flows = map[string]net.Conn{}
			dying[family.name].tcp.Close()
			eventually(t, "it is found out", func() bool {
				return strings.Contains(f.stderrText(), "forward="+family.name) && f.labelled(fmt.Sprintf(`causeway_forward_target_state{address=%q,forward=%q,state="down",target=%[1]q}`, family.second, family.name)) == 1
			})
			eventually(t, "the flow of the dead target is with the other", func() bool { return answerOf(t, before["b"]) == "a "+family.seenAs })
			if seen := visit(20); seen["tcp a "+family.seenAs] != 20 || seen["udp a "+family.seenAs] != 20 {
				t.Errorf("after a target died: %v", seen)
			}
			if answer := answerOf(t, before["a"]); answer != "a "+family.seenAs {
				t.Errorf("a flow of the other is answered %q", answer)
			}
		})
	}

	// Targets that route their answers through the gateway see the client itself:
	// it stands in nginx's log.
	mustRun(t, "ip", "-n", n.origin, "route", "add", "10.81.1.0/24", "via", "10.81.2.1")
	mustRun(t, "ip", "-n", n.origin, "-6", "route", "add", "fd81:1::/64", "via", "fd81:2::1")
	web := startNginxIn(t, n.origin, n.private+":80", `log_format client '$remote_addr $request';
		server { listen 80; listen [::]:80; access_log DIR/client.log client; location / { return 200 "hello"; } }`)
	f.write(t, fmt.Sprintf(`  - {name: seen, entry: kernel, listen: ":8080", targets: ["%s:80"], masquerade: false}
  - {name: seen6, entry: kernel, listen: "[%s]:8081", targets: ["[%s]:80"], masquerade: false}`, n.private, n.public6, n.private6))
	if !f.reload(t) {
		t.Fatal(f.stderrText())
	}
	for at, client := range map[string]string{n.public + ":8080": "10.81.1.2", "[" + n.public6 + "]:8081": "fd81:1::2"} {
		command := inside(n.visitor, "curl", "-q", "-sS", "--max-time", "5", "--retry", "5", "--retry-all-errors", "http://"+at+"/by-"+client)
		if r := runProgram(t, command[0], command[1:]...); r.stdout != "hello" {
			t.Errorf("%s: %+v", at, r)
		}
		eventually(t, "the request is in nginx's log", func() bool {
			log, _ := os.ReadFile(filepath.Join(web.dir, "client.log"))
			return strings.Contains(string(log), client+" GET /by-"+client+" ")
		})
	}
	f.signal(t, syscall.SIGTERM)
	f.wait(t)
	mustRun(t, "ip", "netns", "exec", n.gateway, binary, "down")
}

// A node that may not program the kernel says so, and what to do, and does not
// start.
func TestKernelForwardWithoutTheRight(t *testing.T) {
	n := newNetworks(t)
	dir := t.TempDir()
	file := writeFile(t, dir, "causeway.yaml", fmt.Sprintf("listen: {admin: %q}\nforwards:\n  - {name: app, entry: kernel, listen: \":8443\", targets: [\"10.81.2.2:80\"]}\n", freeAddress(t)))
	r := runProgram(t, "ip", "netns", "exec", n.gateway, "setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin", binary, "run", "--config", file)
	if r.code == 0 || !strings.Contains(r.stderr, "CAP_NET_ADMIN") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
}
