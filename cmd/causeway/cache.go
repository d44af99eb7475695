package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/net/http/httpguts"

	"causeway/admin"
)

// matchFlags are which objects of a cache are meant.
type matchFlags struct{ prefix, host, tag string }

func (m *matchFlags) addTo(verb *cobra.Command) {
	flags := verb.Flags()
	flags.StringVar(&m.prefix, "prefix", "", "those whose URL begins so, as in https://example.cn/news/")
	flags.StringVar(&m.host, "host", "", "those of a public host, as in example.cn")
	flags.StringVar(&m.tag, "tag", "", "those to which the origin gave a tag, in Cache-Tag or Surrogate-Key")
}

// match is what the flags say, for the objects of one URL, "" for any.
func (m *matchFlags) match(of string) admin.CacheMatch {
	return admin.CacheMatch{URL: of, Prefix: m.prefix, Host: strings.ToLower(m.host), Tag: m.tag}
}

// whole makes the prefix what the cache has it as.
func (m *matchFlags) whole(verb string) (err error) {
	if m.prefix != "" {
		m.prefix, err = publicURL(verb+": --prefix", m.prefix)
	}
	return err
}

func (m *matchFlags) isEmpty() bool { return *m == matchFlags{} }

func cacheVerb() *cobra.Command {
	var at nodeAt
	var which matchFlags
	var top int
	var byHits, asJSON bool
	verb := &cobra.Command{
		Use:   "cache [URL] [--top N] [--hits] [--prefix URL] [--host HOST] [--tag TAG] [--json] [--config FILE] [--node NAME] [--admin ADDRESS]",
		Short: "Show what a running edge keeps: how much, and the largest objects",
		Long: `Asks the node on this machine, at the admin address of the file, what it keeps,
and prints how full its cache is and the largest objects in it, or with --hits
those most asked for since the start. causeway cache explain says why something
is kept or not.`,
		Example: "  causeway cache --top 50\n  causeway cache --host example.cn --hits\n  causeway cache explain https://example.cn/",
		Args:    argsBetween(0, 1, "one URL, or none"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if top < 0 || top > 10000 {
				return usagef("causeway cache: --top %d: give 0 to 10000", top)
			}
			if err := which.whole("cache"); err != nil {
				return err
			}
			of := ""
			if len(args) == 1 {
				var err error
				if of, err = publicURL("cache:", args[0]); err != nil {
					return err
				}
			}
			address, err := at.meant(cmd)
			if err != nil {
				return err
			}
			kept, err := askCache(cmd.Context(), address, which.match(of), top, byHits)
			if err != nil {
				return err
			}
			if asJSON {
				return sayJSON(cmd.OutOrStdout(), kept)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), cacheTable(kept, time.Now()))
			return err
		},
	}
	at.addTo(verb)
	which.addTo(verb)
	verb.Flags().IntVar(&top, "top", 20, "how many objects to show")
	verb.Flags().BoolVar(&byHits, "hits", false, "those most asked for, not the largest")
	verb.Flags().BoolVar(&asJSON, "json", false, "print what the node says as a JSON object")
	verb.AddCommand(explainVerb())
	return verb
}

// publicURL checks a URL, and gives it as the cache has it. asked is where it was
// given, as in "purge:".
func publicURL(asked, written string) (string, error) {
	u, err := url.Parse(written)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Fragment != "" || u.User != nil {
		return "", usagef("causeway %s %q is no URL of a site: write it whole, as in https://example.cn/tea", asked, written)
	}
	u.Host = strings.ToLower(u.Host)
	if u.Path == "" {
		u.Path = "/"
	}
	return u.String(), nil
}

// askCache asks the node behind address what it keeps.
func askCache(ctx context.Context, address string, match admin.CacheMatch, top int, byHits bool) (kept admin.Cache, err error) {
	q := url.Values{"top": {strconv.Itoa(top)}}
	for name, value := range map[string]string{"url": match.URL, "prefix": match.Prefix, "host": match.Host, "tag": match.Tag} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if byHits {
		q.Set("by", "hits")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/cache?"+q.Encode(), nil)
	if err != nil {
		return kept, fmt.Errorf("cache: admin address %q: %w", address, err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return kept, fmt.Errorf("cache: is the node running? %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10)) // what it says is for people
		return kept, fmt.Errorf("cache: %s", strings.TrimSpace(string(said)))
	}
	if err := json.NewDecoder(res.Body).Decode(&kept); err != nil {
		return kept, fmt.Errorf("cache: read the answer of %s: %w: is it a causeway's admin address, of this version?", address, err)
	}
	return kept, nil
}

// cacheTable is what people are shown.
func cacheTable(kept admin.Cache, now time.Time) string {
	var text strings.Builder
	tier := func(name string, t admin.CacheTier) {
		fmt.Fprintf(&text, "%s: %s, %s of %s\n", name, count(int(t.Objects), "object"), size(t.Bytes), size(t.Limit))
	}
	tier("memory", kept.Memory)
	if kept.Disk != nil {
		tier("disk", *kept.Disk)
		if !kept.Found {
			text.WriteString("what was on the disk before the start is still being looked for\n")
		}
		if kept.Ill {
			text.WriteString("THE DISK FAILS: nothing is kept there until it is well again (see the log)\n")
		}
	}
	if len(kept.Objects) == 0 {
		return text.String()
	}
	text.WriteString("\n")
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "BYTES\tHITS\tAGE\tFRESH FOR\tIN\tURL")
	for _, o := range kept.Objects {
		fresh := "stale"
		if left := o.Until.Sub(now); left > 0 && !o.Purged {
			fresh = roughly(left)
		}
		where := o.URL
		if o.Variant != "" {
			where += "  (" + o.Variant + ")"
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\n", size(o.Bytes), o.Hits, roughly(now.Sub(o.Stored)), fresh, o.Tier, where)
	}
	_ = table.Flush() // into memory
	if kept.More > 0 {
		fmt.Fprintf(&text, "and %d more: --top\n", kept.More)
	}
	return text.String()
}

// size is a number of bytes for people.
func size(n int64) string {
	for _, unit := range []struct {
		bytes float64
		name  string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if float64(n) >= unit.bytes {
			return fmt.Sprintf("%.1f %s", float64(n)/unit.bytes, unit.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// roughly is a time for people, in its largest unit.
func roughly(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", max(0, d/time.Second))
}

func explainVerb() *cobra.Command {
	var at nodeAt
	var method string
	var fields []string
	var asJSON bool
	verb := &cobra.Command{
		Use:   "explain URL [-H 'NAME: VALUE'…] [--method METHOD] [--json] [--config FILE] [--node NAME] [--admin ADDRESS]",
		Short: "Say step by step whether an answer is kept, and why",
		Long: `Asks the node on this machine what its cache does with a request for the URL, as
a visitor would send it, with each rule that decides: the section of the RFC, or
the key of the file. Where nothing is kept that could answer a GET or a HEAD, the
node asks the origin, once, and says whether it would keep what comes. A request
of another --method is not sent: what it would do to what is kept is said.`,
		Example: "  causeway cache explain https://example.cn/news\n  causeway cache explain https://example.cn/ -H 'Cookie: session=1' -H 'Cache-Control: no-cache'",
		Args:    argsBetween(1, 1, "one URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			of, err := publicURL("cache explain:", args[0])
			if err != nil {
				return err
			}
			question := admin.CacheQuestion{Method: strings.ToUpper(method), URL: of, Header: http.Header{}}
			if !httpguts.ValidHeaderFieldName(question.Method) { // both are tokens (RFC 9110 §5.6.2)
				return usagef("causeway cache explain: --method %q is none: give GET, HEAD, POST or another", method)
			}
			for _, field := range fields {
				name, value, ok := strings.Cut(field, ":")
				if !ok || strings.TrimSpace(name) == "" {
					return usagef("causeway cache explain: -H %q: write it as in -H 'Cookie: session=1'", field)
				}
				if strings.EqualFold(strings.TrimSpace(name), "Host") {
					return usagef("causeway cache explain: -H %q: the host is that of the URL", field)
				}
				question.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
			}
			address, err := at.meant(cmd)
			if err != nil {
				return err
			}
			body, err := json.Marshal(question)
			if err != nil {
				return err
			}
			said, err := send("cache explain", address, "cache/explain", bytes.NewReader(body))
			if err != nil {
				return err
			}
			if asJSON {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), said)
				return err
			}
			var steps []admin.CacheStep
			if err := json.Unmarshal([]byte(said), &steps); err != nil {
				return fmt.Errorf("cache explain: read the answer of %s: %w: is it a causeway's admin address, of this version?", address, err)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for i, step := range steps {
				fmt.Fprintf(table, "%d\t%s\t%s\t%s\n", i+1, step.About, step.Says, step.Section)
			}
			return table.Flush()
		},
	}
	at.addTo(verb)
	verb.Flags().StringVar(&method, "method", http.MethodGet, "the method")
	verb.Flags().StringArrayVarP(&fields, "header", "H", nil, "a field of the request; may be given again")
	verb.Flags().BoolVar(&asJSON, "json", false, "print the steps as JSON")
	return verb
}

func purgeVerb() *cobra.Command {
	var at nodeAt
	var which matchFlags
	var all, soft, asJSON bool
	verb := &cobra.Command{
		Use:   "purge [URL…] [--prefix URL] [--host HOST] [--tag TAG] [--all] [--soft] [--json] [--config FILE] [--node NAME] [--admin ADDRESS]",
		Short: "Make a running edge let go of what it keeps",
		Long: `Asks the node on this machine, at the admin address of the file, to let go of the
objects of each URL, or of all that have what the flags say, and prints how many
those were. Nobody gets them any more when it returns; what is being fetched at
that moment is not kept. Each edge has a cache of its own: ask each.

With --soft they are kept, but not fresh any more: the first visitor has them
asked for anew, and until that has come they are given, to that visitor too, unless
they say must-revalidate.`,
		Example: "  causeway purge https://example.cn/news https://example.cn/\n  causeway purge --prefix https://example.cn/assets/\n  causeway purge --tag product-4711 --soft",
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 0 && (all || !which.isEmpty()), all && !which.isEmpty():
				return usagef("causeway purge: name URLs, or give --prefix, --host and --tag, or --all: not several of these")
			case len(args) == 0 && which.isEmpty() && !all:
				return usagef("causeway purge: purge what? Name URLs, or give --prefix, --host, --tag or --all\nTry: causeway purge --help")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := which.whole("purge"); err != nil {
				return err
			}
			order := admin.CachePurge{Soft: soft}
			for _, arg := range args {
				of, err := publicURL("purge:", arg)
				if err != nil {
					return err
				}
				order.Match = append(order.Match, admin.CacheMatch{URL: of})
			}
			if len(args) == 0 {
				order.Match = append(order.Match, which.match(""))
			}
			address, err := at.meant(cmd)
			if err != nil {
				return err
			}
			body, err := json.Marshal(order)
			if err != nil {
				return err
			}
			said, err := send("purge", address, "cache/purge", bytes.NewReader(body))
			if err != nil {
				return err
			}
			if asJSON {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), said)
				return err
			}
			var went admin.CachePurged
			if err := json.Unmarshal([]byte(said), &went); err != nil {
				return fmt.Errorf("purge: read the answer of %s: %w: is it a causeway's admin address, of this version?", address, err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "purged", count(went.Purged, "object"))
			if went.Ill && err == nil {
				err = errors.New("purge: the disk of the cache fails: purge again if the node is started anew before it is well")
			}
			return err
		},
	}
	at.addTo(verb)
	which.addTo(verb)
	verb.Flags().BoolVar(&all, "all", false, "everything")
	verb.Flags().BoolVar(&soft, "soft", false, "keep them, as not fresh any more")
	verb.Flags().BoolVar(&asJSON, "json", false, "print what the node says as a JSON object")
	return verb
}
