package config

import (
	_ "embed"
	"slices"
)

//go:embed schema.json
var schema []byte

// Schema is the JSON Schema (draft 2020-12) of the file, made from the structs
// of this package, for editors.
func Schema() []byte { return slices.Clone(schema) }
