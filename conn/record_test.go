package conn

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var record = flag.Bool("record", false, "record testdata/hello anew, with the TLS clients of this machine")

var recordOnly = flag.String("record-only", "", "record this client alone")

// clients are what is recorded. ADDR, HOST and PORT are where the recorder
// listens, TMP is an empty folder, ~ a space within an argument; the name asked for is www.example.cn.
var clients = []struct{ name, command string }{
	{"curl", "curl -sk --connect-to www.example.cn:443:ADDR https://www.example.cn/"},
	{"curl-http11", "curl -sk --http1.1 --connect-to www.example.cn:443:ADDR https://www.example.cn/"},
	{"curl-tls12", "curl -sk --tls-max 1.2 --connect-to www.example.cn:443:ADDR https://www.example.cn/"},
	{"curl-no-alpn", "curl -sk --no-alpn --connect-to www.example.cn:443:ADDR https://www.example.cn/"},
	{"curl-ip", "curl -sk https://ADDR/"},
	{"curl-capitals", "curl -sk --connect-to WWW.Example.CN:443:ADDR https://WWW.Example.CN/"},
	{"openssl", "openssl s_client -connect ADDR -servername www.example.cn"},
	{"openssl-noservername", "openssl s_client -connect ADDR -noservername"},
	{"openssl-tls13", "openssl s_client -connect ADDR -servername www.example.cn -tls1_3 -alpn h2,http/1.1"},
	{"openssl-tls12", "openssl s_client -connect ADDR -servername www.example.cn -tls1_2 -alpn http/1.1"},
	{"openssl-tls1", "openssl s_client -connect ADDR -servername www.example.cn -tls1 -cipher DEFAULT@SECLEVEL=0"},
	{"openssl-split", "openssl s_client -connect ADDR -servername www.example.cn -split_send_frag 512 -max_send_frag 512 -alpn h2,http/1.1"},
	{"openssl-ip", "openssl s_client -connect ADDR -servername 192.0.2.1"},
	{"openssl-dot", "openssl s_client -connect ADDR -servername www.example.cn."},
	{"openssl-underscore", "openssl s_client -connect ADDR -servername my_shop.example.cn"},
	{"openssl-latin1", "openssl s_client -connect ADDR -servername b\xfccher.example.cn"},
	{"openssl-manyalpn", "openssl s_client -connect ADDR -servername www.example.cn -alpn h3,h2,http/1.1,http/1.0,acme-tls/1,dot"},
	{"chromium", "chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync --user-data-dir=TMP --host-resolver-rules=MAP~www.example.cn:443~ADDR --dump-dom https://www.example.cn/"},
	{"java", "java TMP/Hello.java HOST PORT"},
	{"go", ""},
	{"go-ech", ""},
}

// javaClient is run from its source.
const javaClient = `
import java.util.List;
import javax.net.ssl.*;

class Hello {
	public static void main(String[] args) throws Exception {
		SSLSocket s = (SSLSocket) SSLSocketFactory.getDefault().createSocket(args[0], Integer.parseInt(args[1]));
		SSLParameters p = s.getSSLParameters();
		p.setServerNames(List.of(new SNIHostName("www.example.cn")));
		p.setApplicationProtocols(new String[] {"h2", "http/1.1"});
		s.setSSLParameters(p);
		s.startHandshake();
	}
}
`

// TestRecordHellos records testdata/hello; see the README there.
func TestRecordHellos(t *testing.T) {
	if !*record {
		t.Skip("with -record only")
	}
	for _, client := range clients {
		if *recordOnly != "" && client.name != *recordOnly {
			continue
		}
		hello, err := recordHello(t, client.name, client.command)
		if err != nil {
			t.Errorf("%s: %v", client.name, err)
			continue
		}
		if err := os.WriteFile(filepath.Join("testdata/hello", client.name+".bin"), hello, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// recordHello gives what a client sends before it is answered.
func recordHello(t *testing.T, name, command string) ([]byte, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- runClient(ctx, t.TempDir(), name, command, listener.Addr().String()) }()
	_ = listener.(*net.TCPListener).SetDeadline(time.Now().Add(60 * time.Second))
	c, err := listener.Accept()
	if err != nil {
		return nil, err
	}
	defer func() { c.Close(); cancel(); <-ended }()
	// A hello of several segments comes within a moment on loopback.
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	hello, err := io.ReadAll(c)
	if len(hello) == 0 {
		return nil, fmt.Errorf("sent nothing: %w", err)
	}
	return hello, nil
}

func runClient(ctx context.Context, dir, name, command, addr string) error {
	switch name {
	case "go":
		client := http.Client{Transport: &http.Transport{
			ForceAttemptHTTP2: true,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, addr)
			},
		}}
		req, _ := http.NewRequestWithContext(ctx, "GET", "https://www.example.cn/", nil)
		_, err := client.Do(req)
		return err
	case "go-ech":
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		return tls.Client(c, &tls.Config{ServerName: "hidden.example.cn", NextProtos: []string{"h2"}, EncryptedClientHelloConfigList: echConfigs()}).HandshakeContext(ctx)
	}
	if err := os.WriteFile(filepath.Join(dir, "Hello.java"), []byte(javaClient), 0o644); err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(addr)
	args := strings.Fields(strings.NewReplacer("ADDR", addr, "HOST", host, "PORT", port, "TMP", dir).Replace(command))
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "~", " ")
	}
	return exec.CommandContext(ctx, args[0], args[1:]...).Run()
}

// echConfigs is a list of one ECH configuration for the outer name
// www.example.cn (RFC 9849 section 4), whose key nobody has: X25519's base point.
func echConfigs() []byte {
	const outer = "www.example.cn"
	key := make([]byte, 32)
	key[0] = 9
	contents := []byte{1, 0, 0x20, 0, 32} // config id, DHKEM(X25519), length of the key
	contents = append(contents, key...)
	contents = append(contents, 0, 4, 0, 1, 0, 1, 0, byte(len(outer))) // HKDF-SHA256 and AES-128-GCM, maximum_name_length
	contents = append(contents, outer...)
	contents = append(contents, 0, 0) // no extensions
	config := append([]byte{0xfe, 0x0d, 0, byte(len(contents))}, contents...)
	return append([]byte{0, byte(len(config))}, config...)
}
