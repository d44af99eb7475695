package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"causeway/cert"
	"causeway/config"
	"causeway/keypair"
)

// ofSite is the site that a verb of cert is about: the flags of each.
type ofSite struct{ file, site string }

func (of *ofSite) addTo(verb *cobra.Command, about string) {
	verb.Flags().StringVar(&of.file, "config", defaultFile, "the file, for --site")
	verb.Flags().StringVar(&of.site, "site", "", about)
}

// find reads the file and finds the site.
func (of *ofSite) find(verb *cobra.Command) (*config.Config, *config.Site, error) {
	cfg, err := readFile(of.file)
	if err != nil {
		return nil, nil, err
	}
	names := make([]string, 0, len(cfg.Sites))
	for _, site := range cfg.Sites {
		if site.Name == of.site {
			return cfg, site, nil
		}
		names = append(names, site.Name)
	}
	return nil, nil, usagef("%s: --site %s: %s has no such site: it has %s", verb.CommandPath(), of.site, of.file, strings.Join(names, ", "))
}

// publicHosts are those of a site, without their ports.
func publicHosts(site *config.Site) (hosts []string) {
	for _, host := range site.Hosts {
		if name := host.Public.Host; name != "" && !slices.Contains(hosts, name) {
			hosts = append(hosts, name)
		}
	}
	return hosts
}

func certRequestVerb() *cobra.Command {
	var of ofSite
	var hosts []string
	var key, dir, secretFile string
	var subject cert.Subject
	var asJSON bool
	verb := &cobra.Command{
		Use:   "request {--host HOST… | --site NAME} [--key ec|rsa|rsa3072] [--org NAME] [--unit NAME] [--country CN] [--state NAME] [--city NAME] [--email ADDRESS] [--secret FILE] [--out DIR] [--json] [--config FILE]",
		Short: "Make a key, and a request (CSR) for a provider of certificates",
		Long: `Makes a new private key and, signed with it, a certificate signing request
(PKCS#10), which a provider of certificates wants: DIR/HOST.key, for its owner
alone, and DIR/HOST.csr, both PEM. HOST is the first host. Nothing that exists is
overwritten. The key never leaves this machine by way of Causeway: give the .csr
alone to the provider. With --secret the key is behind the password in FILE.

The certificate is for every --host, or for all public hosts of a --site of the
file; international names are written as they are. --org and the other names go
into the subject: providers that look at the owner want them as the papers have
them, others ignore them.`,
		Example: `  causeway cert request --site shop --org '上海示例有限公司' --country CN --state Shanghai --city Shanghai
  causeway cert request --host example.cn --host '*.example.cn' --key rsa --out certificates`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case of.site != "" && len(hosts) > 0:
				return usagef("%s: give --host, or --site, which has its hosts in the file: not both", cmd.CommandPath())
			case of.site == "" && len(hosts) == 0:
				return usagef("%s: for which hosts? Give --host HOST, or --site NAME\nTry: %s --help", cmd.CommandPath(), cmd.CommandPath())
			}
			site := "NAME"
			if of.site != "" {
				_, found, err := of.find(cmd)
				if err != nil {
					return err
				}
				hosts, site = publicHosts(found), found.Name
			}
			request, err := cert.NewRequest(hosts, key, subject)
			if err != nil {
				return usagef("%s: %w", cmd.CommandPath(), err)
			}
			var secret []byte
			if secretFile != "" {
				read, problem := keypair.ReadSecret(secretFile)
				if problem != nil {
					return fmt.Errorf("cert request: %w", problem)
				}
				secret = read
			}
			keyFile, requestFile, err := request.Write(dir, secret)
			if err != nil {
				return fmt.Errorf("cert request: %w", err)
			}
			if asJSON {
				return sayJSON(cmd.OutOrStdout(), struct {
					KeyFile     string   `json:"key_file"`
					RequestFile string   `json:"request_file"`
					Hosts       []string `json:"hosts"`
					Key         string   `json:"key"`
				}{keyFile, requestFile, request.Hosts(), request.KeyType()})
			}
			opened := ""
			if secretFile != "" {
				opened = " --secret " + secretFile
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "%s: the key, %s: it stays here; keep a copy where nobody else comes\n", keyFile, request.KeyType())
			fmt.Fprintf(out, "%s: the request for %s: give it to the provider\n", requestFile, strings.Join(request.Hosts(), ", "))
			_, err = fmt.Fprintf(out, "when the certificate has come: causeway cert install --site %s CERTIFICATE --key %s%s\n", site, keyFile, opened)
			return err
		},
	}
	flags := verb.Flags()
	of.addTo(verb, "the site of the file whose public hosts it is for")
	flags.StringArrayVar(&hosts, "host", nil, "a host, as in example.cn or '*.example.cn'; may be given again")
	flags.StringVar(&key, "key", cert.KeyEC, "the kind of the key: ec (ECDSA P-256), rsa (RSA 2048) or rsa3072")
	flags.StringVar(&secretFile, "secret", "", "a file with a password, in its first line, for the key")
	flags.StringVar(&dir, "out", ".", "the folder")
	flags.StringVar(&subject.Organization, "org", "", "the owner's name, as the papers have it")
	flags.StringVar(&subject.Unit, "unit", "", "the department")
	flags.StringVar(&subject.Country, "country", "", "two letters, as in CN")
	flags.StringVar(&subject.State, "state", "", "the province")
	flags.StringVar(&subject.City, "city", "", "the city")
	flags.StringVar(&subject.Email, "email", "", "an address of the owner")
	flags.BoolVar(&asJSON, "json", false, "print what was made as a JSON object")
	_ = verb.RegisterFlagCompletionFunc("key", cobra.FixedCompletions([]string{cert.KeyEC, cert.KeyRSA, cert.KeyRSA3072}, cobra.ShellCompDirectiveNoFileComp))
	return verb
}
