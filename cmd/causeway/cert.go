package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"causeway/admin"
	"causeway/cert"
	"causeway/config"
)

// certVerb is the parent of what is done with the certificates of sites.
func certVerb() *cobra.Command {
	verb := &cobra.Command{
		Use:   "cert",
		Short: "The certificates of sites: list, request, install, renew, test",
		Args:  knownVerb,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	verb.AddCommand(certListVerb(), certRequestVerb(), certInstallVerb(), certRenewVerb(), certTestVerb())
	return verb
}

// listing is what cert list prints as JSON.
type listing struct {
	Node         string    `json:"node,omitempty"`
	Running      bool      `json:"running"` // the node was asked; else the files were read
	Time         time.Time `json:"time"`
	Certificates []listed  `json:"certificates"`
}

// listed is a certificate of a listing.
type listed struct {
	cert.State
	DaysLeft *int     `json:"days_left"`       // whole days; null where there is no certificate
	Nodes    []string `json:"nodes,omitempty"` // where it is used, in a file with nodes
}

func certListVerb() *cobra.Command {
	var at nodeAt
	var asJSON bool
	verb := &cobra.Command{
		Use:   "list [--json] [--config FILE] [--node NAME] [--admin ADDRESS]",
		Short: "Show the certificates of sites, and how long they last",
		Long: `Asks the node on this machine, at the admin address of the file, for the
certificates that it shows, and prints a line for each, that which ends first
before the others. Where the node does not run, it looks at the files that the file names.

The exit status is 1 when one has expired, or something is wrong with one: files
that changed and can't be used, a certificate that could not be renewed. What is
wrong stands under the table. NODES are those of the file that show it.`,
		Example: "  causeway cert list\n  causeway cert list --node shanghai-1 --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := listCertificates(cmd, &at)
			if err != nil {
				return err
			}
			if asJSON {
				err = sayJSON(cmd.OutOrStdout(), list)
			} else {
				_, err = io.WriteString(cmd.OutOrStdout(), certTable(list))
			}
			if failing := list.failing(); failing > 0 && err == nil {
				return fmt.Errorf("cert list: something is wrong with %s", count(failing, "certificate"))
			}
			return err
		},
	}
	at.addTo(verb)
	verb.Flags().BoolVar(&asJSON, "json", false, "print it as a JSON object")
	return verb
}

// listCertificates asks the node, or looks at the files where it does not run.
func listCertificates(cmd *cobra.Command, at *nodeAt) (list listing, err error) {
	var cfg *config.Config
	var node *config.Node
	if at.address == "" {
		if cfg, node, err = readPart(at.file, at.node); err != nil {
			return list, err
		}
	}
	shown := admin.Certificates{Time: time.Now()}
	if cfg == nil || node.Listen.Admin != "" {
		address, err := at.find(cmd)
		if err != nil {
			return list, err
		}
		err = look(cmd.Context(), "cert list", address, "certificates", &shown)
		var unreached *net.OpError
		switch away := errors.As(err, &unreached) && unreached.Op == "dial"; {
		case err == nil:
			list.Running = true
			if err := at.checked("cert list", address, shown.Node); err != nil {
				return list, err
			}
		case !away || cfg == nil:
			return list, err
		}
	}
	if !list.Running {
		fmt.Fprintln(os.Stderr, "the node does not run: these are the files as they lie here")
		shown = admin.Certificates{Node: node.Name, Time: time.Now(), Certificates: lookAtFiles(cmd.Context(), cfg, node)}
	}
	list.Node, list.Time, list.Certificates = shown.Node, shown.Time, []listed{}
	for _, state := range shown.Certificates {
		of := listed{State: state}
		if !state.NotAfter.IsZero() {
			of.DaysLeft = new(int(math.Floor(state.Left(shown.Time).Hours() / 24)))
		}
		if cfg != nil {
			if i := slices.IndexFunc(cfg.Sites, func(site *config.Site) bool { return site.Name == state.Site }); i >= 0 {
				of.Nodes = nodesOf(cfg, cfg.Sites[i])
			}
		}
		list.Certificates = append(list.Certificates, of)
	}
	slices.SortStableFunc(list.Certificates, func(a, b listed) int { return a.NotAfter.Compare(b.NotAfter) })
	return list, nil
}

// lookAtFiles are the certificates of a node as their files are.
func lookAtFiles(ctx context.Context, cfg *config.Config, node *config.Node) (states []cert.State) {
	now := time.Now()
	for _, site := range cfg.Sites {
		if !site.EndsTLS(node) {
			continue
		}
		for _, files := range placesOf(site) {
			states = append(states, cert.Look(site.Name, files, cfg.Want(site), now))
		}
		if site.TLS.UsesACME() {
			of, _ := cfg.ACMEOf(site)
			for _, host := range publicHosts(site) {
				states = append(states, cert.LookACME(ctx, of.Dir, site.Name, host, of.Directory()))
			}
		}
	}
	return states
}

// failing counts those that need somebody.
func (l *listing) failing() (n int) {
	for _, c := range l.Certificates {
		if c.Err != "" || !c.NotAfter.After(l.Time) {
			n++
		}
	}
	return n
}

// certTable is the table for people.
func certTable(list listing) string {
	if len(list.Certificates) == 0 {
		return "no site has a certificate here\n"
	}
	withNodes := slices.ContainsFunc(list.Certificates, func(c listed) bool { return len(c.Nodes) > 0 })
	var text, wrong strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	heading := "SITE\tNAMES\tISSUER\tKEY\tDAYS LEFT\tUNTIL\tSOURCE\tWHERE"
	if withNodes {
		heading += "\tNODES"
	}
	fmt.Fprintln(table, heading)
	for _, c := range list.Certificates {
		days, until := "-", "-"
		if c.DaysLeft != nil {
			days, until = strconv.Itoa(*c.DaysLeft), c.NotAfter.UTC().Format(time.DateOnly)
		}
		cells := []string{c.Site, orDash(shorter(c.Names)), orDash(c.Issuer), orDash(c.Key), days, until, c.Source, c.Where}
		if withNodes {
			cells = append(cells, orDash(strings.Join(c.Nodes, ",")))
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
		if c.Err != "" {
			fmt.Fprintf(&wrong, "%s: %s\n", c.Site, strings.ReplaceAll(c.Err, "\n", " | "))
		}
	}
	_ = table.Flush() // into memory
	return text.String() + wrong.String()
}

// shorter is a list of names that fits into a table.
func shorter(names []string) string {
	const most = 3
	if len(names) > most {
		return strings.Join(names[:most], ",") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ",")
}

// orDash is a cell that is never empty.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
