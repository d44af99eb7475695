package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"causeway/cert"
	"causeway/config"
	"causeway/daemon"
)

// newRoot is the command tree.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "causeway",
		Short: "Publish a web service that lives on the other side of a border",
		Long: `Causeway publishes a web service that lives overseas to people in mainland
China under a Chinese domain, and the other way round: an edge that visitors
reach, a warm link, a relay that fetches from the origin and turns its names
into the public ones. One file describes the whole crossing.`,
		Version:       daemon.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          knownVerb,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate(versionLine())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w\nTry: %s --help", err, cmd.CommandPath())
	})
	root.SetHelpCommand(helpVerb())
	root.CompletionOptions.DisableDefaultCmd = true // completionVerb says what is wrong
	root.AddCommand(runVerb(), reloadVerb(), drainVerb(), linksVerb(), forwardsVerb(), cacheVerb(), purgeVerb(), warmVerb(), checkVerb(), showVerb(), downVerb(), publishVerb(), demoVerb(), linkCAVerb(), certVerb(),
		schemaVerb(), versionVerb(), manVerb(), completionVerb())
	return root
}

// knownVerb refuses a verb that is none, as a usage error.
func knownVerb(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	mend := "Try: " + root.CommandPath() + " --help"
	root.SuggestionsMinimumDistance = 2 // letters that may be wrong
	if near := root.SuggestionsFor(args[0]); len(near) > 0 {
		mend = "Did you mean: " + root.CommandPath() + " " + near[0]
	}
	return usagef("%s: there is no verb %q\n%s", root.CommandPath(), args[0], mend)
}

func helpVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "help [VERB]",
		Short: "Explain a verb",
		RunE: func(cmd *cobra.Command, args []string) error {
			verb, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return knownVerb(cmd.Root(), append(rest, args...))
			}
			return verb.Help()
		},
	}
}

// noArgs refuses arguments, as a usage error.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s: unknown argument %q\nTry: %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return nil
}

// argsBetween takes between least and most arguments.
func argsBetween(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usagef("%s: give %s\nTry: %s --help", cmd.CommandPath(), what, cmd.CommandPath())
		}
		return nil
	}
}

// defaultFile is read when no file is named.
const defaultFile = "causeway.yaml"

// nodeName is what the file takes as the name of a node.
var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func linkCAVerb() *cobra.Command {
	var dir string
	verb := &cobra.Command{
		Use:   "link-ca --dir DIR NAME…",
		Short: "Make the private authority of the link, and a certificate for each node",
		Long: `Makes DIR/ca.pem and DIR/ca.key when they are not there yet, and DIR/NAME.pem
and DIR/NAME.key for each NAME, a node of the file. A node needs ca.pem and its
own two files; ca.key is needed to make more certificates only: keep it apart.
A NAME that has a certificate gets a new one.`,
		Example: "  causeway link-ca --dir pki shanghai-1 virginia-1",
		Args:    argsBetween(1, 1000, "the names of one node or more"),
		RunE: func(cmd *cobra.Command, names []string) error {
			for _, name := range names {
				if !nodeName.MatchString(name) || name == "ca" {
					return usagef("causeway link-ca: %q cannot name a node: give small letters, digits and - only, at most 63, and not ca", name)
				}
			}
			authority, err := cert.OpenAuthority(dir, "Causeway link")
			if err != nil {
				return err
			}
			for _, name := range names {
				if err := authority.Issue(dir, name, nil); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s and its key: for node %s\n", filepath.Join(dir, name+".pem"), name)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: for every node\n", authority.CertFile())
			return nil
		},
	}
	verb.Flags().StringVar(&dir, "dir", "pki", "the folder")
	return verb
}

func schemaVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the file, for editors",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Schema())
			return err
		},
	}
}

func versionVerb() *cobra.Command {
	var asJSON bool
	verb := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]string{
					"version": daemon.Version(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
			}
			_, err := io.WriteString(cmd.OutOrStdout(), versionLine())
			return err
		},
	}
	verb.Flags().BoolVar(&asJSON, "json", false, "print it as a JSON object")
	return verb
}

// versionLine is the version for people.
func versionLine() string {
	return fmt.Sprintf("causeway %s (%s, %s/%s)\n", daemon.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func completionVerb() *cobra.Command {
	shells := map[string]func(*cobra.Command, io.Writer) error{
		"bash": func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) },
		"zsh":  func(root *cobra.Command, w io.Writer) error { return root.GenZshCompletion(w) },
		"fish": func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
	}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print the completions for a shell",
		Example: `  causeway completion bash > /etc/bash_completion.d/causeway
  causeway completion zsh > "${fpath[1]}/_causeway"
  causeway completion fish > ~/.config/fish/completions/causeway.fish`,
		ValidArgs: []string{"bash", "zsh", "fish"},
		Args:      argsBetween(1, 1, "one of bash, zsh, fish"),
		RunE: func(cmd *cobra.Command, args []string) error {
			write, ok := shells[args[0]]
			if !ok {
				return usagef("%s: there are no completions for %q: give one of bash, zsh, fish", cmd.CommandPath(), args[0])
			}
			return write(cmd.Root(), cmd.OutOrStdout())
		},
	}
}

func manVerb() *cobra.Command {
	var dir string
	verb := &cobra.Command{
		Use:     "man --dir DIR",
		Short:   "Write the man pages, one for each verb",
		Example: "  causeway man --dir /usr/local/share/man/man1",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // no line with the day
			return doc.GenManTree(root, &doc.GenManHeader{Title: "CAUSEWAY", Section: "1", Source: "causeway " + daemon.Version(), Manual: "Causeway"}, dir)
		},
	}
	verb.Flags().StringVar(&dir, "dir", ".", "the folder")
	return verb
}

// newLog writes the program's own messages to standard error, as text a person
// can read.
func newLog(level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: oneLine}))
}

// oneLine keeps a list of file errors readable.
func oneLine(_ []string, attr slog.Attr) slog.Attr {
	if err, ok := attr.Value.Any().(error); ok {
		attr.Value = slog.StringValue(strings.ReplaceAll(err.Error(), "\n", " | "))
	}
	return attr
}
