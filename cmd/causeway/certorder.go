package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"causeway/admin"
)

func certRenewVerb() *cobra.Command {
	var at nodeAt
	var asJSON bool
	verb := &cobra.Command{
		Use:   "renew [SITE] [--json] [--config FILE] [--node NAME] [--admin ADDRESS]",
		Short: "Order the certificates of a site, or of all, anew, now",
		Long: `Has the node on this machine order certificates for the hosts of SITE, or of every
site with tls: {acme: {}}, and waits until it has them, or the authority refuses.
It renews in time by itself: this is for when a key has become known, and when an
order failed, to try again at once what was wrong. No connection is dropped.

The exit status is 1 when one could not be had.`,
		Example: "  causeway cert renew shop\n  causeway cert renew --node shanghai-1",
		Args:    argsBetween(0, 1, "one site, or none"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return orderCertificates(cmd, &at, admin.Order{Site: strings.Join(args, "")}, asJSON)
		},
	}
	at.addTo(verb)
	verb.Flags().BoolVar(&asJSON, "json", false, "print it as a JSON array")
	return verb
}

func certTestVerb() *cobra.Command {
	var at nodeAt
	var asJSON bool
	order := admin.Order{Test: true}
	verb := &cobra.Command{
		Use:   "test [SITE] [--ca URL] [--json] [--config FILE] [--node NAME] [--admin ADDRESS]",
		Short: "Order certificates for trial, and throw them away",
		Long: `Has the node on this machine order certificates for the hosts of SITE, or of every
site with tls: {acme: {}}, at the staging directory of its authority, which has
wide limits, and throws them away: what is shown and kept stays as it is. So it
shows whether the authority reaches the node, before it counts.

The staging directory of Let's Encrypt is known. For another authority name a
directory with --ca, as its own.

The exit status is 1 when one could not be had.`,
		Example: "  causeway cert test shop\n  causeway cert test shop --ca https://ca.example/acme/directory",
		Args:    argsBetween(0, 1, "one site, or none"),
		RunE: func(cmd *cobra.Command, args []string) error {
			order.Site = strings.Join(args, "")
			if order.CA != "" && !strings.HasPrefix(order.CA, "https://") {
				return usagef("causeway cert test: --ca %s: give the URL of a directory, https://…", order.CA)
			}
			return orderCertificates(cmd, &at, order, asJSON)
		},
	}
	at.addTo(verb)
	verb.Flags().BoolVar(&asJSON, "json", false, "print it as a JSON array")
	verb.Flags().StringVar(&order.CA, "ca", "", "the directory of the authority to order at")
	return verb
}

// orderPatience is longer than a node tries.
const orderPatience = 25 * time.Minute

// orderCertificates has a node order, and prints what became of it.
func orderCertificates(cmd *cobra.Command, at *nodeAt, order admin.Order, asJSON bool) error {
	verb := "cert " + cmd.Name()
	address, err := at.meant(cmd)
	if err != nil {
		return err
	}
	done, err := askOrder(cmd.Context(), verb, address, order)
	if err != nil {
		return err
	}
	if asJSON {
		err = sayJSON(cmd.OutOrStdout(), done)
	} else {
		_, err = io.WriteString(cmd.OutOrStdout(), orderTable(done))
	}
	failed := 0
	for _, one := range done {
		if one.Err != "" {
			failed++
		}
	}
	if failed > 0 && err == nil {
		return fmt.Errorf("%s: %s could not be had", verb, count(failed, "certificate"))
	}
	return err
}

// askOrder sends an order to the node behind address.
func askOrder(ctx context.Context, verb, address string, order admin.Order) (done []admin.Ordered, err error) {
	body, err := json.Marshal(order)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", verb, err)
	}
	ctx, cancel := context.WithTimeout(ctx, orderPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/certificates/order", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s: admin address %q: %w", verb, address, err)
	}
	req.Header.Set(admin.Field, verb)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: is the node running? %w", verb, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return nil, fmt.Errorf("%s: read the answer of %s: %w", verb, address, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(verb + ": " + strings.TrimSpace(string(answer)))
	}
	if err := json.Unmarshal(answer, &done); err != nil {
		return nil, fmt.Errorf("%s: read the answer of %s: %w: is it a causeway's admin address, of this version?", verb, address, err)
	}
	return done, nil
}

// orderTable is the table for people: what failed stands under it.
func orderTable(done []admin.Ordered) string {
	var text, wrong strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SITE\tNAME\tISSUER\tUNTIL\tCA")
	for _, one := range done {
		issuer, until := "-", "-"
		if one.Err != "" {
			fmt.Fprintf(&wrong, "%s: %s\n", one.Name, one.Err)
		} else {
			issuer, until = one.Issuer, one.NotAfter.UTC().Format(time.DateOnly)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", one.Site, one.Name, issuer, until, one.CA)
	}
	_ = table.Flush()
	return text.String() + wrong.String()
}
