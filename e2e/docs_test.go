package e2e

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"go.yaml.in/yaml/v4"

	"causeway/outcome"
)

// TestDocs runs the pages: every command of README.md, CONTRIBUTING.md and
// docs/*.md, as it is printed, on machines made for the page, as root.
//
//   - A ```sh block is run by bash and must succeed.
//   - A ```yaml or ```ini block, or one of another kind, that has a file name
//     behind the kind (```yaml causeway.yaml) is written to that file on every
//     machine of the page; a causeway.yaml must then pass `causeway check`.
//   - A ```text block shows what the commands before it print.
//
// What else there is to know stands in front of a block, parts parted by
// semicolons:
//
//	<!-- test: on virginia-1; prints link is up -->
//
//	on NAME            the machine; else the first
//	background         it goes on until the page ends
//	until TEXT         … and is ready when it has printed this
//	curl lines         … and every curl command that it printed works
//	then Ctrl-C        … and is ended by that
//	eventually         it is run again until it does what it must
//	exits N            it must end with this status
//	prints TEXT        what it prints has this
//	needs PROGRAM      it is left out where that is not installed
//	checkout           it is run in the checkout of this repository
//	added to FILE      a part of a file: put at the end of what the page wrote
//	wrong              a causeway.yaml that is not to pass
//	output             each line is one that was printed, in this order; … is anything
//	output like        the same, with other figures
//	skip REASON        it is neither run nor written
//
// and at the top of a page, which machines it is about:
//
//	<!-- test: machines shanghai-1 virginia-1 visitor -->
//
// A machine is this computer with nothing in /tmp, /run and its home, see
// machine; example.com is an nginx, and on an edge example.cn.pem and
// example.cn.key lie where the commands begin: the reader has a certificate too. A block that
// is neither run, nor written, nor compared, nor skipped with a reason is a
// fault of the page.
func TestDocs(t *testing.T) {
	mayMakeMachines(t)
	for _, file := range pageFiles(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			runPage(t, readPage(t, file))
		})
	}
}

// pageFiles are the pages whose commands are run.
func pageFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"README.md", "CONTRIBUTING.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join(checkout(t), pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	return files
}

// docPage is one file of the documentation.
type docPage struct {
	file     string
	machines []string
	blocks   []*docBlock
}

// docBlock is one fenced block.
type docBlock struct {
	file string
	line int
	kind string // sh, yaml, text
	name string // the file it is, "" when it is none
	text string
	docRules
}

// docRules are what stands in front of a block.
type docRules struct {
	machine, until, addTo, skip      string
	background, eventually, checkout bool
	interrupt                        bool
	curls, wrong, output, like       bool
	exits                            int
	prints, needs                    []string
}

func (b *docBlock) String() string { return fmt.Sprintf("%s:%d", filepath.Base(b.file), b.line) }

var (
	fence     = regexp.MustCompile("^ {0,3}```+ *([a-z]*) *(.*)$")
	figures   = regexp.MustCompile("[0-9]+")
	spaces    = regexp.MustCompile(" +")
	curlLine  = regexp.MustCompile(`^(?:Try)?\s*curl (.*)`)
	directive = regexp.MustCompile(`^<!-- test: (.*) -->$`)
)

// readPage finds the blocks of a page.
func readPage(t *testing.T, file string) *docPage {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := &docPage{file: file, machines: []string{"shanghai-1"}}
	var open *docBlock
	var waiting []string // directives without a block yet
	lines := bufio.NewScanner(strings.NewReader(string(text)))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		fenced := fence.FindStringSubmatch(line)
		said := directive.FindStringSubmatch(line)
		switch {
		case open != nil && fenced != nil && fenced[1] == "":
			p.blocks = append(p.blocks, open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		case said != nil && strings.HasPrefix(said[1], "machines "):
			p.machines = strings.Fields(said[1])[1:]
		case said != nil:
			waiting = append(waiting, said[1])
		case fenced != nil:
			open = &docBlock{file: file, line: n, kind: fenced[1], name: fenced[2]}
			for _, parts := range waiting {
				for part := range strings.SplitSeq(parts, "; ") {
					if err := open.rule(part); err != nil {
						t.Errorf("%s: %v", open, err)
					}
				}
			}
			if open.background && open.until == "" {
				t.Errorf("%s: say what it prints when it is ready: until …", open)
			}
			waiting = nil
		case waiting != nil && strings.TrimSpace(line) != "":
			t.Errorf("%s:%d: %q stands before no block", filepath.Base(file), n, waiting)
			waiting = nil
		}
	}
	if open != nil {
		t.Errorf("%s: the block has no end", open)
	}
	return p
}

// rule reads one part of a directive.
func (b *docBlock) rule(part string) error {
	word, rest, _ := strings.Cut(part, " ")
	switch {
	case word == "on" && rest != "":
		b.machine = rest
	case word == "until" && rest != "":
		b.until = rest
	case word == "prints" && rest != "":
		b.prints = append(b.prints, rest)
	case word == "needs" && rest != "":
		b.needs = append(b.needs, rest)
	case word == "skip" && rest != "":
		b.skip = rest
	case word == "added" && strings.HasPrefix(rest, "to "):
		b.addTo = strings.TrimPrefix(rest, "to ")
	case word == "exits":
		status, err := strconv.Atoi(rest)
		b.exits = status
		return err
	case part == "curl lines":
		b.curls = true
	case part == "then Ctrl-C":
		b.interrupt = true
	case part == "background":
		b.background = true
	case part == "eventually":
		b.eventually = true
	case part == "checkout":
		b.checkout = true
	case part == "wrong":
		b.wrong = true
	case part == "output":
		b.output = true
	case part == "output like":
		b.output, b.like = true, true
	default:
		return fmt.Errorf("%q means nothing", part)
	}
	return nil
}

// docRun is a page on its machines.
type docRun struct {
	*docPage
	world *world
	last  func() string     // what the commands before print, so far
	files map[string]string // what the page wrote, by name
}

// runPage does what a page says, from its top to its end.
func runPage(t *testing.T, p *docPage) {
	t.Helper()
	commands := false
	for _, b := range p.blocks {
		commands = commands || (b.skip == "" && b.kind != "text")
	}
	r := &docRun{docPage: p, files: map[string]string{}, last: func() string { return "" }}
	if commands {
		r.world = newWorld(t, p.machines...)
		defer r.world.close()
	}
	for _, b := range p.blocks {
		if b.skip == "" && b.installed(t) {
			r.block(t, b)
		}
		if t.Failed() {
			return // what comes next rests on it
		}
	}
}

// installed reports whether what the block needs is there.
func (b *docBlock) installed(t *testing.T) bool {
	for _, program := range b.needs {
		if _, err := exec.LookPath(program); err != nil {
			t.Logf("%s: not run: %s is not installed", b, program)
			return false
		}
	}
	return true
}

// block runs, writes or compares one block.
func (r *docRun) block(t *testing.T, b *docBlock) {
	t.Helper()
	if b.kind == "yaml" {
		var any any
		if err := yaml.Unmarshal([]byte(b.text), &any); err != nil {
			t.Errorf("%s: %v", b, err)
		}
	}
	switch {
	case b.kind == "sh" && b.background:
		r.start(t, b)
	case b.kind == "sh":
		r.run(t, b)
	case b.output:
		printed := r.last()
		for end := time.Now().Add(patience); !shows(b, printed) && time.Now().Before(end); printed = r.last() {
			time.Sleep(10 * time.Millisecond) // what goes on may print more
		}
		if !shows(b, printed) {
			t.Errorf("%s: this was printed:\n%s", b, printed)
		}
	case b.addTo != "":
		r.write(t, b, b.addTo, r.files[b.addTo]+b.text)
	case b.name != "":
		r.write(t, b, b.name, b.text)
	default:
		t.Errorf("%s: the block is neither run, nor written, nor compared: give it a kind and a file name, or a reason to skip it", b)
	}
}

// machine is where a block happens.
func (r *docRun) machine(t *testing.T, b *docBlock) (m *machine, folder string) {
	t.Helper()
	name := b.machine
	if name == "" {
		name = r.machines[0]
	}
	m = r.world.machines[name]
	if m == nil {
		t.Fatalf("%s: no machine %s on this page", b, name)
	}
	m.receive(t)
	if b.checkout {
		return m, checkout(t)
	}
	return m, workFolder
}

// run runs commands to their end.
func (r *docRun) run(t *testing.T, b *docBlock) {
	t.Helper()
	m, folder := r.machine(t, b)
	try := func() (out string, fault string) {
		got := m.run(t, folder, b.text)
		out = got.stdout + got.stderr
		if got.code != b.exits {
			return out, fmt.Sprintf("exit status %d, want %d", got.code, b.exits)
		}
		for _, text := range b.prints {
			if !strings.Contains(out, text) {
				return out, fmt.Sprintf("it did not print %q", text)
			}
		}
		return out, ""
	}
	out, fault := try()
	if fault != "" && b.eventually {
		eventually(t, fmt.Sprintf("%s does what it must", b), func() bool {
			out, fault = try()
			return fault == ""
		})
	}
	if fault != "" {
		t.Errorf("%s, on %s: %s\n%s\n%s", b, m.name, fault, b.text, out)
	}
	r.last = func() string { return out }
}

// start runs commands that go on.
func (r *docRun) start(t *testing.T, b *docBlock) {
	t.Helper()
	m, folder := r.machine(t, b)
	p := m.start(t, folder, b.text)
	printed := func() string { return p.stdoutText() + "\n" + p.stderrText() }
	eventually(t, fmt.Sprintf("%s prints %q", b, b.until), func() bool {
		if p.ended() {
			t.Fatalf("%s ended with %d:\n%s", b, p.cmd.ProcessState.ExitCode(), printed())
		}
		return strings.Contains(printed(), b.until)
	})
	for _, text := range b.prints {
		if !strings.Contains(printed(), text) {
			t.Errorf("%s did not print %q:\n%s", b, text, printed())
		}
	}
	if b.curls {
		r.tryCurls(t, b, m, printed())
	}
	if b.interrupt {
		m.interrupt(t)
		if status := p.wait(t); status != b.exits {
			t.Errorf("%s: exit status %d after Ctrl-C, want %d:\n%s", b, status, b.exits, printed())
		}
	}
	r.last = printed
}

// tryCurls runs the curl commands in what a program printed. One that streams
// (-N) is cut after a while.
func (r *docRun) tryCurls(t *testing.T, b *docBlock, m *machine, printed string) {
	t.Helper()
	tried := 0
	for line := range strings.Lines(printed) {
		command := curlLine.FindStringSubmatch(line)
		if command == nil {
			continue
		}
		arguments := command[1]
		tried++
		got := m.run(t, workFolder, "timeout 2 curl --silent --show-error --fail "+arguments)
		streams := got.code == 124 && strings.Contains(arguments, "-N ")
		if (got.code != 0 && !streams) || got.stdout == "" {
			t.Errorf("%s printed\n%s\nand that gave exit status %d, %d bytes: %s", b, line, got.code, len(got.stdout), got.stderr)
		}
	}
	if tried == 0 {
		t.Errorf("%s printed no curl command:\n%s", b, printed)
	}
}

// write writes a file on every machine of the page, or on the one named.
func (r *docRun) write(t *testing.T, b *docBlock, name, text string) {
	t.Helper()
	r.files[name] = text
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(workFolder, name)
	}
	for _, machine := range r.machines {
		if b.machine == "" || b.machine == machine {
			r.world.machines[machine].write(t, path, text)
		}
	}
	if filepath.Base(name) != "causeway.yaml" || b.wrong {
		return
	}
	// Certificates and keys are looked at by the commands of the page.
	m, _ := r.machine(t, b)
	got := m.run(t, "/tmp", "cp "+path+" . && causeway check --json causeway.yaml")
	for line := range strings.Lines(got.stdout + got.stderr) {
		if strings.Contains(line, `"msg"`) && !strings.Contains(line, "does not exist") {
			t.Errorf("%s: causeway check: %s%s", b, got.stdout, got.stderr)
			return
		}
	}
}

// shows reports whether every line of the block is one of got, in order. In the
// block, … is anything, a line of it alone any number of lines.
func shows(b *docBlock, got string) bool {
	lines := strings.Split(got, "\n")
	for line := range strings.Lines(b.text) {
		line = strings.TrimSpace(line)
		if line == "" || line == "…" {
			continue
		}
		expression := strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*")
		if b.like {
			expression = spaces.ReplaceAllString(figures.ReplaceAllString(expression, "[0-9]+"), " +")
		}
		pattern := regexp.MustCompile("^" + expression + "$")
		at := 0
		for at < len(lines) && !pattern.MatchString(strings.TrimSpace(lines[at])) {
			at++
		}
		if at == len(lines) {
			return false
		}
		lines = lines[at+1:]
	}
	return true
}

// TestErrorsPage holds that docs/errors.md has every kind of failure with the
// status that the table of causes gives it.
func TestErrorsPage(t *testing.T) {
	rows := tableOf(t, "docs/errors.md", "kind")
	for kind, entry := range outcome.Table {
		row, found := rows[string(kind)]
		switch {
		case kind == outcome.OK:
		case !found:
			t.Errorf("docs/errors.md lacks %s", kind)
		case row[1] != strconv.Itoa(entry.Status):
			t.Errorf("docs/errors.md gives %s the status %s, it is %d", kind, row[1], entry.Status)
		}
	}
	for name := range rows {
		if _, found := outcome.Table[outcome.Kind(name)]; !found {
			t.Errorf("docs/errors.md has %s, which is no kind", name)
		}
	}
}

// TestLogsPage holds that docs/logs-and-metrics.md has the members of the
// access log and the metrics that there are, with their labels, and no others.
func TestLogsPage(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-16") // which it is not: there is a member for that
		fmt.Fprint(w, "https://example.com/ and so on")
	}))
	defer origin.Close()
	forwarded, behind := freeAddress(t), freeAddress(t)
	c := newCrossing(t, spec{layout: edgeAndRelay, more: fmt.Sprintf(`links: [{from: edge-1, to: relay-1, price: {per_mbps_month: 120, per_gb: 1, currency: CNY}}]
cache: {disk: 32MiB, dir: kept}
forwards:
  - {name: plain, listen: %q, targets: [%q]}
  - {name: behind, listen: %q, targets: [%[2]q], proxy: {accept: [127.0.0.0/8]}}`, forwarded, origin.Listener.Addr(), behind), sites: fmt.Sprintf(`
  - name: site
    hosts: {example.cn: %q, www.example.cn: {to: https://www.example.com, connect: [%q]}}
    tls: {cert: CERT, key: KEY}
  - name: passed
    entry: passthrough
    hosts: {passed.example.cn: "https://passed.example.com"}
    tls: {cert: CERT, key: KEY}`, origin.URL, freeAddress(t))}) // nobody is there: failures have members of their own
	client := c.client(t, 1)
	get(t, client, "https://example.cn/there")
	get(t, client, "https://www.example.cn/gone")
	if conn, err := tls.Dial("tcp", c.https, &tls.Config{ServerName: "passed.example.cn", RootCAs: c.ca.pool(t)}); err != nil {
		t.Error(err)
	} else {
		conn.Close()
		eventually(t, "the edge tells of the connection", func() bool {
			return slices.ContainsFunc(c.edge.stdoutLines(), func(line string) bool { return strings.Contains(line, `"msg":"connection"`) })
		})
	}
	for address, before := range map[string]string{forwarded: "", behind: "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n"} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%sGET / HTTP/1.0\r\nHost: a\r\n\r\n", before)
		if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), " 200 ") {
			t.Errorf("forwarded: %q %v", answer, err)
		}
		conn.Close()
	}
	eventually(t, "the edge tells of the forwarded connections", func() bool { return strings.Count(c.edge.stdoutText(), `"forward":`) == 2 })
	members, metrics := map[string]bool{}, map[string]string{}
	for _, n := range c.nodes() {
		n.record(t, "/there")
		n.record(t, "/gone")
		for _, line := range n.stdoutLines() {
			addMembers(t, members, line)
		}
		_, text := n.ask("/metrics")
		addMetrics(metrics, text)
	}
	page := tableOf(t, "docs/logs-and-metrics.md", "member")
	for name := range members {
		if page[name] == nil {
			t.Errorf("the page lacks the member %s of the access log", name)
		}
	}
	for name := range page {
		if !members[name] {
			t.Errorf("the page has %s, which is no member of the access log", name)
		}
	}
	page = tableOf(t, "docs/logs-and-metrics.md", "metric")
	for name, labels := range metrics {
		if row := page[name]; row == nil || !sameWords(row[1], labels) {
			t.Errorf("the page has %q for the metric %s with the labels %s", row, name, labels)
		}
	}
	for name := range page {
		if _, found := metrics[name]; !found && !strings.HasPrefix(name, kernelMetrics) {
			t.Errorf("the page has %s, which is no metric", name)
		}
	}
}

// kernelMetrics begins the names of those that TestKernelForward looks for.
const kernelMetrics = "causeway_forward_kernel_"

// A text with a charset that is a lie is recorded where it passed.
func TestUnmappedIsRecorded(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-16")
		fmt.Fprint(w, "https://example.com/ and so on")
	}))
	defer origin.Close()
	for _, l := range layouts {
		c := newCrossing(t, spec{layout: l, sites: fmt.Sprintf(`
  - {name: site, hosts: {example.cn: %q}, tls: {cert: CERT, key: KEY}}`, origin.URL)})
		get(t, c.client(t, 1), "https://example.cn/lie")
		for _, n := range c.nodes() {
			r := n.record(t, "/lie")
			if want := l == oneProcess || r.Role == "relay"; (r.Unmapped != "") != want || r.Kind != "" || r.Status != http.StatusOK {
				t.Errorf("%s: %+v", l, r)
			}
		}
	}
}

// addMembers adds the members of a line of the access log, those of an object
// in it as object.member.
func addMembers(t *testing.T, members map[string]bool, line string) {
	t.Helper()
	var record map[string]any
	if err := json.Unmarshal([]byte(line), &record); err != nil {
		t.Fatalf("the access log has a line %q: %v", line, err)
	}
	for name, value := range record {
		if object, ok := value.(map[string]any); ok {
			for member := range object {
				members[name+"."+member] = true
			}
			continue
		}
		members[name] = true
	}
}

// addMetrics adds Causeway's own metrics and the names of their labels.
func addMetrics(metrics map[string]string, text string) {
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "# TYPE causeway_"); ok {
			metrics["causeway_"+strings.Fields(name)[0]] = ""
		}
	}
	for sample := range strings.Lines(text) {
		name, labels, _ := strings.Cut(sample, "{")
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, part)
		}
		if _, ours := metrics[name]; !ours {
			continue
		}
		var found []string
		for _, label := range metricLabel.FindAllStringSubmatch(labels, -1) {
			if label[1] != "le" { // a bucket's
				found = append(found, label[1])
			}
		}
		metrics[name] = strings.Join(found, " ")
	}
}

var metricLabel = regexp.MustCompile(`([a-z]+)="`)

// sameWords reports whether two lists have the same words, commas aside.
func sameWords(a, b string) bool {
	words := func(list string) []string {
		return slices.Sorted(slices.Values(strings.Fields(strings.ReplaceAll(list, ",", " "))))
	}
	return slices.Equal(words(a), words(b))
}

// tableOf gives the rows of the table of a page whose first column has that
// heading, by the names in their first cells; a cell may hold several.
func tableOf(t *testing.T, file, heading string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(checkout(t), file))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	inside := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch cells := strings.Split(strings.Trim(line, "|"), "|"); {
		case strings.HasPrefix(line, "| "+heading+" |"):
			inside = true
		case !strings.HasPrefix(line, "|"):
			inside = false
		case inside && !strings.HasPrefix(line, "|-"):
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			for _, name := range codeWord.FindAllStringSubmatch(cells[0], -1) {
				rows[name[1]] = cells
			}
		}
	}
	if len(rows) == 0 {
		t.Fatalf("%s has no table of %s", file, heading)
	}
	return rows
}

var codeWord = regexp.MustCompile("`([^`]+)`")

// TestLinks holds that the links between the pages lead somewhere.
func TestLinks(t *testing.T) {
	files := pageFiles(t)
	decisions, err := filepath.Glob(filepath.Join(checkout(t), "docs/adr/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, decisions...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range pageLink.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(link[1], "#")
			to := file
			if path != "" {
				to = filepath.Join(filepath.Dir(file), path)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: the link %s leads nowhere", filepath.Base(file), link[1])
			} else if anchor != "" && !anchors(t, to)[anchor] {
				t.Errorf("%s: %s has no heading for the link %s", filepath.Base(file), filepath.Base(to), link[1])
			}
		}
	}
}

var pageLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// anchors are the anchors of a page's headings, made as GitHub makes them.
func anchors(t *testing.T, file string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		heading := strings.TrimSpace(strings.TrimLeft(line, "#"))
		if !strings.HasPrefix(line, "#") {
			continue
		}
		found[strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, heading)] = true
	}
	return found
}
