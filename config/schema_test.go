package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/invopop/jsonschema"
	"go.yaml.in/yaml/v4"

	"causeway/rewrite"
)

const (
	sizePattern     = `^[0-9]+ ?(B|[kK]B|MB|GB|TB|PB|KiB|MiB|GiB|TiB|PiB)?$`
	durationPattern = `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`
	originPattern   = `^[hH][tT][tT][pP][sS]?://[^/?#@]+/?$`
)

// TestSchema holds that schema.json is made from the structs as they are.
func TestSchema(t *testing.T) {
	data, err := json.MarshalIndent(makeSchema(t), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "schema.json", string(data)+"\n")
	if !*update && !slices.Equal(Schema(), append(data, '\n')) {
		t.Error("Schema() is not schema.json")
	}
}

func makeSchema(t *testing.T) *jsonschema.Schema {
	docs := comments(t)
	r := &jsonschema.Reflector{
		Anonymous:      true,
		ExpandedStruct: true,
		FieldNameTag:   "yaml",
		Mapper:         mapType,
		LookupComment: func(typ reflect.Type, field string) string {
			if field == "" {
				return oneLine(docs[typ.Name()])
			}
			return oneLine(docs[typ.Name()+"."+field])
		},
	}
	s := r.Reflect(&Config{})
	s.Title = "causeway.yaml"
	s.Description = "One file that describes a whole crossing."
	host := r.Reflect(&Host{})
	host.Version = ""
	s.Definitions["Host"] = host
	target := r.Reflect(&Target{})
	target.Version = ""
	s.Definitions["Target"] = target
	for _, typ := range []reflect.Type{
		reflect.TypeFor[Listen](), reflect.TypeFor[Site](), reflect.TypeFor[Host](), reflect.TypeFor[Origin](),
		reflect.TypeFor[OriginTLS](), reflect.TypeFor[TLS](), reflect.TypeFor[Route](), reflect.TypeFor[Headers](),
		reflect.TypeFor[Forward](), reflect.TypeFor[Target](), reflect.TypeFor[ForwardHealth](), reflect.TypeFor[ForwardProxy](), reflect.TypeFor[ForwardLimits](),
		reflect.TypeFor[Node](), reflect.TypeFor[Link](), reflect.TypeFor[Price](), reflect.TypeFor[Limits](), reflect.TypeFor[Log](),
		reflect.TypeFor[Cache](), reflect.TypeFor[Caching](), reflect.TypeFor[Clients](), reflect.TypeFor[HSTS](),
		reflect.TypeFor[CertFiles](), reflect.TypeFor[ApprovedIssuers](), reflect.TypeFor[Pending](),
	} {
		def := s.Definitions[typ.Name()]
		if def == nil {
			t.Fatalf("the schema has no %s", typ.Name())
		}
		tagSchema(def, typ)
	}
	tagSchema(s, reflect.TypeFor[Config]())
	for _, in := range []*jsonschema.Schema{s, s.Definitions["Site"], s.Definitions["Route"]} {
		prop, _ := in.Properties.Get("cache")
		prop.AnyOf = []*jsonschema.Schema{{Ref: prop.Ref}, {Const: "off"}}
		prop.Ref = ""
	}
	pending, _ := s.Definitions["Site"].Properties.Get("pending")
	pending.AnyOf = []*jsonschema.Schema{{Type: "boolean"}, {Ref: pending.Ref}}
	pending.Ref = ""
	clients, _ := s.Definitions["TLS"].Properties.Get("clients")
	clients.AnyOf = []*jsonschema.Schema{{Type: "string"}, {Ref: clients.Ref}}
	clients.Ref = ""
	one := uint64(1)
	sites, _ := s.Properties.Get("sites")
	sites.MinItems = &one
	s.AnyOf = []*jsonschema.Schema{{Required: []string{"sites"}}, {Required: []string{"forwards"}}}
	return s
}

// mapType is the schema of the types that are not what Go makes them.
func mapType(typ reflect.Type) *jsonschema.Schema {
	switch typ {
	case reflect.TypeFor[[]Host]():
		one := uint64(1)
		return &jsonschema.Schema{Type: "object", MinProperties: &one, AdditionalProperties: &jsonschema.Schema{
			AnyOf: []*jsonschema.Schema{{Type: "string", Pattern: originPattern}, {Ref: "#/$defs/Host"}},
		}}
	case reflect.TypeFor[Addresses]():
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string"}, {Type: "array", Items: &jsonschema.Schema{Type: "string"}}}}
	case reflect.TypeFor[[]Target]():
		return &jsonschema.Schema{Type: "array", Items: &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string"}, {Ref: "#/$defs/Target"}}}}
	case reflect.TypeFor[rewrite.Base]():
		return &jsonschema.Schema{Type: "string", Pattern: originPattern}
	case reflect.TypeFor[time.Duration]():
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string", Pattern: durationPattern}, {Const: 0}}}
	case reflect.TypeFor[Size]():
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string", Pattern: sizePattern}, {Type: "integer", Minimum: "0"}}}
	case reflect.TypeFor[Money]():
		return &jsonschema.Schema{Type: "number", Minimum: "0"}
	case reflect.TypeFor[slog.Level]():
		return &jsonschema.Schema{Type: "string"}
	}
	return nil
}

// tagSchema puts what the tags of a struct say into its schema.
func tagSchema(s *jsonschema.Schema, typ reflect.Type) {
	s.Required = nil
	fields := fieldsOf(typ)
	for _, name := range sortedKeys(fields) {
		f := fields[name]
		prop, ok := s.Properties.Get(name)
		if !ok {
			panic(typ.Name() + " has no property " + name)
		}
		if f.required {
			s.Required = append(s.Required, name)
		}
		if enum := f.tag.Get("enum"); enum != "" {
			prop.Enum = nil
			for word := range strings.SplitSeq(enum, "|") {
				prop.Enum = append(prop.Enum, word)
			}
		}
		kind := typ.Field(f.index).Type.Kind()
		if value, ok := f.tag.Lookup("default"); ok {
			prop.Default = typed(kind, typ.Field(f.index).Type, value)
		}
		if kind == reflect.Int {
			prop.Minimum, prop.Maximum = json.Number(f.tag.Get("min")), json.Number(f.tag.Get("max"))
		}
		if example := f.tag.Get("example"); example != "" {
			var value any
			if err := yaml.Unmarshal([]byte(example), &value); err != nil {
				panic(err)
			}
			prop.Examples = []any{value}
		}
		if prop.Type == "array" && f.tag.Get("kind") == "method" {
			prop.Items.Pattern = "^[A-Z-]+$"
		}
	}
}

func typed(kind reflect.Kind, typ reflect.Type, value string) any {
	switch {
	case kind == reflect.Bool:
		return value == "true"
	case typ == reflect.TypeFor[int]():
		return mustInt(value)
	}
	return value
}

func oneLine(comment string) string {
	paragraphs := strings.Split(strings.TrimSpace(comment), "\n\n")
	for i, p := range paragraphs {
		paragraphs[i] = strings.Join(strings.Fields(p), " ")
	}
	return strings.Join(paragraphs, "\n\n")
}

// TestSchemaTakes holds that the schema takes every valid file and refuses
// the files whose keys or types are wrong.
func TestSchemaTakes(t *testing.T) {
	var root map[string]any
	if err := json.Unmarshal(Schema(), &root); err != nil {
		t.Fatal(err)
	}
	v := validator{root}
	valid, _ := filepath.Glob("testdata/valid-*.yaml")
	examples, _ := filepath.Glob("../examples/*.yaml")
	if len(valid) < 4 || len(examples) < 3 {
		t.Fatalf("found %d valid files and %d examples", len(valid), len(examples))
	}
	for _, file := range append(valid, examples...) {
		if err := v.file(file); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	for _, name := range []string{"unknown-key", "wrong-type", "missing-key", "no-value", "limits", "origin-urls", "entry",
		"sites-none", "sites-missing", "hosts-none", "not-mapping"} {
		if v.file("testdata/invalid-"+name+".yaml") == nil {
			t.Errorf("the schema takes invalid-%s.yaml", name)
		}
	}
}

// validator is the part of JSON Schema 2020-12 that schema.json uses. An
// unknown keyword is an error, so that nothing is passed over.
type validator struct{ root map[string]any }

func (v validator) file(name string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var value any
	if err := yaml.Unmarshal(data, &value); err != nil {
		return err
	}
	// By way of JSON: numbers and keys as a JSON Schema sees them.
	if data, err = json.Marshal(value); err != nil {
		return err
	}
	if err := json.Unmarshal(data, &value); err != nil {
		return err
	}
	return v.value(v.root, value, "")
}

func (v validator) value(s map[string]any, value any, path string) error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
	}
	object, _ := value.(map[string]any)
	list, _ := value.([]any)
	for keyword, want := range s {
		switch keyword {
		case "$schema", "$defs", "title", "description", "default", "examples", "properties":
		case "$ref":
			name := strings.TrimPrefix(want.(string), "#/$defs/")
			def, ok := v.root["$defs"].(map[string]any)[name].(map[string]any)
			if !ok {
				fail("no definition %s", want)
				continue
			}
			errs = append(errs, v.value(def, value, path))
		case "type":
			if got := jsonType(value); got != want && (want != "number" || got != "integer") {
				fail("%s, want %s", got, want)
			}
		case "enum":
			if !slices.Contains(want.([]any), value) {
				fail("%v, want one of %v", value, want)
			}
		case "const":
			if value != want {
				fail("%v, want %v", value, want)
			}
		case "pattern":
			if text, ok := value.(string); ok && !regexp.MustCompile(want.(string)).MatchString(text) {
				fail("%q, want %s", text, want)
			}
		case "minimum":
			if n, ok := value.(float64); ok && n < want.(float64) {
				fail("%v, want at least %v", n, want)
			}
		case "maximum":
			if n, ok := value.(float64); ok && n > want.(float64) {
				fail("%v, want at most %v", n, want)
			}
		case "minItems":
			if jsonType(value) == "array" && float64(len(list)) < want.(float64) {
				fail("%d items", len(list))
			}
		case "minProperties":
			if jsonType(value) == "object" && float64(len(object)) < want.(float64) {
				fail("%d keys", len(object))
			}
		case "required":
			for _, name := range want.([]any) {
				if _, ok := object[name.(string)]; !ok && object != nil {
					fail("no %s", name)
				}
			}
		case "anyOf":
			taken := slices.ContainsFunc(want.([]any), func(one any) bool {
				return v.value(one.(map[string]any), value, path) == nil
			})
			if !taken {
				fail("%v is none of %v", value, want)
			}
		case "items":
			for i, item := range list {
				errs = append(errs, v.value(want.(map[string]any), item, fmt.Sprintf("%s[%d]", path, i)))
			}
		case "additionalProperties":
			known, _ := s["properties"].(map[string]any)
			for name, item := range object {
				if of, ok := known[name].(map[string]any); ok {
					errs = append(errs, v.value(of, item, path+"."+name))
				} else if of, ok := want.(map[string]any); ok {
					errs = append(errs, v.value(of, item, path+"."+name))
				} else {
					fail("unknown key %s", name)
				}
			}
		default:
			fail("keyword %s is not known to this test", keyword)
		}
	}
	return errors.Join(errs...)
}

func jsonType(value any) string {
	switch n := value.(type) {
	case map[string]any:
		return "object"
	case []any:
		return "array"
	case string:
		return "string"
	case bool:
		return "boolean"
	case float64:
		if n == float64(int64(n)) {
			return "integer"
		}
		return "number"
	}
	return "null"
}
