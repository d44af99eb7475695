package e2e

import (
	"bufio"
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
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The certificates of sites as files, with OpenSSL as the peer: as client, as the
// one that writes the files, and as OCSP responder.

// signed is a certificate, its key, and who signed it.
type signed struct {
	cert *x509.Certificate
	key  crypto.Signer
	by   *signed
}

// sign makes a certificate; by nil signs itself. change may be nil.
func sign(t testing.TB, by *signed, name string, key crypto.Signer, change func(*x509.Certificate)) *signed {
	t.Helper()
	serial := make([]byte, 16)
	_, _ = rand.Read(serial)
	serial[0] &= 0x7f
	c := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 3, 0), BasicConstraintsValid: true,
	}
	if strings.Contains(name, ".") {
		c.DNSNames, c.KeyUsage = []string{name, "*." + name}, x509.KeyUsageDigitalSignature
	} else {
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	}
	if change != nil {
		change(c)
	}
	s := &signed{key: key, by: by}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if s.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return s
}

func ecKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pemOf are certificates as PEM, in the order given.
func pemOf(of ...*signed) string {
	var text strings.Builder
	for _, s := range of {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert.Raw}))
	}
	return text.String()
}

func keyPEM(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// replaceFile puts a file in the place of another, whole.
func replaceFile(t testing.TB, path, text string) {
	t.Helper()
	writeFile(t, filepath.Dir(path), filepath.Base(path)+".new", text)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// sClient is a handshake of OpenSSL's client with the edge, for example.cn, whose
// chain must lead to root.
func sClient(t testing.TB, c *crossing, root string, args ...string) ran {
	t.Helper()
	return runProgram(t, "sh", append([]string{"-c", `exec openssl s_client "$@" </dev/null`, "sh",
		"-connect", c.https, "-servername", "example.cn", "-verify_hostname", "example.cn", "-CAfile", root, "-verify_return_error", "-showcerts"}, args...)...)
}

// serialOf is the serial number of the certificate that the edge shows.
func serialOf(t testing.TB, c *crossing, root string) string {
	t.Helper()
	handshake := sClient(t, c, root)
	block, _ := pem.Decode([]byte(handshake.stdout[max(0, strings.Index(handshake.stdout, "-----BEGIN CERT")):]))
	if block == nil {
		t.Fatalf("s_client shows no certificate:\n%s%s", handshake.stdout, handshake.stderr)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return leaf.SerialNumber.String()
}

const certSite = `
  - name: shop
    hosts: {example.cn: http://example.com}
    origin: {connect: [%q]}
    tls: %s
`

// helloOrigin is a plain origin.
func helloOrigin(t testing.TB) string {
	t.Helper()
	address := freeAddress(t)
	server := &http.Server{Addr: address, ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		if r.URL.Path != "/slow" {
			_, _ = io.WriteString(w, "hello")
			return
		}
		flusher := http.NewResponseController(w)
		for r.Context().Err() == nil { // until the client has seen enough
			if _, err := io.WriteString(w, "tick\n"); err != nil || flusher.Flush() != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ListenAndServe() })
	t.Cleanup(func() {
		server.Close()
		serving.Wait()
	})
	return address
}

// TestCertificateByHello: of an ECDSA and an RSA certificate each client gets the
// one it knows, with its chain put in order, from an encrypted key and from
// PKCS#12, as OpenSSL wrote them.
func TestCertificateByHello(t *testing.T) {
	require(t, "openssl")
	root := sign(t, nil, "Root", ecKey(t), nil)
	upper := sign(t, root, "Upper", ecKey(t), nil)
	lower := sign(t, upper, "Lower", rsaKey(t), nil)
	ec, rsa := sign(t, lower, "example.cn", ecKey(t), nil), sign(t, lower, "example.cn", rsaKey(t), nil)
	dir := t.TempDir()
	rootFile := writeFile(t, dir, "root.pem", pemOf(root))
	secret := writeFile(t, dir, "pass", "geheim wörd\n")
	writeFile(t, dir, "rsa.pem", pemOf(rsa, lower, upper))
	writeFile(t, dir, "rsa.plain", keyPEM(t, rsa.key))
	mustRun(t, "openssl", "pkcs12", "-export", "-in", dir+"/rsa.pem", "-inkey", dir+"/rsa.plain", "-out", dir+"/rsa.p12", "-passout", "file:"+secret)
	writeFile(t, dir, "ec.pem", pemOf(root, upper, lower, ec)) // the wrong way round, and with the root
	writeFile(t, dir, "ec.plain", keyPEM(t, ec.key))
	mustRun(t, "openssl", "pkey", "-aes-256-cbc", "-in", dir+"/ec.plain", "-out", dir+"/ec.key", "-passout", "file:"+secret)
	tls := fmt.Sprintf("{certs: [{cert: %s/rsa.p12, secret: %s}, {cert: %s/ec.pem, key: %s/ec.key, secret: %s}]}", dir, secret, dir, dir, secret)
	c := newCrossing(t, spec{layout: oneProcess, sites: fmt.Sprintf(certSite, helloOrigin(t), tls)})
	onlyRSA := []string{"-sigalgs", "RSA-PSS+SHA256:RSA+SHA256:RSA-PSS+SHA384"}
	onlyEC := []string{"-sigalgs", "ECDSA+SHA256"}
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		for _, test := range []struct {
			what string
			args []string
			says string
		}{
			{"knows both", nil, "Peer signature type: ECDSA"},
			{"knows RSA only", onlyRSA, "Peer signature type: RSA-PSS"},
			{"knows ECDSA only", onlyEC, "Peer signature type: ECDSA"},
		} {
			if test.what == "knows ECDSA only" && version == "-tls1_3" {
				continue // sigalgs are for the chain too there, and the chain is signed with RSA
			}
			handshake := sClient(t, c, rootFile, append([]string{version}, test.args...)...)
			if handshake.code != 0 || !strings.Contains(handshake.stdout, test.says) || !strings.Contains(handshake.stdout, "Verification: OK") {
				t.Errorf("%s, a client that %s: exit %d, want %q\n%s%s", version, test.what, handshake.code, test.says, handshake.stdout, handshake.stderr)
			}
			if n := strings.Count(handshake.stdout, "-----BEGIN CERTIFICATE"); n != 3 {
				t.Errorf("%s, a client that %s: %d certificates, want the leaf and the two intermediate ones", version, test.what, n)
			}
		}
	}
}

// TestCertificateReplaced: pairs come and go under load, whole, half and broken;
// no request and no connection is lost, and what cannot be used is told of once.
func TestCertificateReplaced(t *testing.T) {
	require(t, "openssl")
	root := sign(t, nil, "Root", ecKey(t), nil)
	first := sign(t, root, "example.cn", ecKey(t), nil)
	dir := t.TempDir()
	rootFile := writeFile(t, dir, "root.pem", pemOf(root))
	// As certbot has them: a link in live to a file in archive.
	live := func(name string) string { return filepath.Join(dir, "live", name) }
	link := func(n int, name string) {
		t.Helper()
		target := filepath.Join("..", "archive", fmt.Sprintf("%s%d.pem", strings.TrimSuffix(name, ".pem"), n))
		if err := os.Symlink(target, live(name+".new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(live(name+".new"), live(name)); err != nil {
			t.Fatal(err)
		}
	}
	archive := func(n int, of *signed) {
		t.Helper()
		writeFile(t, dir+"/archive", fmt.Sprintf("fullchain%d.pem", n), pemOf(of))
		writeFile(t, dir+"/archive", fmt.Sprintf("privkey%d.pem", n), keyPEM(t, of.key))
	}
	if err := os.Mkdir(filepath.Join(dir, "live"), 0o755); err != nil {
		t.Fatal(err)
	}
	archive(1, first)
	link(1, "fullchain.pem")
	link(1, "privkey.pem")
	c := newCrossing(t, spec{layout: oneProcess, more: "cache: off", sites: fmt.Sprintf(certSite, helloOrigin(t), fmt.Sprintf("{cert: %s, key: %s}", live("fullchain.pem"), live("privkey.pem")))})
	c.ca = &authority{dir: t.TempDir()}
	pool := x509.NewCertPool()
	pool.AddCert(root.cert)

	// The load: connections that are kept, connections that are new each time, and
	// one answer that goes on all the while.
	over := make(chan struct{})
	var loading sync.WaitGroup
	var asked atomic.Int64
	for i := range 4 {
		loading.Go(func() {
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "example.cn"}, DisableKeepAlives: i%2 == 0}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: patience}
			for {
				select {
				case <-over:
					return
				default:
				}
				req, _ := http.NewRequest(http.MethodGet, "https://"+c.https+"/", nil)
				req.Host = "example.cn"
				res, err := client.Do(req)
				if err != nil {
					t.Errorf("lost: %v", err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || string(body) != "hello" {
					t.Errorf("lost: %q, %v", body, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	conn, err := tls.Dial("tcp", c.https, &tls.Config{RootCAs: pool, ServerName: "example.cn"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /slow HTTP/1.1\r\nHost: example.cn\r\n\r\n")
	slow := bufio.NewReader(conn)
	tick := func(when string) {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		for {
			line, err := slow.ReadString('\n')
			if err != nil {
				t.Fatalf("the answer that goes on broke off %s: %v", when, err)
			}
			if strings.HasPrefix(line, "tick") {
				return
			}
		}
	}
	shows := func(of *signed, what string) {
		t.Helper()
		want := of.cert.SerialNumber.String()
		eventually(t, what, func() bool { return serialOf(t, c, rootFile) == want })
		tick(what)
	}
	warned := func(text string) int {
		n := 0
		for line := range strings.Lines(c.edge.stderrText() + "\n") {
			if strings.Contains(line, "level=ERROR") && strings.Contains(line, text) {
				n++
			}
		}
		return n
	}
	shows(first, "the first certificate")

	second := sign(t, root, "example.cn", ecKey(t), nil)
	archive(2, second)
	link(2, "privkey.pem")
	link(2, "fullchain.pem")
	shows(second, "the second certificate, through the links")

	// Half: the certificate is new, the key is not. The node goes on with the
	// second, says why, once, and takes the third when its key is there.
	third := sign(t, root, "example.cn", rsaKey(t), nil)
	archive(3, third)
	link(3, "fullchain.pem")
	eventually(t, "the log says that the key is another's", func() bool { return warned("is not the key of") > 0 })
	shows(second, "the second certificate while the key of the third is missing")
	link(3, "privkey.pem")
	shows(third, "the third certificate, once its key is there")

	// Broken, empty, for another host, expired, gone: the third stays.
	good := pemOf(third)
	for _, bad := range []struct{ what, text, says string }{
		{"cut short", good[:len(good)/2], "is not PEM"},
		{"empty", "", "is empty"},
		{"for another host", pemOf(sign(t, root, "example.org", third.key, nil)), "does not cover example.cn"},
		{"weak", pemOf(sign(t, root, "example.cn", third.key, func(c *x509.Certificate) { c.DNSNames = nil })), "names no host"},
	} {
		replaceFile(t, filepath.Join(dir, "archive", "fullchain3.pem"), bad.text)
		eventually(t, "the log says: "+bad.says, func() bool { return warned(bad.says) > 0 })
		shows(third, "the third certificate while its file is "+bad.what)
	}
	if err := os.Remove(live("fullchain.pem")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log says that the file is gone", func() bool { return warned("does not exist") > 0 })
	shows(third, "the third certificate while its file is gone")

	fourth := sign(t, root, "example.cn", ecKey(t), nil)
	archive(4, fourth)
	link(4, "privkey.pem")
	link(4, "fullchain.pem")
	shows(fourth, "the fourth certificate")
	close(over)
	loading.Wait()
	tick("at the end")
	for _, says := range []string{"is not the key of", "is not PEM", "is empty", "does not cover example.cn", "names no host", "does not exist"} {
		if n := warned(says); n != 1 {
			t.Errorf("the log says %d times: %s", n, says)
		}
	}
	t.Logf("%d requests while six certificates came and went, none lost", asked.Load())
}

// TestCertificateStapled: a certificate that insists on it is shown with the
// answer of OpenSSL's OCSP responder, and a handshake does not wait for one that is
// not there.
func TestCertificateStapled(t *testing.T) {
	require(t, "openssl")
	responder := freeAddress(t)
	root := sign(t, nil, "Root", ecKey(t), nil)
	must, err := asn1.Marshal([]int{5})
	if err != nil {
		t.Fatal(err)
	}
	issuer := sign(t, root, "Issuer", ecKey(t), nil)
	stapled := sign(t, issuer, "example.cn", ecKey(t), func(c *x509.Certificate) {
		c.OCSPServer = []string{"http://" + responder}
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: must}} // RFC 7633
	})
	dir := t.TempDir()
	rootFile := writeFile(t, dir, "root.pem", pemOf(root))
	issuerFile, issuerKey := writeFile(t, dir, "issuer.pem", pemOf(issuer)), writeFile(t, dir, "issuer.key", keyPEM(t, issuer.key))
	certFile, keyFile := writeFile(t, dir, "a.pem", pemOf(stapled, issuer)), writeFile(t, dir, "a.key", keyPEM(t, stapled.key))
	c := newCrossing(t, spec{layout: oneProcess, sites: fmt.Sprintf(certSite, helloOrigin(t), fmt.Sprintf("{cert: %s, key: %s}", certFile, keyFile))})

	without := sClient(t, c, rootFile, "-status")
	if without.code != 0 || !strings.Contains(without.stdout, "OCSP response: no response sent") {
		t.Errorf("without a responder:\n%s%s", without.stdout, without.stderr)
	}
	eventually(t, "the log says that its clients will refuse it", func() bool {
		return strings.Contains(c.edge.stderrText(), "insists on an OCSP answer")
	})

	index := fmt.Sprintf("V\t%s\t\t%X\tunknown\t/CN=example.cn\n", stapled.cert.NotAfter.UTC().Format("060102150405Z"), stapled.cert.SerialNumber)
	indexFile := writeFile(t, dir, "index.txt", index)
	_, port, _ := strings.Cut(responder, ":")
	startProcess(t, "openssl", "ocsp", "-index", indexFile, "-port", port, "-rsigner", issuerFile, "-rkey", issuerKey, "-CA", issuerFile, "-ndays", "1")
	// The node asks again a minute after it failed: one that starts now, with the
	// responder there, need not wait.
	c.edge.signal(t, 15)
	c.edge.wait(t)
	c.edge = startNode(t, c.edge.admin, c.args[""]...)
	eventually(t, "s_client sees the staple", func() bool {
		return strings.Contains(sClient(t, c, rootFile, "-status").stdout, "Cert Status: good")
	})
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		with := sClient(t, c, rootFile, "-status", version)
		if with.code != 0 || !strings.Contains(with.stdout, "OCSP Response Status: successful") || !strings.Contains(with.stdout, "Cert Status: good") {
			t.Errorf("%s:\n%s%s", version, with.stdout, with.stderr)
		}
	}
	if !c.edge.reload(t) {
		t.Fatal("the reload failed")
	}
	if with := sClient(t, c, rootFile, "-status"); !strings.Contains(with.stdout, "Cert Status: good") {
		t.Errorf("the staple is gone after a reload:\n%s", with.stdout)
	}
}
