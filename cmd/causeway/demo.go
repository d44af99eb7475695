package main

import (
	"context"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"causeway/demo"
)

func demoVerb() *cobra.Command {
	options := demo.Options{}
	var loss, rate string
	var log bool
	verb := &cobra.Command{
		Use:   "demo",
		Short: "Show a complete crossing on this machine, its own origin included",
		Long: `Runs a small shop as https://example.com, a relay beside it, an edge, and a bad
line between the two, all in this process and on loopback, and shows what a
visitor gets. Nothing to configure, any user.`,
		Example: "  causeway demo\n  causeway demo --rtt 300ms --loss 3%",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if options.Loss, err = parseShare(loss); err != nil {
				return usagef("causeway demo: --loss %s: %w", loss, err)
			}
			if options.Rate, err = parseMegabits(rate); err != nil {
				return usagef("causeway demo: --rate %s: %w", rate, err)
			}
			if options.RTT < 0 || options.RTT > time.Minute {
				return usagef("causeway demo: --rtt %v: give 0 to 1m", options.RTT)
			}
			for _, flag := range []struct{ name, address string }{{"https", options.HTTPS}, {"http", options.HTTP}, {"admin", options.Admin}} {
				if err := checkAddress(flag.address); err != nil {
					return usagef("causeway demo: --%s %s: %w", flag.name, flag.address, err)
				}
			}
			if log {
				options.Access = os.Stderr
			}
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return demo.Run(ctx, options, cmd.OutOrStdout())
		},
	}
	flags := verb.Flags()
	flags.DurationVar(&options.RTT, "rtt", 200*time.Millisecond, "round trip time of the line")
	flags.StringVar(&loss, "loss", "1%", "share of packets that the line loses")
	flags.StringVar(&rate, "rate", "50Mbit", "rate of the line, each way; 0 for no limit")
	flags.StringVar(&options.HTTPS, "https", "127.0.0.1:8443", "where the edge listens; port 0 takes a free one")
	flags.BoolVar(&options.H3, "h3", false, "HTTP/3 too, on the UDP port of the same number")
	flags.StringVar(&options.HTTP, "http", "127.0.0.1:8080", "where it listens for plain HTTP")
	flags.StringVar(&options.Admin, "admin", "127.0.0.1:9900", "where its metrics are")
	flags.StringVar(&options.Dir, "dir", "", "keep the file and the certificates in this folder")
	flags.BoolVar(&options.Once, "once", false, "print the comparison and stop")
	flags.BoolVar(&log, "log", false, "show the access log")
	return verb
}

// parseShare reads "1%" or "0.01".
func parseShare(text string) (float64, error) {
	number, percent := strings.CutSuffix(text, "%")
	share, err := strconv.ParseFloat(number, 64)
	if percent {
		share /= 100
	}
	if err != nil || share < 0 || share >= 1 {
		return 0, usagef("give a share from 0%% up to, not including, 100%%")
	}
	return share, nil
}

// parseMegabits reads "50Mbit" into bytes a second.
func parseMegabits(text string) (int64, error) {
	number, _ := strings.CutSuffix(text, "Mbit")
	rate, err := strconv.ParseFloat(number, 64)
	if err != nil || rate < 0 || rate > 1e6 {
		return 0, usagef("give megabits a second, as in 50Mbit")
	}
	return int64(rate * 1e6 / 8), nil
}
