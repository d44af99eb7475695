package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"causeway/config"
	"causeway/forward"
	"causeway/nft"
	"causeway/resolve"
)

func showVerb() *cobra.Command {
	verb := &cobra.Command{
		Use:   "show",
		Short: "Show what would be done, and do nothing",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	verb.AddCommand(showNFTVerb())
	return verb
}

func showNFTVerb() *cobra.Command {
	var node string
	verb := &cobra.Command{
		Use:   "nft [FILE] [--node NAME]",
		Short: "Show the rules that the kernel would be given",
		Long: `Prints, in the syntax of nft(8), the rules that a node would program for the
forwards with entry: kernel of FILE (default causeway.yaml) if all their targets
were well. Names of targets are looked up. Nothing is programmed. What is
programmed now says: nft list table inet causeway.`,
		Example: "  causeway show nft\n  causeway show nft --node shanghai-1 causeway.yaml",
		Args:    argsBetween(0, 1, "one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := defaultFile
			if len(args) == 1 {
				file = args[0]
			}
			cfg, err := config.Load(file)
			if err != nil {
				return unreadable(file, err)
			}
			of, err := cfg.Node(node)
			if err != nil {
				return &usageError{err}
			}
			names := resolve.New()
			defer names.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			defer cancel()
			list, err := forward.Kernel(ctx, cfg.ForwardsOf(of), names.Lookup)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return fmt.Errorf("%s: this node has no forward with entry: kernel", file)
			}
			text, err := nft.Render(list)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	verb.Flags().StringVar(&node, "node", "", "the node whose part is shown")
	return verb
}

func downVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Take the forwards of the kernel away",
		Long: `Removes the table "inet causeway", and with it all that forwards with entry:
kernel do on this machine: their connections end. A node that runs puts it back
within seconds: stop it first. It is no error when there is no table.`,
		Example: "  sudo causeway down",
		Args:    noArgs,
		RunE:    func(*cobra.Command, []string) error { return nft.Remove() },
	}
}
