package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"causeway/cert"
)

// patience bounds every wait for something that must happen. It is no
// assertion about speed: on a healthy machine nothing comes near it.
const patience = 20 * time.Second

// binary is the program under test.
var binary = os.Getenv("CAUSEWAY")

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if binary != "" {
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "causeway-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "causeway")
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "causeway/cmd/causeway")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build causeway: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// eventually waits until done, and fails the test when it never is.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("waited %v in vain: %s", patience, what)
}

// freePorts hands ports out. They are below those that the system gives to
// outgoing connections (32768 and up), so that none is taken by one before it is
// listened on.
var freePorts = struct {
	mu   sync.Mutex // guards next
	next int
}{next: 10_000 + rand.IntN(20_000)}

// freeAddress is a loopback address with a port that nobody listens on and that
// no other caller has.
func freeAddress(t testing.TB) string {
	t.Helper()
	freePorts.mu.Lock()
	defer freePorts.mu.Unlock()
	for range 1000 {
		freePorts.next++
		if freePorts.next >= 32_000 {
			freePorts.next = 10_000
		}
		if ln, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", freePorts.next)); err == nil {
			ln.Close()
			return ln.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}

// writeFile writes dir/name and gives its path.
func writeFile(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// require skips when a program is not installed, outside of CI.
func require(t testing.TB, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is not installed: make deps", program)
			}
			t.Skipf("%s is not installed: make deps", program)
		}
	}
}

// process is a child that ends with the test at the latest.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended and its output is read

	mu     sync.Mutex // guards the rest
	stdout []string
	stderr []string
}

// startProcess runs a program with its output kept by lines. A failed test
// prints what it said on standard error.
func startProcess(t testing.TB, program string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(program, args...), done: make(chan struct{})}
	// Should the test binary be killed, its children go too. SIGTERM and not
	// SIGKILL, so that they can take theirs along.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { p.keep(stdout, &p.stdout) })
	reading.Go(func() { p.keep(stderr, &p.stderr) })
	go func() {
		reading.Wait()
		_ = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s %s, standard error:\n%s", program, strings.Join(args, " "), tail(p.stderrText(), 8<<10))
		}
	})
	return p
}

// keep appends the lines of r to lines.
func (p *process) keep(r io.Reader, lines *[]string) {
	reader := bufio.NewReader(r)
	for {
		line, err := reader.ReadString('\n')
		if line != "" {
			p.mu.Lock()
			*lines = append(*lines, strings.TrimSuffix(line, "\n"))
			p.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// tail is the end of a long text.
func tail(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return "…" + text[len(text)-most:]
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// signal sends a signal to this process alone.
func (p *process) signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatalf("send %v to %s: %v", signal, p.cmd.Path, err)
	}
}

// kill ends the process with SIGKILL and waits for its end. It may have ended.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// wait gives the exit status once the process ends by itself; -1 for a signal.
func (p *process) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("%s did not end in %v", p.cmd.Path, patience)
		return 0
	}
}

// ended reports whether the process has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) stdoutLines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stdout[:len(p.stdout):len(p.stdout)]
}

func (p *process) stdoutText() string { return strings.Join(p.stdoutLines(), "\n") }

func (p *process) stderrText() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.stderr, "\n")
}

// peakMemory is the most memory the process ever held at a time, in bytes
// (VmHWM of proc(5)).
func (p *process) peakMemory(t testing.TB) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	var kilobytes int64
	if _, err := fmt.Sscan(after, &kilobytes); err != nil {
		t.Fatalf("read VmHWM: %v", err)
	}
	return kilobytes << 10
}

// node is a causeway process.
type node struct {
	*process
	admin string // its admin address, "" when it has none
	place place  // where it runs
}

// startNode runs causeway with args and waits until /readyz on admin says ok.
func startNode(t testing.TB, admin string, args ...string) *node {
	t.Helper()
	n := launchNode(t, admin, args...)
	n.ready(t)
	return n
}

// launchNode is startNode without the wait.
func launchNode(t testing.TB, admin string, args ...string) *node {
	t.Helper()
	return launchNodeIn(t, "", admin, args...)
}

// launchNodeIn is launchNode in a place.
func launchNodeIn(t testing.TB, p place, admin string, args ...string) *node {
	t.Helper()
	command := inside(string(p), append([]string{binary}, args...)...)
	n := &node{startProcess(t, command[0], command[1:]...), admin, p}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%v, its records of failures:\n%s", args, n.failures())
		}
	})
	return n
}

// failures are the last lines of the access log that tell of one.
func (n *node) failures() string {
	var failed []string
	for _, line := range n.stdoutLines() {
		if strings.Contains(line, `"err":`) {
			failed = append(failed, line)
		}
	}
	return strings.Join(failed[max(0, len(failed)-10):], "\n")
}

// ready waits until the node can do its part.
func (n *node) ready(t testing.TB) {
	t.Helper()
	eventually(t, "causeway is ready", func() bool {
		if n.ended() {
			t.Fatalf("causeway ended with %d:\n%s", n.cmd.ProcessState.ExitCode(), n.stderrText())
		}
		status, _ := n.ask("/readyz")
		return status == http.StatusOK
	})
}

// ask gets a path of the admin address; status 0 when nobody answers.
func (n *node) ask(path string) (status int, body string) {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.place.dial}}
	res, err := client.Get("http://" + n.admin + path)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(text)
}

// metric is the value of an unlabelled metric, as text.
func (n *node) metric(t testing.TB, name string) string {
	t.Helper()
	_, text := n.ask("/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no metric %s in:\n%s", name, text)
	return ""
}

// reload sends SIGHUP and waits until the log tells how it went; it reports
// whether the node serves the file of now.
func (n *node) reload(t testing.TB) bool {
	t.Helper()
	count := func(word string) int { return strings.Count(n.stderrText(), "msg="+word) }
	went, failed := count("reloaded"), count(`"reload failed`)
	n.signal(t, syscall.SIGHUP)
	eventually(t, "the reload is in the log", func() bool { return count("reloaded")+count(`"reload failed`) > went+failed })
	return count("reloaded") > went
}

// record is a line of the access log.
type record struct {
	Node, Role, Site, ID, Client, Method, Scheme, Host, Path, Proto string
	Status                                                          int
	In, Out                                                         int64
	Link                                                            struct{ In, Out int64 }
	Relay, Unmapped, Kind, Err, Cache                               string
}

// records are the access log, once nothing more comes: lines are gathered for some
// milliseconds. A line that is no JSON object fails the test.
func (n *node) records(t testing.TB) []record {
	t.Helper()
	for lines := -1; lines != len(n.stdoutLines()); time.Sleep(50 * time.Millisecond) {
		lines = len(n.stdoutLines())
	}
	return n.recordsNow(t)
}

// recordsNow are the access log so far.
func (n *node) recordsNow(t testing.TB) []record {
	t.Helper()
	var all []record
	for _, line := range n.stdoutLines() {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("the access log has a line %q: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

// record waits for the record of a path that no other request of the test has.
func (n *node) record(t testing.TB, path string) record {
	t.Helper()
	var found record
	eventually(t, "the access log has "+path, func() bool {
		for _, r := range n.recordsNow(t) {
			if r.Path == path {
				found = r
				return true
			}
		}
		return false
	})
	return found
}

// authority is a certificate authority of the test.
type authority struct {
	dir  string
	made *cert.Authority
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	dir := t.TempDir()
	made, err := cert.OpenAuthority(dir, t.Name())
	if err != nil {
		t.Fatal(err)
	}
	return &authority{dir, made}
}

// file is the PEM file to trust.
func (a *authority) file() string { return a.made.CertFile() }

// issue makes a certificate for hosts and gives its two files.
func (a *authority) issue(t testing.TB, name string, hosts ...string) (certFile, keyFile string) {
	t.Helper()
	if err := a.made.Issue(a.dir, name, hosts); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")
}

// pair makes a certificate for hosts, loaded.
func (a *authority) pair(t testing.TB, name string, hosts ...string) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(a.issue(t, name, hosts...))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// pool trusts this authority alone.
func (a *authority) pool(t testing.TB) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(a.file())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

// nginx is a real nginx, one process with a folder of its own.
type nginx struct {
	*process
	dir     string
	address string
	conf    string
	netns   string // the network namespace it lives in, "" for this one
}

// startNginx runs nginx with the text of its http block and waits until it
// answers on address, where the block must listen. DIR in the text is the
// folder of this nginx.
func startNginx(t testing.TB, address, http string) *nginx {
	t.Helper()
	return startNginxIn(t, "", address, http)
}

// startNginxIn is startNginx in a network namespace.
func startNginxIn(t testing.TB, netns, address, http string) *nginx {
	t.Helper()
	require(t, "nginx")
	n := &nginx{dir: t.TempDir(), address: address, netns: netns}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	conf := fmt.Sprintf(`daemon off; master_process off; pid DIR/nginx.pid; error_log stderr warn; %s
events { worker_connections 4096; }
http {
	include /etc/nginx/mime.types;
	default_type application/octet-stream;
	access_log off;
	client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/fastcgi; uwsgi_temp_path DIR/uwsgi; scgi_temp_path DIR/scgi;
%s
}
`, user, http)
	n.conf = writeFile(t, n.dir, "nginx.conf", strings.ReplaceAll(conf, "DIR", n.dir))
	n.start(t)
	return n
}

// start runs it, the first time or after a kill.
func (n *nginx) start(t testing.TB) {
	t.Helper()
	command := inside(n.netns, "nginx", "-p", n.dir, "-c", n.conf, "-e", "stderr")
	n.process = startProcess(t, command[0], command[1:]...)
	eventually(t, "nginx listens on "+n.address, func() bool {
		if n.ended() {
			t.Fatalf("nginx ended:\n%s", n.stderrText())
		}
		if n.netns != "" {
			probe := inside(n.netns, "curl", "-qsk", "--noproxy", "*", "-o", "/dev/null", "http://"+n.address)
			return runProgram(t, probe[0], probe[1:]...).code != 7 // could not connect
		}
		conn, err := net.Dial("tcp", n.address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// inside is the command that runs another in a network namespace; "" is this
// one.
func inside(netns string, command ...string) []string {
	if netns == "" {
		return command
	}
	return append([]string{"ip", "netns", "exec", netns}, command...)
}

// layout is how the nodes of a crossing are spread over processes.
type layout string

const (
	oneProcess   layout = "one process"
	edgeAndRelay layout = "edge and relay"
)

// layouts are for tests of what must be the same in both.
var layouts = []layout{oneProcess, edgeAndRelay}

// crossing is causeway in front of an origin.
type crossing struct {
	file        string           // the causeway.yaml
	https, http string           // addresses of the edge
	edge        *node            // the process clients reach
	relays      map[string]*node // by name; empty in one process
	ca          *authority       // signed the site's certificates
	dir         string
	args        map[string][]string // what runs each node, by name
	china       place               // where the edge and the clients are
	overseas    place               // where the relays are
}

// spec says what a crossing is made of.
type spec struct {
	layout layout
	sites  string   // the list under `sites:`; CERT and KEY are files for hosts, CA the authority's
	hosts  []string // names in the certificate; default example.cn and *.example.cn
	ca     *authority
	more   string   // further top-level keys, as limits
	relays []string // names; default relay-1

	// The edge is in china of this, the relays overseas, each at the end of a
	// line of its own as far as there are lines; what the sites name as the
	// origin is overseas too. RELAYPORT in more is the port of the first relay's
	// link. Nil: all are here.
	wan *wan
}

// newCrossing writes the file and starts its nodes, ready.
func newCrossing(t testing.TB, s spec) *crossing {
	t.Helper()
	c := &crossing{dir: t.TempDir(), ca: s.ca, https: freeAddress(t), http: freeAddress(t), relays: map[string]*node{}, args: map[string][]string{}}
	if s.wan != nil {
		c.china, c.overseas = s.wan.china, s.wan.overseas
	}
	if c.ca == nil {
		c.ca = newAuthority(t)
	}
	if s.hosts == nil {
		s.hosts = []string{"example.cn", "*.example.cn"}
	}
	certFile, keyFile := c.ca.issue(t, "site", s.hosts...)
	sites := strings.NewReplacer("CERT", certFile, "KEY", keyFile, "CA", c.ca.file()).Replace(s.sites)
	admin := freeAddress(t)
	if s.layout == oneProcess {
		c.write(t, fmt.Sprintf("listen: {http: %q, https: %q, admin: %q}\nsites:\n%s\n%s\n", c.http, c.https, admin, sites, s.more))
		c.args[""] = []string{"run", "--config", c.file}
		c.edge = startNode(t, admin, c.args[""]...)
		return c
	}
	if s.relays == nil {
		s.relays = []string{"relay-1"}
	}
	nodes := fmt.Sprintf("  - {name: edge-1, role: edge, region: cn, listen: {http: %q, https: %q, admin: %q}}\n", c.http, c.https, admin)
	admins := map[string]string{}
	for i, name := range s.relays {
		link := freeAddress(t)
		admins[name] = freeAddress(t)
		address := link
		if s.wan != nil {
			_, port, _ := net.SplitHostPort(link)
			s.more = strings.ReplaceAll(s.more, "RELAYPORT", port)
			link, address = ":"+port, net.JoinHostPort(s.wan.lines[min(i, len(s.wan.lines)-1)].overseas, port)
		}
		nodes += fmt.Sprintf("  - {name: %s, role: relay, region: us, listen: {link: %q, admin: %q}, address: %q}\n", name, link, admins[name], address)
	}
	c.write(t, fmt.Sprintf("sites:\n%s\npki: pki\nnodes:\n%s\n%s\n", sites, nodes, s.more))
	mustRun(t, binary, append([]string{"link-ca", "--dir", filepath.Join(c.dir, "pki"), "edge-1"}, s.relays...)...)
	for _, name := range s.relays {
		c.args[name] = []string{"run", "--config", c.file, "--node", name}
		c.relays[name] = launchNodeIn(t, c.overseas, admins[name], c.args[name]...)
		c.relays[name].ready(t)
	}
	c.args["edge-1"] = []string{"run", "--config", c.file, "--node", "edge-1"}
	c.edge = launchNodeIn(t, c.china, admin, c.args["edge-1"]...)
	c.edge.ready(t)
	return c
}

// write replaces the file.
func (c *crossing) write(t testing.TB, text string) {
	t.Helper()
	c.file = writeFile(t, c.dir, "causeway.yaml", text)
}

// text is the file as it is.
func (c *crossing) text(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(c.file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// restart runs a relay again that has ended.
func (c *crossing) restart(t testing.TB, relay string) {
	t.Helper()
	c.relays[relay] = launchNodeIn(t, c.overseas, c.relays[relay].admin, c.args[relay]...)
	c.relays[relay].ready(t)
}

// nodes are the processes of the crossing.
func (c *crossing) nodes() []*node {
	all := []*node{c.edge}
	for _, relay := range c.relays {
		all = append(all, relay)
	}
	return all
}

// tls is a client's TLS configuration that trusts the crossing's authority.
func (c *crossing) tls(t testing.TB) *tls.Config { return &tls.Config{RootCAs: c.ca.pool(t)} }

// client speaks HTTP/1.1 (major 1) or HTTP/2 (2) to the edge, whatever the
// host of a URL is. It follows no redirects and decodes nothing.
func (c *crossing) client(t testing.TB, major int) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(major == 1)
	protocols.SetHTTP2(major == 2)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			to := c.https
			if strings.HasSuffix(address, ":80") {
				to = c.http
			}
			return c.china.dial(ctx, "tcp", to)
		},
		TLSClientConfig:       c.tls(t),
		Protocols:             protocols,
		DisableCompression:    true,
		ExpectContinueTimeout: patience,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// answer is a response with its whole body.
type answer struct {
	*http.Response
	body []byte
	err  error // what ended the body early
}

// do sends a request and reads the answer to its end.
func do(t testing.TB, client *http.Client, req *http.Request) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(req.Context(), patience)
	defer cancel()
	res, err := client.Do(req.WithContext(ctx))
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res, body, err}
}

// get fetches a URL whole; fields are "Name: value".
func get(t testing.TB, client *http.Client, url string, fields ...string) answer {
	t.Helper()
	a := do(t, client, newRequest(t, http.MethodGet, url, nil, fields...))
	if a.err != nil {
		t.Fatalf("GET %s: read the body: %v", url, a.err)
	}
	return a
}

// newRequest makes a request with fields "Name: value".
func newRequest(t testing.TB, method, url string, body io.Reader, fields ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		req.Header.Add(name, value)
	}
	return req
}

// ran is what a program that has ended said.
type ran struct {
	stdout, stderr string
	code           int
}

// runProgram runs a program to its end.
func runProgram(t testing.TB, program string, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", program, err)
	}
	return ran{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// mustRun is runProgram for what must exit with 0.
func mustRun(t testing.TB, program string, args ...string) ran {
	t.Helper()
	r := runProgram(t, program, args...)
	if r.code != 0 {
		t.Fatalf("%s %s: exit %d\n%s%s", program, strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r
}

// curl runs curl quietly, without a user's own settings or proxies.
func curl(t testing.TB, args ...string) ran {
	t.Helper()
	require(t, "curl")
	return runProgram(t, "curl", append([]string{"-q", "-sS", "--noproxy", "*", "--max-time", "60"}, args...)...)
}
