package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"causeway/admin"
	"causeway/config"
	"causeway/daemon"
)

func runVerb() *cobra.Command {
	var file, node string
	verb := &cobra.Command{
		Use:   "run [--config FILE] [--node NAME]",
		Short: "Serve: take a node's part of the file",
		Long: `Serves the part of the file that --node names. SIGHUP, or causeway reload, reads
the file again with nothing dropped; a bad file changes nothing. SIGTERM and
SIGINT drain: no new connections, requests under way finish within
limits.drain_timeout; a second one ends at once.

Access log lines go to standard output, everything else to standard error.`,
		Example: "  causeway run\n  causeway run --config /etc/causeway.yaml --node shanghai-1",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := new(slog.LevelVar)
			return serve(daemon.Options{
				Load: func() (*config.Config, error) {
					cfg, _, err := readPart(file, node)
					if err == nil {
						level.Set(cfg.Log.Level)
					}
					return cfg, err
				},
				Node: node, Access: cmd.OutOrStdout(), Log: newLog(level),
			}, nil)
		},
	}
	verb.Flags().StringVar(&file, "config", defaultFile, "the file")
	verb.Flags().StringVar(&node, "node", "", "the node whose part to take (default: the only node)")
	return verb
}

// readFile reads and parses the file. A file that can't be read is one that is
// wrong: the error is config.Errors too.
func readFile(path string) (*config.Config, error) {
	cfg, err := config.Load(path)
	return cfg, unreadable(path, err)
}

// unreadable turns the failure to open the file into an error of the file; any
// other error stays.
func unreadable(path string, err error) error {
	var cause *fs.PathError
	if !errors.As(err, &cause) {
		return err
	}
	wrong := &config.Error{File: path, Msg: fmt.Sprintf("the file can't be read: %v", cause.Err), Mend: "name another"}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		wrong.Msg, wrong.Mend = "the file does not exist", "write it, or name another"
	case errors.Is(err, fs.ErrPermission):
		wrong.Mend = "let the user that runs causeway read it"
	}
	return config.Errors{wrong}
}

// readPart reads the file and finds the node whose part to take.
func readPart(path, name string) (*config.Config, *config.Node, error) {
	cfg, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	node, err := cfg.Node(name)
	if err != nil {
		return nil, nil, &usageError{err}
	}
	return cfg, node, nil
}

// serve runs a daemon until a signal ends it. ready is called when it listens.
func serve(options daemon.Options, ready func()) error {
	routeLog(options.Log)
	d, err := daemon.New(options)
	if err != nil {
		return err
	}
	signal.Ignore(syscall.SIGPIPE) // whoever reads the access log may go; the visitors must not notice
	ctx, drain := context.WithCancel(context.Background())
	ending := make(chan os.Signal, 2)
	signal.Notify(ending, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(ending)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	over := make(chan struct{})
	var listening sync.WaitGroup
	defer listening.Wait()
	defer close(over)
	defer drain()
	listening.Go(func() { drainThenDie(ending, drain, over) })
	listening.Go(func() {
		for {
			select {
			case <-hangup:
				_ = d.Reload() // it has logged its error
			case <-ctx.Done():
				return
			}
		}
	})
	return d.Run(ctx, ready)
}

// drainThenDie drains at the first signal of ending, and ends the program by
// the second, however soon it comes. It returns when over is closed.
func drainThenDie(ending chan os.Signal, drain func(), over <-chan struct{}) {
	select {
	case <-ending:
		drain()
	case <-over:
		return
	}
	select {
	case sig := <-ending:
		signal.Stop(ending) // its usual effect again: what started the program sees that a signal ended it
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			_ = self.Signal(sig)
		}
	case <-over:
	}
}

func reloadVerb() *cobra.Command {
	var at nodeAt
	verb := &cobra.Command{
		Use:   "reload [--config FILE] [--node NAME] [--admin ADDRESS]",
		Short: "Make a running node read its file again, with nothing dropped",
		Long: `Asks the node on this machine, at the admin address of the file, to read its
file again. New requests see the new file, those under way finish. A bad file
changes nothing, and its errors are printed here.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, err := at.find(cmd)
			if err != nil {
				return err
			}
			// One of a version without links may be asked to reload all the same.
			if links, err := askLinks(context.Background(), "reload", address); err == nil {
				if err := at.checked("reload", address, links.Node); err != nil {
					return err
				}
			}
			if _, err := ask("reload", address, "reload"); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "reloaded")
			return nil
		},
	}
	at.addTo(verb)
	return verb
}

func drainVerb() *cobra.Command {
	var at nodeAt
	var undo bool
	var patience time.Duration
	verb := &cobra.Command{
		Use:   "drain [NODE] [--undo] [--wait TIME] [--config FILE] [--node NAME] [--admin ADDRESS]",
		Short: "Send requests elsewhere, before a node is stopped or changed",
		Long: `Asks a node, at the admin address of the file, to drain. A relay tells its edges
with every answer, and within seven seconds without one: they take another relay
that is up, and what is under way finishes. An edge says on /readyz that it is
not ready, for those that balance over edges. Whatever comes all the same is
served: with one relay alone nothing changes.

With --wait a relay with edges is given those seven seconds, and then what is
left of the time for the requests under way to end.

A node that drains goes on until --undo, or until it is started again.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("causeway drain: one node at a time, not %d", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && at.node != "" && at.node != args[0] {
				return usagef("causeway drain: %s or --node %s? name one node", args[0], at.node)
			}
			if patience < 0 {
				return usagef("causeway drain: --wait %v: give a time, as in 30s", patience)
			}
			if len(args) == 1 {
				at.node = args[0]
			}
			address, err := at.find(cmd)
			if err != nil {
				return err
			}
			ctx := context.Background()
			links, err := askLinks(ctx, "drain", address)
			if err != nil {
				return err
			}
			if err := at.checked("drain", address, links.Node); err != nil {
				return err
			}
			if undo {
				return drain(ctx, cmd.OutOrStdout(), address, "undrain", 0, 0)
			}
			told := time.Duration(0)
			if slices.ContainsFunc(links.Paths, func(p admin.Path) bool { return p.Edge != "" && len(p.Connections) > 0 }) {
				told = min(edgesKnow, patience)
			}
			return drain(ctx, cmd.OutOrStdout(), address, "drain", told, patience)
		},
	}
	at.addTo(verb)
	verb.Flags().BoolVar(&undo, "undo", false, "take requests again")
	verb.Flags().DurationVar(&patience, "wait", 0, "wait so long for a relay's requests under way to end")
	return verb
}

// edgesKnow is when the edges of a relay know that it drains, also those that
// send it nothing: they ask it every 6.25 s at least (link's probeEvery).
const edgesKnow = 7 * time.Second

// drain asks for what, and again until least is over and nothing is under way,
// or patience is over.
func drain(ctx context.Context, w io.Writer, address, what string, least, patience time.Duration) error {
	begun := time.Now()
	for {
		says, err := ask("drain", address, what)
		if err != nil {
			return err
		}
		_, running, counted := strings.Cut(says, "under way: ")
		took := time.Since(begun)
		if !counted || running == "0" && took >= least || took >= patience {
			fmt.Fprintln(w, says)
			if counted && running != "0" && patience > 0 {
				return fmt.Errorf("drain: requests are still under way after %v", patience)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// checkAddress says what is wrong with an address given as a flag.
func checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return errors.New("give host:port, as in 127.0.0.1:9900")
	}
	return nil
}

// adminAddress finds the admin address of a node in the file, for a verb.
func adminAddress(verb, file, name string) (string, error) {
	_, node, err := readPart(file, name)
	if err != nil {
		return "", err
	}
	if node.Listen.Admin == "" {
		mend := "without one it cannot be asked"
		if verb == "reload" {
			mend = "send SIGHUP to the process instead"
		}
		return "", fmt.Errorf("%s: the node has no listen.admin: %s", file, mend)
	}
	host, port, err := net.SplitHostPort(node.Listen.Admin)
	if err != nil {
		return "", err
	}
	if host == "0.0.0.0" || host == "::" || host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// ask sends a request that changes something to the node behind address, and
// gives its answer.
func ask(verb, address, what string) (string, error) { return send(verb, address, what, nil) }

// send is ask with a body.
func send(verb, address, what string, body io.Reader) (string, error) {
	req, err := http.NewRequest(http.MethodPost, "http://"+address+"/"+what, body)
	if err != nil {
		return "", fmt.Errorf("%s: admin address %q: %w", verb, address, err)
	}
	req.Header.Set(admin.Field, verb)
	client := &http.Client{Timeout: time.Minute}
	res, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("%s: is the node running? %w", verb, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return "", fmt.Errorf("%s: %w", verb, err)
	}
	if res.StatusCode == http.StatusNotFound && body != nil {
		return "", fmt.Errorf("%s: %s", verb, strings.TrimSpace(string(answer)))
	}
	if res.StatusCode != http.StatusOK {
		return "", errors.New(strings.TrimSpace(string(answer)))
	}
	return strings.TrimSpace(string(answer)), nil
}
