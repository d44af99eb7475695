package keypair

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/youmark/pkcs8"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// made is a certificate of the tests, and its key.
type made struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// recipe is what a made is like; the zero value is a good leaf for example.cn.
type recipe struct {
	name     string
	from, to time.Time
	hosts    []string
	ca       bool
	key      crypto.Signer
	uses     []x509.ExtKeyUsage
}

func (by *made) make(t testing.TB, r recipe) *made {
	t.Helper()
	if r.key == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		r.key = key
	}
	if r.from.IsZero() {
		r.from, r.to = now.AddDate(0, -1, 0), now.AddDate(0, 6, 0)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: r.name, Organization: []string{"of " + r.name}},
		NotBefore: r.from, NotAfter: r.to, DNSNames: r.hosts, IsCA: r.ca, BasicConstraintsValid: true, ExtKeyUsage: r.uses,
	}
	if r.ca {
		template.KeyUsage = x509.KeyUsageCertSign
	}
	parent, signer := template, r.key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, r.key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &made{cert, r.key}
}

func certText(of ...*made) string {
	var b strings.Builder
	for _, m := range of {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: m.cert.Raw})
	}
	return b.String()
}

func keyText(t testing.TB, m *made) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(m.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func put(t testing.TB, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// family is a root, two intermediate authorities below it and a leaf.
func family(t testing.TB) (root, upper, lower, leaf *made) {
	root = (*made)(nil).make(t, recipe{name: "Root", ca: true})
	upper = root.make(t, recipe{name: "Upper", ca: true})
	lower = upper.make(t, recipe{name: "Lower", ca: true})
	leaf = lower.make(t, recipe{name: "leaf", hosts: []string{"example.cn"}})
	return root, upper, lower, leaf
}

func names(c *tls.Certificate) string {
	var of []string
	for _, one := range Chain(c) {
		of = append(of, one.Subject.CommonName)
	}
	return strings.Join(of, " ")
}

// However the owner has put the chain together, what is served is in order.
func TestChainOrder(t *testing.T) {
	root, upper, lower, leaf := family(t)
	stranger := (*made)(nil).make(t, recipe{name: "stranger", hosts: []string{"example.org"}})
	for what, text := range map[string]string{
		"in order":            certText(leaf, lower, upper),
		"with the root":       certText(leaf, lower, upper, root),
		"the other way round": certText(root, upper, lower, leaf),
		"shuffled":            certText(upper, leaf, root, lower),
		"one twice":           certText(leaf, lower, lower, upper),
		"with a stranger":     certText(stranger, leaf, lower, upper),
		"with comments":       "subject=leaf\n" + strings.ReplaceAll(certText(leaf, lower, upper), "-----END CERTIFICATE-----\n", "-----END CERTIFICATE-----\n\nissuer=x\n"),
		"with the key":        keyText(t, leaf) + certText(leaf, lower, upper),
	} {
		dir := t.TempDir()
		files := Files{Cert: put(t, dir, "a.pem", text), Key: put(t, dir, "a.key", keyText(t, leaf))}
		if what == "with the key" {
			files.Key = ""
		}
		c, problems := Read(files)
		if c == nil || len(problems) > 0 {
			t.Errorf("%s: %v", what, problems)
			continue
		}
		if got := names(c); got != "leaf Lower Upper" {
			t.Errorf("%s: served as %s", what, got)
		}
	}
}

// Every bad file has a message of its own, which names it and the mend.
func TestReadRefuses(t *testing.T) {
	_, _, lower, leaf := family(t)
	other := lower.make(t, recipe{name: "other", hosts: []string{"example.cn"}})
	cert, key := certText(leaf, lower), keyText(t, leaf)
	for _, test := range []struct {
		what, cert, key, secret string
		want                    string // FILE… stand for the files
	}{
		{"no file", "-", key, "-", "CERT does not exist; put the file there, or change the path"},
		{"an empty one", "\n", key, "-", "CERT is empty; write the file again"},
		{"an empty key", cert, "", "-", "KEY is empty; write the file again"},
		{"no PEM", "hello", key, "-", "CERT is not PEM; write the certificate as PEM: -----BEGIN CERTIFICATE-----"},
		{"the key in its place", key, key, "-", "CERT holds no certificate; write the certificate as PEM: -----BEGIN CERTIFICATE-----"},
		{"the certificate in the key's", cert, cert, "-", "KEY holds no private key; write the key as PEM: -----BEGIN PRIVATE KEY-----"},
		{"broken", strings.Replace(cert, "MII", "MIJ", 1), key, "-", "certificate 1 of CERT is broken: "},
		{"half written", certText(leaf) + certText(lower)[:200], key, "-", "CERT ends in the midst of certificate 2; get the file again"},
		{"a broken key", cert, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "-", "the private key in KEY is broken; get the file again"},
		{"another's key", cert, keyText(t, other), "-", "KEY is not the key of CERT; write the key with which the certificate was asked for"},
		{"a password", cert, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", "-", "KEY is protected by a password; write the password into a file, and name that: secret: FILE"},
		{"not that password", cert, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", "wrong", "SECRET does not open KEY; write the password with which the key was made"},
		{"no whole blocks", cert, string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: cutPKCS8(t, leaf)})), "right", "SECRET does not open KEY; write the password with which the key was made"},
		{"no password", cert, key, "\nsecond", "the first line of SECRET is empty; write the password into it"},
		{"too long", cert + strings.Repeat("x", mostBytes), key, "-", "CERT is longer than 1048576 bytes: it is no certificate or key; name the right file"},
	} {
		dir := t.TempDir()
		files := Files{Cert: filepath.Join(dir, "a.pem"), Key: filepath.Join(dir, "a.key")}
		if test.cert != "-" {
			put(t, dir, "a.pem", test.cert)
		}
		put(t, dir, "a.key", test.key)
		if test.secret != "-" {
			files.Secret = put(t, dir, "a.pass", test.secret+"\n")
		}
		c, problems := Read(files)
		err := Refused(problems)
		want := strings.NewReplacer("CERT", files.Cert, "KEY", files.Key, "SECRET", files.Secret).Replace(strings.ReplaceAll(strings.ReplaceAll(test.want, "BEGIN CERTIFICATE", "\x00"), "BEGIN PRIVATE KEY", "\x01"))
		want = strings.ReplaceAll(strings.ReplaceAll(want, "\x00", "BEGIN CERTIFICATE"), "\x01", "BEGIN PRIVATE KEY")
		if c != nil || err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s:\ngot  %v\nwant %s", test.what, err, want)
		}
	}
}

// What editors of Windows put before the PEM is no part of it; a pipe that nobody
// writes to holds nobody up.
func TestReadsWhatIsThere(t *testing.T) {
	_, _, lower, leaf := family(t)
	dir := t.TempDir()
	files := Files{Cert: put(t, dir, "a.pem", "\xef\xbb\xbf"+certText(leaf, lower)), Key: put(t, dir, "a.key", "\xef\xbb\xbf"+keyText(t, leaf))}
	if c, problems := Read(files); c == nil {
		t.Error(problems)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, problems := Read(Files{Cert: pipe, Key: files.Key}); Refused(problems) == nil || Refused(problems).Error() != pipe+" is empty; write the file again" {
		t.Error(problems)
	}
}

// cutPKCS8 is an encrypted key whose last byte was lost.
func cutPKCS8(t testing.TB, of *made) []byte {
	t.Helper()
	der, err := pkcs8.MarshalPrivateKey(of.key, []byte("right"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		t.Fatal(err)
	}
	info.Data = info.Data[:len(info.Data)-1]
	if der, err = asn1.Marshal(info); err != nil {
		t.Fatal(err)
	}
	return der
}

// The password is the first line, whatever stands below it.
func TestSecretIsALine(t *testing.T) {
	_, upper, lower, leaf := family(t)
	dir := t.TempDir()
	der, err := pkcs8.MarshalPrivateKey(leaf.key, []byte("open sesame"), nil)
	if err != nil {
		t.Fatal(err)
	}
	files := Files{Cert: put(t, dir, "a.pem", certText(leaf, lower, upper)), Key: put(t, dir, "a.key", string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der})))}
	for _, text := range []string{"open sesame", "open sesame\n", "open sesame\r\n", "open sesame\nwritten by ops\n"} {
		files.Secret = put(t, dir, "a.pass", text)
		if c, problems := Read(files); c == nil {
			t.Errorf("%q: %v", text, problems)
		}
	}
}

// A pair that changes while it is read is read again; one that goes on changing is
// none, and the message says so.
func TestChangedWhileRead(t *testing.T) {
	_, upper, lower, leaf := family(t)
	other := lower.make(t, recipe{name: "other", hosts: []string{"example.cn"}})
	dir := t.TempDir()
	files := Files{Cert: put(t, dir, "a.pem", certText(leaf, lower, upper)), Key: put(t, dir, "a.key", keyText(t, leaf))}
	for changes, want := range map[int]string{0: "leaf", 1: "other", 3: "other", 4: ""} {
		looked := 0
		c, problems := readWhole(files, func(files Files) Stamp {
			if looked++; looked%2 == 0 && looked/2 <= changes { // between the two looks of a try
				put(t, dir, "a.pem", certText(other, lower, upper)+strings.Repeat("\n", looked))
				put(t, dir, "a.key", keyText(t, other))
			}
			return StampOf(files)
		})
		switch err := Refused(problems); {
		case want == "" && (c != nil || err == nil || err.Error() != files.Cert+", or what belongs to it, changed each time it was read; have it written under another name, and renamed when it is whole"):
			t.Errorf("%d changes: %v, %v", changes, c, err)
		case want != "" && (err != nil || c.Leaf.Subject.CommonName != want):
			t.Errorf("%d changes: %v, want %s", changes, err, want)
		}
		put(t, dir, "a.pem", certText(leaf, lower, upper))
		put(t, dir, "a.key", keyText(t, leaf))
	}
}

// What OpenSSL locks is opened, by whatever of its formats.
func TestLocked(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	_, upper, lower, leaf := family(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaLeaf := lower.make(t, recipe{name: "leaf", hosts: []string{"example.cn"}, key: rsaKey})
	for _, of := range []*made{leaf, rsaLeaf} {
		dir := t.TempDir()
		plain := put(t, dir, "plain.key", keyText(t, of))
		chain := put(t, dir, "chain.pem", certText(of, lower, upper))
		pass := put(t, dir, "a.pass", "open sesame\n")
		run := func(args ...string) {
			t.Helper()
			if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
				t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		}
		out := func(name string) string { return filepath.Join(dir, name) }
		kind := "ec"
		if of == rsaLeaf {
			kind = "rsa"
		}
		for _, locked := range []struct {
			what  string
			args  []string
			files Files
		}{
			{"PKCS#8, as OpenSSL 3 does it", []string{"pkcs8", "-topk8", "-in", plain, "-out", out("1.key"), "-passout", "file:" + pass}, Files{Cert: chain, Key: out("1.key"), Secret: pass}},
			{"PKCS#8, scrypt", []string{"pkcs8", "-topk8", "-scrypt", "-in", plain, "-out", out("2.key"), "-passout", "file:" + pass}, Files{Cert: chain, Key: out("2.key"), Secret: pass}},
			{"PKCS#8, 3DES", []string{"pkcs8", "-topk8", "-v2", "des3", "-in", plain, "-out", out("3.key"), "-passout", "file:" + pass}, Files{Cert: chain, Key: out("3.key"), Secret: pass}},
			{"as before PKCS#8", []string{kind, "-aes256", "-in", plain, "-out", out("4.key"), "-passout", "file:" + pass}, Files{Cert: chain, Key: out("4.key"), Secret: pass}},
			{"PKCS#12", []string{"pkcs12", "-export", "-inkey", plain, "-in", chain, "-out", out("5.p12"), "-passout", "file:" + pass}, Files{Cert: out("5.p12"), Secret: pass}},
			{"PKCS#12 by another name", []string{"pkcs12", "-export", "-inkey", plain, "-in", chain, "-out", out("6.bin"), "-passout", "file:" + pass}, Files{Cert: out("6.bin"), Secret: pass}},
			{"PKCS#12, as OpenSSL 1 did it", []string{"pkcs12", "-export", "-certpbe", "PBE-SHA1-3DES", "-keypbe", "PBE-SHA1-3DES", "-macalg", "sha1", "-inkey", plain, "-in", chain, "-out", out("7.pfx"), "-passout", "file:" + pass}, Files{Cert: out("7.pfx"), Secret: pass}},
		} {
			if kind == "rsa" && locked.what == "as before PKCS#8" {
				locked.args = append(locked.args, "-traditional")
			}
			run(locked.args...)
			c, problems := Read(locked.files)
			if c == nil || len(problems) > 0 {
				t.Errorf("%s %s: %v", kind, locked.what, problems)
				continue
			}
			if got := names(c); got != "leaf Lower Upper" {
				t.Errorf("%s %s: served as %s", kind, locked.what, got)
			}
			without := locked.files
			without.Secret = ""
			if c, problems := Read(without); c != nil || !strings.Contains(Refused(problems).Error(), "is protected by a password") {
				t.Errorf("%s %s, without the password: %v", kind, locked.what, problems)
			}
			wrong := locked.files
			wrong.Secret = put(t, dir, "wrong.pass", "open barley\n")
			if c, problems := Read(wrong); c != nil || !strings.Contains(Refused(problems).Error(), "does not open") {
				t.Errorf("%s %s, with another password: %v", kind, locked.what, problems)
			}
		}
	}
}

// Judge says each thing that clients or the owner would not like.
func TestJudge(t *testing.T) {
	root, upper, lower, _ := family(t)
	roots := x509.NewCertPool()
	roots.AddCert(root.cert)
	hosts := []string{"example.cn", "*.example.cn"}
	weak, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // it is to be refused
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	soon := root.make(t, recipe{name: "Soon", ca: true, from: now.AddDate(0, -2, 0), to: now.AddDate(0, 0, 5)})
	soft := root.make(t, recipe{name: "Soft", ca: true, key: weak})
	for _, test := range []struct {
		what  string
		leaf  recipe
		chain []*made
		want  Want
		level Level
		says  string // "" for nothing
	}{
		{"good", recipe{}, []*made{lower, upper}, Want{Hosts: hosts, Roots: roots, Approved: []string{"cfca", "of upper"}}, 0, ""},
		{"expired", recipe{from: now.AddDate(0, -2, 0), to: now.Add(-time.Second)}, []*made{lower, upper}, Want{Hosts: hosts, Roots: roots}, Wrong, "a.pem expired on 2026-06-01 11:59:59; renew it"},
		{"not yet", recipe{from: now.Add(time.Hour), to: now.AddDate(1, 0, 0)}, []*made{lower, upper}, Want{Hosts: hosts, Roots: roots}, Wrong, "a.pem is not valid before 2026-06-01 13:00:00; check the clock of this machine, or wait"},
		{"soon over", recipe{from: now.AddDate(0, -2, 0), to: now.Add(50 * time.Hour)}, []*made{lower, upper}, Want{Hosts: hosts}, Warning, "a.pem expires on 2026-06-03: 2 days are left; renew it"},
		{"another name", recipe{hosts: []string{"www.example.cn"}}, []*made{lower, upper}, Want{Hosts: hosts}, Fatal, "a.pem does not cover example.cn, *.example.cn: it is for www.example.cn; get a certificate"},
		{"no name", recipe{hosts: []string{}}, []*made{lower, upper}, Want{}, Fatal, "a.pem names no host (no subjectAltName): browsers refuse it; have it issued with its DNS names"},
		{"weak RSA", recipe{key: weak}, []*made{lower, upper}, Want{Hosts: hosts}, Fatal, "a.pem has an RSA key of 1024 bits, which browsers refuse; have a certificate issued for another key: causeway cert request"},
		{"weak curve", recipe{key: curve}, []*made{lower, upper}, Want{Hosts: hosts}, Fatal, "a.pem has an ECDSA key on P-224, which browsers refuse"},
		{"an intermediate is soon over", recipe{}, []*made{lower, soon}, Want{Hosts: hosts}, Warning, `an intermediate certificate in a.pem, "Soon", expires on 2026-06-06, before the first: 5 days are left; get the chain anew`},
		{"an intermediate is weak", recipe{}, []*made{lower, soft}, Want{Hosts: hosts}, Fatal, `a.pem has an intermediate certificate, "Soft", with an RSA key of 1024 bits, which browsers refuse`},
		{"for clients", recipe{uses: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, []*made{lower, upper}, Want{Hosts: hosts}, Fatal, "a.pem is for other uses than a server's, and browsers refuse it; have it issued for servers"},
		{"for both", recipe{uses: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}, []*made{lower, upper}, Want{Hosts: hosts}, 0, ""},
		{"an intermediate is missing", recipe{}, []*made{lower}, Want{Hosts: hosts, Roots: roots}, Warning, "a.pem: the chain ends with what of Upper, Upper signed, and that is no root that this system knows: an intermediate certificate is missing"},
		{"all are", recipe{}, nil, Want{Hosts: hosts, Roots: roots}, Warning, "a.pem: the chain ends with what of Lower, Lower signed"},
		{"not approved", recipe{}, []*made{lower, upper}, Want{Hosts: hosts, Approved: []string{"CFCA"}}, Warning, "a.pem was issued by of Lower, Lower, which approved_issuers does not name: CFCA; have it issued by one of them"},
		{"and refused", recipe{}, []*made{lower, upper}, Want{Hosts: hosts, Approved: []string{"CFCA"}, Refuse: true}, Fatal, "a.pem was issued by"},
	} {
		if test.leaf.hosts == nil {
			test.leaf.hosts = hosts
		}
		test.leaf.name = "leaf"
		leaf := lower.make(t, test.leaf)
		c := &tls.Certificate{Leaf: leaf.cert, Certificate: [][]byte{leaf.cert.Raw}, PrivateKey: leaf.key}
		for _, m := range test.chain {
			c.Certificate = append(c.Certificate, m.cert.Raw)
		}
		problems := Judge(c, "a.pem", test.want, now)
		switch {
		case test.says == "" && len(problems) > 0:
			t.Errorf("%s: %v", test.what, problems[0])
		case test.says == "":
		case len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), test.says) || problems[0].Level != test.level:
			t.Errorf("%s: got %v, want %d: %s", test.what, problems, test.level, test.says)
		}
	}
}

// The days are counted to the marks.
func TestMark(t *testing.T) {
	for _, test := range []struct {
		left time.Duration
		want int
	}{
		{-time.Second, 0}, {0, 0}, {time.Hour, 1}, {24 * time.Hour, 1}, {25 * time.Hour, 7}, {7 * 24 * time.Hour, 7},
		{8 * 24 * time.Hour, 14}, {30 * 24 * time.Hour, 30}, {30*24*time.Hour + time.Second, -1},
	} {
		if got := Mark(now.Add(test.left), now); got != test.want {
			t.Errorf("%v before the end: %d, want %d", test.left, got, test.want)
		}
	}
}

// FuzzRead: whatever is in the files, the pair fits or is refused with a reason.
func FuzzRead(f *testing.F) {
	_, _, lower, leaf := family(f)
	f.Add([]byte(certText(leaf, lower)), []byte(keyText(f, leaf)), []byte("pass"))
	f.Add([]byte("0\x80"), []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"), []byte("pass"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, cert, key, secret []byte) {
		files := Files{Cert: put(t, dir, "a.pem", string(cert)), Key: put(t, dir, "a.key", string(key)), Secret: put(t, dir, "a.pass", string(secret))}
		for _, files := range []Files{files, {Cert: files.Cert}, {Cert: files.Cert, Secret: files.Secret}} {
			c, problems := Read(files)
			if (c == nil) != (Refused(problems) != nil) {
				t.Fatalf("%v, and %v", c, problems)
			}
			if c == nil {
				continue
			}
			if signer, ok := c.PrivateKey.(crypto.Signer); !ok || !signer.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(c.Leaf.PublicKey) {
				t.Fatal("the key is another's")
			}
			Judge(c, "a.pem", Want{Hosts: []string{"example.cn"}}, now)
		}
	})
}
