package demo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"causeway/cert"
	"causeway/config"
	"causeway/daemon"
	"causeway/simnet"
)

// Options say how bad the line is and where the demo listens.
type Options struct {
	RTT  time.Duration
	Loss float64 // share of segments, 0 to 1
	Rate int64   // bytes a second each way; 0 = no limit

	HTTPS, HTTP, Admin string // listen addresses of the edge, loopback; port 0 takes a free one
	H3                 bool   // HTTP/3 too
	Dir                string // where the file, the certificates and the logs go; "" = a new temporary folder
	Once               bool   // compare, then stop
	Access             io.Writer
}

// Names of the demo's two nodes.
const (
	edgeNode  = "shanghai-1"
	relayNode = "virginia-1"
)

// site is the running demo.
type site struct {
	options Options
	dir     string
	port    string          // of the edge's https listener
	line    *simnet.Network // the border, under the link
	bare    *simnet.Network // another line like it, straight to the origin
}

// Run makes the whole crossing on loopback, prints what to try and a
// comparison, and serves until ctx ends. Nothing of it can be reached from
// another machine.
func Run(ctx context.Context, options Options, out io.Writer) error {
	s := &site{options: options}
	if err := s.reserve(); err != nil {
		return err
	}
	cleanUp, err := s.folder()
	if err != nil {
		return err
	}
	defer cleanUp()
	line := simnet.Line{RTT: options.RTT, Loss: options.Loss, Rate: options.Rate, Seed: 1}
	s.line, s.bare = simnet.New(line), simnet.New(line)

	ctx, stop := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop(nil)
	start := func(what string, run func() error) {
		running.Go(func() {
			if err := run(); err != nil {
				stop(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	originAddress, err := s.startOrigin(ctx, start)
	if err != nil {
		return err
	}
	file, err := s.writeFile(originAddress)
	if err != nil {
		return err
	}
	ready := make(chan struct{}, 2)
	for _, node := range []string{relayNode, edgeNode} {
		d, err := s.node(file, node)
		if err != nil {
			return err
		}
		start(node, func() error { return d.Run(ctx, func() { ready <- struct{}{} }) })
	}
	for range 2 {
		select {
		case <-ready:
		case <-ctx.Done():
			return ended(ctx)
		}
	}
	s.sayWhatRuns(out, file)
	if err := s.compare(ctx, out); err != nil {
		if ctx.Err() != nil {
			return ended(ctx)
		}
		return fmt.Errorf("compare: %w", err)
	}
	if options.Once {
		return nil
	}
	s.sayWhatToTry(out)
	<-ctx.Done()
	return ended(ctx)
}

// ended is why ctx ended, nil when it was asked to.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// reserve fixes the ports that were left open, so that the file can name them.
func (s *site) reserve() error {
	for _, address := range []*string{&s.options.HTTPS, &s.options.HTTP, &s.options.Admin} {
		ln, err := net.Listen("tcp", *address)
		if err != nil {
			return fmt.Errorf("%w (choose another port; see causeway demo --help)", err)
		}
		*address = ln.Addr().String()
		ln.Close()
	}
	var err error
	_, s.port, err = net.SplitHostPort(s.options.HTTPS)
	return err
}

// folder makes the place of the demo's files. A temporary one goes with the
// demo.
func (s *site) folder() (cleanUp func(), err error) {
	if s.dir = s.options.Dir; s.dir != "" {
		if s.dir, err = filepath.Abs(s.dir); err != nil {
			return nil, err
		}
		return func() {}, os.MkdirAll(s.dir, 0o700)
	}
	if s.dir, err = os.MkdirTemp("", "causeway-demo-"); err != nil {
		return nil, err
	}
	return func() { os.RemoveAll(s.dir) }, nil
}

// startOrigin serves the shop as https://example.com and its subdomains: on
// loopback for the relay, and at the far end of the bare line.
func (s *site) startOrigin(ctx context.Context, start func(string, func() error)) (address string, err error) {
	authority, err := cert.OpenAuthority(filepath.Join(s.dir, "overseas"), "Causeway demo, overseas")
	if err != nil {
		return "", err
	}
	if err := authority.Issue(filepath.Join(s.dir, "overseas"), "example.com", []string{"example.com", "*.example.com"}); err != nil {
		return "", err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(s.dir, "overseas", "example.com.pem"), filepath.Join(s.dir, "overseas", "example.com.key"))
	if err != nil {
		return "", err
	}
	near, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	far, err := s.bare.Listen("origin")
	if err != nil {
		return "", err
	}
	server := &http.Server{
		Handler: NewShop(), TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	context.AfterFunc(ctx, func() { server.Close() })
	for _, ln := range []net.Listener{near, far} {
		start("origin", func() error {
			if err := server.ServeTLS(ln, "", ""); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	return near.Addr().String(), nil
}

// publicHosts are the names of the shop under localhost, which browsers and
// curl lead to this machine without any set-up (RFC 6761 §6.3).
var publicHosts = []struct{ public, origin string }{
	{"shop.localhost", "example.com"},
	{"login.shop.localhost", "login.example.com"},
	{"api.shop.localhost", "api.example.com"},
	{"static.shop.localhost", "static.example.com"},
}

// writeFile makes the certificates and the file of the crossing: the same kind
// of file that a real one has.
func (s *site) writeFile(originAddress string) (string, error) {
	authority, err := cert.OpenAuthority(s.dir, "Causeway demo")
	if err != nil {
		return "", err
	}
	if err := authority.Issue(s.dir, "shop", []string{"shop.localhost", "*.shop.localhost"}); err != nil {
		return "", err
	}
	pki := filepath.Join(s.dir, "pki")
	nodes, err := cert.OpenAuthority(pki, "Causeway demo, link")
	if err != nil {
		return "", err
	}
	for _, node := range []string{edgeNode, relayNode} {
		if err := nodes.Issue(pki, node, nil); err != nil {
			return "", err
		}
	}
	var text strings.Builder
	text.WriteString("sites:\n  - name: shop\n    hosts:\n")
	for _, host := range publicHosts {
		fmt.Fprintf(&text, "      %s:%s: https://%s\n", host.public, s.port, host.origin)
	}
	fmt.Fprintf(&text, `    origin: {connect: [%q], tls: {ca: overseas/ca.pem}}
    tls: {cert: shop.pem, key: shop.key}
    headers: {request_id: true, server_timing: true}
pki: pki
nodes:
  - {name: %s, role: edge, region: cn, listen: {http: %q, https: %q, h3: %v, admin: %q}}
  - {name: %s, role: relay, region: us, listen: {link: "127.0.0.1:7443"}, address: "127.0.0.1:7443"}
limits: {drain_timeout: 2s}
`, originAddress, edgeNode, s.options.HTTP, s.options.HTTPS, s.options.H3, s.options.Admin, relayNode)
	file := filepath.Join(s.dir, "causeway.yaml")
	return file, os.WriteFile(file, []byte(text.String()), 0o600)
}

// node makes one of the two nodes; the link between them is the bad line.
func (s *site) node(file, name string) (*daemon.Daemon, error) {
	access := s.options.Access
	if access == nil {
		access = io.Discard
	}
	return daemon.New(daemon.Options{
		Load: func() (*config.Config, error) { return config.Load(file) },
		Node: name, Access: access,
		Log:        slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		DialLink:   func(ctx context.Context, _ string) (net.Conn, error) { return s.line.Dial(ctx, relayNode) },
		ListenLink: func(string) (net.Listener, error) { return s.line.Listen(relayNode) },
	})
}
