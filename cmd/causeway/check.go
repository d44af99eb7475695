package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"causeway/audit"
	"causeway/cert"
	"causeway/config"
	"causeway/forward"
	"causeway/keypair"
	"causeway/nft"
)

// checkup is what check was asked for.
type checkup struct {
	file, node string
	asJSON     bool
	live       bool
	timeout    time.Duration
}

func checkVerb() *cobra.Command {
	c := checkup{}
	verb := &cobra.Command{
		Use:   "check [FILE] [--node NAME] [--live]",
		Short: "Check the file, the certificates and keys it names, and the origins",
		Long: `Checks FILE (default causeway.yaml) and prints every error at once, each as
file:line:column: path: what is wrong; the mend. With --node, or in a file
without nodes, the files that the node's part needs are checked too:
certificates, keys, authorities, and whether the folder of the cache can be
written to; a warning says when the file gives the cache more disk or memory than
this machine has. A certificate that ends within 30 days, or whose chain leads to no
root that this system knows, is a warning, and so is one whose last order failed.

With --live, a file that is fine is held against the world: this machine asks
for / of every public host that is no wildcard, as the relay would, dialled and
verified alike. An origin that can't be reached, that does not verify or that
answers 5xx is an error, and the exit status is 1. Warnings are for answers that
bind more than their own host: Clear-Site-Data with the cookies of the whole
domain, redirects to hosts that are not in the file. In a file with nodes name the one that this machine is:
relays reach the origins, so that an edge asks none, and says so. An edge checks
the targets of its forwards, each address once, as it does in service. A target
that fails is an error when no other target of its forward is well, and a warning
when another is. There are warnings too where this machine's kernel makes the links of the node slow,
without BBR, or with small socket buffers, and where it lacks what forwards with
entry: kernel need, and where the chain of a certificate lacks one that can be
had where the certificate says it is.

Of a site that is pending it says what it lacks before it can be opened: a
certificate; and, with --live, whether the DNS and plain HTTP of each of its
public hosts lead to an edge that holds it.`,
		Example: "  causeway check causeway.yaml\n  causeway check --node shanghai-1 causeway.yaml\n  causeway check --live --node virginia-1",
		Args:    argsBetween(0, 1, "one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.file = defaultFile
			if len(args) == 1 {
				c.file = args[0]
			}
			switch {
			case !c.live && cmd.Flags().Changed("timeout"):
				return usagef("causeway check: --timeout is how long --live may take: add --live, or leave it out")
			case c.timeout <= 0:
				return usagef("causeway check: --timeout %v: give more than 0, as in 30s", c.timeout)
			}
			return c.run(cmd.OutOrStdout())
		},
	}
	flags := verb.Flags()
	flags.StringVar(&c.node, "node", "", "check the files that this node's part needs")
	flags.BoolVar(&c.asJSON, "json", false, "print what was found as a JSON array")
	flags.BoolVar(&c.live, "live", false, "ask the origins and the targets of forwards, and look at this machine's kernel, too")
	flags.DurationVar(&c.timeout, "timeout", 30*time.Second, "how long --live may take")
	return verb
}

// run checks the file and, when that is fine and it is asked for, the world.
func (c *checkup) run(out io.Writer) error {
	cfg, node, warnings, err := c.readFile()
	if err != nil && c.asJSON {
		return sayErrors(out, err)
	}
	if err != nil {
		return err
	}
	if !c.asJSON {
		c.sayFine(out, cfg, node)
		for _, warning := range warnings {
			fmt.Fprintln(out, warning)
		}
	}
	switch {
	case c.live:
		return c.askWorld(out, cfg, node, warnings)
	case c.asJSON:
		return sayJSON(out, append(config.Errors{}, warnings...))
	}
	return nil
}

// readFile reads the file and, when it is clear whose part to take, looks at the
// files of that part; else the node is nil, which it may not be with --live.
func (c *checkup) readFile() (*config.Config, *config.Node, config.Errors, error) {
	cfg, node, warnings, err := config.Check(c.file, c.node)
	if err == nil && node == nil && c.live {
		_, err = cfg.Node(c.node)
	}
	var wrong config.Errors
	if err = unreadable(c.file, err); err != nil && !errors.As(err, &wrong) {
		err = &usageError{err}
	}
	if err == nil && node != nil {
		warnings = append(warnings, failedOrders(cfg, node)...)
	}
	return cfg, node, warnings, err
}

// failedOrders are the certificates that the node, when it ran last, could not
// order, as the folder of its orders has it.
func failedOrders(cfg *config.Config, node *config.Node) (warnings config.Errors) {
	for _, site := range cfg.Sites {
		if !site.EndsTLS(node) || !site.TLS.UsesACME() {
			continue
		}
		of, _ := cfg.ACMEOf(site)
		for _, host := range publicHosts(site) {
			if ends, overdue := cert.ACMEOverdue(context.Background(), of.Dir, host, of.Directory(), time.Now()); overdue {
				warnings = append(warnings, cfg.ACMEWarning(site, "see causeway cert list, and whether a node runs that orders it",
					"the certificate of %s ends on %s, and was not renewed in its time: %s", host, ends.UTC().Format(time.DateTime), keypair.Left(ends, time.Now())))
			}
			if why, next, failed := cert.ACMEFailure(context.Background(), of.Dir, host, of.Directory()); failed {
				warnings = append(warnings, cfg.ACMEWarning(site, "mend that, then causeway cert renew "+site.Name+"; a running node tries again at "+next.Format(time.DateTime),
					"%s could not be had: %s", host, strings.ReplaceAll(why, "\n", "; ")))
			}
		}
	}
	return warnings
}

// missing is what pending sites lack, as far as the machine of a node, which may be
// nil, knows.
func missing(cfg *config.Config, node *config.Node) []audit.Finding {
	if node == nil {
		return audit.Missing(cfg, nil)
	}
	return audit.Missing(cfg, func(site *config.Site) string { return uncertifiedHost(cfg, node, site) })
}

// uncertifiedHost is the first host of a site without a certificate, where the node
// orders it.
func uncertifiedHost(cfg *config.Config, node *config.Node, site *config.Site) string {
	if !site.EndsTLS(node) {
		return ""
	}
	of, _ := cfg.ACMEOf(site)
	for _, host := range publicHosts(site) {
		if cert.LookACME(context.Background(), of.Dir, site.Name, host, of.Directory()).NotAfter.Before(time.Now()) {
			return host
		}
	}
	return ""
}

// sayFine says what is in a file that is fine.
func (c *checkup) sayFine(out io.Writer, cfg *config.Config, node *config.Node) {
	looked := ""
	if node == nil {
		looked = " (certificates and keys: name a node with --node)"
	}
	what := count(len(cfg.Sites), "site")
	if len(cfg.Forwards) > 0 {
		what += ", " + count(len(cfg.Forwards), "forward")
	}
	if len(cfg.Sites) == 0 {
		what = count(len(cfg.Forwards), "forward")
	}
	fmt.Fprintf(out, "%s: fine: %s, %s%s\n", c.file, what, count(len(cfg.Nodes), "node"), looked)
	for _, finding := range missing(cfg, node) {
		fmt.Fprintln(out, finding)
	}
}

// askWorld asks the targets of forwards and the origins, until Ctrl-C, and prints
// what was found. Its error says how many failed.
func (c *checkup) askWorld(out io.Writer, cfg *config.Config, node *config.Node, warnings config.Errors) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	end := time.Now().Add(c.timeout)
	targets, err := audit.Targets(ctx, cfg, node, c.options("target", end))
	origins, pending := audit.Report{}, audit.Report{}
	if err == nil {
		pending, err = audit.Pending(ctx, cfg, c.options("host", end))
	}
	if err == nil {
		origins, err = audit.Origins(ctx, cfg, node, c.options("origin", end))
	}
	if isTerminal(os.Stderr) {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
	found := append(machineFindings(ctx, cfg, node), chainFindings(ctx, cfg, node, end)...)
	if c.asJSON { // they are printed already
		found = append(fileFindings(warnings), found...)
	}
	if failed := c.sayReports(out, cfg, node, found, targets, pending, origins); failed != nil {
		return failed
	}
	var failed []string
	for _, of := range []struct {
		report audit.Report
		noun   string
	}{{targets, "target"}, {origins, "origin"}} {
		if n := of.report.Count(audit.Error); n > 0 {
			failed = append(failed, count(n, of.noun))
		}
	}
	if err == nil && len(failed) > 0 {
		return fmt.Errorf("%s: %s failed", c.file, strings.Join(failed, ", "))
	}
	return err
}

// options are those of asking for so many things, until end.
func (c *checkup) options(noun string, end time.Time) audit.Options {
	options := audit.Options{Timeout: time.Until(end), Given: c.timeout}
	if isTerminal(os.Stderr) {
		options.Progress = func(asked, of int) { fmt.Fprintf(os.Stderr, "\r\x1b[K%d of %s asked", asked, count(of, noun)) }
	}
	return options
}

// machineFindings are what is to be known of this machine.
func machineFindings(ctx context.Context, cfg *config.Config, node *config.Node) []audit.Finding {
	machine := audit.Machine(os.DirFS("/"), node, os.Geteuid() == 0)
	unresolved := func(context.Context, string) ([]netip.Addr, error) { return nil, nil }
	if list, err := forward.Kernel(ctx, cfg.ForwardsOf(node), unresolved); err == nil && len(list) > 0 {
		for _, lack := range nft.Lacks(list) {
			machine = append(machine, audit.Finding{Level: audit.Warning, Kind: audit.KindKernel, Msg: lack})
		}
	}
	return machine
}

// chainFindings are the certificates that are missing in chains, looked for until
// end.
func chainFindings(ctx context.Context, cfg *config.Config, node *config.Node, end time.Time) []audit.Finding {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	return audit.Chains(ctx, cfg, node, nil)
}

// fileFindings are the warnings of the file beside those of the world.
func fileFindings(warnings config.Errors) []audit.Finding {
	var findings []audit.Finding
	for _, w := range warnings {
		findings = append(findings, audit.Finding{Level: audit.Warning, Kind: audit.KindFile, Msg: fmt.Sprintf("%s:%d:%d: %s: %s", w.File, w.Line, w.Column, w.Path, w.Msg), Mend: w.Mend})
	}
	return findings
}

// isTerminal reports whether a person may be looking. It takes /dev/null for a
// terminal too, where nothing is lost.
func isTerminal(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// sayReports prints what was found on this machine, and what targets, the hosts of
// pending sites and origins came to.
func (c *checkup) sayReports(out io.Writer, cfg *config.Config, node *config.Node, machine []audit.Finding, targets, pending, origins audit.Report) error {
	findings := append([]audit.Finding{}, slices.Concat(machine, targets.Findings, pending.Findings, origins.Findings)...)
	if c.asJSON {
		return sayJSON(out, append(findings, missing(cfg, node)...))
	}
	for _, finding := range findings {
		fmt.Fprintln(out, finding)
	}
	if err := saySum(out, "targets", targets); err != nil {
		return err
	}
	if err := saySum(out, "pending hosts", pending); err != nil {
		return err
	}
	return saySum(out, "origins", origins)
}

// saySum says how many were asked, and what came of it; nothing when none was.
func saySum(out io.Writer, nouns string, report audit.Report) error {
	if report.Asked == 0 {
		return nil
	}
	outcome := "fine"
	if failed, warned := report.Count(audit.Error), report.Count(audit.Warning); failed+warned > 0 {
		outcome = count(failed, "error") + ", " + count(warned, "warning")
	}
	_, err := fmt.Fprintf(out, "%s: %d asked: %s\n", nouns, report.Asked, outcome)
	return err
}

// sayErrors prints a file's errors for programs.
func sayErrors(out io.Writer, err error) error {
	list, ok := err.(config.Errors)
	if !ok {
		return err
	}
	if failed := sayJSON(out, list); failed != nil {
		return failed
	}
	return errSaid
}

// sayJSON prints a list for programs; an empty array is fine.
func sayJSON(out io.Writer, list any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(list)
}

// count is "1 site", "2 sites".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
