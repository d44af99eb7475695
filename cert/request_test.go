package cert

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// OpenSSL, as providers do, finds the request whole, signed with the key beside
// it, and in it what was asked for.
func TestRequestForOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(openssl, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	for key, says := range map[string]string{KeyEC: "NIST CURVE: P-256", KeyRSA: "(2048 bit)", KeyRSA3072: "(3072 bit)"} {
		t.Run(key, func(t *testing.T) {
			dir := t.TempDir()
			r, err := NewRequest([]string{"例子.cn", "*.例子.cn", "192.0.2.7", "2001:db8::7", "xn--fsqu00a.cn"}, key,
				Subject{Organization: "上海示例有限公司", Unit: "运维", Country: "cn", State: "上海", City: "上海", Email: "ops@example.cn"})
			if err != nil {
				t.Fatal(err)
			}
			keyFile, requestFile, err := r.Write(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			if want := filepath.Join(dir, "xn--fsqu00a.cn.key"); keyFile != want {
				t.Errorf("key in %s, want %s", keyFile, want)
			}
			text := run("req", "-in", requestFile, "-verify", "-noout", "-text", "-nameopt", "utf8,sep_comma_plus,sname")
			for _, want := range []string{
				"verify OK", says, "DNS:xn--fsqu00a.cn, DNS:*.xn--fsqu00a.cn, IP Address:192.0.2.7, IP Address:2001:DB8:0:0:0:0:0:7\n",
				"C=CN", "ST=上海", "L=上海", "O=上海示例有限公司", "OU=运维", "CN=xn--fsqu00a.cn", "emailAddress=ops@example.cn",
			} {
				if !strings.Contains(text, want) {
					t.Errorf("openssl req does not say %q:\n%s", want, text)
				}
			}
			asked := run("req", "-in", requestFile, "-noout", "-pubkey")
			if of := run("pkey", "-in", keyFile, "-pubout"); !bytes.Equal([]byte(of), []byte(asked)) {
				t.Error("the request is not for the key beside it")
			}
		})
	}
}

// OpenSSL opens a key that was made behind a password, and without it does not.
func TestRequestLockedKey(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	r, err := NewRequest([]string{"example.cn"}, KeyEC, Subject{})
	if err != nil {
		t.Fatal(err)
	}
	keyFile, _, err := r.Write(t.TempDir(), []byte("open"))
	if err != nil {
		t.Fatal(err)
	}
	for password, opens := range map[string]bool{"open": true, "shut": false} {
		if out, err := exec.Command(openssl, "pkey", "-in", keyFile, "-noout", "-passin", "pass:"+password).CombinedOutput(); (err == nil) != opens {
			t.Errorf("password %s: %v: %s", password, err, out)
		}
	}
}

// A host too long for a common name (64 characters) is in the subjectAltName all
// the same.
func TestRequestLongHost(t *testing.T) {
	host := strings.Repeat("a", 60) + ".example.cn"
	r, err := NewRequest([]string{host}, KeyEC, Subject{})
	if err != nil {
		t.Fatal(err)
	}
	if r.template.Subject.CommonName != "" || r.Hosts()[0] != host {
		t.Errorf("common name %q, hosts %q", r.template.Subject.CommonName, r.Hosts())
	}
}

func TestRequestRefuses(t *testing.T) {
	for _, c := range []struct {
		host    string
		subject Subject
		says    string
	}{
		{"", Subject{}, "neither a DNS name"},
		{"a b.cn", Subject{}, "neither a DNS name"},
		{"*.*.example.cn", Subject{}, "neither a DNS name"},
		{"w*.example.cn", Subject{}, "neither a DNS name"},
		{"-a.example.cn", Subject{}, "neither a DNS name"},
		{strings.Repeat("a", 64) + ".cn", Subject{}, "neither a DNS name"},
		{strings.Repeat("abcdefg.", 32) + "cn", Subject{}, "neither a DNS name"},
		{"*.cn", Subject{}, "whole top-level domain"},
		{"a.cn", Subject{Organization: "a\nb"}, "organization"},
		{"a.cn", Subject{Unit: "\xff"}, "unit"},
		{"a.cn", Subject{City: strings.Repeat("上", 129)}, "city has 129 characters"},
		{"a.cn", Subject{Country: "中国"}, "country"},
		{"a.cn", Subject{Email: "ops@例子.cn"}, "email"},
	} {
		if _, err := NewRequest([]string{c.host}, KeyEC, c.subject); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("host %q, subject %+v: error %v, want one with %q", c.host, c.subject, err, c.says)
		}
	}
}
