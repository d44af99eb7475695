package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"text/template"
)

const (
	benchPublicHost = "example.cn"
	benchOriginHost = "www.example.com" // what the origin calls itself
)

// benchScene is all that a benchmark runs against. Every proxy logs its accesses
// to a file, as one in service does.
type benchScene struct {
	files    string // what the origin serves
	causeway *benchProxy
	nginx    *benchProxy
	crossing *benchProxy // edge and relay
	plan     *benchPlan
}

// benchProxy is a running proxy.
type benchProxy struct {
	http, https string     // host:port
	processes   []*process // that do its work
	children    []int      // processes of those, that do too
}

func (p *benchProxy) address(proto benchProto) string {
	if proto.scheme == "https" {
		return p.https
	}
	return p.http
}

// against is the usual comparison for one path of a public host.
func (s *benchScene) against(host, path string) []benchContender {
	return []benchContender{
		{"causeway", s.causeway, host, path},
		{"nginx", s.nginx, host, path},
		{"edge+relay", s.crossing, host, path},
	}
}

// benchPlan is what the configuration files are made from.
type benchPlan struct {
	Dir, OriginHost, Small, CA, Cert, Key, OriginCert, OriginKey string

	Origin, OriginTLS1, OriginTLS2 string // host:port, as all below
	NginxHTTP, NginxHTTPS          string
	OneHTTP, OneHTTPS, OneAdmin    string
	EdgeHTTP, EdgeHTTPS, EdgeAdmin string
	RelayLink, RelayAdmin          string
}

// benchStart starts the scene; it ends with the benchmark.
func benchStart(b *testing.B) *benchScene {
	b.Helper()
	require(b, "nginx", "h2load", "sh")
	dir, ca := b.TempDir(), newAuthority(b)
	plan := &benchPlan{Dir: dir, OriginHost: benchOriginHost, Small: benchSmallBody, CA: ca.file()}
	plan.Cert, plan.Key = ca.issue(b, "public", benchPublicHost, "*."+benchPublicHost)
	plan.OriginCert, plan.OriginKey = ca.issue(b, "origin", benchOriginHost)
	for _, address := range []*string{
		&plan.Origin, &plan.OriginTLS1, &plan.OriginTLS2, &plan.NginxHTTP, &plan.NginxHTTPS,
		&plan.OneHTTP, &plan.OneHTTPS, &plan.OneAdmin, &plan.EdgeHTTP, &plan.EdgeHTTPS, &plan.EdgeAdmin, &plan.RelayLink, &plan.RelayAdmin,
	} {
		*address = freeAddress(b)
	}
	benchFiles(b, dir)
	mustRun(b, binary, "link-ca", "--dir", filepath.Join(dir, "pki"), "edge-1", "relay-1")

	startNginx(b, plan.Origin, plan.fill(b, benchOriginConf))
	proxy := startNginx(b, plan.NginxHTTP, plan.fill(b, benchProxyConf))
	one := writeFile(b, dir, "one.yaml", plan.fill(b, benchOneYAML+benchSitesYAML))
	two := writeFile(b, dir, "two.yaml", plan.fill(b, benchTwoYAML+benchSitesYAML))
	return &benchScene{
		files:    dir,
		plan:     plan,
		nginx:    &benchProxy{http: plan.NginxHTTP, https: plan.NginxHTTPS, processes: []*process{proxy.process}},
		causeway: &benchProxy{http: plan.OneHTTP, https: plan.OneHTTPS, processes: []*process{benchNode(b, dir, plan.OneAdmin, one, "")}},
		crossing: &benchProxy{http: plan.EdgeHTTP, https: plan.EdgeHTTPS, processes: []*process{
			benchNode(b, dir, plan.RelayAdmin, two, "relay-1"),
			benchNode(b, dir, plan.EdgeAdmin, two, "edge-1"),
		}},
	}
}

// benchVarnish starts Varnish before the origin, with its log in a file.
func benchVarnish(b *testing.B, plan *benchPlan) *benchProxy {
	b.Helper()
	require(b, "varnishd", "varnishncsa")
	dir, address := filepath.Join(b.TempDir(), "varnish"), freeAddress(b)
	host, port, _ := strings.Cut(plan.Origin, ":")
	vcl := writeFile(b, plan.Dir, "kept.vcl", fmt.Sprintf("vcl 4.1;\nbackend default { .host = %q; .port = %q; }\n", host, port))
	daemon := startProcess(b, "varnishd", "-F", "-a", address, "-f", vcl, "-s", "malloc,256m", "-n", dir, "-j", "none")
	eventually(b, "varnish listens on "+address, func() bool {
		if daemon.ended() {
			b.Fatalf("varnishd ended:\n%s", daemon.stderrText())
		}
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	log := startProcess(b, "varnishncsa", "-n", dir, "-w", filepath.Join(plan.Dir, "varnish.log"))
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", daemon.pid(), daemon.pid()))
	if err != nil {
		b.Fatal(err)
	}
	proxy := &benchProxy{http: address, processes: []*process{daemon, log}}
	for _, child := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(child)
		if err != nil {
			b.Fatal(err)
		}
		proxy.children = append(proxy.children, pid)
	}
	if len(proxy.children) == 0 {
		b.Fatal("varnishd has no child that works")
	}
	return proxy
}

// benchNode runs a node with its access log in a file.
func benchNode(b *testing.B, dir, admin, file, name string) *process {
	b.Helper()
	run := `exec "$0" run --config "$1" --node "$2" >"$3"`
	n := &node{startProcess(b, "sh", "-c", run, binary, file, name, filepath.Join(dir, "access-"+name+".log")), admin, ""}
	n.ready(b)
	return n.process
}

// fill puts the plan into a configuration.
func (plan *benchPlan) fill(b *testing.B, text string) string {
	b.Helper()
	var out strings.Builder
	if err := template.Must(template.New("").Parse(text)).Execute(&out, plan); err != nil {
		b.Fatal(err)
	}
	return out.String()
}

const benchOriginConf = `
	sendfile on; tcp_nopush on; keepalive_requests 100000000; open_file_cache max=100;
	root {{.Dir}};
	ssl_certificate {{.OriginCert}}; ssl_certificate_key {{.OriginKey}};
	server {
		listen {{.Origin}};
		listen {{.OriginTLS1}} ssl;
		location = /small { default_type text/plain; return 200 "{{.Small}}"; }
		location /kept/ { gzip on; gzip_types *; gzip_vary on; add_header Cache-Control "public, max-age=86400"; }
		location /large/ { add_header Cache-Control "public, max-age=86400"; }
	}
	server { listen {{.OriginTLS2}} ssl http2; }
`

// benchProxyConf is what people run today, with what it needs to keep its
// connections to the origin.
const benchProxyConf = `
	upstream plain { server {{.Origin}}; keepalive 64; keepalive_requests 100000000; }
	upstream tls1 { server {{.OriginTLS1}}; keepalive 64; keepalive_requests 100000000; }
	access_log DIR/access.log;
	keepalive_requests 100000000;
	ssl_certificate {{.Cert}}; ssl_certificate_key {{.Key}};
	gzip on; gzip_types *;
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
	proxy_cache_path DIR/kept keys_zone=kept:10m max_size=1g;
	server {
		listen {{.NginxHTTP}};
		listen {{.NginxHTTPS}} ssl http2;
		server_name kept.example.cn;
		gzip off;
		proxy_cache kept; proxy_cache_lock on; open_file_cache max=100;
		location / { proxy_pass http://plain; proxy_set_header Accept-Encoding gzip; proxy_set_header Connection ""; proxy_set_header Host {{.OriginHost}}; }
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
    cache: off
  - name: kept
    hosts: {kept.example.cn: "http://{{.OriginHost}}"}
    origin: {connect: ["{{.Origin}}"]}
    tls: {cert: {{.Cert}}, key: {{.Key}}}
    http: serve
  - name: tls1
    hosts: {tls1.example.cn: "https://{{.OriginHost}}"}
    origin: {connect: ["{{.OriginTLS1}}"], tls: {ca: {{.CA}}}}
    tls: {cert: {{.Cert}}, key: {{.Key}}}
    cache: off
  - name: tls2
    hosts: {tls2.example.cn: "https://{{.OriginHost}}"}
    origin: {connect: ["{{.OriginTLS2}}"], tls: {ca: {{.CA}}}}
    tls: {cert: {{.Cert}}, key: {{.Key}}}
    cache: off
`

const benchOneYAML = `cache: {disk: 4GiB, object_bytes: 200MiB, dir: kept-one}
listen: {http: "{{.OneHTTP}}", https: "{{.OneHTTPS}}", admin: "{{.OneAdmin}}"}`

const benchTwoYAML = `cache: {disk: 4GiB, object_bytes: 200MiB, dir: kept-two}
pki: pki
nodes:
  - {name: edge-1, role: edge, listen: {http: "{{.EdgeHTTP}}", https: "{{.EdgeHTTPS}}", admin: "{{.EdgeAdmin}}"}}
  - {name: relay-1, role: relay, listen: {link: "{{.RelayLink}}", admin: "{{.RelayAdmin}}"}, address: "{{.RelayLink}}"}
`

// benchFiles writes what the origin serves.
func benchFiles(b *testing.B, dir string) {
	b.Helper()
	page := benchPage(benchOriginHost)
	foreign := benchPage("www.another.com") // as long, and not mapped
	for name, text := range map[string]string{
		"page.html":       page,
		"kept/page.html":  page,
		"kept/1k.html":    page[:1000],
		"1k.html":         page[:1000],
		"nomatch.html":    foreign,
		"nomatch.bin":     foreign,
		"text-8m.html":    benchText(benchOriginHost, 8<<20, 3*8<<10),
		"nomatch-1m.html": strings.Repeat(foreign, 25),
		"nomatch-1m.bin":  strings.Repeat(foreign, 25),
	} {
		writeFile(b, dir, name, text)
	}
}

// benchLargeFiles writes what no coding makes smaller: 8 MB, which stays in memory,
// and 100 MB, which is kept on disk.
func benchLargeFiles(b *testing.B, dir string) {
	b.Helper()
	random := rand.NewChaCha8([32]byte{})
	for name, size := range map[string]int{"large/8m.bin": 8_000_000, "large/100m.bin": 100_000_000} {
		bytes := make([]byte, size)
		_, _ = random.Read(bytes)
		writeFile(b, dir, name, string(bytes))
	}
}

// benchBulkFile writes bulk.txt.
func benchBulkFile(b *testing.B, dir string) {
	b.Helper()
	file, err := os.Create(filepath.Join(dir, "bulk.txt"))
	if err != nil {
		b.Fatal(err)
	}
	piece := strings.Repeat(benchPage(benchOriginHost), 25)
	for written := 0; written < benchBulkSize; written += len(piece) {
		if _, err := fmt.Fprint(file, piece[:min(len(piece), benchBulkSize-written)]); err != nil {
			b.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		b.Fatal(err)
	}
}
