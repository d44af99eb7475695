package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// networks are three hosts in a row, each in a network namespace of its own:
// visitor — gateway — origin. The visitor has no way to the origin.
type networks struct {
	visitor, gateway, origin string // names of the namespaces
	public, private          string // addresses: of the gateway for the visitor, of the origin for the gateway
	public6, private6        string // the same in IPv6
}

// newNetworks makes them; they go with the test.
func newNetworks(t *testing.T) networks {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("network namespaces need root")
		}
		t.Skip("network namespaces need root")
	}
	require(t, "ip")
	name := func(of string) string { return fmt.Sprintf("causeway-%d-%s", os.Getpid(), of) }
	n := networks{visitor: name("visitor"), gateway: name("gateway"), origin: name("origin"), public: "10.81.1.1", private: "10.81.2.2", public6: "fd81:1::1", private6: "fd81:2::2"}
	for _, netns := range []string{n.visitor, n.gateway, n.origin} {
		mustRun(t, "ip", "netns", "add", netns)
		t.Cleanup(func() { mustRun(t, "ip", "netns", "del", netns) })
		mustRun(t, "ip", "-n", netns, "link", "set", "lo", "up")
	}
	for _, wire := range []struct{ from, to, fromAddress, toAddress, from6, to6 string }{
		{n.visitor, n.gateway, "10.81.1.2/24", n.public + "/24", "fd81:1::2/64", n.public6 + "/64"},
		{n.gateway, n.origin, "10.81.2.1/24", n.private + "/24", "fd81:2::1/64", n.private6 + "/64"},
	} {
		mustRun(t, "ip", "-n", wire.from, "link", "add", "right", "type", "veth", "peer", "name", "left", "netns", wire.to)
		mustRun(t, "ip", "-n", wire.from, "address", "add", wire.fromAddress, "dev", "right")
		mustRun(t, "ip", "-n", wire.to, "address", "add", wire.toAddress, "dev", "left")
		mustRun(t, "ip", "-n", wire.from, "address", "add", wire.from6, "dev", "right", "nodad")
		mustRun(t, "ip", "-n", wire.to, "address", "add", wire.to6, "dev", "left", "nodad")
		mustRun(t, "ip", "-n", wire.from, "link", "set", "right", "up")
		mustRun(t, "ip", "-n", wire.to, "link", "set", "left", "up")
	}
	return n
}

// TestPublishBetweenNetworks: one line on the gateway makes a site of the
// origin's network a public one, and nothing else of that network.
func TestPublishBetweenNetworks(t *testing.T) {
	n := newNetworks(t)
	origin := startNginxIn(t, n.origin, n.private+":80", `
		server { listen 80 default_server; return 404; }
		server { listen 80; server_name intranet.example; root DIR/www; absolute_redirect on;
			location = /old { return 302 http://intranet.example/new?from=http://intranet.example/old; } }
		server { listen 80; server_name secret.example; return 200 "secret"; }
		server { listen 8080; return 200 "secret"; }`)
	writeFile(t, origin.dir, "www/index.html", `<a href="http://intranet.example/next">next</a>`)

	dir := t.TempDir()
	publish := inside(n.gateway, binary, "publish", "http://intranet.example", "--connect", n.private+":80", "--as", "site.example.cn", "--listen", n.public+":443", "--dir", dir, "--log")
	causeway := startProcess(t, publish[0], publish[1:]...)
	eventually(t, "publish says that it serves", func() bool {
		return strings.Contains(causeway.stdoutText(), "http://intranet.example is now https://site.example.cn")
	})
	visit := func(args ...string) ran {
		command := inside(n.visitor, append([]string{"curl", "-q", "-sS", "--max-time", "5"}, args...)...)
		return runProgram(t, command[0], command[1:]...)
	}
	ca := []string{"--cacert", filepath.Join(dir, "ca.pem"), "--connect-to", "::" + n.public + ":443"}
	trusting := []string{"-k", "--http1.1", "--connect-to", "::" + n.public + ":443"}
	proxy := []string{"-x", "https://site.example.cn:443", "--proxy-insecure", "--resolve", "site.example.cn:443:" + n.public}

	if got := visit(append(ca, "https://site.example.cn/")...); got.stdout != `<a href="https://site.example.cn/next">next</a>` {
		t.Errorf("the page: %q %s", got.stdout, got.stderr)
	}
	if got := visit(append(ca, "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "https://site.example.cn/old")...); got.stdout != "302 https://site.example.cn/new?from=https://site.example.cn/old" {
		t.Errorf("the redirect: %q %s", got.stdout, got.stderr)
	}

	for what, args := range map[string][]string{
		"the origin itself":          {"http://" + n.private + "/"},
		"another name":               append(trusting, "https://secret.example/"),
		"the origin's own name":      append(trusting, "https://intranet.example/"),
		"its address":                append(trusting, "https://"+n.private+"/"),
		"another Host":               append(trusting, "-H", "Host: secret.example", "https://site.example.cn/"),
		"another port as Host":       append(trusting, "-H", "Host: "+n.private+":8080", "https://site.example.cn/"),
		"localhost as Host":          append(trusting, "-H", "Host: localhost", "-H", "X-Forwarded-Host: secret.example", "https://site.example.cn/"),
		"an absolute target":         append(trusting, "--request-target", "http://"+n.private+":8080/", "https://site.example.cn/"),
		"as a forward proxy":         append(proxy, "http://"+n.private+":8080/"),
		"as a tunnel":                append(proxy, "-p", "http://"+n.private+":8080/"),
		"as a tunnel to itself":      append(proxy, "-p", "-k", "https://site.example.cn/"),
		"as a proxy without a name":  {"-x", "https://" + n.public + ":443", "--proxy-insecure", "http://" + n.private + ":8080/"},
		"plain HTTP on the TLS port": {"http://site.example.cn:443/", "--resolve", "site.example.cn:443:" + n.public},
	} {
		got := visit(args...)
		t.Logf("%s: exit %d, %.300q %s", what, got.code, got.stdout, strings.TrimSpace(got.stderr))
		if strings.Contains(got.stdout, "secret") || (got.code == 0 && strings.Contains(got.stdout, "next")) {
			t.Errorf("%s: the visitor got %q", what, got.stdout)
		}
	}
	for _, line := range causeway.stdoutLines() {
		if strings.Contains(line, `"msg":"request"`) && strings.Contains(line, `"status":200`) && !strings.Contains(line, `"host":"site.example.cn"`) {
			t.Errorf("served: %s", line)
		}
	}
}
