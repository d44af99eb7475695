package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"

	"causeway/admin"
)

func forwardsVerb() *cobra.Command {
	var at nodeAt
	var asJSON bool
	verb := &cobra.Command{
		Use:   "forwards [--config FILE] [--node NAME] [--admin ADDRESS] [--json]",
		Short: "Show a running node's forwards: their connections and their targets",
		Long: `Asks the node on this machine, at the admin address of the file, for its forwards
and prints a line for each, and one for each address of its targets. Counts are
since the node began; of entry: kernel since the forward was first programmed.

CAME are the connections that came, those that were refused too. STATE says for
how long it has been so, SHARE which part of new connections an address gets as
things are, by the weights. DIALS are the connections to a target that were
tried, of all its addresses together, and FAILED those that did not come about;
of entry: kernel DIALS are those that the kernel sent to the address. CHECK is
what the last health check came to.

Under the tables stands what is not well: why an address is not up, and how many
connections did not end well, by the words of the log. With --json it prints what
the node says, which has more.`,
		Example: "  causeway forwards\n  causeway forwards --json --node shanghai-1",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, err := at.find(cmd)
			if err != nil {
				return err
			}
			var forwards admin.Forwards
			if err := look(cmd.Context(), "forwards", address, "forwards", &forwards); err != nil {
				return err
			}
			if err := at.checked("forwards", address, forwards.Node); err != nil {
				return err
			}
			if asJSON {
				return sayJSON(cmd.OutOrStdout(), forwards)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), forwardsTable(forwards))
			return err
		},
	}
	at.addTo(verb)
	verb.Flags().BoolVar(&asJSON, "json", false, "print what the node says as a JSON object")
	return verb
}

// forwardsTable is what people are shown.
func forwardsTable(now admin.Forwards) string {
	if len(now.Forwards) == 0 {
		return "this node has no forwards\n"
	}
	var text, unwell strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FORWARD\tLISTEN\tENTRY\tOPEN\tCAME\tIN\tOUT")
	for _, f := range now.Forwards {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n",
			f.Name, some(f.Listen), f.Entry, known(f.Open), f.Connections, size(int64(f.InBytes)), size(int64(f.OutBytes)))
	}
	_ = table.Flush() // into memory
	text.WriteString("\n")
	table = tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FORWARD\tTARGET\tSTATE\tWEIGHT\tSHARE\tOPEN\tDIALS\tFAILED\tCHECK")
	for _, f := range now.Forwards {
		for _, target := range f.Targets {
			for i, at := range target.Addresses {
				name := targetName(target, at)
				dials, failed := "", "" // stand on the first line
				switch {
				case at.Open == nil:
					dials, failed = known(at.Connections), "-"
				case i == 0:
					dials, failed = strconv.FormatInt(target.Dials, 10), strconv.FormatInt(target.DialErrors, 10)
				}
				state := at.State
				if !at.Since.IsZero() {
					state += " " + roughly(now.Time.Sub(at.Since))
				}
				fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%.0f %%\t%s\t%s\t%s\t%s\n",
					f.Name, name, state, target.Weight, 100*at.Share, known(at.Open), dials, failed, checkResult(at.Check))
				sayUnwell(&unwell, f.Name+": "+name, at)
			}
		}
		if f.Why != "" {
			fmt.Fprintf(&unwell, "%s: %s\n", f.Name, f.Why)
		}
		if f.RefusedPackets > 0 {
			fmt.Fprintf(&unwell, "%s: the kernel refused %d packets of new connections\n", f.Name, f.RefusedPackets)
		}
		if ends := badEnds(f.Ends); ends != "" {
			fmt.Fprintf(&unwell, "%s: ended by %s\n", f.Name, ends)
		}
	}
	_ = table.Flush() // into memory
	if ends := badEnds(now.Ends); ends != "" {
		fmt.Fprintf(&unwell, "came to no forward: %s\n", ends)
	}
	if unwell.Len() > 0 {
		text.WriteString("\n" + unwell.String())
	}
	return text.String()
}

// some of the addresses of a forward: so many that the line is no longer for them.
func some(listen []string) string {
	if len(listen) > 2 {
		return fmt.Sprintf("%s and %d more", listen[0], len(listen)-1)
	}
	return strings.Join(listen, " ")
}

// known is a number that only some forwards have.
func known[N int64 | uint64](n *N) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

// targetName tells an address of a target from the others.
func targetName(target admin.Target, at admin.TargetAddress) string {
	if at.Address == "" || strings.Contains(target.Target, at.Address) {
		return target.Target
	}
	return target.Target + " at " + at.Address
}

// checkResult is the last check, in a cell.
func checkResult(check *admin.TargetCheck) string {
	switch {
	case check == nil:
		return "-"
	case check.Err != "":
		return "failed"
	}
	return "well"
}

// sayUnwell says of an address why it is not up, and what its last check met.
func sayUnwell(text *strings.Builder, name string, at admin.TargetAddress) {
	if at.Why != "" {
		fmt.Fprintf(text, "%s: %s: %s\n", name, at.State, inLine(at.Why))
	}
	if at.Check != nil && at.Check.Err != "" && at.Check.Err != at.Why {
		fmt.Fprintf(text, "%s: its last check: %s\n", name, inLine(at.Check.Err))
	}
}

// inLine is text on one line, and without what a terminal would obey: a target
// may have written some of it.
func inLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ReplaceAll(text, "\n", " | "))
}

// badEnds are the ends that are not as they should be, the most frequent first.
func badEnds(ends map[string]uint64) string {
	words := slices.Sorted(maps.Keys(ends))
	words = slices.DeleteFunc(words, func(word string) bool { return word == "done" || ends[word] == 0 })
	slices.SortStableFunc(words, func(a, b string) int { return cmp.Compare(ends[b], ends[a]) })
	for i, word := range words {
		words[i] = fmt.Sprintf("%s %d", word, ends[word])
	}
	return strings.Join(words, ", ")
}
