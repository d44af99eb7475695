package e2e

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A machine is a copy of this computer on a network of its own. Its files are
// this computer's until it writes them; what it writes, in /etc too, goes with
// it. It has its own processes, an empty /tmp and /run, and the name servers
// of nobody. Inside it everybody is root, and sudo does nothing.
type machine struct {
	name   string
	holder *process // its first process is the child of this one
	pid    int      // that first process, as seen from here
}

// worldAddresses are those of the machines and of the origins, on one flat network.
var worldAddresses = map[string][]string{
	"origin":      {"192.0.2.10", "192.0.2.11", "10.0.1.5"},
	"shanghai-1":  {"198.51.100.10"},
	"beijing-1":   {"198.51.100.20"},
	"virginia-1":  {"203.0.113.7"},
	"frankfurt-1": {"198.51.100.7"},
	"visitor":     {"198.51.100.200"},
}

// worldNames are what the DNS of this small internet says.
var worldNames = map[string][]string{
	"192.0.2.10":    {"example.com", "www.example.com", "login.example.com", "api.example.com", "example.net", "fonts.googleapis.com"},
	"198.51.100.10": {"example.cn", "www.example.cn", "login.example.cn", "api.example.cn", "fonts.example.cn", "xn--fsqu00a.cn"},
	"198.51.100.20": {"beijing.example.cn"},
}

// workFolder is where the commands of a page begin.
const workFolder = "/home/operator/crossing"

// world is a small internet: machines, and an nginx that is the origin.
type world struct {
	ca       *authority // signed the origin's certificate and example.cn's; every machine trusts it
	machines map[string]*machine
}

// mayMakeMachines skips who may not, outside of CI.
func mayMakeMachines(t *testing.T) {
	t.Helper()
	reason := ""
	if os.Geteuid() != 0 {
		reason = "only root may make network namespaces: run it as root"
	} else if out, err := exec.Command("unshare", "--net", "--mount", "--pid", "--fork", "true").CombinedOutput(); err != nil {
		reason = fmt.Sprintf("this root may not make namespaces (a container without privileges?): %s", out)
	}
	if reason == "" {
		require(t, "ip", "nsenter", "nginx", "curl")
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// newWorld starts the origin and the machines called names. The caller closes
// it before the test ends.
func newWorld(t *testing.T, names ...string) *world {
	t.Helper()
	w := &world{ca: newAuthority(t), machines: map[string]*machine{}}
	files, wire := w.files(t), t.TempDir()
	for _, name := range append([]string{"origin"}, names...) {
		w.machines[name] = newMachine(t, name, files, wire)
	}
	w.connect(t)
	w.startOrigin(t)
	certFile, keyFile := w.ca.issue(t, "example.cn", "example.cn", "*.example.cn", "xn--fsqu00a.cn")
	for _, edge := range []string{"shanghai-1", "beijing-1"} {
		if m := w.machines[edge]; m != nil {
			m.copy(t, certFile, filepath.Join(workFolder, "example.cn.pem"), 0o644)
			m.copy(t, keyFile, filepath.Join(workFolder, "example.cn.key"), 0o600)
		}
	}
	return w
}

// close ends every machine with everything that runs on it.
func (w *world) close() {
	for _, m := range w.machines {
		m.holder.kill()
	}
}

// files makes the tree that every machine has on top of this computer's files.
func (w *world) files(t *testing.T) string {
	t.Helper()
	tree := t.TempDir()
	if err := os.Chmod(tree, 0o755); err != nil { // it is the machine's /
		t.Fatal(err)
	}
	hosts := "127.0.0.1 localhost\n::1 localhost\n"
	for _, address := range slices.Sorted(maps.Keys(worldNames)) {
		hosts += address + " " + strings.Join(worldNames[address], " ") + "\n"
	}
	writeFile(t, tree, "etc/hosts", hosts)
	writeFile(t, tree, "etc/resolv.conf", "")
	if err := os.MkdirAll(filepath.Join(tree, workFolder), 0o755); err != nil {
		t.Fatal(err)
	}
	authorities, _ := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	own, err := os.ReadFile(w.ca.file())
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, tree, "etc/ssl/certs/ca-certificates.crt", string(authorities)+string(own))
	writeFile(t, tree, "usr/local/share/ca-certificates/world.crt", string(own)) // for update-ca-certificates
	copyFile(t, binary, filepath.Join(tree, "usr/local/bin/causeway"), 0o755)
	for name, script := range shims {
		if err := os.Chmod(writeFile(t, tree, "usr/local/bin/"+name, "#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// shims stand for what there is not on the machines. rsync knows -aR alone, to
// another machine: receive brings its files there.
var shims = map[string]string{
	"sudo": `exec "$@"`,
	"rsync": `set -eu
[ "$1" = -aR ] && shift
for to; do :; done
path=${to#*:}
case $path in /*) ;; *) path=/home/operator/$path ;; esac
mkdir -p "/srv/wire/${to%%:*}$path"
while [ "$1" != "$to" ]; do cp -a --parents "$1" "/srv/wire/${to%%:*}$path"; shift; done`,
}

func copyFile(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, data, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// setUp makes a machine in the namespaces it runs in. $1 is an empty folder, $2
// the tree, $3 a folder that all machines have as /srv/wire, $4 one that they
// share with this computer; the rest are folders that the machine must have,
// also where they are file systems of their own.
const setUp = `set -eu
dir=$1; tree=$2; wire=$3; share=$4; shift 4
mount -t tmpfs -o mode=755 tmpfs "$dir"
mkdir "$dir/work" "$dir/root"
cp -a "$tree" "$dir/upper"
mount -t overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" overlay "$dir/root"
mount -t tmpfs -o mode=1777 tmpfs "$dir/root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$dir/root/run"
mount -t proc proc "$dir/root/proc"
mount --rbind /dev "$dir/root/dev"
mount --rbind /sys "$dir/root/sys"
mkdir -p "$dir/root/srv/wire"
mount --bind "$wire" "$dir/root/srv/wire"
for path in "$share" "$@"; do
	[ "$path" != "$share" ] && [ -e "$dir/root$path" ] && continue
	mkdir -p "$dir/root$path"
	mount --rbind "$path" "$dir/root$path"
done
ip link set lo up
echo ready
exec chroot "$dir/root" sleep infinity
`

// newMachine starts a machine with the tree files on top of this computer's.
func newMachine(t *testing.T, name, files, wire string) *machine {
	t.Helper()
	m := &machine{name: name}
	dir := t.TempDir()
	script := writeFile(t, dir, "machine.sh", setUp)
	m.holder = startProcess(t, "unshare", append([]string{"--net", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
		"sh", script, t.TempDir(), files, wire}, goFolders(t)...)...)
	eventually(t, name+" is up", func() bool {
		if m.holder.ended() {
			t.Fatalf("machine %s: %s", name, m.holder.stderrText())
		}
		return m.holder.stdoutText() == "ready"
	})
	children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", m.holder.pid()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(children), &m.pid); err != nil {
		t.Fatalf("find the first process of %s in %q: %v", name, children, err)
	}
	return m
}

// goFolders are what the go command needs on a machine that has no network: the
// cache of what is built, the modules, itself; and the checkout.
func goFolders(t *testing.T) []string {
	t.Helper()
	folders := strings.Fields(mustRun(t, "go", "env", "GOCACHE", "GOMODCACHE", "GOROOT").stdout)
	if len(folders) != 3 {
		t.Fatalf("go env gave %q", folders)
	}
	return append(folders, checkout(t))
}

// checkout is the root of the module.
func checkout(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// connect gives every machine an interface and its addresses. The origin has
// the switch between them.
func (w *world) connect(t *testing.T) {
	t.Helper()
	hub := w.machines["origin"]
	ip := func(m *machine, args ...string) {
		t.Helper()
		mustRun(t, "nsenter", append([]string{"--target", fmt.Sprint(m.pid), "--net", "ip"}, args...)...)
	}
	ip(hub, "link", "add", "net", "type", "bridge")
	ip(hub, "link", "set", "net", "up")
	for _, address := range worldAddresses["origin"] {
		ip(hub, "address", "add", address+"/32", "dev", "net")
	}
	ip(hub, "route", "add", "default", "dev", "net")
	port := 0
	for name, m := range w.machines {
		if m == hub {
			continue
		}
		port++
		plug := fmt.Sprintf("port%d", port)
		ip(hub, "link", "add", plug, "type", "veth", "peer", "name", "net", "netns", fmt.Sprint(m.pid))
		ip(hub, "link", "set", plug, "master", "net", "up")
		ip(m, "link", "set", "net", "up")
		for _, address := range worldAddresses[name] {
			ip(m, "address", "add", address+"/32", "dev", "net")
		}
		ip(m, "route", "add", "default", "dev", "net")
	}
}

// originConf is the origin: a site that names itself in its pages, and says
// what it was asked. The server in China says that it is that.
const originConf = `daemon off; user root; worker_processes 1; pid /run/nginx.pid; error_log stderr warn;
events {}
http {
	access_log off; default_type text/html;
	server {
		listen 80; listen 443 ssl http2; server_name example.com;
		ssl_certificate /origin.pem; ssl_certificate_key /origin.key;
		location = /asked { default_type text/plain; return 200 "host $host\nclient $http_x_forwarded_for\nid $http_x_request_id\n"; }
		location = /slow { limit_rate 1; return 200 "0123456789012345678901234567890123456789"; }
		location = /news { add_header Cache-Control "max-age=600, stale-if-error=86400"; add_header Cache-Tag "news"; return 200 '<a href="https://$host/news/1">News</a>\n'; }
		location = /account { add_header Cache-Control private; return 200 "for one alone\n"; }
		location = /sitemap.xml { default_type application/xml; return 200 '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"><url><loc>https://$host/news</loc></url><url><loc>https://$host/account</loc></url></urlset>\n'; }
		location = /old { return 301 https://$host/new; }
		location = /login { add_header Set-Cookie "session=1; Domain=example.com; Secure"; return 302 "https://login.example.com/?return=https%3A%2F%2Fexample.com%2F"; }
		location / { return 200 '<link rel="stylesheet" href="https://fonts.googleapis.com/css2">\n<a href="https://$host/tea">Tea</a>\n<a href="//www.example.com/">Home</a>\n<script>shop = {"api": "https:\/\/api.example.com\/v1"}</script>\n'; }
	}
	server {
		listen 10.0.1.5:3000; default_type text/plain;
		location / { return 200 "kept in China\n"; }
	}
}
`

// startOrigin runs the nginx.
func (w *world) startOrigin(t *testing.T) {
	t.Helper()
	origin := w.machines["origin"]
	hosts := worldNames["192.0.2.10"]
	certFile, keyFile := w.ca.issue(t, "origin", hosts...)
	origin.copy(t, certFile, "/origin.pem", 0o644)
	origin.copy(t, keyFile, "/origin.key", 0o600)
	origin.write(t, "/origin.conf", originConf)
	origin.start(t, "/", "nginx -c /origin.conf -e stderr")
	eventually(t, "the origin serves", func() bool {
		return origin.run(t, "/", "curl -sSf http://192.0.2.10/ && curl -sSf http://10.0.1.5:3000/").code == 0
	})
}

// enter is the nsenter call that runs a shell script in a folder of the machine.
func (m *machine) enter(t *testing.T, dir, script string) []string {
	t.Helper()
	folders := goFolders(t)
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + folders[2] + "/bin"
	args := []string{"--target", fmt.Sprint(m.pid), "--net", "--mount", "--pid", "--root", "env", "-i", "--chdir=" + dir,
		"PATH=" + path, "HOME=/home/operator", "USER=root", "LANG=C.UTF-8", "GOCACHE=" + folders[0], "GOMODCACHE=" + folders[1],
		// The checkout may belong to somebody else, and home is another one.
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}
	for _, name := range []string{"GOTOOLCHAIN", "GOFLAGS", "CGO_ENABLED"} {
		if value, ok := os.LookupEnv(name); ok {
			args = append(args, name+"="+value)
		}
	}
	// A session of its own, as a terminal has: Ctrl-C reaches all that runs in it.
	return append(args, "setsid", "--wait", "bash", "-eu", "-c", script)
}

// run runs a script to its end.
func (m *machine) run(t *testing.T, dir, script string) ran {
	t.Helper()
	return runProgram(t, "nsenter", m.enter(t, dir, script)...)
}

// start runs a script that goes on, to the end of the machine or until
// interrupt.
func (m *machine) start(t *testing.T, dir, script string) *process {
	t.Helper()
	return startProcess(t, "nsenter", m.enter(t, dir, "echo $$ >/run/terminal\n"+script)...)
}

// interrupt is Ctrl-C in the terminal of the last script that was started.
func (m *machine) interrupt(t *testing.T) {
	t.Helper()
	if r := m.run(t, "/", "kill -INT -- -$(cat /run/terminal)"); r.code != 0 {
		t.Fatalf("interrupt on %s: %s", m.name, r.stderr)
	}
}

// receive takes in what other machines sent to this one.
func (m *machine) receive(t *testing.T) {
	t.Helper()
	if r := m.run(t, "/", "mkdir -p /srv/wire/"+m.name+" && cp -a /srv/wire/"+m.name+"/. /"); r.code != 0 {
		t.Fatalf("receive files on %s: %s", m.name, r.stderr)
	}
}

// copy copies a file of this computer to the machine.
func (m *machine) copy(t *testing.T, from, path string, mode os.FileMode) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	m.write(t, path, string(text))
	if r := m.run(t, "/", fmt.Sprintf("chmod %o %q", mode, path)); r.code != 0 {
		t.Fatalf("copy %s to %s: %s", from, m.name, r.stderr)
	}
}

// write writes a file of the machine.
func (m *machine) write(t *testing.T, path, text string) {
	t.Helper()
	r := m.run(t, "/", fmt.Sprintf("mkdir -p %q && printf %%s %s >%q", filepath.Dir(path), quoted(text), path))
	if r.code != 0 {
		t.Fatalf("write %s on %s: %s", path, m.name, r.stderr)
	}
}

// quoted is text as one word of a shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
