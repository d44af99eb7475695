package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"causeway/cert"
	"causeway/config"
	"causeway/daemon"
)

// publication is what publish was asked for.
type publication struct {
	origin  string
	as      string
	listen  string
	connect []string
	ca      string
	dir     string
	log     bool
}

func publishVerb() *cobra.Command {
	p := publication{}
	verb := &cobra.Command{
		Use:   "publish URL [--as HOST[:PORT]]",
		Short: "Publish one origin under another name, without a file",
		Long: `Serves the site at URL under the public host HOST: every name of the origin is
turned into it. The certificate comes from an authority of your own that is made
on the first call and kept in --dir: trust its ca.pem once. For real visitors,
write the file that this verb prints and give it a real certificate.`,
		Example: "  causeway publish https://example.com\n  causeway publish http://127.0.0.1:8080 --as shop.localhost:8443",
		Args:    argsBetween(1, 1, "the URL of one origin"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p.origin = args[0]
			return p.run(cmd.OutOrStdout())
		},
	}
	flags := verb.Flags()
	flags.StringVar(&p.as, "as", "localhost:8443", "public host, and port unless it is 443")
	flags.StringVar(&p.listen, "listen", "", "where to listen (default: 127.0.0.1, or HOST when it is an address, and the public port)")
	flags.StringSliceVar(&p.connect, "connect", nil, "where to dial in place of what the DNS says, host:port")
	flags.StringVar(&p.ca, "ca", "", "PEM file of the authority that signed the origin's certificate (default: the system's)")
	flags.StringVar(&p.dir, "dir", "", "where the authority and the certificate are kept (default: causeway in the user's configuration folder)")
	flags.BoolVar(&p.log, "log", false, "show the access log")
	return verb
}

// run writes the file that does it, and serves that.
func (p *publication) run(out io.Writer) error {
	origin, err := url.Parse(p.origin)
	if err != nil || origin.Host == "" {
		return usagef("causeway publish: %q is not a base URL; write %s", p.origin, baseURL(p.origin))
	}
	origin.Path = strings.TrimSuffix(origin.Path, "/")
	if p.dir == "" {
		home, err := os.UserConfigDir()
		if err != nil {
			return fmt.Errorf("publish: choose a folder with --dir: %w", err)
		}
		p.dir = filepath.Join(home, "causeway")
	}
	text, err := p.file(origin)
	if err != nil {
		return err
	}
	load := func() (*config.Config, error) { return config.Parse("publish", []byte(text)) }
	cfg, err := load() // before anything is made: a bad name is said now
	if err != nil {
		return wrongArguments(err)
	}
	authority, err := cert.OpenAuthority(p.dir, "Causeway publish on "+hostname())
	if err != nil {
		return err
	}
	public := cfg.Sites[0].Hosts[0].Public
	if err := authority.Issue(p.dir, "publish", []string{public.Host}); err != nil {
		return err
	}
	var access io.Writer = io.Discard
	if p.log {
		access = out
	}
	return wrongArguments(serve(daemon.Options{Load: load, Access: access, Log: newLog(nil)}, func() {
		fmt.Fprintf(out, "%s is now %s\n\n  curl --cacert %s %s\n\nThe same as a file, causeway.yaml:\n\n%s\nStop with Ctrl-C.\n",
			origin, public, authority.CertFile(), curlArguments(cfg), indent(text))
	}))
}

// curlArguments is the URL to try, and where to find it when the DNS may not
// know or another port is meant. Names under localhost lead here by themselves
// (RFC 6761 section 6.3).
func curlArguments(cfg *config.Config) string {
	public := cfg.Sites[0].Hosts[0].Public
	public.Host = strings.Replace(public.Host, "*", "www", 1)
	host, port, err := net.SplitHostPort(cfg.Listen.HTTPS)
	if err != nil { // config has checked it
		return public.String() + "/"
	}
	if ip, err := netip.ParseAddr(host); err != nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	asked := public.Port
	if asked == "" {
		asked = "443"
	}
	_, err = netip.ParseAddr(public.Host)
	here := err == nil || public.Host == "localhost" || strings.HasSuffix(public.Host, ".localhost")
	if here && asked == port {
		return public.String() + "/"
	}
	return "--connect-to ::" + net.JoinHostPort(host, port) + " " + public.String() + "/"
}

// wrongArguments turns what is wrong with the file that publish made of its
// arguments into what is wrong with those: places in that file say nothing.
func wrongArguments(err error) error {
	var wrong config.Errors
	if !errors.As(err, &wrong) {
		return err
	}
	lines := make([]string, len(wrong))
	for i, one := range wrong {
		lines[i] = fmt.Sprintf("causeway publish: %s; %s", one.Msg, one.Mend)
	}
	return usagef("%s", strings.Join(lines, "\n"))
}

// baseURL guesses what was meant with text.
func baseURL(text string) string {
	if guess, err := url.Parse("https://" + text); err == nil && guess.Host != "" && !strings.Contains(text, "://") {
		return "https://" + guess.Host
	}
	return "https://example.com, for one"
}

// file is the causeway.yaml of the publication.
func (p *publication) file(origin *url.URL) (string, error) {
	listen := p.listen
	if listen == "" {
		host, port, err := net.SplitHostPort(p.as)
		if err != nil {
			host, port = strings.Trim(p.as, "[]"), "443"
		}
		if _, err := netip.ParseAddr(host); err != nil {
			host = "127.0.0.1" // a name; an address is listened on
		}
		listen = net.JoinHostPort(host, port)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "listen: {https: %s}\nsites:\n  - name: publish\n    hosts: {%s: %s}\n", strconv.Quote(listen), strconv.Quote(p.as), strconv.Quote(origin.String()))
	if len(p.connect) > 0 || p.ca != "" {
		text.WriteString("    origin:\n")
		if len(p.connect) > 0 {
			quoted := make([]string, len(p.connect))
			for i, address := range p.connect {
				quoted[i] = strconv.Quote(address)
			}
			fmt.Fprintf(&text, "      connect: [%s]\n", strings.Join(quoted, ", "))
		}
		if p.ca != "" {
			ca, err := filepath.Abs(p.ca)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&text, "      tls: {ca: %s}\n", strconv.Quote(ca))
		}
	}
	fmt.Fprintf(&text, "    tls: {cert: %s, key: %s}\n", strconv.Quote(filepath.Join(p.dir, "publish.pem")), strconv.Quote(filepath.Join(p.dir, "publish.key")))
	return text.String(), nil
}

// indent sets a text apart.
func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n  ") + "\n"
}

// hostname names this machine in the authority's certificate.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "this machine"
	}
	return name
}
