package records

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libdns/libdns"
	"github.com/miekg/dns"
)

// namedWorld is BIND's named, with the key "causeway" that may change
// example.test and sub.example.test, and another that may not.
func namedWorld(t *testing.T, algorithm string) world {
	server := startNamed(t, algorithm)
	p := mustNew(t, Config{Provider: RFC2136, Server: server, Key: "Causeway.", Secret: secretFile(t, testSecret), Algorithm: algorithm})
	return world{Provider: p, values: func(t *testing.T, name string) []string {
		m := new(dns.Msg)
		m.SetQuestion(name+".", dns.TypeTXT)
		answer, _, err := (&dns.Client{Net: "tcp"}).Exchange(m, server)
		if err != nil {
			t.Fatal(err)
		}
		var values []string
		for _, rr := range answer.Answer {
			values = append(values, strings.Join(rr.(*dns.TXT).Txt, ""))
		}
		slices.Sort(values)
		return values
	}}
}

// startNamed starts a named of the test's own on loopback, and gives its address.
func startNamed(t *testing.T, algorithm string) string {
	t.Helper()
	named, err := exec.LookPath("named")
	if err != nil {
		if named, err = exec.LookPath("/usr/sbin/named"); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal("named is not installed: apt-get install bind9")
			}
			t.Skip("named is not installed: apt-get install bind9")
		}
	}
	dir := t.TempDir()
	port := freePort(t)
	conf := fmt.Sprintf(`options { directory %q; pid-file none; session-keyfile none; listen-on port %d { 127.0.0.1; }; listen-on-v6 { none; }; recursion no; notify no; dnssec-validation no; };
controls { };
key "causeway" { algorithm %[3]s; secret %[4]q; };
key "reader" { algorithm %[3]s; secret %[4]q; };
`, dir, port, algorithm, testSecret)
	for _, zone := range []string{"example.test", "sub.example.test", "sealed.test"} {
		allow := "key causeway;"
		if zone == "sealed.test" {
			allow = "none;"
		}
		conf += fmt.Sprintf("zone %q { type primary; file %q; allow-update { %s }; };\n", zone, zone+".db", allow)
		data := "$TTL 60\n@ SOA ns.example.test. root.example.test. 1 60 60 60 60\n@ NS ns.example.test.\nns A 127.0.0.1\n"
		if zone == "example.test" {
			data += "sub NS ns.example.test.\naway NS ns.away.example.test.\nns.away A 192.0.2.1\n"
		}
		if err := os.WriteFile(filepath.Join(dir, zone+".db"), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "named.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	var output syncBuffer
	process := exec.Command(named, "-g", "-n", "1", "-c", file)
	process.Stdout, process.Stderr = &output, &output
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- process.Wait() }()
	t.Cleanup(func() {
		_ = process.Process.Kill()
		<-ended
	})
	server := fmt.Sprintf("127.0.0.1:%d", port)
	for range 200 {
		m := new(dns.Msg)
		m.SetQuestion("sub.example.test.", dns.TypeSOA)
		if answer, _, err := (&dns.Client{Net: "tcp"}).Exchange(m, server); err == nil && answer.Rcode == dns.RcodeSuccess {
			return server
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("named ended: %v\n%s", err, output.String())
		case <-time.After(25 * time.Millisecond):
		}
	}
	t.Fatalf("named does not answer:\n%s", output.String())
	return ""
}

// freePort is a port that is free for TCP and UDP.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

type syncBuffer struct {
	mu  sync.Mutex // for the buffer
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// TestUpdateTypes holds that other records are set and removed too.
func TestUpdateTypes(t *testing.T) {
	server := startNamed(t, "hmac-sha256")
	p := mustNew(t, Config{Provider: RFC2136, Server: server, Key: "causeway", Secret: secretFile(t, testSecret)})
	list := []libdns.Record{
		libdns.RR{Name: "www", Type: "A", Data: "192.0.2.7", TTL: time.Minute},
		libdns.RR{Name: "www", Type: "AAAA", Data: "2001:db8::7"},
		libdns.RR{Name: "app", Type: "CNAME", Data: "www.example.test"},
		txt("long", strings.Repeat(`a"\`, 100)),
	}
	if got, err := p.AppendRecords(t.Context(), "example.test.", list); err != nil || len(got) != len(list) {
		t.Fatalf("set %v, %v", got, err)
	}
	m := new(dns.Msg)
	m.SetQuestion("app.example.test.", dns.TypeA)
	answer, _, err := (&dns.Client{Net: "tcp"}).Exchange(m, server)
	if err != nil || len(answer.Answer) != 2 {
		t.Errorf("%v, %v", answer, err)
	}
	if got, err := p.DeleteRecords(t.Context(), "example.test.", list); err != nil || len(got) != len(list) {
		t.Errorf("removed %v, %v", got, err)
	}
}

// TestUpdateFails holds what is said when the server or the key is wrong.
func TestUpdateFails(t *testing.T) {
	server := startNamed(t, "hmac-sha256")
	good := Config{Provider: RFC2136, Server: server, Key: "causeway", Secret: secretFile(t, testSecret)}
	with := func(change func(*Config)) Provider {
		c := good
		change(&c)
		return mustNew(t, c)
	}
	refuses(t, with(func(c *Config) { c.Key = "nobody" }), "the server does not know the key (BADKEY)")
	refuses(t, with(func(c *Config) { c.Secret = secretFile(t, "YW5vdGhlciBzZWNyZXQ=") }), "the server refused the signature (BADSIG)")
	refuses(t, with(func(c *Config) { c.Secret = secretFile(t, "no base64!") }), "the secret is not base64")
	refuses(t, with(func(c *Config) { c.Algorithm = "hmac-sha512" }), "BADKEY")
	refuses(t, with(func(c *Config) { c.Key = "reader" }), "update the zone example.test at "+server, "(REFUSED); allow the key to update the name")
	refuses(t, with(func(c *Config) { c.Zone = "test" }), "update the zone test at "+server, "(NOTAUTH)")
	refuses(t, with(func(c *Config) { c.Zone = "example.org" }), "_acme-challenge.example.test is not in the zone example.org")
	refuses(t, with(func(c *Config) { c.Server = fmt.Sprint("127.0.0.1:", freePort(t)) }), "ask 127.0.0.1:", "connection refused")

	p := mustNew(t, good)
	for zone, want := range map[string]string{
		"away.example.test": "hands away.example.test to other servers; write the primary server of that zone",
		"elsewhere.test":    "the server refused (REFUSED)",
		"sealed.test":       "update the zone sealed.test",
	} {
		_, err := p.AppendRecords(t.Context(), zone, []libdns.Record{txt("_acme-challenge", "x")})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", zone, err, want)
		}
	}
}
