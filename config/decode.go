package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"causeway/rewrite"
)

const (
	// maxBytes of a file. Ten thousand sites are 1 to 3 MB.
	maxBytes = 4 << 20
	// maxValues read from a file, aliases counted every time they are used: a
	// public host takes two, so a file of 4 MiB has about 200,000 without.
	maxValues = 1 << 19
	// maxErrors reported at once: more are one mistake made often.
	maxErrors = 500
)

// Load reads the file at path. It touches no other file: see CheckFiles. The
// error is Errors when the file was read and is wrong.
func Load(path string) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Check is Load and, for the part of the node called name, CheckFiles: all that
// is wrong at once, with the named files looked at as far as the file can be
// understood, and with what clients would not take. With name "" and several
// nodes no files are looked at, and the node is nil. The warnings are of a file
// that is fine.
func Check(path, name string) (c *Config, node *Node, warnings Errors, err error) {
	data, err := readFile(path)
	if err != nil {
		return nil, nil, nil, err
	}
	c, errs, err := decodeAndCheck(path, data)
	if err != nil {
		return nil, nil, nil, err
	}
	if len(c.Nodes) == 1 && name == "" {
		node = c.Nodes[0]
	} else if len(c.Nodes) > 0 && name != "" {
		if node, err = c.Node(name); err != nil && len(errs) == 0 {
			return nil, nil, nil, err
		}
	}
	if node != nil {
		files := c.checkFiles(node, time.Now())
		errs = append(append(errs, files.errs...), files.wrong...)
		warnings = files.warnings
		errs = append(errs, c.checkCacheDir(node)...)
		errs = append(errs, c.checkACMEDir(node)...)
	}
	if len(errs) == 0 {
		warnings = append(warnings, c.acmeWarnings()...)
		if node != nil {
			warnings = append(warnings, c.cacheWarnings(node)...)
		}
	}
	if len(errs) > 0 {
		errs = errs.sorted()
		return nil, nil, nil, errs[:min(len(errs), maxErrors)]
	}
	return c, node, warnings.sorted(), nil
}

// readFile is the content of the file, or one byte more than it may have.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	data := make([]byte, maxBytes+1)
	n, err := readFull(f, data)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return data[:n], nil
}

// readFull fills data from f as far as f goes.
func readFull(f *os.File, data []byte) (int, error) {
	n, err := io.ReadFull(f, data)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return n, err
}

// Parse reads the content of a file. path is for messages and for the relative
// paths in it. The error is Errors, sorted by place.
func Parse(path string, data []byte) (*Config, error) {
	c, errs, err := decodeAndCheck(path, data)
	if err != nil {
		return nil, err
	}
	if len(errs) > 0 {
		errs = errs.sorted()
		return nil, errs[:min(len(errs), maxErrors)]
	}
	return c, nil
}

// decodeAndCheck gives what could be decoded, and what is wrong with it.
func decodeAndCheck(path string, data []byte) (*Config, Errors, error) {
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, nil, fmt.Errorf("find the folder of %s: %w", path, err)
	}
	d := &decoder{
		report: report{file: path, places: places{}, bad: map[string]bool{}},
		dir:    dir,
	}
	c := &Config{Path: path}
	if root := d.document(data); root != nil {
		d.value(root, reflect.ValueOf(c).Elem(), "", "")
		c.places = d.places
		if d.values <= maxValues {
			c.check(&d.report)
		}
	}
	if len(d.errs) == 0 {
		c.index = newHostIndex(c.Sites)
		c.entries = entriesOf(c.Sites)
	}
	return c, d.errs, nil
}

// decoder walks nodes and Go values side by side.
type decoder struct {
	report
	dir    string // of the file, absolute
	values int    // read so far
}

// document is the one mapping a file is, or nil.
func (d *decoder) document(data []byte) *yaml.Node {
	data = []byte(strings.TrimPrefix(string(data), "\ufeff"))
	if len(data) > maxBytes {
		d.add("", 1, 1, "split off what is not configuration", "the file is larger than 4 MiB")
		return nil
	}
	if line, column, ok := notText(data); ok {
		d.add("", line, column, "save the file as UTF-8 text", "this is not UTF-8 text")
		return nil
	}
	var docs []yaml.Node
	if err := yaml.Load(data, &docs, yaml.WithAllDocuments()); err != nil {
		d.syntax(err)
		return nil
	}
	if len(docs) == 0 || len(docs[0].Content) == 0 || isNull(docs[0].Content[0]) {
		d.add("", 1, 1, "write at least sites: [{name: shop, hosts: {example.cn: https://example.com}, …}]", "the file is empty")
		return nil
	}
	if len(docs) > 1 {
		second := docs[1]
		d.add("", second.Line, second.Column, "keep one, without ---", "a second YAML document begins here")
		return nil
	}
	root := docs[0].Content[0]
	if resolve(root).Kind != yaml.MappingNode {
		d.add("", root.Line, root.Column, "write keys such as sites: and listen:", "the file is %s, not a set of keys", describe(root))
		return nil
	}
	return root
}

// notText is the place of the first byte that is not text in UTF-8.
func notText(data []byte) (line, column int, found bool) {
	line, column = 1, 1
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		switch {
		case r == utf8.RuneError && size == 1, r < ' ' && r != '\n' && r != '\r' && r != '\t', r == 0x7f:
			return line, column, true
		case r == '\n':
			line, column = line+1, 1
		default:
			column++
		}
		data = data[size:]
	}
	return 0, 0, false
}

// syntax reports what the YAML parser refused.
func (d *decoder) syntax(err error) {
	var load *yaml.LoadError
	if !errors.As(err, &load) {
		d.add("", 1, 1, "check the file with a YAML editor", "not YAML: %v", err)
		return
	}
	at := load.Mark
	if at.Line == 0 {
		at.Line, at.Column = 1, 1
	}
	mend := "check the indentation and the quotes of this line and the one before"
	switch {
	case strings.Contains(load.Message, "tab"):
		mend = "indent with spaces"
	case strings.Contains(load.Message, "unknown anchor"):
		mend = "define it with & before it is used, or put the value in quotes"
	case strings.Contains(load.Message, "']'") || strings.Contains(load.Message, "'}'"):
		mend = "close the bracket or the brace"
	}
	d.add("", at.Line, max(at.Column, 1), mend, "not YAML: %s", load.Message)
}

// value reads node n into v. tag is that of the field v came from.
func (d *decoder) value(n *yaml.Node, v reflect.Value, tag reflect.StructTag, path string) {
	d.values++
	if d.values > maxValues {
		if d.values == maxValues+1 {
			d.tooMany(n)
		}
		return
	}
	if v.Kind() == reflect.Pointer { // never nil once its key is in the file
		v.Set(reflect.New(v.Type().Elem()))
		d.values--
		d.value(n, v.Elem(), tag, path)
		return
	}
	n = resolve(n)
	at := d.places[path]
	at.line, at.column = n.Line, n.Column
	d.places[path] = at
	if isNull(n) {
		d.report.value(path, "write "+wanted(v.Type(), tag)+orNothing(tag), "has no value")
		return
	}
	switch p := v.Addr().Interface().(type) {
	case *[]Host:
		*p = d.hosts(n, path)
		return
	case *Addresses:
		if n.Kind == yaml.ScalarNode {
			*p = make(Addresses, 1)
			d.value(n, reflect.ValueOf(p).Elem().Index(0), `example:"\":8443\""`, path+"[0]")
			return
		}
	case *Target:
		if n.Kind == yaml.ScalarNode {
			p.Weight = 1
			to, _ := reflect.TypeFor[Target]().FieldByName("To")
			d.value(n, reflect.ValueOf(&p.To).Elem(), to.Tag, path)
			return
		}
	case *Pending:
		if p.On = true; n.Kind == yaml.ScalarNode {
			d.value(n, reflect.ValueOf(&p.On).Elem(), "", path)
			return
		}
	case *Clients:
		if n.Kind == yaml.ScalarNode {
			p.Require = true
			ca, _ := reflect.TypeFor[Clients]().FieldByName("CA")
			d.value(n, reflect.ValueOf(&p.CA).Elem(), ca.Tag, path)
			return
		}
	case *Cache:
		if p.Off = isOff(n); p.Off {
			return
		}
	case *Caching:
		if p.Off = isOff(n); p.Off {
			return
		}
	case *rewrite.Base:
		d.text(n, v.Type(), tag, path, func(s string) (wrong *fault) { *p, wrong = parseOrigin(s); return })
		return
	case *time.Duration:
		d.duration(n, p, tag, path)
		return
	case *Size:
		d.size(n, p, tag, path)
		return
	case *Money:
		d.money(n, p, tag, path)
		return
	case *slog.Level:
		d.text(n, v.Type(), tag, path, func(s string) *fault {
			_ = p.UnmarshalText([]byte(s))
			return nil
		})
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(n, v, path)
	case reflect.Slice:
		d.list(n, v, tag, path)
	case reflect.String:
		d.text(n, v.Type(), tag, path, func(s string) *fault {
			s, wrong := d.kind(tag.Get("kind"), s)
			v.SetString(s)
			return wrong
		})
	case reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
			d.mistyped(n, v.Type(), tag, path)
			return
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
	case reflect.Int:
		d.integer(n, v, tag, path)
	default:
		// A field of this package that nobody can write: every test would see it.
		panic("config: no decoder for " + v.Type().String())
	}
}

// isOff says whether a node is the word off in place of a set of keys.
func isOff(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && (n.Value == "off" || n.ShortTag() == "!!bool" && strings.EqualFold(n.Value, "false"))
}

// tooMany reports a file that grows without end through its aliases.
func (d *decoder) tooMany(n *yaml.Node) {
	d.add("", n.Line, n.Column, "use fewer aliases", "the file holds more than %d values once its aliases are followed", maxValues)
}

// mapping reads the keys of n into the fields of v.
func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.mistyped(n, v.Type(), "", path)
		return
	}
	fields := fieldsOf(v.Type())
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := resolve(n.Content[i]), n.Content[i+1]
		name := key.Value
		sub := join(path, name)
		if key.Kind != yaml.ScalarNode {
			d.add(path, key.Line, key.Column, "write "+names(fields), "%s cannot be a key", describe(key))
			continue
		}
		if !d.once(seen, key, sub) {
			continue
		}
		f, ok := fields[name]
		if !ok {
			d.unknown(key, fields, path)
			continue
		}
		d.places[sub] = place{keyLine: key.Line, keyColumn: key.Column}
		d.value(value, v.Field(f.index), f.tag, sub)
	}
	for _, name := range sortedKeys(fields) {
		if _, ok := seen[name]; !ok {
			d.absent(fields[name], v, path, name)
		}
	}
}

// once says that key is new to its mapping, and reports it when not.
func (d *decoder) once(seen map[string]int, key *yaml.Node, path string) bool {
	if first, ok := seen[key.Value]; ok {
		d.add(path, key.Line, key.Column, "keep one of them", "written twice, first in line %d", first)
		return false
	}
	seen[key.Value] = key.Line
	return true
}

// absent gives a field its default, or reports it when there is none.
func (d *decoder) absent(f field, v reflect.Value, path, name string) {
	if f.required {
		d.report.key(path, "write "+name+": "+f.tag.Get("example"), "the key %q is missing", name)
		d.bad[join(path, name)] = true
		return
	}
	setDefaults(v.Field(f.index), f.tag)
}

// unknown reports a key that this version does not know.
func (d *decoder) unknown(key *yaml.Node, fields map[string]field, path string) {
	mend := "known here: " + names(fields)
	if near := nearest(key.Value, sortedKeys(fields)); near != "" {
		mend = "did you mean " + near + "?"
	} else if key.Value == "<<" {
		mend = "merge keys are not read: write the keys out"
	}
	d.add(join(path, key.Value), key.Line, key.Column, mend, "unknown key %q", key.Value)
}

// list reads the items of n.
func (d *decoder) list(n *yaml.Node, v reflect.Value, tag reflect.StructTag, path string) {
	if n.Kind != yaml.SequenceNode {
		d.mistyped(n, v.Type(), tag, path)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	if v.Type().Elem().Kind() == reflect.String { // the tags of the list are for its items
		example := strings.Trim(tag.Get("example"), "[]")
		tag = reflect.StructTag(fmt.Sprintf("kind:%q example:%q", tag.Get("kind"), example))
	}
	for i, item := range n.Content {
		d.value(item, v.Index(i), tag, path+"["+strconv.Itoa(i)+"]")
	}
}

// hosts reads the mapping from public host to origin.
func (d *decoder) hosts(n *yaml.Node, path string) []Host {
	if n.Kind != yaml.MappingNode {
		d.mistyped(n, reflect.TypeFor[[]Host](), `example:"{example.cn: https://example.com}"`, path)
		return nil
	}
	if len(n.Content) == 0 {
		d.report.value(path, "write example.cn: https://example.com", "there is no host")
	}
	var hosts []Host
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := resolve(n.Content[i]), n.Content[i+1]
		sub := hostPath(path, key.Value)
		if key.Kind != yaml.ScalarNode {
			d.add(path, key.Line, key.Column, "write example.cn: https://example.com", "%s cannot be a public host", describe(key))
			continue
		}
		if !d.once(seen, key, sub) {
			continue
		}
		d.places[sub] = place{keyLine: key.Line, keyColumn: key.Column}
		hosts = append(hosts, d.host(key.Value, value, sub))
	}
	return hosts
}

// host reads one public host: its key, then a URL or {to, connect}.
func (d *decoder) host(public string, value *yaml.Node, path string) Host {
	h := Host{written: public}
	base, wrong := parsePublic(public)
	if wrong != nil {
		d.report.key(path, wrong.mend, "%s", wrong.msg)
	}
	h.Public = base
	if resolve(value).Kind == yaml.MappingNode {
		d.value(value, reflect.ValueOf(&h).Elem(), "", path)
		return h
	}
	to, _ := reflect.TypeFor[Host]().FieldByName("To")
	d.value(value, reflect.ValueOf(&h.To).Elem(), to.Tag, path)
	return h
}

// text reads a text and gives it to set.
func (d *decoder) text(n *yaml.Node, t reflect.Type, tag reflect.StructTag, path string, set func(string) *fault) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		d.mistyped(n, t, tag, path)
		return
	}
	if list := tag.Get("enum"); list != "" && !slices.Contains(strings.Split(list, "|"), n.Value) {
		d.notOneOf(n.Value, strings.Split(list, "|"), path)
		return
	}
	if n.Value == "" {
		d.report.value(path, "write "+wanted(t, tag)+orNothing(tag), "is empty")
		return
	}
	if wrong := set(n.Value); wrong != nil {
		d.report.value(path, wrong.mend, "%s", wrong.msg)
	}
}

// notOneOf reports a word that is not of the list.
func (d *decoder) notOneOf(word string, list []string, path string) {
	if path != "" && strings.HasSuffix(path, ".entry") && word == "kernel" {
		d.report.value(path, "write entry: passthrough, or leave it out", "this version does not serve %s", word)
		return
	}
	mend := "write " + orList(list)
	if meant := otherWords[word]; slices.Contains(list, meant) {
		mend = "write " + meant
	} else if near := nearest(word, list); near != "" && len(list) > 1 {
		mend = "did you mean " + near + "?"
		if strings.EqualFold(near, word) {
			mend = "write " + near
		}
	}
	d.report.value(path, mend, "%q is not %s", word, orList(list))
}

// otherWords that people use for those of the file.
var otherWords = map[string]string{
	"secure": "redirect", "easy": "serve", "none": "off", "false": "off", "no": "off",
	"warning": "warn", "CN": "cn", "china": "cn", "China": "cn",
}

// kind reads the kinds of text that have a form of their own.
func (d *decoder) kind(kind, s string) (string, *fault) {
	switch kind {
	case "path":
		if !filepath.IsAbs(s) {
			s = filepath.Join(d.dir, s)
		}
		return filepath.Clean(s), nil
	case "listen":
		return parseListen(s)
	case "admin":
		return parseAdmin(s)
	case "connect":
		return parseConnect(s)
	case "address":
		return parseAddress(s)
	case "method":
		return parseMethod(s)
	case "mediatype":
		return parseMediaType(s)
	case "exclude":
		return parseExclude(s)
	case "cookie":
		return parseCookieName(s)
	case "prefix":
		return parsePrefix(s)
	case "testhost":
		return parseTestHost(s)
	case "suite":
		return parseSuite(s)
	case "curve":
		return parseCurve(s)
	case "sni":
		return parseSNI(s)
	case "fieldname":
		return parseFieldName(s)
	case "fieldpattern":
		return parseFieldPattern(s)
	case "parameter":
		return parseParameter(s)
	case "checkhost":
		return parseCheckHost(s)
	case "protocol":
		return parseProtocol(s)
	case "endpoint":
		return parseEndpoint(s)
	case "dnsserver":
		return parseDNSServer(s)
	case "acmeca":
		return parseACMECA(s)
	case "challenge":
		return parseChallenge(s)
	case "email":
		return parseEmail(s)
	}
	return s, nil
}

func (d *decoder) duration(n *yaml.Node, p *time.Duration, tag reflect.StructTag, path string) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" && n.ShortTag() != "!!int" {
		d.mistyped(n, reflect.TypeFor[time.Duration](), tag, path)
		return
	}
	v, err := time.ParseDuration(n.Value)
	if err != nil {
		mend := "write a number with a unit, such as 500ms, 15s, 10m or 1h"
		if n.ShortTag() == "!!int" {
			mend = "write the unit: " + n.Value + "s"
		}
		d.report.value(path, mend, "%q is not a time", n.Value)
		return
	}
	*p = v
	low, high := mustDuration(tag.Get("min")), mustDuration(tag.Get("max"))
	if v < low || v > high {
		d.outside(path, n.Value, tag)
	}
}

func (d *decoder) size(n *yaml.Node, p *Size, tag reflect.StructTag, path string) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" && n.ShortTag() != "!!int" {
		d.mistyped(n, reflect.TypeFor[Size](), tag, path)
		return
	}
	v, err := parseSize(n.Value)
	if err != nil {
		d.report.value(path, "write a whole number of bytes, or one with a unit, such as 64KiB or 10MB", "%q is not a size", n.Value)
		return
	}
	*p = v
	if v < mustSize(tag.Get("min")) || v > mustSize(tag.Get("max")) {
		d.outside(path, n.Value, tag)
	}
}

func (d *decoder) integer(n *yaml.Node, v reflect.Value, tag reflect.StructTag, path string) {
	i, err := strconv.ParseInt(n.Value, 10, 64)
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil {
		d.mistyped(n, v.Type(), tag, path)
		return
	}
	v.SetInt(i)
	if i < mustInt(tag.Get("min")) || i > mustInt(tag.Get("max")) {
		d.outside(path, n.Value, tag)
	}
}

// outside reports a number out of its range.
func (d *decoder) outside(path, written string, tag reflect.StructTag) {
	mend := fmt.Sprintf("write %s to %s", tag.Get("min"), tag.Get("max"))
	if value, ok := tag.Lookup("default"); ok {
		mend += " (default " + value + ")"
	}
	if own, ok := tag.Lookup("mend"); ok {
		mend = own
	}
	d.report.value(path, mend, "%s is out of range", written)
}

// mistyped reports a value of the wrong type.
func (d *decoder) mistyped(n *yaml.Node, t reflect.Type, tag reflect.StructTag, path string) {
	mend := "write " + wanted(t, tag)
	if n.Kind == yaml.ScalarNode && t.Kind() == reflect.String {
		mend = "put it in quotes"
		if words := strings.Split(tag.Get("enum"), "|"); slices.Contains(words, n.Value) {
			mend = "put it in quotes: " + strconv.Quote(n.Value)
		} else if tag.Get("enum") != "" {
			mend = "write " + orList(strings.Split(tag.Get("enum"), "|"))
		}
	}
	d.report.value(path, mend, "wants %s, found %s", typeName(t), describe(n))
}

// ---- fields of a struct, from its tags

// field is one key of a mapping. Its tags: `yaml` the key, required unless
// omitempty; `kind` a form of text; `enum` the words allowed, with |; `min`,
// `max` the range, `mend` what to write in place of what is outside it; `default`;
// `example`.
type field struct {
	index    int
	tag      reflect.StructTag
	required bool
}

// fieldsOf maps the keys of a struct to its fields.
func fieldsOf(t reflect.Type) map[string]field {
	fields := map[string]field{}
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		name, options, _ := strings.Cut(tag.Get("yaml"), ",")
		if name != "" && name != "-" {
			fields[name] = field{index: i, tag: tag, required: options != "omitempty"}
		}
	}
	return fields
}

// setDefaults gives a value that is not in the file its default.
func setDefaults(v reflect.Value, tag reflect.StructTag) {
	if v.Kind() == reflect.Struct {
		for _, f := range fieldsOf(v.Type()) {
			setDefaults(v.Field(f.index), f.tag)
		}
		return
	}
	s, ok := tag.Lookup("default")
	if !ok {
		return
	}
	switch p := v.Addr().Interface().(type) {
	case *time.Duration:
		*p = mustDuration(s)
	case *Size:
		*p = mustSize(s)
	case *slog.Level:
		_ = p.UnmarshalText([]byte(s))
	case *bool:
		*p = s == "true"
	case *int:
		*p = int(mustInt(s))
	default:
		v.SetString(s)
	}
}

func mustDuration(s string) time.Duration { return must(time.ParseDuration(s)) }
func mustSize(s string) Size              { return must(parseSize(s)) }
func mustInt(s string) int64              { return must(strconv.ParseInt(s, 10, 64)) }

// must is for the tags of this package, which a test reads.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// ---- words for messages

func sortedKeys(fields map[string]field) []string {
	keys := make([]string, 0, len(fields))
	for name := range fields {
		keys = append(keys, name)
	}
	slices.SortFunc(keys, func(a, b string) int { return fields[a].index - fields[b].index })
	return keys
}

func names(fields map[string]field) string { return strings.Join(sortedKeys(fields), ", ") }

func orList(list []string) string {
	if len(list) == 1 {
		return list[0]
	}
	return strings.Join(list[:len(list)-1], ", ") + " or " + list[len(list)-1]
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func hostPath(hosts, public string) string { return hosts + "[" + strconv.Quote(public) + "]" }

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	for range 8 { // an alias stands for a node, never for another alias
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			break
		}
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// describe says what a node is.
func describe(n *yaml.Node) string {
	n = resolve(n)
	switch n.Kind {
	case yaml.MappingNode:
		return "a set of keys"
	case yaml.SequenceNode:
		return "a list"
	}
	value := n.Value
	if utf8.RuneCountInString(value) > 40 {
		value = string([]rune(value)[:40]) + "…"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "the number " + value
	case "!!bool":
		return "the truth value " + value
	case "!!str":
		return "the text " + strconv.Quote(value)
	case "!!timestamp":
		return "the date " + value
	}
	return "a value of type " + n.ShortTag()
}

// typeName says what a Go type is in the file.
func typeName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[[]Host]():
		return "public hosts with their origins"
	case reflect.TypeFor[Addresses]():
		return "an address or a list of them"
	case reflect.TypeFor[rewrite.Base]():
		return "a URL"
	case reflect.TypeFor[time.Duration]():
		return "a time"
	case reflect.TypeFor[Size]():
		return "a size"
	case reflect.TypeFor[Money]():
		return "an amount"
	case reflect.TypeFor[slog.Level]():
		return "a word"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.Struct:
		return "a set of keys"
	case reflect.Slice:
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	}
	return "text"
}

// wanted is an example of a value, or what it is.
func wanted(t reflect.Type, tag reflect.StructTag) string {
	if example := tag.Get("example"); example != "" {
		return example
	}
	if enum := tag.Get("enum"); enum != "" {
		return orList(strings.Split(enum, "|"))
	}
	if value := tag.Get("default"); value != "" && t.Kind() != reflect.Bool {
		return "a value such as " + value
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Struct && t != reflect.TypeFor[rewrite.Base]() {
		return "{" + names(fieldsOf(t)) + "}"
	}
	return typeName(t)
}

// orNothing ends a mend for what may be left out.
func orNothing(tag reflect.StructTag) string {
	if key, ok := tag.Lookup("yaml"); ok && !strings.HasSuffix(key, ",omitempty") {
		return ""
	}
	return ", or take it out"
}

// nearest is the word of list that s was probably meant to be, or "".
func nearest(s string, list []string) string {
	best, bestAt := "", 1+min(2, len(s)/2)
	if len(s) > 64 {
		return ""
	}
	for _, word := range list {
		if at := distance(strings.ToLower(s), word); at < bestAt {
			best, bestAt = word, at
		}
	}
	return best
}

// distance is the number of letters to insert, drop, change or swap between
// two words (optimal string alignment).
func distance(a, b string) int {
	two, one, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		two, one, row = one, row, two
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(one[j]+1, row[j-1]+1, one[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], two[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
