package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"causeway/audit"
	"causeway/config"
	"causeway/keypair"
)

func warmVerb() *cobra.Command {
	var file, node, edge, sitemap, list string
	var atOnce int
	var asJSON bool
	verb := &cobra.Command{
		Use:   "warm (--sitemap URL | --list FILE) [--at-once N] [--edge ADDRESS[:PORT]] [--json] [--config FILE] [--node NAME]",
		Short: "Ask an edge for pages, so that its cache has them before visitors come",
		Long: `Asks the edge on this machine for each URL of a sitemap, or of a file with one a
line (- is standard input), as browsers ask over TLS and over plain HTTP, and says
how many are kept now, and why the others are not: of those, and of those that
failed, the first 20 are named, each with its status and what the cache says of
it. What has an error for a status (404 too) has failed, whether it is kept or
not; what may not be kept has not. What the origin does not compress is waited for
until the edge has: up to ten seconds a form, and what has not come by then is
named too. The sitemap is read through the edge as well; of an index, all the
sitemaps that it lists. What they list of other hosts is left out, and named. A
sitemap that can't be read has failed, and a line that is no URL, and the rest goes
on; a list that comes slowly is asked for as it comes.

Exit status: 0, all answered; 1, one or more failed, or not all could be read.

--edge asks another edge, at its address or name (192.0.2.1, [2001:db8::1]:8443,
edge.example.cn), and at the port of each URL where it has none itself; its
certificate must be one that this machine trusts, or that the file names.`,
		Example: "  causeway warm --sitemap https://example.cn/sitemap.xml\n  causeway warm --list urls.txt --at-once 8",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case (sitemap == "") == (list == ""):
				return usagef("causeway warm: give --sitemap URL or --list FILE\nTry: causeway warm --help")
			case atOnce < 1 || atOnce > 256:
				return usagef("causeway warm: --at-once %d: give 1 to 256", atOnce)
			}
			at, err := edgePlace(edge)
			if err != nil {
				return err
			}
			cfg, part, err := readPart(file, node)
			if err != nil {
				return err
			}
			client, err := edgeClient(cfg, part, at)
			if err != nil {
				return err
			}
			opened, err := openList(list) // of a named pipe it waits for who writes
			if err != nil {
				return err
			}
			defer opened.Close()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			var left audit.Warming
			lists, end, err := warmURLs(ctx, client, sitemap, opened, left.Leave)
			if err != nil {
				return err
			}
			defer end()
			var progress audit.Progress
			clear := func() {}
			if isTerminal(os.Stderr) {
				progress, clear = warmBar(os.Stderr)
			}
			came, err := audit.Warm(ctx, client, lists, atOnce, progress)
			clear()
			came.Others, came.Away = left.Others, left.Away
			if asJSON {
				if failed := sayJSON(cmd.OutOrStdout(), came); failed != nil {
					return failed
				}
			} else if _, failed := io.WriteString(cmd.OutOrStdout(), warmText(came)); failed != nil {
				return failed
			}
			if err == nil && len(came.Failed) > 0 {
				err = errors.New("not all could be fetched")
			}
			if err != nil {
				return fmt.Errorf("warm: %w", err)
			}
			return nil
		},
	}
	flags := verb.Flags()
	flags.StringVar(&sitemap, "sitemap", "", "the URL of a sitemap, as in https://example.cn/sitemap.xml")
	flags.StringVar(&list, "list", "", "a file with a URL a line")
	flags.IntVar(&atOnce, "at-once", 4, "how many are asked for at a time")
	flags.StringVar(&edge, "edge", "", "the address of another edge than the one on this machine, perhaps with a port")
	flags.StringVar(&file, "config", defaultFile, "the file, for the edge's listeners and certificates")
	flags.StringVar(&node, "node", "", "the node (default: the only node)")
	flags.BoolVar(&asJSON, "json", false, "print what came of it as a JSON object")
	return verb
}

// openList opens a list; nil for none.
func openList(list string) (file *os.File, err error) {
	switch list {
	case "":
		return nil, nil
	case "-":
		return os.Stdin, nil
	}
	if file, err = os.Open(list); err != nil {
		return nil, fmt.Errorf("warm: %w", err)
	}
	return file, nil
}

// warmURLs is what names the URLs: a sitemap, or a list. other is told of those that
// are left out.
func warmURLs(ctx context.Context, client *http.Client, sitemap string, list *os.File, other func(of string)) (lists iter.Seq2[audit.Listed, error], end func(), err error) {
	if list == nil {
		if sitemap, err = publicURL("warm:", sitemap); err != nil {
			return nil, nil, err
		}
		return audit.Sitemap(ctx, client, sitemap, other), func() {}, nil
	}
	reader, err := newUntilDone(ctx, list)
	if err != nil {
		return nil, nil, fmt.Errorf("warm: %w", err)
	}
	return audit.List(reader), reader.close, nil
}

// untilDone is a file that is read until a context is done: also a terminal or a pipe
// whose other end says nothing. Those are others' too, so they are not made to not
// block.
type untilDone struct {
	file       *os.File
	ctx        context.Context
	done, tell *os.File    // a pipe, which closes when ctx is done
	forget     func() bool // of context.AfterFunc
}

// newUntilDone reads of file; the caller closes it, and then file.
func newUntilDone(ctx context.Context, file *os.File) (*untilDone, error) {
	done, tell, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &untilDone{file, ctx, done, tell, context.AfterFunc(ctx, func() { tell.Close() })}, nil
}

func (u *untilDone) Read(p []byte) (int, error) {
	waits := []unix.PollFd{{Fd: int32(u.file.Fd()), Events: unix.POLLIN}, {Fd: int32(u.done.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(waits, -1)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case u.ctx.Err() != nil:
			return 0, u.ctx.Err()
		default:
			return u.file.Read(p)
		}
	}
}

func (u *untilDone) close() {
	u.forget()
	u.done.Close()
	u.tell.Close()
}

// place is where an edge is dialled that --edge names: at the port of the URL where it
// has none.
type place struct{ host, port string }

func edgePlace(edge string) (at place, err error) {
	if edge == "" {
		return at, nil
	}
	host, port, ok := config.Place(edge)
	if !ok {
		return at, usagef("causeway warm: --edge %q is no address of an edge: give an address or a name, with a port or without, as in 192.0.2.1, [2001:db8::1]:8443, edge.example.cn:443", edge)
	}
	return place{host, port}, nil
}

// edgeClient asks an edge for whatever host: at the listeners of node, or at
// another place. It trusts the certificates that the file names, too.
func edgeClient(cfg *config.Config, node *config.Node, at place) (*http.Client, error) {
	if !node.IsEdge() && at.host == "" {
		return nil, usagef("causeway warm: %s is no edge: give --node, or --edge", node.Name)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	for _, site := range cfg.Sites {
		for _, files := range site.TLS.Files() {
			if c, _ := keypair.Read(files.Pair()); c != nil {
				for _, one := range keypair.Chain(c) {
					roots.AddCert(one)
				}
			} else if text, err := os.ReadFile(files.Cert); err == nil { // the key is not this user's to read
				roots.AppendCertsFromPEM(text)
			}
		}
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	dial := func(ctx context.Context, listen, asked string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(asked)
		if err != nil {
			return nil, err
		}
		if at.host != "" {
			return dialer.DialContext(ctx, "tcp", net.JoinHostPort(at.host, cmp.Or(at.port, port)))
		}
		if listen == "" {
			return nil, errors.New("the edge does not listen for that scheme")
		}
		host, port, err := net.SplitHostPort(listen)
		if err != nil {
			return nil, err
		}
		if host == "" || net.ParseIP(host).IsUnspecified() {
			host = "127.0.0.1"
		}
		return dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	}
	return &http.Client{
		Timeout:       5 * time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 256,
			DialContext: func(ctx context.Context, _, asked string) (net.Conn, error) {
				return dial(ctx, node.Listen.HTTP, asked)
			},
			DialTLSContext: func(ctx context.Context, _, asked string) (net.Conn, error) {
				conn, err := dial(ctx, node.Listen.HTTPS, asked)
				if err != nil {
					return nil, err
				}
				name, _, err := net.SplitHostPort(asked)
				if err != nil {
					conn.Close()
					return nil, err
				}
				secure := tls.Client(conn, &tls.Config{ServerName: name, RootCAs: roots, NextProtos: []string{"http/1.1"}})
				if err := secure.HandshakeContext(ctx); err != nil {
					conn.Close()
					return nil, err
				}
				return secure, nil
			},
		},
	}, nil
}

// warmBar is a bar, which is as long as what is known to be asked for, and says while
// that may be more; clear takes it away.
func warmBar(to io.Writer) (progress audit.Progress, clear func()) {
	var bar *progressbar.ProgressBar // since something is known
	whole := false                   // it says that there is no more
	return func(done, known int, all bool) {
			if !all {
				known++ // it is not full before all are known
			}
			if bar == nil {
				bar = progressbar.NewOptions(max(known, 1), progressbar.OptionSetDescription("asked, of those known so far"), progressbar.OptionSetWriter(to),
					progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("URL"),
					progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetRenderBlankState(true), progressbar.OptionClearOnFinish())
			}
			if all && !whole {
				whole = true
				bar.Describe("asked")
			}
			if known > 0 && known != bar.GetMax() {
				bar.ChangeMax(known)
			}
			_ = bar.Set(done)
		}, func() {
			if bar != nil {
				_ = bar.Finish()
			}
		}
}

// warmText is what people are shown.
func warmText(came audit.Warming) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%d URLs in %s, %s: %d kept now, %d were kept before\n", came.URLs, came.Took.Round(100*time.Millisecond), size(came.Bytes), came.Kept, came.Were)
	for _, why := range slices.Sorted(maps.Keys(came.NotKept)) {
		fmt.Fprintf(&text, "%d not kept: %s\n", came.NotKept[why], why)
	}
	for _, one := range came.Unkept {
		fmt.Fprintf(&text, "not kept: %s\n", one)
	}
	if came.Unnamed > 0 {
		fmt.Fprintf(&text, "and %d more not kept\n", came.Unnamed)
	}
	warmNames(&text, "kept, but not yet in every coding", came.Plain, came.Plainer)
	warmNames(&text, "left out, as of another host than the sitemap", came.Others, came.Away)
	for _, one := range came.Failed {
		fmt.Fprintf(&text, "failed: %s\n", one)
	}
	if came.More > 0 {
		fmt.Fprintf(&text, "and %d more failed\n", came.More)
	}
	return text.String()
}

// warmNames says of some URLs what they are, and how many there are.
func warmNames(text *strings.Builder, what string, named []string, more int) {
	if len(named) == 0 {
		return
	}
	fmt.Fprintf(text, "%d %s\n", len(named)+more, what)
	for _, one := range named {
		fmt.Fprintf(text, "%s: %s\n", what, one)
	}
	if more > 0 {
		fmt.Fprintf(text, "and %d more\n", more)
	}
}
