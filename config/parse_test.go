package config

import (
	"errors"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"causeway/rewrite"
)

var update = flag.Bool("update", false, "write the expected output instead of comparing it")

// TestInvalid holds that each testdata/invalid-NAME.yaml is refused with
// exactly the lines of invalid-NAME.txt.
func TestInvalid(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid-*.yaml")
	if err != nil || len(files) < 24 {
		t.Fatalf("found %d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse(filepath.Base(file), data)
			var errs Errors
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("got %v, want Errors", err)
			}
			for _, e := range errs {
				if e.Line < 1 || e.Column < 1 || e.Msg == "" || e.Mend == "" {
					t.Errorf("incomplete: %+v", e)
				}
			}
			compare(t, strings.TrimSuffix(file, ".yaml")+".txt", err.Error()+"\n")
		})
	}
}

// compare holds that file is got, or makes it so with -update.
func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s differs; with -update it becomes:\n%s", file, got)
	}
}

// parse reads testdata/FILE as /etc/causeway/FILE.
func parse(t *testing.T, file string) *Config {
	t.Helper()
	data, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse("/etc/causeway/"+file, data)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDefaults(t *testing.T) {
	c := parse(t, "valid-minimal.yaml")
	want := Limits{
		HeaderBytes: 64 << 10, HeaderTimeout: 15 * time.Second, IdleTimeout: 75 * time.Second,
		BodyBytes: 10 << 30, BodyTimeout: time.Minute, BodyRate: 240,
		SendTimeout: time.Minute, ConnectTimeout: 10 * time.Second,
		OriginTimeout: time.Minute, OriginIdleTimeout: time.Minute, StreamTimeout: time.Hour,
		Connections: 16384, DrainTimeout: 30 * time.Second, LinkConnections: 4, LinkConnectionsMost: 16, LinkWindow: 4 << 20,
	}
	if c.Limits != want {
		t.Errorf("limits %+v, want %+v", c.Limits, want)
	}
	if want := (Log{Access: true, Level: slog.LevelInfo}); c.Log != want {
		t.Errorf("log %+v, want %+v", c.Log, want)
	}
	if want := (Listen{HTTP: ":80", HTTPS: ":443", Admin: "127.0.0.1:9900"}); *c.Listen != want {
		t.Errorf("listen %+v, want %+v", *c.Listen, want)
	}
	n, err := c.Node("")
	if err != nil || !n.IsEdge() || !n.IsRelay() || n.Listen != *c.Listen || len(c.Links) != 0 {
		t.Errorf("node %+v, %v, links %v", n, err, c.Links)
	}
	s := c.Sites[0]
	if s.Entry != Terminate || s.HTTP != HTTPServe || s.Map == nil || s.TLS != nil || s.Headers != (Headers{}) {
		t.Errorf("site %+v", s)
	}
	if _, err := c.Node("x"); err == nil || !strings.Contains(err.Error(), "has no nodes") {
		t.Errorf("node x: %v", err)
	}
}

func TestNodes(t *testing.T) {
	c := parse(t, "valid-design.yaml")
	if n, err := c.Node("shanghai-1"); err != nil || !n.IsEdge() || n.IsRelay() || n.Region != "cn" {
		t.Errorf("shanghai-1: %+v, %v", n, err)
	}
	if n, err := c.Node("virginia-1"); err != nil || n.IsEdge() || !n.IsRelay() || n.Address != "10.1.0.5:7443" {
		t.Errorf("virginia-1: %+v, %v", n, err)
	}
	for name, want := range map[string]string{
		"":      "/etc/causeway/valid-design.yaml has several nodes: say which with --node, one of shanghai-1, virginia-1",
		"tokyo": `/etc/causeway/valid-design.yaml has no node "tokyo": it has shanghai-1, virginia-1`,
	} {
		if _, err := c.Node(name); err == nil || err.Error() != want {
			t.Errorf("node %q: %v, want %s", name, err, want)
		}
	}
	if want := []*Link{{From: "shanghai-1", To: "virginia-1", Via: "10.1.0.5:7443", Prefer: 1, Weight: 1, Hedge: HedgeOff}}; !reflect.DeepEqual(c.Links, want) {
		t.Errorf("links %v", c.Links)
	}
	if c.PKI != "/etc/causeway/pki" || c.Sites[0].TLS.Key != "/etc/causeway/example.cn.key" || c.Sites[0].Origin.TLS.CA != "/etc/causeway/ca.pem" {
		t.Errorf("paths %s %+v", c.PKI, c.Sites[0])
	}
	if c.Listen != nil {
		t.Errorf("listen %+v", c.Listen)
	}
}

func TestNormalised(t *testing.T) {
	c := parse(t, "valid-everything.yaml")
	s := c.Sites[0]
	for i := range s.Hosts {
		s.Hosts[i].written = ""
	}
	site := []string{"203.0.113.11:80", "203.0.113.12:8080"}
	tls := []string{"203.0.113.11:443", "203.0.113.12:8080"}
	want := []Host{
		{Public: rewrite.Base{Scheme: "https", Host: "localhost", Port: "8443"}, To: rewrite.Base{Scheme: "http", Host: "example.com"}, Connect: site},
		{Public: rewrite.Base{Scheme: "https", Host: "*.localhost", Port: "8443"}, To: rewrite.Base{Scheme: "http", Host: "*.example.com"}, Connect: site},
		{Public: rewrite.Base{Scheme: "https", Host: "xn--fsqu00a.xn--fiqs8s"}, To: rewrite.Base{Scheme: "https", Host: "xn--bcher-kva.example"}, Connect: tls},
		{Public: rewrite.Base{Scheme: "https", Host: "2001:db8::1", Port: "8443"}, To: rewrite.Base{Scheme: "https", Host: "2001:db8::2", Port: "9443"}, Connect: tls},
		{Public: rewrite.Base{Scheme: "https", Host: "r3---sn-a.example.cn"}, To: rewrite.Base{Scheme: "https", Host: "r3---sn-a.my_host.example"},
			Connect: []string{"203.0.113.10:443", "[2001:db8::3]:443", "[2001:db8::4]:443", "dial.example.org:8443"}},
		{Public: rewrite.Base{Scheme: "https", Host: "192.0.2.1"}, To: rewrite.Base{Scheme: "http", Host: "192.0.2.2", Port: "3000"}, Connect: site, Cookies: true},
	}
	for i, h := range s.Hosts {
		if !reflect.DeepEqual(h, want[i]) {
			t.Errorf("host %d\n got %+v\nwant %+v", i, h, want[i])
		}
	}
	if s.HTTP != HTTPOff || s.TLS.Cert != "/etc/causeway/a.pem" || s.TLS.Key != "/etc/causeway/a.key" || s.Headers != (Headers{true, true}) {
		t.Errorf("site %+v", s)
	}
	l := c.Limits
	if l.HeaderBytes != 8192 || l.BodyBytes != 0 || l.BodyRate != 1000 || l.IdleTimeout != 150*time.Second || l.DrainTimeout != 0 || l.Connections != 100 || l.SendTimeout != time.Minute {
		t.Errorf("limits %+v", l)
	}
	if c.Log != (Log{Access: false, Level: slog.LevelDebug}) {
		t.Errorf("log %+v", c.Log)
	}
	if c.Listen.HTTPS != "[::1]:8443" {
		t.Errorf("listen %+v", c.Listen)
	}
}

func TestLinksLeftOut(t *testing.T) {
	c, err := Load("../examples/two-relays.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range c.Links {
		if l.Prefer < 1 {
			t.Errorf("link %+v", l)
		}
	}
	data, err := os.ReadFile("testdata/valid-design.yaml")
	if err != nil {
		t.Fatal(err)
	}
	before, _, _ := strings.Cut(string(data), "links:")
	c, err = Parse("f.yaml", []byte(before))
	if err != nil {
		t.Fatal(err)
	}
	if want := []*Link{{From: "shanghai-1", To: "virginia-1", Via: "10.1.0.5:7443", Prefer: 1, Weight: 1, Hedge: HedgeOff}}; !reflect.DeepEqual(c.Links, want) {
		t.Errorf("links %v", c.Links)
	}
}

func TestSizeText(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "1": 1, "240B": 240, "64KiB": 64 << 10, "10MB": 1e7, "10 MB": 1e7, "1kB": 1000, "2GiB": 2 << 30, "8191PiB": 8191 << 50} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "B", "-1", "+1", "1.5GiB", "1k", "8192PiB", "9223372036854775808", "1 0", "ten"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: %d, want an error", text, got)
		}
	}
	for size, want := range map[Size]string{0: "0", 240: "240B", 64 << 10: "64KiB", 1e7: "10MB", 1 << 30: "1GiB", 1001: "1001B"} {
		if got := size.String(); got != want {
			t.Errorf("%d: %s, want %s", size, got, want)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir + "/none.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, []byte(strings.Repeat("# much\n", 700_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(large); err == nil || err.Error() != large+":1:1: the file is larger than 4 MiB; split off what is not configuration" {
		t.Errorf("large file: %v", err)
	}
}

// TestAliasesBounded holds that aliases cannot make a small file large.
func TestAliasesBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("sites:\n  - &s\n    name: shop\n    http: serve\n    hosts:\n")
	for i := range 2000 {
		b.WriteString("      h" + strings.Repeat("a", i%50) + string(rune('a'+i%26)) + ".example.cn: https://example.com\n")
	}
	for range 3000 {
		b.WriteString("  - *s\n")
	}
	_, err := Parse("f.yaml", []byte(b.String()))
	if err == nil || !strings.Contains(err.Error(), "once its aliases are followed") {
		t.Errorf("got %.300v", err)
	}
	if _, err := Parse("f.yaml", []byte("sites: &a [*a]\n")); err == nil {
		t.Error("an alias inside itself was taken")
	}
}

// everyFile is the content of every file of testdata and examples.
func everyFile(t testing.TB) [][]byte {
	t.Helper()
	var all [][]byte
	for _, pattern := range []string{"testdata/*.yaml", "../examples/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, data)
		}
	}
	return all
}

// TestValid holds that every valid file and every example is taken.
func TestValid(t *testing.T) {
	for _, pattern := range []string{"testdata/valid-*.yaml", "../examples/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) < 3 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			if _, err := Load(file); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestLargeFiles holds that no large file keeps Parse busy for long or
// overflows its stack: the test would not end.
func TestLargeFiles(t *testing.T) {
	fill := func(head, each string) string {
		var b strings.Builder
		b.WriteString(head)
		for i := 0; b.Len()+len(each)+8 < maxBytes/8; i++ {
			b.WriteString(strings.ReplaceAll(each, "#", strconv.Itoa(i)))
		}
		return b.String()
	}
	for name, text := range map[string]string{
		"open lists":   fill("sites: ", "["),
		"open maps":    fill("", "{a: "),
		"nested keys":  fill("", "? "),
		"dashes":       fill("", "- "),
		"unknown keys": fill("", "key#: 1\n"),
		"numbers":      fill("sites:\n", "- #\n"),
		"spaces":       fill("", " "),
		"one name":     fill("sites: [{name: ", "a"),
		"hosts":        fill("sites:\n- name: a b\n  http: serve\n  hosts:\n", "    h#.example.cn: http://h#.example.com\n"),
		"wildcards":    fill("sites:\n- name: a b\n  http: serve\n  hosts:\n", "    '*.h#.example.cn': http://*.h#.example.com\n"),
		"routes":       fill("sites:\n- name: a\n  http: serve\n  hosts: {a.test: http://b.test}\n  routes:\n", "  - {path: /h#, origin: http://a}\n"),
		"forwards":     fill("forwards:\n", "- {name: f#, listen: ':1-9', sni: [a#.test], targets: ['[::1]:#', localhost]}\n"),
		"names":        fill("forwards: [{name: a, listen: ':1', targets: [b], sni: [", "a#.test, "),
		"listeners":    fill("forwards: [{name: a, targets: [b], listen: [", "':#', "),
		"targets":      fill("forwards: [{name: a, listen: ':1', targets: [", "'localhost:#', "),
		"anchors":      fill("sites:\n", "- &a#\n"),
	} {
		_, err := Parse("f.yaml", []byte(text))
		var errs Errors
		if err != nil && !errors.As(err, &errs) || len(errs) > maxErrors {
			t.Errorf("%s: %d errors, %.200v", name, len(errs), err)
		}
	}
}

// TestForwards holds what a Forward says of itself.
func TestForwards(t *testing.T) {
	c := parse(t, "valid-forwards.yaml")
	n, err := c.Node("")
	if err != nil || n.Name != "shanghai-1" || len(c.ForwardsOf(n)) != 3 {
		t.Fatalf("the only node is %+v, %v", n, err)
	}
	app, other, nobody := c.Forwards[0], c.Forwards[1], c.Forwards[2]
	if ports := app.Ports(); len(ports) != 12 || ports[0] != ":8443" || ports[1] != "[::]:9000" || ports[11] != "[::]:9010" || app.FirstPort() != 8443 {
		t.Errorf("ports %v", ports)
	}
	if app.SNI[0] != "app.mydomain.com" || app.SNI[2] != "xn--fsqu00a.xn--fiqs8s" {
		t.Errorf("names %v", app.SNI)
	}
	for addr, admitted := range map[string][3]bool{
		"198.51.100.7": {true, true, false}, "::ffff:198.51.100.7": {true, true, false}, "198.51.101.7": {false, true, false}, "2001:db8::1": {false, true, false},
	} {
		addr := netip.MustParseAddr(addr)
		if got := [3]bool{app.Admits(addr), other.Admits(addr), nobody.Admits(addr)}; got != admitted {
			t.Errorf("%s: %v", addr, got)
		}
	}
	if got := other.Accepts(); len(got) != 2 || got[1].String() != "2001:db8::1/128" {
		t.Errorf("accepts %v", got)
	}
	host, port := app.Targets[0].Split()
	if host != "example.com" || port != 443 || app.Targets[0].Weight != 1 || app.Targets[1].Weight != 2 {
		t.Errorf("targets %v", app.Targets)
	}
	if host, port := other.Targets[0].Split(); host != "203.0.113.10" || port != 0 {
		t.Errorf("target %s %d", host, port)
	}
	if app.CheckName(app.Targets[1]) != "example.com" || other.CheckName(other.Targets[0]) != "other.example" {
		t.Errorf("names of checks %q %q", app.CheckName(app.Targets[1]), other.CheckName(other.Targets[0]))
	}
	if h := other.Health; h.Check != CheckTCP || h.Every != 500*time.Millisecond || h.Timeout != time.Second || h.Fall != 2 || other.Limits.Connections != 10000 {
		t.Errorf("defaults %+v %+v", h, other.Limits)
	}
	if c.Nodes[0].Listen.HTTP != "" || len(c.Links) != 0 {
		t.Errorf("listens %+v", c.Nodes[0].Listen)
	}
	if one, err := Parse("f.yaml", []byte(`forwards: [{name: a, listen: ":1", targets: [b]}]`)); err != nil || *one.Listen != (Listen{Admin: "127.0.0.1:9900"}) {
		t.Errorf("a file of forwards: %+v, %v", one, err)
	}
}
