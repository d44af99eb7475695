package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"causeway/cert"
	"causeway/config"
	"causeway/keypair"
)

func certInstallVerb() *cobra.Command {
	var of ofSite
	var in cert.Install
	var replace string
	var dry, asJSON bool
	verb := &cobra.Command{
		Use:   "install --site NAME CERTIFICATE [--key KEY] [--chain FILE] [--secret FILE] [--replace CERTIFICATE] [--dry-run] [--json] [--config FILE]",
		Short: "Check a certificate that came from a provider, and put it in its place",
		Long: `Checks CERTIFICATE, as it came from the provider (PEM, DER or PKCS#12), and puts
it, its chain and its key where the tls of the site says. It is refused, and nothing is
changed, when the key is not its own, when it lacks a public host of the site, is
not in force now, or has a key or a signature that browsers do not take, or when
approved_issuers refuses who issued it. The chain is put in order; one that leads to no root
which this system trusts is a warning.

Without --key it is the key that lies in CERTIFICATE, or in its place already: a
renewal with the same key. --secret has the password of the key or of the
PKCS#12. Where tls has a secret, the key is put there behind that.

Of the new files all are put in place, or none. Those before are kept, with .bak
behind their names. A running node takes the new ones up by itself, with nothing
dropped. Where several nodes end the TLS of the site, install it on each.`,
		Example: `  causeway cert install --site shop example.cn.pem --chain intermediate.pem --key example.cn.key
  causeway cert install --site shop renewed.pem --dry-run`,
		Args: argsBetween(1, 1, "one certificate"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if of.site == "" {
				return usagef("%s: for which site? Give --site NAME\nTry: %s --help", cmd.CommandPath(), cmd.CommandPath())
			}
			cfg, site, err := of.find(cmd)
			if err != nil {
				return err
			}
			pairs := placesOf(site)
			if site.TLS.UsesACME() {
				return usagef("%s: site %s has its certificates from an authority, which the node asks by itself (tls: {acme: …}): to put one there by hand, write tls: {cert: example.cn.pem, key: example.cn.key} in %s first", cmd.CommandPath(), site.Name, of.file)
			}
			if len(pairs) == 0 {
				return usagef("%s: site %s has no certificate in files: write tls: {cert: example.cn.pem, key: example.cn.key} in %s, which says where it goes", cmd.CommandPath(), site.Name, of.file)
			}
			in.From.Cert = args[0]
			if in.To, err = cert.Choose(pairs, replace, args[0]); err != nil {
				return fmt.Errorf("cert install: %w", err)
			}
			in.Want = cfg.Want(site)
			found, err := cert.PrepareInstall(in, time.Now())
			if err != nil {
				return fmt.Errorf("cert install: %s", strings.ReplaceAll(err.Error(), "\n", "\ncert install: "))
			}
			for _, warning := range found.Warnings {
				if !asJSON {
					fmt.Fprintln(os.Stderr, "warning:", warning)
				}
			}
			if !dry {
				if err := found.Write(); err != nil {
					return fmt.Errorf("cert install: %w", err)
				}
			}
			if asJSON {
				return sayJSON(cmd.OutOrStdout(), installedJSON(cfg, site, found, dry))
			}
			return sayInstalled(cmd.OutOrStdout(), cfg, site, found, dry)
		},
	}
	flags := verb.Flags()
	of.addTo(verb, "the site")
	flags.StringVar(&in.From.Key, "key", "", "its private key (default: that in CERTIFICATE, or that in its place)")
	flags.StringVar(&in.Chain, "chain", "", "the intermediate certificates, where they are not in CERTIFICATE")
	flags.StringVar(&in.From.Secret, "secret", "", "the file with the password of the key, or of the PKCS#12")
	flags.StringVar(&replace, "replace", "", "of a site with several: the cert in the file in whose place it goes (default: that with the same kind of key)")
	flags.BoolVar(&asJSON, "json", false, "print what it is and what was done as a JSON object")
	flags.BoolVar(&dry, "dry-run", false, "check it, and say what would be done")
	return verb
}

// installed is what cert install prints as JSON.
type installed struct {
	cert.State
	Written  bool            `json:"written"` // false with --dry-run
	Files    []cert.Replaced `json:"files"`   // none when all is in its place already
	Mended   []string        `json:"mended"`
	Warnings []string        `json:"warnings"`
	Nodes    []string        `json:"nodes,omitempty"` // in a file with nodes, those that show it
}

func installedJSON(cfg *config.Config, site *config.Site, found *cert.Installation, dry bool) installed {
	said := installed{State: cert.StateOf(found.New.Leaf), Written: !dry, Files: found.Files(), Mended: append([]string{}, found.Mended...), Warnings: []string{}, Nodes: nodesOf(cfg, site)}
	said.Site, said.Source, said.Where = site.Name, cert.SourceFile, found.Place
	for _, warning := range found.Warnings {
		said.Warnings = append(said.Warnings, warning.Error())
	}
	return said
}

// placesOf are the places of a site's certificates.
func placesOf(site *config.Site) (places []keypair.Files) {
	for _, pair := range site.TLS.Files() {
		places = append(places, pair.Pair())
	}
	return places
}

// sayInstalled says what it is, and what was done.
func sayInstalled(out io.Writer, cfg *config.Config, site *config.Site, found *cert.Installation, dry bool) error {
	leaf := found.New.Leaf
	fmt.Fprintf(out, "%s: for %s, by %s, %s, until %s\n", site.Name, strings.Join(keypair.Names(leaf), ", "),
		keypair.Issuer(leaf), keypair.KeyType(leaf), leaf.NotAfter.UTC().Format(time.DateOnly))
	for _, mended := range found.Mended {
		fmt.Fprintln(out, mended)
	}
	wrote, last := "wrote", "a running node takes it up by itself: causeway cert list"
	if dry {
		wrote, last = "would write", "nothing was changed: --dry-run"
	}
	for _, file := range found.Files() {
		kept := ""
		if file.Backup != "" {
			kept = ", and keep what it was as " + file.Backup
			if !dry {
				kept = ", and kept what it was as " + file.Backup
			}
		}
		fmt.Fprintf(out, "%s %s%s\n", wrote, file.File, kept)
	}
	if len(found.Files()) == 0 {
		last = "it is in its place already"
	}
	_, err := fmt.Fprintln(out, last)
	if nodes := nodesOf(cfg, site); len(nodes) > 1 && err == nil {
		_, err = fmt.Fprintf(out, "these nodes show it: %s: install it on each\n", strings.Join(nodes, ", "))
	}
	return err
}

// nodesOf are the names of the nodes that end the TLS of a site; none in a file
// without nodes.
func nodesOf(cfg *config.Config, site *config.Site) (names []string) {
	for _, node := range cfg.Nodes {
		if node.Name != "" && site.EndsTLS(node) {
			names = append(names, node.Name)
		}
	}
	return names
}
