package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// manual is the documentation of a Debian package, as the site that its pages
// belong to.
type manual struct {
	name   string // the package
	tree   string // its files, as a pattern for one folder
	host   string // where they are at home
	path   string // and under which path
	domain string // what their URLs name, with all subdomains
}

var manuals = []manual{
	{"python3-doc", "/usr/share/doc/python3.[0-9]*/html", "docs.python.org", "/3/", "python.org"},
	{"apache2-doc", "/usr/share/doc/apache2-doc/manual", "httpd.apache.org", "/docs/2.4/", "apache.org"},
	{"python-django-doc", "/usr/share/doc/python-django-doc/html", "docs.djangoproject.com", "/en/", "djangoproject.com"},
	{"debian-reference-zh-cn", "/usr/share/debian-reference", "www.debian.org", "/doc/manuals/debian-reference/", "debian.org"},
	{"debian-policy", "/usr/share/doc/debian-policy", "www.debian.org", "/doc/debian-policy/", "debian.org"},
	{"bind9-doc", "/usr/share/doc/bind9-doc/arm", "docs.isc.org", "/", "isc.org"},
}

// manualPages is how many files of a package are fetched at most.
const manualPages = 300

// public is the name of a host for visitors: python.cn for python.org.
func public(host string) string { return host[:strings.LastIndexByte(host, '.')] + ".cn" }

// TestPackages: whole trees of real pages come through as a slow and simple
// reference would have them, byte for byte, and no URL of theirs names the
// origin any more.
func TestPackages(t *testing.T) {
	ca, address := newAuthority(t), freeAddress(t)
	folders := map[string]string{}
	for _, m := range manuals {
		found, err := filepath.Glob(m.tree)
		found = slices.DeleteFunc(found, func(path string) bool { return len(manualFiles(t, path)) == 0 })
		if err != nil || len(found) == 0 {
			missing(t, m.name)
		}
		folders[m.name] = found[0]
	}
	startNginx(t, address, manualServers(t, ca, address, folders))

	sites, hosts, domains := "", []string{}, []string{}
	for _, m := range manuals {
		if slices.Contains(domains, m.domain) {
			continue
		}
		domains = append(domains, m.domain)
		hosts = append(hosts, public(m.domain), "*."+public(m.domain))
		sites += fmt.Sprintf(`
  - name: %s
    hosts: {%s: https://%s, "*.%[2]s": "https://*.%[3]s"}
    origin: {connect: [%q], tls: {ca: CA}}
    tls: {cert: CERT, key: KEY}
`, strings.ReplaceAll(m.domain, ".", "-"), public(m.domain), m.domain, address)
	}
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, hosts: hosts, sites: sites})
	client := c.client(t, 2)

	table := fmt.Sprintf("%-24s %6s %10s %8s %6s %8s %8s\n", "package", "files", "bytes", "mapped", "left", "strings", "prose")
	for _, m := range manuals {
		t.Run(m.name, func(t *testing.T) {
			row := m.compare(t, client, folders[m.name])
			table += fmt.Sprintf("%-24s %6d %10d %8d %6d %8d %8d\n", m.name, row.files, row.bytes, row.mapped, row.left, row.strings, row.prose)
			if row.mapped == 0 {
				t.Errorf("the pages of %s have no URL of %s", m.name, m.domain)
			}
		})
	}
	t.Logf("\n%s", table)
}

// manualServers is nginx with each host and the packages on it.
func manualServers(t *testing.T, ca *authority, address string, folders map[string]string) string {
	t.Helper()
	text, done := "gzip on; gzip_types *; gzip_min_length 1000; gzip_vary on;\n", []string{}
	for _, m := range manuals {
		if slices.Contains(done, m.host) {
			continue
		}
		done = append(done, m.host)
		certFile, key := ca.issue(t, m.host, m.host)
		text += fmt.Sprintf("server {\n listen %s ssl http2; server_name %s; ssl_certificate %s; ssl_certificate_key %s;\n", address, m.host, certFile, key)
		for _, other := range manuals {
			if other.host == m.host {
				text += fmt.Sprintf(" location %s { alias %s/; }\n", other.path, folders[other.name])
			}
		}
		text += "}\n"
	}
	return text
}

// manualFiles are the files of a tree, at most manualPages of them, spread over
// all.
func manualFiles(t *testing.T, tree string) []string {
	t.Helper()
	tree, err := filepath.EvalSymlinks(tree)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	err = filepath.WalkDir(tree, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			name, _ := filepath.Rel(tree, path)
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) <= manualPages {
		return files
	}
	spread := make([]string, manualPages)
	for i := range spread {
		spread[i] = files[i*len(files)/manualPages]
	}
	return spread
}

// manualRow sums a package up.
type manualRow struct{ files, bytes, mapped, left, strings, prose int }

// compare fetches the files of a package and holds each against the reference.
func (m manual) compare(t *testing.T, client *http.Client, tree string) (row manualRow) {
	t.Helper()
	base, url := "https://"+public(m.host)+m.path, referenceURL(m.domain)
	for i, name := range manualFiles(t, tree) {
		own, err := os.ReadFile(filepath.Join(tree, name))
		if err != nil {
			t.Fatal(err)
		}
		coding := []string{"identity", "gzip"}[i%2]
		got := get(t, client, base+name, "Accept-Encoding: "+coding)
		body := got.body
		if got.Header.Get("Content-Encoding") == "gzip" {
			body = unzip(t, body)
		}
		want, mapped, text := own, 0, isText(got.Header.Get("Content-Type"))
		if text {
			want, mapped = publicBytes(own, url)
		}
		if got.StatusCode != http.StatusOK || !bytes.Equal(body, want) {
			t.Errorf("%s%s (%s, %s): %d, %s", base, name, coding, got.Header.Get("Content-Type"), got.StatusCode, firstDifference(body, want))
			continue
		}
		row.files, row.bytes, row.mapped = row.files+1, row.bytes+len(body), row.mapped+mapped
		if mapped > 0 && bytes.Equal(body, own) {
			t.Errorf("%s%s is the origin's own", base, name)
		}
		if !text {
			continue
		}
		for _, found := range newCensus(m.domain).mentions(string(body)) {
			switch found.kind {
			case isURL:
				row.left++
				t.Errorf("%s%s still names the origin: %q", base, name, found.text)
			case isString:
				row.strings++
			case isProse:
				row.prose++
			}
		}
	}
	return row
}

// isText says whether a type of nginx is one whose names are mapped.
func isText(kind string) bool {
	return regexp.MustCompile(`^text/|javascript|json|xml`).MatchString(kind)
}

func unzip(t *testing.T, body []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err == nil {
		body, err = io.ReadAll(r)
	}
	if err != nil {
		t.Fatalf("open gzip: %v", err)
	}
	return body
}

// firstDifference shows where two texts part.
func firstDifference(got, want []byte) string {
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	around := func(text []byte) []byte { return text[max(0, at-60):min(len(text), at+60)] }
	return fmt.Sprintf("%d bytes, want %d; at byte %d %q, want %q", len(got), len(want), at, around(got), around(want))
}

// A URL in any spelling: its scheme if there is one, its slashes, its host.
const (
	aColon = `(?:\\*:|%(?:25)*3a|\\+(?:u00|x)3a|&#0*58;|&#x0*3a;|&colon;)`
	aSlash = `(?:\\*/|%(?:25)*2f|\\+(?:u00|x)2f|&#0*47;|&#x0*2f;|&sol;)`
)

// referenceURL finds what may be a URL of a domain or of what is below it. Its
// groups are the scheme, the colon, the domain and the port.
func referenceURL(domain string) *regexp.Regexp {
	return regexp.MustCompile(`(?i)(https?|wss?)?(` + aColon + `)?` + aSlash + aSlash + `(?:[a-z0-9_-]+\.)*(` + regexp.QuoteMeta(domain) + `)(:[0-9]+)?`)
}

// publicBytes is the reference: it maps one URL after the other, and says how
// many.
func publicBytes(text []byte, url *regexp.Regexp) ([]byte, int) {
	var out []byte
	mapped, done := 0, 0
	for _, at := range url.FindAllSubmatchIndex(text, -1) {
		group := func(n int) string { return string(text[max(0, at[2*n]):max(0, at[2*n+1])]) }
		before, after := text[:at[0]], text[at[1]:]
		scheme, colon, domain, port := strings.ToLower(group(1)), group(2) != "", group(3), group(4)
		switch {
		case referenceGoesOn.Match(after), scheme != "" && !colon:
			continue
		case port != "" && !(scheme == "http" && port == ":80" || scheme == "https" && port == ":443"):
			continue
		case scheme == "" && referencePath.Match(before), scheme == "" && colon && referenceScheme.Match(before):
			continue
		}
		out = append(append(out, text[done:at[6]]...), public(strings.ToLower(domain))...) // without the port that goes without saying
		done = at[1]
		mapped++
	}
	return append(out, text[done:]...), mapped
}

var (
	// What makes a host another, or a user's name.
	referenceGoesOn = regexp.MustCompile(`^(?i)(?:[a-z0-9_@-]|\.[a-z0-9])`)
	// What makes two slashes a part of a path.
	referencePath = regexp.MustCompile(`(?i)[a-z0-9/._~:@%+$!&-]$`)
	// A scheme that is not ours.
	referenceScheme = regexp.MustCompile(`(?i)[a-z0-9+.-]$`)
)
