package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing wrong with the file, its place and its mend.
type Error struct {
	File   string `json:"file"`
	Line   int    `json:"line"`   // from 1; 0 when there is no place
	Column int    `json:"column"` // from 1, in characters; 0 when there is no place
	Path   string `json:"path"`   // sites[0].routes[0].stay; "" for the whole file
	Msg    string `json:"msg"`    // what is wrong
	Mend   string `json:"mend"`   // what to do about it

	Warning bool `json:"warning,omitempty"` // it works all the same
}

// Error is the one-line form: `causeway.yaml:12:5: sites[0].tls: what; mend`.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Warning {
		b.WriteString("warning: ")
	}
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Msg)
	if e.Mend != "" {
		b.WriteString("; " + e.Mend)
	}
	return b.String()
}

// Errors is everything wrong with a file, in the order of the file. It is the
// error of Parse and of Config.CheckFiles and is never empty there.
type Errors []*Error

// Error is one line for each error.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// sorted puts errors in the order of the file and drops repetitions: a part of
// the file that is used twice, through an alias, is wrong once.
func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return slices.CompactFunc(e, func(a, b *Error) bool { return *a == *b })
}

// orNil is e as an error: nil when there is none.
func (e Errors) orNil() error {
	if len(e) == 0 {
		return nil
	}
	return e.sorted()
}

// place is where a value and its key stood in the file, from 1.
type place struct {
	line, column       int
	keyLine, keyColumn int
}

// places is the file's map from path to place.
type places map[string]place

// of is the place of path, or of the nearest thing around it.
func (p places) of(path string) place {
	for {
		if at, ok := p[path]; ok {
			return at
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return p[""]
		}
		path = path[:cut]
	}
}

// report collects the errors of one file.
type report struct {
	file   string
	places places
	errs   Errors
	bad    map[string]bool // paths already complained about
}

// value complains about the value at path.
func (r *report) value(path, mend, format string, args ...any) {
	at := r.places.of(path)
	r.add(path, at.line, at.column, mend, format, args...)
}

// key complains about the key at path.
func (r *report) key(path, mend, format string, args ...any) {
	at := r.places.of(path)
	if at.keyLine == 0 {
		at.keyLine, at.keyColumn = at.line, at.column
	}
	r.add(path, at.keyLine, at.keyColumn, mend, format, args...)
}

// add complains about path at a place of the caller's choice.
func (r *report) add(path string, line, column int, mend, format string, args ...any) {
	r.bad[path] = true
	r.errs = append(r.errs, &Error{
		File: r.file, Line: line, Column: column, Path: path,
		Msg: fmt.Sprintf(format, args...), Mend: mend,
	})
}

// good says that nothing was wrong with path so far, so that a rule may look
// at its value.
func (r *report) good(path string) bool { return !r.bad[path] }
