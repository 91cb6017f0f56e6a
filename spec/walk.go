package spec

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// walker reads nodes as values of the language and reports what does not fit.
type walker struct {
	report *reporter
	// lookup answers variables: the caller's, then those of .env.
	lookup func(string) (string, bool)
	// dir is what relative paths are relative to.
	dir string
	// near is that folder as the user reaches it.
	near string
	// unsupported marks the finding that is being reported.
	unsupported bool
	// publish is where ports of Compose files without an address are opened.
	publish string
	// parts: what is read is laid over or under something else, so that a mapping
	// need not be complete. It is when the result is read.
	parts bool
	nodes int // that may still be read
	room  int // bytes that interpolation may still write
	// items has for each list that was read the items that its values came from.
	items map[*node][]item
}

// item is one item of a list, and its index there.
type item struct {
	node  *node
	index int
}

// itemOf returns the item of a list that its ith value was read from: items that
// are wrong give none, and one may give several.
func (w *walker) itemOf(list *node, i int) item {
	if all := w.items[list]; i < len(all) {
		return all[i]
	}
	return item{list, i} // not read
}

func newWalker(report *reporter, dir, near string, lookup func(string) (string, bool)) *walker {
	return &walker{report: report, lookup: lookup, dir: dir, near: near, nodes: maxNodes, room: maxExpansion, items: map[*node][]item{}}
}

func (w *walker) error(n *node, at *trail, hint, format string, args ...any) {
	w.finding(diag.Error, n, n.place, at, hint, fmt.Sprintf(format, args...))
}

// finding reports what is noticed about a node, at a place in its file and in the
// words of its file.
func (w *walker) finding(severity diag.Severity, n *node, where place, at *trail, hint, message string) {
	if n.path != nil {
		at = n.path
	}
	if n.compose() {
		message, hint = composeWords(message), composeWords(hint)
	}
	w.report.add(where, diag.Finding{Severity: severity, Path: at.String(), Message: message, Hint: hint, Unsupported: w.unsupported})
}

// refuse reports what a file asks for and cannot have.
func (w *walker) refuse(n *node, at *trail, hint, format string, args ...any) {
	w.unsupported = true
	w.error(n, at, hint, format, args...)
	w.unsupported = false
}

func (w *walker) warn(n *node, at *trail, hint, format string, args ...any) {
	w.finding(diag.Warning, n, n.place, at, hint, fmt.Sprintf(format, args...))
}

// wrong reports an error about a value, with its hint.
func (w *walker) wrong(n *node, at *trail, err error) {
	var e wrong
	errors.As(err, &e)
	w.error(n, at, e.hint, "%s", err)
}

// visit counts a node that is read. An alias is read once for each of its users,
// so a small file can ask for much; false says that it did.
func (w *walker) visit(n *node) bool {
	if w.nodes--; w.nodes == -1 {
		w.error(n, nil, "", "aliases expand to more than %d values", maxNodes)
	}
	return w.nodes >= 0 && !n.broken
}

// charge counts nodes that are looked at without a visit; the next visit tells
// when they were too many.
func (w *walker) charge(n int) {
	if w.nodes > 0 {
		w.nodes = max(w.nodes-n, 0)
	}
}

// resolve puts variables into a scalar, once. False: a finding was reported.
func (w *walker) resolve(n *node, at *trail) bool {
	if n.kind != scalarNode || n.replaced || n.broken {
		return !n.broken
	}
	if strings.ContainsRune(n.text, '$') {
		n.replaced = true
		text, ok := interpolate(n.text, w.room, w.variables(n), func(p problem) { w.variable(n, at, p) })
		w.room -= len(text)
		n.text, n.broken = text, !ok
	}
	switch {
	case n.broken:
	case strings.ContainsRune(n.text, 0):
		w.error(n, at, "", "the text holds a zero byte")
		n.broken = true
	case n.replaced && !utf8.ValidString(n.text):
		w.error(n, at, "", "a variable in the text is not UTF-8")
		n.broken = true
	}
	return !n.broken
}

// variable reports a problem where its text stands.
func (w *walker) variable(n *node, at *trail, p problem) {
	severity := diag.Error
	if p.warning {
		severity = diag.Warning
	}
	where := n.place
	if p.part != "" && !w.report.full(severity) {
		if line, column, ok := n.src.find(n.line, n.column, p.part); ok {
			where = place{src: n.src, line: line, column: column, length: utf8.RuneCountInString(p.part)}
		}
	}
	w.finding(severity, n, where, at, p.hint, p.message)
}

// variables returns what looks variables up for a node of a file.
func (w *walker) variables(n *node) func(string) (string, bool) {
	if n.src != nil && n.src.lookup != nil {
		return n.src.lookup
	}
	return w.lookup
}

// path makes a path of the host absolute. The node is where it is written.
func (w *walker) path(n *node, text string) string {
	if rest, ok := strings.CutPrefix(text, "~/"); ok {
		if home, set := w.variables(n)("HOME"); set && filepath.IsAbs(home) {
			return filepath.Join(home, rest)
		}
	}
	if filepath.IsAbs(text) {
		return filepath.Clean(text)
	}
	dir := w.dir
	if n.src != nil && n.src.dir != "" {
		dir = n.src.dir
	}
	return filepath.Join(dir, text)
}

// shown is a path of the host as the user reaches it.
func (w *walker) shown(path string) string {
	if rel, err := filepath.Rel(w.dir, path); err == nil && filepath.IsLocal(rel) {
		return filepath.Join(w.near, rel)
	}
	return path
}

// mapping checks that n is one; nothing stands for an empty one.
func (w *walker) mapping(n *node, at *trail) bool {
	if !w.visit(n) {
		return false
	}
	if n.kind == mappingNode || n.null() {
		return true
	}
	if w.resolve(n, at) {
		w.error(n, at, "", "expected a mapping, found %s", n.describe())
	}
	return false
}

// schemaDoc is a JSON schema.
type schemaDoc = map[string]any

// kind is one sort of value of the language, and all that there is to know of
// it. The table of keys is built of kinds, and loading, merging, printing,
// comparing and the JSON schema all follow from it.
type kind[V any] struct {
	schema schemaDoc
	// decode reads a node that is not null. False: a finding was reported.
	decode func(w *walker, n *node, at *trail) (V, bool)
	// encode answers the value as it is written: string, int, float64, bool,
	// []any or document. nil leaves the key out.
	encode func(v V) any
	// diff answers what differs. Nil: the values as they are written.
	diff func(field string, old, new V) []Change
	// merge answers what two files together say. Nil: the later one replaces.
	merge func(w *walker, base, over *node, at *trail) *node
	// null lets decode see a key without a value.
	null bool
}

// document is a mapping in the order in which it is printed.
type document []pair

type pair struct {
	key   string
	value any
}

// field is one key of an object of type T.
type field[T any] struct {
	name, doc string
	// instead refuses a key of Compose that this language writes otherwise.
	instead string

	schema schemaDoc
	decode func(w *walker, n *node, at *trail, into *T)
	encode func(from *T) any
	diff   func(prefix string, old, new *T) []Change
	merge  func(w *walker, base, over *node, at *trail) *node
}

// key declares a key that holds a k at the place that to answers.
func key[T, V any](name, doc string, k kind[V], to func(*T) *V) field[T] {
	return field[T]{
		name: name, doc: doc, schema: k.schema, merge: k.merge,
		decode: func(w *walker, n *node, at *trail, into *T) {
			if !w.visit(n) || n.null() && !k.null {
				return
			}
			if v, ok := k.decode(w, n, at); ok {
				*to(into) = v
			}
		},
		encode: func(from *T) any { return k.encode(*to(from)) },
		diff:   func(prefix string, old, new *T) []Change { return k.changes(prefix+name, *to(old), *to(new)) },
	}
}

func instead[T any](name, hint string) field[T] { return field[T]{name: name, instead: hint} }

// object is the keys of one mapping of the language.
type object[T any] struct {
	fields     []field[T]
	extensions bool     // "x-" keys are ignored
	required   []string // keys
	extra      schemaDoc
	fresh      T // what a mapping without keys means
	// alternatives are keys of which a later file's replaces an earlier one's.
	alternatives []string
	// finish checks what the keys together mean.
	finish func(w *walker, n *node, at *trail, v *T) bool
}

func (o *object[T]) kind() kind[T] {
	return kind[T]{
		schema: o.schema(), decode: o.decode, merge: o.merge, null: true,
		encode: o.encode, diff: o.diff,
	}
}

func (o *object[T]) decode(w *walker, n *node, at *trail) (T, bool) {
	v := o.fresh
	if !w.mapping(n, at) {
		return v, false
	}
	o.known(w, n, at)
	for i := range o.fields {
		f := &o.fields[i]
		if c := n.child(f.name); c != nil && f.decode != nil {
			f.decode(w, c, at.key(f.name), &v)
		}
	}
	if w.parts && !at.listed() {
		return v, true
	}
	ok := true
	for _, name := range o.required {
		if !n.said(name) {
			w.error(n, at, "", "%q is missing", name)
			ok = false
		}
	}
	if ok && o.finish != nil {
		ok = o.finish(w, n, at, &v)
	}
	return v, ok
}

// known reports keys that the object does not have, or does not have yet.
func (o *object[T]) known(w *walker, n *node, at *trail) {
	for _, e := range n.entries {
		name := e.key.text
		f := o.field(name)
		switch {
		case f == nil && o.extensions && strings.HasPrefix(name, "x-"):
		case f == nil && w.report.full(diag.Error):
			w.error(e.key, at, "", "unknown key %s", quote(name))
		case f == nil:
			w.error(e.key, at, suggest(name, o.names()), "unknown key %s", quote(name))
		case f.instead != "":
			w.error(e.key, at, f.instead, "unknown key %s", quote(name))
		}
	}
}

func (o *object[T]) field(name string) *field[T] {
	for i := range o.fields {
		if o.fields[i].name == name {
			return &o.fields[i]
		}
	}
	return nil
}

// names answers the keys that a typing error may have meant.
func (o *object[T]) names() []string {
	var names []string
	for _, f := range o.fields {
		if f.instead == "" {
			names = append(names, f.name)
		}
	}
	return names
}

func (o *object[T]) encode(v T) any {
	var doc document
	for _, f := range o.fields {
		if f.encode == nil {
			continue
		}
		if value := f.encode(&v); value != nil {
			doc = append(doc, pair{f.name, value})
		}
	}
	return doc
}

func (o *object[T]) diff(field string, old, new T) []Change {
	prefix := ""
	if field != "" {
		prefix = field + "."
	}
	var all []Change
	for _, f := range o.fields {
		if f.diff != nil {
			all = append(all, f.diff(prefix, &old, &new)...)
		}
	}
	return all
}

func (o *object[T]) schema() schemaDoc {
	properties := schemaDoc{}
	for _, f := range o.fields {
		switch {
		case f.instead != "":
		default:
			s := f.schema
			if !slices.Contains(o.required, f.name) {
				s = nullable(s)
			}
			properties[f.name] = with(s, schemaDoc{"description": f.doc})
		}
	}
	s := schemaDoc{"type": []any{"object", "null"}, "properties": properties, "additionalProperties": false}
	if o.extensions {
		s["patternProperties"] = schemaDoc{"^x-": schemaDoc{}}
	}
	if len(o.required) > 0 {
		s["type"], s["required"] = "object", o.required
	}
	return with(s, o.extra)
}

// nullable lets a key stand without a value, which says nothing.
func nullable(s schemaDoc) schemaDoc {
	null := schemaDoc{"type": "null"}
	if kinds, ok := s["anyOf"].([]any); ok && len(s) == 1 {
		return schemaDoc{"anyOf": append(slices.Clone(kinds), null)}
	}
	switch t := s["type"].(type) {
	case string:
		return with(s, schemaDoc{"type": []any{t, "null"}})
	case []any:
		if slices.Contains(t, any("null")) {
			return s
		}
		return with(s, schemaDoc{"type": append(slices.Clone(t), "null")})
	}
	return schemaDoc{"anyOf": []any{s, null}}
}

// with answers a schema with more in it.
func with(s, more schemaDoc) schemaDoc {
	out := schemaDoc{}
	for _, m := range []schemaDoc{s, more} {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}
