package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// readDNS reads what a `dns` may hold, by itself.
func readDNS(t *testing.T, dir, text string) (*DNS, report) {
	t.Helper()
	d := &decoder{report: report{file: filepath.Join(dir, "causeway.yaml"), places: places{}, bad: map[string]bool{}}, dir: dir}
	var whole struct {
		DNS *DNS `yaml:"dns"`
	}
	root := d.document([]byte("dns: " + text + "\n"))
	if root == nil {
		t.Fatal(d.errs)
	}
	d.value(root, reflect.ValueOf(&whole).Elem(), "", "")
	checkDNS(&d.report, "dns", whole.DNS)
	return whole.DNS, d.report
}

// TestDNS holds what each provider must have, and must not.
func TestDNS(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"{provider: alidns, access_key_id: a, access_key_secret: s}", ""},
		{"{provider: alidns, access_key_id: a, access_key_secret: s, zone: example.cn, endpoint: \"https://dns.example\", timeout: 30s}", ""},
		{"{provider: route53}", ""},
		{"{provider: route53, access_key_id: a, access_key_secret: s, region: cn-northwest-1, zone: Z123, endpoint: \"http://127.0.0.1:1\"}", ""},
		{"{provider: rfc2136, server: ns.example, key: k, secret: s, algorithm: hmac-sha512}", ""},
		{"{provider: hook, command: [./a.sh, b]}", ""},
		{"{provider: azure}", `1:17: dns.provider: "azure" is not alidns, route53, rfc2136 or hook; write alidns, route53, rfc2136 or hook`},
		{"{provider: alidns}", `1:1: dns: alidns needs the key "access_key_id"; add access_key_id: LTAI5tExample
1:1: dns: alidns needs the key "access_key_secret"; add access_key_secret: alidns.secret`},
		{"{provider: route53, access_key_id: a}", `1:1: dns: access_key_id and access_key_secret go together; write both, or neither for the credentials of the machine`},
		{"{provider: rfc2136, server: \"a b\", key: k, secret: s, region: r}", `1:34: dns.server: "a b" is not the address of a server; write host or host:port, such as 10.0.1.53
1:60: dns.region: rfc2136 has no region; take it out; known here: provider, resolvers, timeout, server, key, secret, algorithm, zone`},
		{"{provider: rfc2136, server: s, key: k, secret: s, algorithm: hmac-md5}", `1:67: dns.algorithm: "hmac-md5" is not hmac-sha256 or hmac-sha512; write hmac-sha256 or hmac-sha512`},
		{"{provider: hook, command: []}", `1:32: dns.command: there is no program; write the program and its arguments: [./dns-hook.sh]`},
		{"{provider: alidns, access_key_id: a, access_key_secret: s, endpoint: \"http://dns.example\"}",
			`1:75: dns.endpoint: "http://dns.example" is not the address of an API; write https:// and a host`},
		{"{provider: alidns, access_key_id: a, access_key_secret: s, zone: \"a b\"}", `1:71: dns.zone: "a b" is not a domain name; write the name of the zone, such as example.cn`},
	} {
		_, r := readDNS(t, "/etc", test.text)
		got := strings.TrimPrefix(strings.ReplaceAll(Errors(r.errs).Error(), "\n/etc/causeway.yaml:", "\n"), "/etc/causeway.yaml:")
		if got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.text, got, test.want)
		}
	}
}

// TestDNSPaths holds what is relative to the file, and the port of a server.
func TestDNSPaths(t *testing.T) {
	for _, test := range []struct {
		text string
		want func(*DNS) string
		is   string
	}{
		{"{provider: hook, command: [./a.sh, ./b]}", func(d *DNS) string { return strings.Join(d.Command, " ") }, "/etc/a.sh ./b"},
		{"{provider: hook, command: [a.sh]}", func(d *DNS) string { return d.Command[0] }, "a.sh"},
		{"{provider: rfc2136, server: 10.0.1.53, key: k, secret: s}", func(d *DNS) string { return d.Server }, "10.0.1.53:53"},
		{"{provider: rfc2136, server: \"[::1]:5353\", key: k, secret: s}", func(d *DNS) string { return d.Server + " " + d.Secret }, "[::1]:5353 /etc/s"},
	} {
		d, r := readDNS(t, "/etc", test.text)
		if len(r.errs) > 0 {
			t.Errorf("%s: %v", test.text, r.errs)
		} else if got := test.want(d); got != test.is {
			t.Errorf("%s: %s, want %s", test.text, got, test.is)
		}
	}
}

// TestDNSFiles holds what is wrong with the files that a `dns` names.
func TestDNSFiles(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"empty": " \n", "two": "a\nb\n", "plain": "not base64!", "good": "c2VjcmV0\n", "hook": "#!/bin/sh\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ text, want string }{
		{"{provider: alidns, access_key_id: a, access_key_secret: gone}", "access_key_secret: DIR/gone does not exist; put the file there, or change the path"},
		{"{provider: alidns, access_key_id: a, access_key_secret: empty}", "access_key_secret: DIR/empty is empty; write the secret into it"},
		{"{provider: alidns, access_key_id: a, access_key_secret: two}", "access_key_secret: DIR/two has more than one line; write the secret alone into it"},
		{"{provider: rfc2136, server: s, key: k, secret: plain}", "secret: what DIR/plain holds is not base64; write the secret of the key alone, as tsig-keygen prints it between the quotes"},
		{"{provider: rfc2136, server: s, key: k, secret: good}", ""},
		{"{provider: hook, command: [./hook]}", "command[0]: DIR/hook is not a program; chmod +x it"},
		{"{provider: hook, command: [./gone]}", "command[0]: DIR/gone does not exist; put the program there, or change the path"},
	} {
		d, r := readDNS(t, dir, test.text)
		if len(r.errs) > 0 {
			t.Fatal(r.errs)
		}
		f := &filesCheck{report: r}
		f.dns("dns", d)
		got := strings.ReplaceAll(Errors(f.errs).Error(), dir, "DIR")
		if _, after, cut := strings.Cut(got, ": dns."); cut {
			got = after
		}
		if got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.text, got, test.want)
		}
	}
}
