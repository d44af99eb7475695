package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"causeway/admin"
)

// nodeAt is where a running node is asked: the flags of every verb that does.
type nodeAt struct{ file, node, address string }

func (at *nodeAt) addTo(verb *cobra.Command) {
	flags := verb.Flags()
	flags.StringVar(&at.file, "config", defaultFile, "the file, for its admin address")
	flags.StringVar(&at.node, "node", "", "the node (default: the only node)")
	flags.StringVar(&at.address, "admin", "", "the admin address, in place of the file's")
}

// find gives the admin address.
func (at *nodeAt) find(verb *cobra.Command) (string, error) {
	if at.address == "" {
		return adminAddress(verb.Name(), at.file, at.node)
	}
	if err := checkAddress(at.address); err != nil {
		return "", usagef("%s: --admin %s: %w", verb.CommandPath(), at.address, err)
	}
	return at.address, nil
}

// checked refuses the answer of node, when that is not the one that is meant: in many
// files the admin address of each node is that of its own machine, so that
// another one answers. verb is for the message.
func (at *nodeAt) checked(verb, address, node string) error {
	if at.node == "" || node == at.node {
		return nil
	}
	who := "a node without a name"
	if node != "" {
		who = "node " + node
	}
	return fmt.Errorf("%s: %s is %s, not %s: ask on the machine of %s, or give its --admin address", verb, address, who, at.node, at.node)
}

// between is how far apart two looks at the links are: what went over them
// between gives the rates.
const between = time.Second

// meant is find, for a node that must be the one that is meant.
func (at *nodeAt) meant(verb *cobra.Command) (string, error) {
	address, err := at.find(verb)
	if err != nil || at.node == "" {
		return address, err
	}
	links, err := askLinks(verb.Context(), verb.Name(), address)
	if err != nil {
		return "", err
	}
	return address, at.checked(verb.Name(), address, links.Node)
}

func linksVerb() *cobra.Command {
	var at nodeAt
	var asJSON, watch bool
	verb := &cobra.Command{
		Use:   "links [--config FILE] [--node NAME] [--admin ADDRESS] [--json] [--watch]",
		Short: "Show a running node's links: their paths, and how they fare",
		Long: `Asks the node on this machine, at the admin address of the file, for its links
and prints a line for each path: at an edge a way to a relay, at a relay an edge
that dialled it. It looks twice, a second apart, for the rates.

With --watch and on a terminal, the table is drawn again each second until
Ctrl-C; otherwise --watch changes nothing. With --json it prints what the node
says, which has more: each connection, with what the kernel knows of it. With
both, one line of JSON a second, until Ctrl-C.

RTT is the least and the most that TCP measures on the open connections. RESENT
are the segments of data that this node sent again, of all it sent: those of the
other direction the other end counts. SENT and RECEIVED are the bits of the last
second, under TLS.`,
		Example: "  causeway links --node shanghai-1\n  causeway links --watch --admin 127.0.0.1:9900",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, err := at.find(cmd)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			look := func() (admin.Links, error) {
				links, err := askLinks(ctx, "links", address)
				if err == nil {
					err = at.checked("links", address, links.Node)
				}
				return links, err
			}
			out := cmd.OutOrStdout()
			switch {
			case asJSON:
				return printLinks(ctx, out, look, watch)
			case watch && out == io.Writer(os.Stdout) && isTerminal(os.Stdout):
				return watchLinks(ctx, out, look)
			}
			return showLinks(ctx, out, look)
		},
	}
	at.addTo(verb)
	verb.Flags().BoolVar(&asJSON, "json", false, "print what the node says as a JSON object")
	verb.Flags().BoolVar(&watch, "watch", false, "go on, until Ctrl-C")
	return verb
}

// askLinks asks the node behind address. verb is for the messages.
func askLinks(ctx context.Context, verb, address string) (links admin.Links, err error) {
	err = look(ctx, verb, address, "links", &links)
	return links, err
}

// look asks the node behind address what it says of something, which is JSON.
func look(ctx context.Context, verb, address, of string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/"+of, nil)
	if err != nil {
		return fmt.Errorf("%s: admin address %q: %w", verb, address, err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%s: is the node running? %w", verb, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s answered %s: is it a causeway's admin address, of this version?", verb, address, res.Status)
	}
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		return fmt.Errorf("%s: read the answer of %s: %w: is it a causeway's admin address, of this version?", verb, address, err)
	}
	return nil
}

// printLinks prints what the node says: once, or a line a second until ctx ends.
func printLinks(ctx context.Context, out io.Writer, look func() (admin.Links, error), watch bool) error {
	links, err := look()
	if err != nil {
		return err
	}
	if !watch {
		return sayJSON(out, links)
	}
	lines := json.NewEncoder(out)
	for {
		if err := lines.Encode(links); err != nil {
			return err
		}
		if !pause(ctx) {
			return nil
		}
		if links, err = look(); err != nil {
			return unlessOver(ctx, err)
		}
	}
}

// showLinks prints one table.
func showLinks(ctx context.Context, out io.Writer, look func() (admin.Links, error)) error {
	before, err := look()
	if err != nil {
		return err
	}
	if len(before.Paths) > 0 && !pause(ctx) {
		return nil
	}
	now, err := look()
	if err != nil {
		return unlessOver(ctx, err)
	}
	_, err = io.WriteString(out, linksTable(before, now))
	return err
}

// watchLinks draws the table again and again. A node that stops is waited for:
// it may be restarted.
func watchLinks(ctx context.Context, out io.Writer, look func() (admin.Links, error)) error {
	before, err := look()
	if err != nil {
		return err
	}
	now := before
	for {
		text := linksTable(before, now)
		if err != nil {
			text += "\n" + err.Error() + "\n"
		}
		// Home, each line to its end, and what is below: no flicker.
		if _, failed := io.WriteString(out, "\x1b[H"+strings.ReplaceAll(text, "\n", "\x1b[K\n")+"\x1b[J"); failed != nil {
			return failed
		}
		if !pause(ctx) {
			return nil
		}
		var seen admin.Links
		if seen, err = look(); err == nil {
			before, now = now, seen
		}
	}
}

// pause waits for the next look; false when ctx ended first.
func pause(ctx context.Context) bool {
	select {
	case <-time.After(between):
		return true
	case <-ctx.Done():
		return false
	}
}

// unlessOver is err, but for that of a look which Ctrl-C cut short.
func unlessOver(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// linksTable is the table for people. before gives the rates: there are none
// when it is now.
func linksTable(before, now admin.Links) string {
	if len(now.Paths) == 0 {
		return "this node has no links" + waiting(now) + "\n"
	}
	var text, whys strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	atRelay := now.Paths[0].Edge != ""
	heading := []string{"RELAY", "VIA", "PREFER", "STATE", "CONNS", "RTT", "RESENT", "STREAMS", "SENT", "RECEIVED", "REQUESTS", "FAILED", "RETRIED"}
	if atRelay {
		heading = []string{"EDGE", "STATE", "CONNS", "RTT", "RESENT", "STREAMS", "SENT", "RECEIVED", "REQUESTS"}
	}
	fmt.Fprintln(table, strings.Join(heading, "\t"))
	for _, path := range now.Paths {
		streams := 0
		for _, conn := range path.Connections {
			streams += conn.Streams
		}
		sent, received := rates(before, now, path)
		cells := []string{path.Relay, path.Via, strconv.Itoa(path.Prefer)}
		if atRelay {
			cells = []string{path.Edge}
		}
		cells = append(cells, path.State, strconv.Itoa(len(path.Connections)), roundTrip(path), resent(path),
			strconv.Itoa(streams), sent, received, strconv.FormatUint(path.Requests, 10))
		if !atRelay {
			cells = append(cells, strconv.FormatUint(path.Failures, 10), strconv.FormatUint(path.Retries, 10))
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
		if path.Why != "" {
			fmt.Fprintf(&whys, "%s: %s: %s\n", pathName(path), path.State, strings.ReplaceAll(path.Why, "\n", " | "))
		}
	}
	_ = table.Flush() // into memory
	return text.String() + whys.String() + billLines(now)
}

// waiting says what a node without paths is.
func waiting(now admin.Links) string {
	if now.Node == "" {
		return ": it is edge and relay in one"
	}
	return ": no edge has dialled it yet"
}

// pathName tells a path from the others.
func pathName(path admin.Path) string {
	if path.Edge != "" {
		return path.Edge
	}
	return path.Relay + " via " + path.Via
}

// rates are the bits a second of a path between two looks.
func rates(before, now admin.Links, path admin.Path) (sent, received string) {
	elapsed := now.Time.Sub(before.Time).Seconds()
	at := slices.IndexFunc(before.Paths, func(p admin.Path) bool { return pathName(p) == pathName(path) && p.Prefer == path.Prefer })
	if elapsed <= 0 || at < 0 || before.Paths[at].SentBytes > path.SentBytes || before.Paths[at].ReceivedBytes > path.ReceivedBytes {
		return "-", "-" // no earlier look, or the node was restarted
	}
	rate := func(from, to uint64) string { return bits(float64(to-from) * 8 / elapsed) }
	return rate(before.Paths[at].SentBytes, path.SentBytes), rate(before.Paths[at].ReceivedBytes, path.ReceivedBytes)
}

// bits is a rate for people.
func bits(perSecond float64) string {
	for _, unit := range []struct {
		size float64
		name string
	}{{1e9, "Gbit/s"}, {1e6, "Mbit/s"}, {1e3, "kbit/s"}} {
		if perSecond >= unit.size {
			return fmt.Sprintf("%.1f %s", perSecond/unit.size, unit.name)
		}
	}
	return fmt.Sprintf("%.0f bit/s", perSecond)
}

// roundTrip is the least and the most of the connections, as far as the kernel
// says; else what the node measures itself.
func roundTrip(path admin.Path) string {
	var known []float64
	for _, conn := range path.Connections {
		if conn.Congestion != "" {
			known = append(known, conn.RTTMS)
		}
	}
	if len(known) == 0 && len(path.Connections) > 0 && path.LatencyMS > 0 {
		known = append(known, path.LatencyMS)
	}
	if len(known) == 0 {
		return "-"
	}
	least, most := milliseconds(slices.Min(known)), milliseconds(slices.Max(known))
	if least == most {
		return least + " ms"
	}
	return least + "–" + most + " ms"
}

// milliseconds has a decimal where it matters.
func milliseconds(ms float64) string {
	if ms < 10 {
		return fmt.Sprintf("%.1f", ms)
	}
	return fmt.Sprintf("%.0f", ms)
}

// resent is how many segments were sent again, and their share.
func resent(path admin.Path) string {
	if path.Segments == 0 {
		return "-"
	}
	return fmt.Sprintf("%d (%.1f %%)", path.Retransmits, 100*float64(path.Retransmits)/float64(path.Segments))
}
