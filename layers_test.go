// Package causeway holds no code: only the test that holds the house together.
package causeway

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// floors lists every package by floor. Imports go down only: a package may
// import packages of a lower floor that its row names, and no others of ours.
var floors = []struct {
	pkg   string
	floor int
	may   map[string]string // what it may import: why
}{
	{"conn", 0, nil}, // sockets and bytes: sites are its callers'
	{"mux", 0, nil},  // streams of bytes: what they carry, and over what, its caller knows
	{"rewrite", 0, nil},
	{"hop", 0, nil},
	{"outcome", 0, nil},
	{"resolve", 0, nil}, // names and addresses: who dials them is its callers' matter
	{"cache", 0, nil},   // answers and their bytes: who fetches them, and what the file says, its caller knows
	{"records", 0, nil}, // at whoever serves a domain: which, and what for, its caller knows
	{"keypair", 0, nil}, // one certificate and its key: who serves it its callers know
	{"simnet", 0, nil},  // for tests and the demo: nothing that serves people imports it
	{"testca", 0, nil},  // for tests: nothing that serves people imports it

	{"config", 1, map[string]string{
		"keypair": "looks at the certificates and keys that the file names",
		"cache":   "what an owner may want of it",
		"rewrite": "a site's hosts are its host map",
	}},
	{"cert", 1, map[string]string{"keypair": "reads certificates and keys"}},
	{"nft", 1, nil}, // takes targets and gives counters: who is healthy, and what the file says, its caller knows
	{"link", 1, map[string]string{
		"conn":    "a raw stream begins with who its client is",
		"mux":     "carries the raw streams of a connection",
		"hop":     "an upgraded connection crosses as a tunnel stream",
		"outcome": "a failure crosses with its kind",
	}},

	{"edge", 2, map[string]string{
		"cache":   "keeps what crossed",
		"config":  "sites and limits",
		"conn":    "reads the hello of what may pass through, and joins it to a stream",
		"hop":     "passes messages on",
		"link":    "which relay answered",
		"outcome": "the record of a request",
		"rewrite": "the public address of a redirect",
	}},
	{"relay", 2, map[string]string{
		"config":  "sites and limits",
		"hop":     "passes messages on",
		"link":    "tells the edge why a fetch failed",
		"outcome": "the record of a request",
		"resolve": "the addresses of origins",
		"rewrite": "maps the names both ways",
	}},
	{"forward", 2, map[string]string{
		"config":  "the forwards",
		"conn":    "hears who is asked for, says who the client is, joins",
		"nft":     "the forwards of the kernel",
		"outcome": "the record of a connection",
		"resolve": "the addresses of targets",
	}},

	{"admin", 3, map[string]string{"cert": "what a certificate says of itself"}},
	{"audit", 3, map[string]string{
		"cache":   "what an edge puts into other codings",
		"config":  "the hosts and targets to ask for, and what the file says of them",
		"forward": "checks targets as in service",
		"keypair": "the chains of certificates",
		"outcome": "the kind of a failure",
		"relay":   "asks the origins as in service",
		"resolve": "the addresses of targets",
		"rewrite": "a public base",
	}},
	{"daemon", 4, map[string]string{
		"admin":   "serves it, and is the node it shows",
		"cache":   "opens and ends the cache of an edge",
		"cert":    "certificates of sites and of the node",
		"config":  "the file",
		"edge":    "the role",
		"forward": "forwards of an edge",
		"hop":     "connections whose frames leave together",
		"link":    "opens and serves links",
		"outcome": "where records go",
		"records": "sets the records of DNS-01",
		"relay":   "the role",
	}},
	{"demo", 5, map[string]string{
		"cert":   "makes the demo's certificates",
		"config": "writes and loads a real file",
		"daemon": "runs real nodes",
		"simnet": "the bad line between them",
	}},
	{"cmd/causeway", 6, map[string]string{
		"admin":   "reload, links, forwards and others ask the admin address",
		"audit":   "check --live asks the origins and targets",
		"cert":    "link-ca and publish make certificates",
		"config":  "check, schema",
		"daemon":  "run, publish",
		"demo":    "demo",
		"forward": "show nft: what the kernel would be told",
		"keypair": "warm trusts the certificates of the file",
		"nft":     "show nft, down",
		"resolve": "show nft: the addresses of targets",
	}},

	{"e2e", 7, map[string]string{"cert": "certificates for real peers"}},
}

// TestLayers fails on an import the table does not allow, on a row that allows
// what nobody imports, and on a folder the table does not know.
func TestLayers(t *testing.T) {
	floorOf := map[string]int{}
	for _, row := range floors {
		floorOf[row.pkg] = row.floor
	}
	for _, row := range floors {
		used := map[string]bool{}
		for file, imports := range importsOf(t, row.pkg) {
			for _, imported := range imports {
				pkg, ours := strings.CutPrefix(imported, "causeway/")
				if !ours || pkg == row.pkg {
					continue
				}
				isTest := strings.HasSuffix(file, "_test.go")
				_, allowed := row.may[pkg]
				floor, known := floorOf[pkg]
				switch {
				case !known:
					t.Errorf("%s imports %s, which the table does not know", file, pkg)
				case isTest && !allowed:
					if floor > row.floor {
						t.Errorf("%s (floor %d) imports %s (floor %d): tests import no higher floor", file, row.floor, pkg, floor)
					}
				case !allowed:
					t.Errorf("%s imports %s: not in the table", file, pkg)
				case floor >= row.floor:
					t.Errorf("%s (floor %d) imports %s (floor %d): imports go down only", file, row.floor, pkg, floor)
				default:
					used[pkg] = used[pkg] || !isTest || row.pkg == "e2e"
				}
			}
		}
		for pkg := range row.may {
			if !used[pkg] {
				t.Errorf("the table lets %s import %s, and it does not: take it out", row.pkg, pkg)
			}
		}
	}
	for _, dir := range goFolders(t) {
		if _, known := floorOf[dir]; !known && dir != "." {
			t.Errorf("folder %s holds Go and is not in the table", dir)
		}
	}
}

// TestPackageDocs wants one package doc in each folder, in one file.
func TestPackageDocs(t *testing.T) {
	for _, dir := range goFolders(t) {
		docs := 0
		for file := range importsOf(t, dir) {
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			if parsed.Doc != nil && !strings.HasSuffix(parsed.Name.Name, "_test") {
				docs++
			}
		}
		if docs != 1 {
			t.Errorf("%s has %d package docs, want 1", dir, docs)
		}
	}
}

// importsOf gives the imports of each Go file of a folder.
func importsOf(t *testing.T, dir string) map[string][]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	imports := map[string][]string{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		imports[file] = []string{}
		ast.Inspect(parsed, func(node ast.Node) bool {
			if spec, ok := node.(*ast.ImportSpec); ok {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				imports[file] = append(imports[file], imported)
			}
			return true
		})
	}
	return imports
}

// goFolders lists the folders that hold Go files.
func goFolders(t *testing.T) []string {
	t.Helper()
	var dirs []string
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "testdata" || (strings.HasPrefix(entry.Name(), ".") && name != ".")) {
			return fs.SkipDir
		}
		if strings.HasSuffix(name, ".go") && !slices.Contains(dirs, path.Dir(name)) {
			dirs = append(dirs, path.Dir(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}
