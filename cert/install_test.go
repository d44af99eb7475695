package cert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"causeway/keypair"
)

// provider issues certificates by an intermediate authority.
type provider struct {
	dir           string
	roots         *x509.CertPool
	root, between *x509.Certificate
	key           crypto.Signer // of between
	serial        int64
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{dir: t.TempDir(), roots: x509.NewCertPool()}
	rootKey, betweenKey := newEC(t, elliptic.P256()), newEC(t, elliptic.P256())
	authority := func(name string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
			NotBefore: time.Now().Add(-1000 * day), NotAfter: time.Now().Add(1000 * day)}
	}
	root := authority("Root")
	p.root = p.sign(t, root, root, rootKey.Public(), rootKey)
	p.between = p.sign(t, authority("Between"), p.root, betweenKey.Public(), rootKey)
	p.key = betweenKey
	p.roots.AddCert(p.root)
	return p
}

const day = 24 * time.Hour

func newEC(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (p *provider) sign(t *testing.T, template, parent *x509.Certificate, key any, by crypto.Signer) *x509.Certificate {
	t.Helper()
	p.serial++
	template.SerialNumber = big.NewInt(p.serial)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// order is what a test wants of a provider; zero for a good certificate.
type order struct {
	hosts    []string
	from, to time.Duration // from now
	key      crypto.Signer
	alone    bool // without the intermediate certificate
}

// issue writes NAME.pem and NAME.key.
func (p *provider) issue(t *testing.T, name string, o order) keypair.Files {
	t.Helper()
	if o.hosts == nil {
		o.hosts = []string{"example.cn", "*.example.cn"}
	}
	if o.from == 0 {
		o.from = -day
	}
	if o.to == 0 {
		o.to = 90 * day
	}
	if o.key == nil {
		o.key = newEC(t, elliptic.P256())
	}
	leaf := p.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "leaf"}, DNSNames: o.hosts, NotBefore: time.Now().Add(o.from), NotAfter: time.Now().Add(o.to),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, p.between, o.key.Public(), p.key)
	text := certPEM(leaf.Raw)
	if !o.alone {
		text = append(text, certPEM(p.between.Raw)...)
	}
	files := keypair.Files{Cert: filepath.Join(p.dir, name+".pem"), Key: filepath.Join(p.dir, name+".key")}
	write(t, files.Cert, text)
	key, err := keypair.EncodeKey(o.key, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, files.Key, key)
	return files
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Each thing that is wrong with a certificate has its own message, and nothing is
// written.
func TestInstallRefuses(t *testing.T) {
	p := newProvider(t)
	t.Setenv("GODEBUG", "rsa1024min=0") // to make a weak key
	rsa1024, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak := p.issue(t, "weak", order{key: rsa1024})
	t.Setenv("GODEBUG", "")
	good := p.issue(t, "good", order{})
	for _, c := range []struct {
		name  string
		files keypair.Files
		says  string
	}{
		{"expired", p.issue(t, "expired", order{from: -100 * day, to: -day}), "expired.pem expired on "},
		{"not yet valid", p.issue(t, "early", order{from: day}), "early.pem is not valid before "},
		{"wrong name", p.issue(t, "names", order{hosts: []string{"example.cn", "www.example.cn"}}), "names.pem does not cover *.example.cn: it is for example.cn, www.example.cn; "},
		{"wrong key", keypair.Files{Cert: good.Cert, Key: p.issue(t, "other", order{}).Key}, "other.key is not the key of "},
		{"weak key", weak, "weak.pem has an RSA key of 1024 bits, which browsers refuse; "},
		{"weak curve", p.issue(t, "curve", order{key: newEC(t, elliptic.P224())}), "curve.pem has an ECDSA key on P-224, which browsers refuse; "},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			to := keypair.Files{Cert: filepath.Join(dir, "shop.pem"), Key: filepath.Join(dir, "shop.key")}
			_, err := PrepareInstall(Install{From: c.files, To: to, Want: p.want()}, time.Now())
			var problem *keypair.Problem
			if !errors.As(err, &problem) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want one with %q", err, c.says)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("it wrote %s", left[0].Name())
			}
		})
	}
}

func (p *provider) want() keypair.Want {
	return keypair.Want{Hosts: []string{"example.cn", "*.example.cn"}, Roots: p.roots}
}

// A missing intermediate certificate is a warning that names it; with it there is
// none, wherever it lies.
func TestInstallChain(t *testing.T) {
	p := newProvider(t)
	alone := p.issue(t, "alone", order{alone: true})
	between := filepath.Join(p.dir, "between.pem")
	write(t, between, append(certPEM(p.root.Raw), certPEM(p.between.Raw)...))
	to := keypair.Files{Cert: filepath.Join(p.dir, "shop.pem"), Key: filepath.Join(p.dir, "shop.key")}
	found, err := PrepareInstall(Install{From: alone, To: to, Want: p.want()}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Warnings) != 1 || !strings.Contains(found.Warnings[0].Error(), "what Between signed") {
		t.Errorf("warnings %v, want one that names Between", found.Warnings)
	}
	found, err = PrepareInstall(Install{From: alone, To: to, Chain: between, Want: p.want()}, time.Now())
	if err != nil || len(found.Warnings) > 0 || len(found.New.Certificate) != 2 {
		t.Errorf("error %v, warnings %v, chain of %d: want one of 2", err, found.Warnings, len(found.New.Certificate))
	}
	if len(found.Mended) != 1 || !strings.Contains(found.Mended[0], `left out the root "Root"`) {
		t.Errorf("mended %q", found.Mended)
	}
}

// Of the two files of a pair both are put in place, or none.
func TestInstallBothOrNone(t *testing.T) {
	p := newProvider(t)
	for _, before := range []bool{true, false} {
		to := keypair.Files{Cert: filepath.Join(t.TempDir(), "shop.pem"), Key: filepath.Join(t.TempDir(), "shop.key")}
		if before {
			old := p.issue(t, "old", order{to: 10 * day})
			write(t, to.Key, []byte(content(t, old.Key)))
			write(t, to.Cert, []byte(content(t, old.Cert)))
		}
		found, err := PrepareInstall(Install{From: p.issue(t, "new", order{}), To: to, Want: p.want()}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		key := ""
		if before {
			key = content(t, to.Key)
			if err := os.Remove(to.Cert); err != nil { // a folder with something in it can't be replaced
				t.Fatal(err)
			}
			found.files[1].old = nil
		}
		if err := os.MkdirAll(filepath.Join(to.Cert, "in the way"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := found.Write(); err == nil {
			t.Fatal("a file took the place of a folder")
		}
		if before && content(t, to.Key) != key {
			t.Error("the key is the new one, and the certificate is not")
		}
		if !before && exists(to.Key) {
			t.Error("there is a key, and no certificate")
		}
		for _, dir := range []string{filepath.Dir(to.Cert), filepath.Dir(to.Key)} {
			left, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range left {
				if strings.HasPrefix(file.Name(), ".") {
					t.Errorf("%s was left behind", file.Name())
				}
			}
		}
	}
}

// A link stays one, a group that could read the key can read the new one, and the
// owner stays.
func TestInstallKeepsModes(t *testing.T) {
	p := newProvider(t)
	dir := t.TempDir()
	old := p.issue(t, "old", order{to: 10 * day})
	to := keypair.Files{Cert: filepath.Join(dir, "shop.pem"), Key: old.Key}
	if err := os.Symlink(old.Cert, to.Cert); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(old.Key, 0o644); err != nil { // that others may read it is not kept
		t.Fatal(err)
	}
	const user, group = 12345, 54321
	if os.Geteuid() == 0 {
		if err := os.Chown(old.Key, user, group); err != nil {
			t.Fatal(err)
		}
	}
	found, err := PrepareInstall(Install{From: p.issue(t, "new", order{}), To: to, Want: p.want()}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := found.Write(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(to.Cert); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is none any more: %v, %v", info, err)
	}
	info, err := os.Stat(old.Key)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o640 {
		t.Errorf("the key has mode %v, want 0640", info.Mode())
	}
	if is := info.Sys().(*syscall.Stat_t); os.Geteuid() == 0 && (is.Uid != user || is.Gid != group) {
		t.Errorf("the key belongs to %d, %d: want %d, %d", is.Uid, is.Gid, user, group)
	}
	if c, problems := keypair.Read(to); c == nil || c.Leaf.SerialNumber.Cmp(found.New.Leaf.SerialNumber) != 0 {
		t.Errorf("what is in its place is not the new one: %v", problems)
	}
	if content(t, old.Key) == content(t, old.Key+".bak") {
		t.Error("the copy is not the one before")
	}
}
