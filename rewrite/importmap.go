package rewrite

import (
	"bytes"
	"encoding/json"
	"strings"
)

// An import map may say what the modules it leads to hash to (HTML section 8.1.6.5, module integrity
// map):
//
//	<script type="importmap">{"imports": {…}, "integrity": {"/a.js": "sha384-…"}}</script>
//
// Its entries are treated as integrity attributes are: a hash that is known takes the place of the
// origin's, and an entry whose hash is not goes. All else stays byte for byte.

// maxImportMap is the longest element with an import map that is looked into.
const maxImportMap = 64 << 10

// isImportMap says whether a whole script tag begins an import map.
func isImportMap(tag []byte) bool {
	kind, _ := attributeOf(attributes(nil, tag), tag, "type")
	return strings.EqualFold(strings.Trim(kind.text(tag), spaces), "importmap")
}

const scriptEndTag = "</script"

// scriptEnd is where the text of a script element that starts at b[i] ends; -1 when it goes on
// behind b.
func scriptEnd(b []byte, i int) int {
	for ; ; i++ {
		n := bytes.IndexByte(b[i:], '<')
		if n < 0 {
			return -1
		}
		i += n
		end := i + len(scriptEndTag)
		if end >= len(b) {
			return -1
		}
		if next := b[end]; equalFold(b[i:end], scriptEndTag) && (isSpace(next) || next == '/' || next == '>') {
			return i
		}
	}
}

// importMap sees to the import map that stands at text[at:]; source is all of it.
func (d *document) importMap(source []byte, at int) {
	for _, m := range members(source) {
		if m.name == "integrity" {
			d.moduleHashes(source, members(source[m.value:m.end]), m.value, at)
		}
	}
}

// moduleHashes sees to the members of an object that begins at source[from], which stands at
// text[at:].
func (d *document) moduleHashes(source []byte, list []member, from, at int) {
	gone, lastKept := make([]bool, len(list)), -1
	for i, m := range list {
		var value string
		ours := false
		if !isBare(m.name) && json.Unmarshal(source[from+m.value:from+m.end], &value) == nil {
			var public string
			public, gone[i], ours = d.metadata(value, m.name, at+from+m.start)
			if text := string(source[from+m.value : from+m.end]); ours && !gone[i] {
				if public != value {
					quoted, _ := json.Marshal(public) // a string always can be
					text = string(quoted)
				}
				d.edits = append(d.edits, edit{at + from + m.value, at + from + m.end, text})
			}
		}
		if !gone[i] {
			lastKept = i
		}
	}
	for i, m := range list {
		switch {
		case gone[i] && i < lastKept: // with the comma behind it
			d.edits = append(d.edits, edit{at + from + m.start, at + from + list[i+1].start, ""})
		case i == lastKept+1: // all to the end, with the comma before them
			start := m.start
			if i > 0 {
				start = list[lastKept].end
			}
			d.edits = append(d.edits, edit{at + from + start, at + from + list[len(list)-1].end, ""})
		}
	}
	sortEdits(d.edits)
}

// isBare says whether a module specifier is a name, and no URL: such an entry of "integrity" means
// nothing.
func isBare(specifier string) bool {
	return isRelative(specifier) && !strings.HasPrefix(specifier, "/") && !strings.HasPrefix(specifier, "./") && !strings.HasPrefix(specifier, "../")
}

// member is a name and a value in a JSON object, by its places there.
type member struct {
	name       string
	start      int // of the name, with its quote
	value, end int // of the value
}

// members are those of the object that text is; none when it is no whole one.
func members(text []byte) (list []member) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	for dec.More() {
		before := int(dec.InputOffset())
		name, err := dec.Token()
		if err != nil {
			return nil
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil
		}
		end := int(dec.InputOffset())
		list = append(list, member{name.(string), before + bytes.IndexByte(text[before:], '"'), end - len(bytes.TrimSpace(value)), end})
	}
	if _, err := dec.Token(); err != nil {
		return nil
	}
	return list
}
