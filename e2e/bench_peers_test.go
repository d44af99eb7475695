package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"causeway/cert"
)

// benchOriginHost is what the origin calls itself.
const benchOriginHost = "www.example.com"

// benchScene is all that a benchmark runs against. Everything logs its accesses
// to a file, as a proxy in service does.
type benchScene struct {
	files    string // what the origin serves
	causeway *benchProxy
	nginx    *benchProxy
	crossing *benchProxy // edge and relay
}

// benchProxy is a running proxy.
type benchProxy struct {
	http, https string // host:port
	pids        []int  // the processes that do its work
}

func (p *benchProxy) address(proto benchProto) string {
	if proto.scheme == "https" {
		return p.https
	}
	return p.http
}

// against is the usual comparison for one path.
func (s *benchScene) against(path string) []benchContender {
	return []benchContender{
		{"causeway", s.causeway, "example.cn", path},
		{"nginx", s.nginx, "example.cn", path},
		{"edge+relay", s.crossing, "example.cn", path},
	}
}

// benchPlan is what the configuration files are made from.
type benchPlan struct {
	Dir, OriginHost, Small string
	Root                   bool // nginx would give root away and not find the files

	Origin, OriginTLS1, OriginTLS2 string // host:port, as all below
	NginxHTTP, NginxHTTPS          string
	CausewayHTTP, CausewayHTTPS    string
	EdgeHTTP, EdgeHTTPS, RelayLink string

	CA, Cert, Key, OriginCert, OriginKey string // files
}

// benchStart starts the scene; it ends with the benchmark.
func benchStart(b *testing.B) *benchScene {
	b.Helper()
	causeway := os.Getenv("CAUSEWAY")
	if causeway == "" {
		b.Skip("CAUSEWAY names no binary: run make bench")
	}
	dir := b.TempDir()
	plan := &benchPlan{Dir: dir, OriginHost: benchOriginHost, Small: benchSmallBody, Root: os.Getuid() == 0}
	for _, address := range []*string{
		&plan.Origin, &plan.OriginTLS1, &plan.OriginTLS2, &plan.NginxHTTP, &plan.NginxHTTPS,
		&plan.CausewayHTTP, &plan.CausewayHTTPS, &plan.EdgeHTTP, &plan.EdgeHTTPS, &plan.RelayLink,
	} {
		*address = benchAddress(b)
	}
	files := filepath.Join(dir, "files")
	if err := os.Mkdir(files, 0o755); err != nil {
		b.Fatal(err)
	}
	benchFiles(b, files)
	benchCertificates(b, plan)

	benchNginx(b, plan, "origin", benchOriginConf)
	s := &benchScene{
		files:    files,
		nginx:    &benchProxy{plan.NginxHTTP, plan.NginxHTTPS, benchNginx(b, plan, "proxy", benchProxyConf)},
		causeway: &benchProxy{http: plan.CausewayHTTP, https: plan.CausewayHTTPS},
		crossing: &benchProxy{http: plan.EdgeHTTP, https: plan.EdgeHTTPS},
	}
	one := benchWrite(b, plan, "one.yaml", benchOneYAML)
	s.causeway.pids = []int{benchProcess(b, dir, "causeway", causeway, "run", "--config", one)}
	two := benchWrite(b, plan, "two.yaml", benchTwoYAML)
	s.crossing.pids = []int{
		benchProcess(b, dir, "relay-1", causeway, "run", "--config", two, "--node", "relay-1"),
		benchProcess(b, dir, "edge-1", causeway, "run", "--config", two, "--node", "edge-1"),
	}
	return s
}

// benchAddress is a free port of loopback.
func benchAddress(b *testing.B) string {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// benchCertificates makes one authority with keys for the public hosts, the
// origin and the two nodes, all ECDSA P-256.
func benchCertificates(b *testing.B, plan *benchPlan) {
	b.Helper()
	authority, err := cert.OpenAuthority(filepath.Join(plan.Dir, "pki"), "bench")
	if err != nil {
		b.Fatal(err)
	}
	issue := func(name string, hosts ...string) (certFile, keyFile string) {
		if err := authority.Issue(filepath.Join(plan.Dir, "pki"), name, hosts); err != nil {
			b.Fatal(err)
		}
		path := filepath.Join(plan.Dir, "pki", name)
		return path + ".pem", path + ".key"
	}
	plan.CA = authority.CertFile()
	plan.Cert, plan.Key = issue("public", "example.cn", "*.example.cn")
	plan.OriginCert, plan.OriginKey = issue("origin", benchOriginHost)
	issue("edge-1")
	issue("relay-1")
}

// benchWrite fills a configuration in and gives the file's path.
func benchWrite(b *testing.B, plan *benchPlan, name, text string) string {
	b.Helper()
	var out bytes.Buffer
	if err := template.Must(template.New(name).Parse(text)).Execute(&out, plan); err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(plan.Dir, name)
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		b.Fatal(err)
	}
	return file
}

// benchProcess starts a command with its output in dir/NAME.out and ends it with
// the benchmark.
func benchProcess(b *testing.B, dir, name, path string, args ...string) (pid int) {
	b.Helper()
	out, err := os.Create(filepath.Join(dir, name+".out"))
	if err != nil {
		b.Fatal(err)
	}
	command := exec.Command(path, args...)
	command.Stdout, command.Stderr = out, out
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- command.Wait() }()
	b.Cleanup(func() {
		defer out.Close()
		_ = command.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = command.Process.Kill()
			<-done
		}
	})
	time.Sleep(100 * time.Millisecond)
	select {
	case err := <-done:
		done <- err
		text, _ := os.ReadFile(out.Name())
		b.Fatalf("%s ended at once: %v\n%s", name, err, text)
	default:
	}
	return command.Process.Pid
}

// benchNginx starts nginx with one worker and gives the worker's process.
func benchNginx(b *testing.B, plan *benchPlan, name, conf string) []int {
	b.Helper()
	file := benchWrite(b, plan, name+".conf", benchNginxHead+conf+"}\n")
	prefix := filepath.Join(plan.Dir, name)
	if err := os.Mkdir(prefix, 0o755); err != nil {
		b.Fatal(err)
	}
	main := benchProcess(b, plan.Dir, name, "nginx", "-p", prefix, "-c", file, "-e", "error.log")
	for range 100 {
		if workers := benchChildren(b, main); len(workers) == 1 {
			return workers
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.Fatal("nginx has no worker")
	return nil
}

// benchChildren are the processes whose parent is pid.
func benchChildren(b *testing.B, pid int) []int {
	b.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		b.Fatal(err)
	}
	var children []int
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		// pid (name) state ppid …; the name may hold anything.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			children = append(children, child)
		}
	}
	return children
}

const benchNginxHead = `
daemon off;
worker_processes 1;
pid nginx.pid;
{{if .Root}}user root;{{end}}
events { worker_connections 1024; }
http {
	client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	types { text/html html; text/plain txt; application/octet-stream bin; }
	default_type application/octet-stream;
	sendfile on;
	tcp_nopush on;
	keepalive_requests 100000000;
	access_log access.log;
`

const benchOriginConf = `
	access_log off;
	open_file_cache max=100;
	server {
		listen {{.Origin}};
		listen {{.OriginTLS1}} ssl;
		ssl_certificate {{.OriginCert}}; ssl_certificate_key {{.OriginKey}};
		root {{.Dir}}/files;
		location = /small { default_type text/plain; return 200 "{{.Small}}"; }
	}
	server {
		listen {{.OriginTLS2}} ssl http2;
		ssl_certificate {{.OriginCert}}; ssl_certificate_key {{.OriginKey}};
		root {{.Dir}}/files;
	}
`

// benchProxyConf is what people run today, with what it needs to keep its
// connections to the origin.
const benchProxyConf = `
	upstream plain { server {{.Origin}}; keepalive 64; keepalive_requests 100000000; }
	upstream tls1 { server {{.OriginTLS1}}; keepalive 64; keepalive_requests 100000000; }
	ssl_certificate {{.Cert}}; ssl_certificate_key {{.Key}};
	proxy_http_version 1.1;
	proxy_set_header Connection "";
	proxy_set_header Host {{.OriginHost}};
	proxy_set_header Accept-Encoding "";
	proxy_set_header X-Real-IP $remote_addr;
	proxy_set_header X-Forwarded-For $remote_addr;
	proxy_set_header X-Forwarded-Proto $scheme;
	proxy_ssl_server_name on; proxy_ssl_name {{.OriginHost}};
	proxy_ssl_verify on; proxy_ssl_trusted_certificate {{.CA}};
	sub_filter_types *;
	sub_filter_once off;
	server {
		listen {{.NginxHTTP}};
		listen {{.NginxHTTPS}} ssl http2;
		server_name example.cn;
		sub_filter https://{{.OriginHost}} https://example.cn;
		location / { proxy_pass http://plain; }
	}
	server {
		listen {{.NginxHTTP}};
		listen {{.NginxHTTPS}} ssl http2;
		server_name tls1.example.cn tls2.example.cn;
		sub_filter https://{{.OriginHost}} https://$host;
		location / { proxy_pass https://tls1; }
	}
`

const benchSitesYAML = `
sites:
  - name: plain
    hosts: {example.cn: "http://{{.OriginHost}}"}
    origin: {connect: ["{{.Origin}}"]}
    tls: {cert: {{.Cert}}, key: {{.Key}}}
    http: serve
  - name: tls1
    hosts: {tls1.example.cn: "https://{{.OriginHost}}"}
    origin: {connect: ["{{.OriginTLS1}}"], tls: {ca: {{.CA}}}}
    tls: {cert: {{.Cert}}, key: {{.Key}}}
    http: serve
  - name: tls2
    hosts: {tls2.example.cn: "https://{{.OriginHost}}"}
    origin: {connect: ["{{.OriginTLS2}}"], tls: {ca: {{.CA}}}}
    tls: {cert: {{.Cert}}, key: {{.Key}}}
    http: serve
`

const benchOneYAML = `listen: {http: "{{.CausewayHTTP}}", https: "{{.CausewayHTTPS}}"}` + benchSitesYAML

const benchTwoYAML = `pki: pki
nodes:
  - {name: edge-1, role: edge, listen: {http: "{{.EdgeHTTP}}", https: "{{.EdgeHTTPS}}"}}
  - {name: relay-1, role: relay, listen: {link: "{{.RelayLink}}"}, address: "{{.RelayLink}}"}
` + benchSitesYAML
