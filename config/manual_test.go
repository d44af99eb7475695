package config

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"causeway/rewrite"
)

// comments are the comments of this package's types and their fields, by
// "Type" and "Type.Field".
func comments(t *testing.T) map[string]string {
	t.Helper()
	var decls []ast.Decl
	for _, name := range []string{"config.go", "forwards.go", "caching.go", "front.go", "certs.go", "acme.go", "dns.go", "pending.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		decls = append(decls, file.Decls...)
	}
	all := map[string]string{}
	for _, decl := range decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.TYPE {
			continue
		}
		for _, spec := range gen.Specs {
			typ := spec.(*ast.TypeSpec)
			doc := typ.Doc
			if doc == nil {
				doc = gen.Doc
			}
			all[typ.Name.Name] = doc.Text()
			fields, ok := typ.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, f := range fields.Fields.List {
				for _, name := range f.Names {
					all[typ.Name.Name+"."+name.Name] = f.Doc.Text()
				}
			}
		}
	}
	return all
}

const manualHead = `# The file

<!-- Made from the comments in config/config.go, config/forwards.go, config/caching.go, config/front.go, config/certs.go, config/acme.go, config/dns.go and config/pending.go by ` + "`go test ./config -update`" + `. Edit those. -->

` + "`causeway.yaml`" + ` describes the whole crossing, and every node reads the same file. It is read strictly: whatever is wrong is one line with its place and its mend, all of them at once, and nothing starts.

    causeway.yaml:12:5: sites[0].tls: the key "key" is missing; write key: example.cn.key

` + "`causeway check FILE`" + ` prints those lines, ` + "`causeway schema`" + ` a JSON Schema for editors, and [examples](../examples) has files to begin with.

The file is one YAML document of at most 4 MiB. Anchors and aliases may be used, merge keys (` + "`<<`" + `) not. Relative paths are relative to the file. Sizes are bytes or have a unit: ` + "`64KiB`, `10MB`" + `. Times have a unit: ` + "`500ms`, `15s`, `10m`, `1h`" + `.

## At the top

`

// TestManual holds that docs/CONFIG.md says what the comments say.
func TestManual(t *testing.T) {
	m := manual{t: t, comments: comments(t), where: map[reflect.Type]string{}}
	m.b.WriteString(manualHead)
	m.keys(reflect.TypeFor[Config](), "")
	compare(t, "../docs/CONFIG.md", strings.TrimRight(m.b.String(), "\n")+"\n")
}

// manual writes docs/CONFIG.md.
type manual struct {
	t        *testing.T
	comments map[string]string
	where    map[reflect.Type]string // section of a struct already written
	b        strings.Builder
}

// keys writes the keys of a struct, then a section for each struct in it.
func (m *manual) keys(typ reflect.Type, path string) {
	type section struct {
		typ  reflect.Type
		path string
	}
	var sections []section
	fields := fieldsOf(typ)
	for _, name := range sortedKeys(fields) {
		f := typ.Field(fields[name].index)
		comment := m.comments[typ.Name()+"."+f.Name]
		if comment == "" {
			m.t.Errorf("%s.%s has no comment", typ.Name(), f.Name)
		}
		fmt.Fprintf(&m.b, "### `%s`\n\n", join(path, name))
		inner, suffix := f.Type, ""
		if inner == reflect.TypeFor[[]Host]() {
			inner, suffix = reflect.TypeFor[Host](), "[PUBLIC HOST]"
		} else if inner.Kind() == reflect.Slice && inner.Elem().Kind() != reflect.String {
			inner, suffix = inner.Elem(), "[]"
		}
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		facts := m.facts(f, fields[name])
		if inner.Kind() == reflect.Struct && inner != reflect.TypeFor[rewrite.Base]() {
			if at, ok := m.where[inner]; ok {
				facts += fmt.Sprintf(" · keys as in [`%s`](#%s)", at, anchor(at))
			} else {
				m.where[inner] = join(path, name)
				sections = append(sections, section{inner, join(path, name) + suffix})
			}
		}
		fmt.Fprintf(&m.b, "%s\n\n%s\n", facts, comment)
	}
	for _, s := range sections {
		comment := m.comments[s.typ.Name()]
		fmt.Fprintf(&m.b, "## In `%s`\n\n%s\n", s.path, comment)
		m.keys(s.typ, s.path)
	}
}

// facts are type, need, words, range, default and example of a key.
func (m *manual) facts(f reflect.StructField, key field) string {
	facts := []string{"*" + strings.TrimPrefix(typeName(f.Type), "a ")}
	if key.required {
		facts[0] += ", required"
	}
	facts[0] += "*"
	if s := f.Tag.Get("enum"); s != "" {
		facts = append(facts, "`"+strings.ReplaceAll(s, "|", "` `")+"`")
	}
	if s := f.Tag.Get("default"); s != "" {
		facts = append(facts, "default `"+s+"`")
	}
	if s := f.Tag.Get("min"); s != "" {
		facts = append(facts, "`"+s+"` to `"+f.Tag.Get("max")+"`")
	}
	if s := f.Tag.Get("example"); s != "" {
		facts = append(facts, "example `"+s+"`")
	}
	return strings.Join(facts, " · ")
}

// anchor is the fragment of a heading that is code, as GitHub makes it.
func anchor(path string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(".[]", r) {
			return -1
		}
		return r
	}, strings.ToLower(strings.ReplaceAll(path, " ", "-")))
}

// TestTags holds that the tags of every struct say what the decoder can read.
func TestTags(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(typ reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] || typ == reflect.TypeFor[rewrite.Base]() {
			return
		}
		seen[typ] = true
		for name, f := range fieldsOf(typ) {
			field := typ.Field(f.index)
			low, ranged := f.tag.Lookup("min")
			high := f.tag.Get("max")
			switch field.Type {
			case reflect.TypeFor[time.Duration]():
				if mustDuration(low) >= mustDuration(high) {
					t.Errorf("%s: %s to %s", name, low, high)
				}
			case reflect.TypeFor[Size]():
				if mustSize(low) >= mustSize(high) {
					t.Errorf("%s: %s to %s", name, low, high)
				}
			case reflect.TypeFor[int](), reflect.TypeFor[[]int]():
				if mustInt(low) >= mustInt(high) {
					t.Errorf("%s: %s to %s", name, low, high)
				}
			case reflect.TypeFor[slog.Level]():
			default:
				if ranged {
					t.Errorf("%s: a range of %s", name, field.Type)
				}
			}
			if f.required && f.tag.Get("example") == "" {
				t.Errorf("%s is required and has no example", name)
			}
			walk(field.Type)
		}
		setDefaults(reflect.New(typ).Elem(), "")
	}
	walk(reflect.TypeFor[Config]())
	if len(seen) < 11 {
		t.Errorf("saw %d structs", len(seen))
	}
}
