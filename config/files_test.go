package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"causeway/cache"
)

var testNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// issuer signs certificates for the tests; nil signs itself.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// write makes a certificate for names and writes base.pem and base.key.
func (by *issuer) write(t *testing.T, base string, from, to time.Time, names ...string) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: filepath.Base(base)},
		NotBefore: from, NotAfter: to,
		IsCA: len(names) == 0, BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else {
			cert.DNSNames = append(cert.DNSNames, name)
		}
	}
	parent, signer := cert, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, base+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, base+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{made, key}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const filesSites = `sites:
  - name: shop
    hosts: {example.cn: https://example.com, "*.example.cn": "https://*.example.com", 192.0.2.1: https://a.example.com}
    origin: {tls: {ca: ca.pem}}
    tls: {cert: a.pem, key: a.key}
  - name: plain
    hosts: {plain.test: http://plain.example.com}
    http: serve
`

const filesSeveral = `sites:
  - name: shop
    hosts: {example.cn: https://example.com, www.example.cn: https://www.example.com, m.example.cn: https://m.example.com}
    tls: {certs: [{cert: a.pem, key: a.key}, {cert: b.pem, key: b.key}]}
`

const filesNodes = `pki: pki
nodes:
  - {name: edge-1, role: edge, listen: {http: ":80", https: ":443"}}
  - {name: relay-1, role: relay, listen: {link: ":7443"}, address: "192.0.2.9:7443"}
`

func TestCheckFiles(t *testing.T) {
	from, to := testNow.AddDate(0, -1, 0), testNow.AddDate(0, 1, 0)
	names := []string{"example.cn", "*.example.cn", "192.0.2.1"}
	good := func(t *testing.T, dir string) {
		(*issuer)(nil).write(t, dir+"/ca", from, to)
		(*issuer)(nil).write(t, dir+"/a", from, to, names...)
	}
	pki := func(t *testing.T, dir string) {
		ca := (*issuer)(nil).write(t, dir+"/pki/ca", from, to)
		ca.write(t, dir+"/pki/edge-1", from, to, "edge-1")
		ca.write(t, dir+"/pki/relay-1", from, to, "relay-1")
	}
	tests := []struct {
		name, file, node string
		files            func(t *testing.T, dir string)
		want             []string // after the file name; DIR is the folder
	}{
		{"good", filesSites, "", good, nil},
		{"nothing there", filesSites, "", nil, []string{
			":4:24: sites[0].origin.tls.ca: DIR/ca.pem does not exist; put the file there, or change the path",
			":5:17: sites[0].tls.cert: DIR/a.pem does not exist; put the file there, or change the path",
			":5:29: sites[0].tls.key: DIR/a.key does not exist; put the file there, or change the path",
		}},
		{"other hosts", filesSites, "", func(t *testing.T, dir string) {
			good(t, dir)
			(*issuer)(nil).write(t, dir+"/a", from, to, "www.example.cn", "example.cn", "192.0.2.2")
		}, []string{
			":5:17: sites[0].tls.cert: DIR/a.pem does not cover *.example.cn, 192.0.2.1: it is for www.example.cn, example.cn, 192.0.2.2; get a certificate with every public host of the site, or take the host out of it",
		}},
		{"several, for a host each", filesSeveral, "", func(t *testing.T, dir string) {
			(*issuer)(nil).write(t, dir+"/a", from, to, "example.cn")
			(*issuer)(nil).write(t, dir+"/b", from, to, "www.example.cn", "m.example.cn")
		}, nil},
		{"several, and none for a host", filesSeveral, "", func(t *testing.T, dir string) {
			(*issuer)(nil).write(t, dir+"/a", from, to, "example.cn")
			(*issuer)(nil).write(t, dir+"/b", from, to, "www.example.cn")
		}, []string{":4:18: sites[0].tls.certs: no certificate is for m.example.cn; get a certificate with it, or take the host out of the site"}},
		{"several, and one for no host", filesSeveral, "", func(t *testing.T, dir string) {
			(*issuer)(nil).write(t, dir+"/a", from, to, "example.cn", "www.example.cn", "m.example.cn")
			(*issuer)(nil).write(t, dir+"/b", from, to, "example.org")
		}, []string{":4:53: sites[0].tls.certs[1].cert: DIR/b.pem does not cover example.cn, www.example.cn, m.example.cn: it is for example.org; get a certificate with every public host of the site, or take the host out of it"}},
		{"expired", filesSites, "", func(t *testing.T, dir string) {
			good(t, dir)
			(*issuer)(nil).write(t, dir+"/a", from, testNow.Add(-time.Hour), names...)
		}, []string{":5:17: sites[0].tls.cert: DIR/a.pem expired on 2026-06-01 11:00:00; renew it"}},
		{"not yet", filesSites, "", func(t *testing.T, dir string) {
			good(t, dir)
			(*issuer)(nil).write(t, dir+"/a", testNow.Add(time.Hour), to, names...)
		}, []string{":5:17: sites[0].tls.cert: DIR/a.pem is not valid before 2026-06-01 13:00:00; check the clock of this machine, or wait"}},
		{"another key", filesSites, "", func(t *testing.T, dir string) {
			good(t, dir)
			(*issuer)(nil).write(t, dir+"/b", from, to, names...)
			if err := os.Rename(dir+"/b.key", dir+"/a.key"); err != nil {
				t.Fatal(err)
			}
		}, []string{":5:29: sites[0].tls.key: DIR/a.key is not the key of DIR/a.pem; write the key with which the certificate was asked for"}},
		{"not PEM", filesSites, "", func(t *testing.T, dir string) {
			write(t, dir+"/ca.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
			write(t, dir+"/a.pem", "hello")
			write(t, dir+"/a.key", "hello")
		}, []string{
			":4:24: sites[0].origin.tls.ca: DIR/ca.pem holds no certificate; write the authorities as PEM: -----BEGIN CERTIFICATE-----",
			":5:17: sites[0].tls.cert: DIR/a.pem is not PEM; write the certificate as PEM: -----BEGIN CERTIFICATE-----",
			":5:29: sites[0].tls.key: DIR/a.key is not PEM; write the key as PEM: -----BEGIN PRIVATE KEY-----",
		}},
		{"swapped and broken", filesSites, "", func(t *testing.T, dir string) {
			good(t, dir)
			write(t, dir+"/a.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
			write(t, dir+"/a.key", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
		}, []string{
			":5:17: sites[0].tls.cert: certificate 1 of DIR/a.pem is broken: x509: malformed certificate; get the file again",
			":5:29: sites[0].tls.key: DIR/a.key holds no private key; write the key as PEM: -----BEGIN PRIVATE KEY-----",
		}},
		{"a password and a folder", filesSites, "", func(t *testing.T, dir string) {
			good(t, dir)
			write(t, dir+"/a.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
			if err := os.Remove(dir + "/ca.pem"); err != nil {
				t.Fatal(err)
			}
			write(t, dir+"/ca.pem/x", "")
		}, []string{
			":4:24: sites[0].origin.tls.ca: DIR/ca.pem cannot be read: is a directory; check the file",
			":5:29: sites[0].tls.key: DIR/a.key is protected by a password; write the password into a file, and name that: secret: FILE",
		}},
		{"edge", filesSites + filesNodes, "edge-1", func(t *testing.T, dir string) {
			(*issuer)(nil).write(t, dir+"/a", from, to, names...)
			pki(t, dir)
			os.Remove(dir + "/pki/relay-1.pem")
		}, nil},
		{"relay", filesSites + filesNodes, "relay-1", func(t *testing.T, dir string) {
			(*issuer)(nil).write(t, dir+"/ca", from, to)
			pki(t, dir)
			os.Remove(dir + "/pki/edge-1.pem")
		}, nil},
		{"no pki", filesSites + filesNodes, "edge-1", good, []string{
			":9:6: pki: DIR/pki/ca.pem does not exist; make it with: causeway link-ca --dir pki edge-1",
			":9:6: pki: DIR/pki/edge-1.pem does not exist; make it with: causeway link-ca --dir pki edge-1",
			":9:6: pki: DIR/pki/edge-1.key does not exist; make it with: causeway link-ca --dir pki edge-1",
		}},
		{"pki of another", filesSites + filesNodes, "relay-1", func(t *testing.T, dir string) {
			good(t, dir)
			pki(t, dir)
			(*issuer)(nil).write(t, dir+"/pki/ca", from, to)
		}, []string{
			":9:6: pki: DIR/pki/relay-1.pem was not signed by DIR/pki/ca.pem; make it with: causeway link-ca --dir pki relay-1",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "causeway.yaml")
			write(t, file, test.file)
			if test.files != nil {
				test.files(t, dir)
			}
			c, err := Load(file)
			if err != nil {
				t.Fatal(err)
			}
			n, err := c.Node(test.node)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, line := range test.want {
				want = append(want, file+strings.ReplaceAll(line, "DIR", dir))
			}
			files := c.checkFiles(n, testNow)
			err = append(files.errs, files.wrong...).orNil()
			if len(want) == 0 {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			var errs Errors
			if !errors.As(err, &errs) || errs.Error() != strings.Join(want, "\n") {
				t.Errorf("got\n%v\nwant\n%s", err, strings.Join(want, "\n"))
			}
		})
	}
}

// TestCheckCacheDir shows that check says of a folder of the cache what keeps it
// from being one, and only for the node that would have it.
func TestCheckCacheDir(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "taken"), "a file")
	var ca *issuer
	ca.write(t, filepath.Join(dir, "a"), time.Now().Add(-time.Hour), time.Now().Add(time.Hour), "example.cn")
	file := filepath.Join(dir, "causeway.yaml")
	check := func(dir string) error {
		write(t, file, "sites:\n  - {name: shop, hosts: {example.cn: https://example.com}, tls: {cert: a.pem, key: a.key}}\ncache: {disk: 1GiB, dir: "+dir+"}\n")
		_, _, _, err := Check(file, "")
		return err
	}
	if err := check("kept"); err != nil {
		t.Error(err)
	}
	err := check("taken/kept")
	want := file + ":3:26: cache.dir: nothing can be kept in " + dir + "/taken/kept: " + dir + "/taken is no folder; let the user that runs causeway write there, or name another folder"
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	if runtime.GOOS == "linux" {
		want := file + ":3:26: cache.dir: nothing can be kept in /proc/x: /proc is the kernel's, which keeps no files there; let the user that runs causeway write there, or name another folder"
		if err := check("/proc/x"); err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
	for role, want := range map[Role]string{RoleBoth: "/kept", RoleEdge: "/kept/a", RoleRelay: ""} {
		c := &Config{Sites: []*Site{{}}, Cache: Cache{Disk: 1, Dir: "/kept"}}
		if got := c.CacheDir(&Node{Name: "a", Role: role}); got != want {
			t.Errorf("%s: %q", role, got)
		}
	}
}

// TestCacheWarnings shows that check says where the file gives the cache more than
// this machine has.
func TestCacheWarnings(t *testing.T) {
	dir := t.TempDir()
	has, ok := cache.DiskOf(dir)
	memory, known := cache.Memory()
	if !ok || !known {
		t.Skip("it is not known here what the machine has")
	}
	var ca *issuer
	ca.write(t, filepath.Join(dir, "a"), time.Now().Add(-time.Hour), time.Now().Add(100*24*time.Hour), "example.cn")
	file := filepath.Join(dir, "causeway.yaml")
	check := func(keys string) []string {
		t.Helper()
		write(t, file, "sites:\n  - {name: shop, hosts: {example.cn: https://example.com}, tls: {cert: a.pem, key: a.key}}\ncache: {"+keys+"}\n")
		_, _, warnings, err := Check(file, "")
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, w := range warnings {
			if strings.HasPrefix(w.Path, "cache") {
				said = append(said, w.Error())
			}
		}
		return said
	}
	if said := check("memory: 1MiB, disk: 16MiB, dir: kept"); len(said) > 0 {
		t.Error(said)
	}
	said := check("memory: 1TiB, disk: 900TiB, dir: kept")
	want := []string{
		file + ":3:17: warning: cache.memory: 1TiB is more than the " + whole(memory).String() + " that this machine has: the kernel ends what takes it; write a part of that, or less",
		file + ":3:29: warning: cache.disk: 900TiB is more than the " + whole(has).String() + " of the disk that has " + dir + "/kept: what does not fit there is not kept; write " + whole(has).String() + " or less, or name a folder on another disk",
	}
	if !slices.Equal(said, want) {
		t.Errorf("%q\nwant %q", said, want)
	}
	if said := check("disk: 900TiB, dir: kept, memory: 1MiB"); len(said) != 1 {
		t.Error(said)
	}
}

func TestWhole(t *testing.T) {
	for n, want := range map[int64]string{252<<30 + 5: "252GiB", 9<<40 + 5<<30 + 1: "9221GiB", 24<<30 - 1: "23GiB", 9 << 40: "9TiB", 7: "7B"} {
		if got := whole(n).String(); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
