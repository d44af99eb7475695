package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"causeway/admin"
	"causeway/cert"
)

// certVerb is the parent of what is done with the certificates of sites.
func certVerb() *cobra.Command {
	verb := &cobra.Command{
		Use:   "cert",
		Short: "The certificates of sites: list, request, install",
		Args:  knownVerb,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	verb.AddCommand(certListVerb(), certRequestVerb())
	return verb
}

func certListVerb() *cobra.Command {
	var at nodeAt
	var asJSON bool
	verb := &cobra.Command{
		Use:   "list [--json] [--config FILE] [--node NAME] [--admin ADDRESS]",
		Short: "Show which certificates a running node shows, and how long they last",
		Long: `Asks the node on this machine, at the admin address of the file, for the
certificates that it shows.`,
		Example: "  causeway cert list",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, err := at.meant(cmd)
			if err != nil {
				return err
			}
			shown, err := askCertificates(cmd.Context(), address)
			if err != nil {
				return err
			}
			if asJSON {
				return sayJSON(cmd.OutOrStdout(), shown)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), certTable(shown.Certificates, shown.Time))
			return err
		},
	}
	at.addTo(verb)
	verb.Flags().BoolVar(&asJSON, "json", false, "print it as a JSON object")
	return verb
}

// askCertificates asks the node behind address what it shows.
func askCertificates(ctx context.Context, address string) (shown admin.Certificates, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/certificates", nil)
	if err != nil {
		return shown, fmt.Errorf("cert list: admin address %q: %w", address, err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return shown, fmt.Errorf("cert list: is the node running? %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return shown, fmt.Errorf("cert list: %s answered %s: is it a causeway's admin address, of this version?", address, res.Status)
	}
	if err := json.NewDecoder(res.Body).Decode(&shown); err != nil {
		return shown, fmt.Errorf("cert list: read the answer of %s: %w: is it a causeway's admin address, of this version?", address, err)
	}
	return shown, nil
}

// certTable is the table for people.
func certTable(certs []cert.State, now time.Time) string {
	if len(certs) == 0 {
		return "no site has a certificate here\n"
	}
	var text, wrong strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SITE\tNAMES\tISSUER\tSOURCE\tDAYS LEFT\tKEY\tWHERE")
	for _, c := range certs {
		days := "-"
		if !c.NotAfter.IsZero() {
			days = fmt.Sprint(int(math.Floor(c.Left(now).Hours() / 24)))
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Site, strings.Join(c.Names, " "), c.Issuer, c.Source, days, c.Key, c.Where)
		if c.Err != "" {
			fmt.Fprintf(&wrong, "%s: %s: %s\n", c.Site, c.Where, strings.ReplaceAll(c.Err, "\n", " | "))
		}
	}
	_ = table.Flush() // into memory
	return text.String() + wrong.String()
}
