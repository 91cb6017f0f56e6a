package spec

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// This file turns stack files in Compose's dialect into the language. Each file's
// nodes are lowered before files are merged: a key of Compose becomes keys of the
// language, whose nodes keep the places and the paths of what is written. All that
// comes afterwards (merging, checking, printing, comparing) knows one language.
//
// The keys are those of the Compose specification (compose-spec.json); the table is
// in compose_keys.go.

// fate is what becomes of a key of Compose.
type fate int

const (
	same    fate = iota // the language has the key
	renamed             // the language has it under another name
	lowered             // it is written in other keys, or in another form
	ignored             // without effect, and nothing is lost by that
	hinted              // without effect, which a warning says
	refused             // an error says what to do instead
)

func (f fate) String() string {
	return [...]string{"the same", "renamed", "lowered", "ignored", "a hint", "refused"}[f]
}

// composeKey is one key of Compose.
type composeKey struct {
	name string
	fate fate
	to   string // the keys of the language that it becomes; "": its own name, or none
	why  string // what comes of it, for a person
	do   string // what to do instead, of what is refused or has no effect
	// lower writes the key into out. Nil: the fate says all.
	lower func(l *lowering, e entry, out *node)
	// clears: without a value it takes that of an earlier file away.
	clears bool
	// of has the keys of the mapping that it holds, or of each mapping in it.
	of *composeLevel
}

// composeLevel is the keys of one mapping.
type composeLevel struct {
	title string
	keys  []composeKey
}

func (v *composeLevel) key(name string) *composeKey {
	for i := range v.keys {
		if v.keys[i].name == name {
			return &v.keys[i]
		}
	}
	return nil
}

// instead is what to write for a key that Compose does not have.
func (v *composeLevel) instead(name string) string {
	for _, k := range v.keys {
		if k.fate == renamed && k.to == name {
			return fmt.Sprintf("the language's %q is %q in Compose", name, k.name)
		}
	}
	return suggest(name, v.names())
}

func (v *composeLevel) names() []string {
	var names []string
	for _, k := range v.keys {
		names = append(names, k.name)
	}
	return names
}

// lowering turns one file into the language.
type lowering struct {
	w      *walker
	loader *loader
	name   string // of the file, as the user reaches it
	// services are those of the file, as they are written; done those that were
	// lowered, nil while that is under way.
	services *node
	done     map[string]*node
	// disks has the volumes of the file that are no disks: what they are mounts of.
	disks map[string]*node
	// in is the mapping whose key is being lowered.
	in *node
}

// isCompose reports whether a file is in Compose's dialect: it has Compose's words
// at its top, or Compose's name and none of the language's.
func isCompose(name string, root *node) bool {
	if root.entry("containers") != nil || root.entry("defaults") != nil {
		return false
	}
	return root.entry("services") != nil || root.entry("version") != nil || root.entry("models") != nil ||
		slices.ContainsFunc(slices.Concat(composeNames, composeOverrides), func(n string) bool { return filepath.Base(name) == n })
}

// lower returns the file's root in the language.
func (w *walker) lower(root *node, loader *loader) *node {
	return w.begin(root, loader, root.src.name).mapping(root, composeTop())
}

// begin reads what has to be known of a file before its keys are lowered.
func (w *walker) begin(root *node, loader *loader, name string) *lowering {
	l := &lowering{w: w, loader: loader, name: name, done: map[string]*node{}, disks: map[string]*node{}}
	root.src.compose = true
	l.annotate(root, nil)
	if s := root.child("services"); s != nil && s.kind == mappingNode {
		l.services = s
	}
	l.findDisks(root.child("volumes"))
	return l
}

// annotate gives every node the path that it has in the file. A node that aliases
// share has that of its first use.
func (l *lowering) annotate(n *node, at *trail) {
	if n.path != nil && at != nil {
		return
	}
	n.path = at
	for i, item := range n.items {
		l.annotate(item, at.item(i))
	}
	for _, e := range n.entries {
		e.key.path = at
		l.annotate(e.value, at.key(e.key.text))
	}
}

// mapping lowers a mapping to one of its own.
func (l *lowering) mapping(n *node, keys *composeLevel) *node {
	if n.kind != mappingNode {
		if !n.null() && !l.unset(n) && !n.broken {
			l.w.error(n, nil, "", "expected a mapping, found %s", n.describe())
			n.broken = true
		}
		return n
	}
	out := l.like(n, mappingNode)
	l.into(n, keys, out)
	return out
}

// into lowers the keys of a mapping into out.
func (l *lowering) into(n *node, keys *composeLevel, out *node) {
	if n.kind != mappingNode {
		l.mapping(n, keys) // it says what is wrong
		return
	}
	if !l.w.visit(n) {
		return
	}
	l.w.charge(len(n.entries))
	for _, e := range n.entries {
		name := e.key.text
		k := keys.key(name)
		switch {
		case k == nil && strings.HasPrefix(name, "x-"):
		case k == nil:
			hint := ""
			if !l.w.report.full(diag.Error) {
				hint = keys.instead(name)
			}
			l.w.error(e.key, nil, hint, "unknown key %s", quote(name))
		case e.value.null() && k.clears:
			cleared := *e.value
			cleared.reset = true
			l.put(out, e.key, k.target(), &cleared)
		case e.value.null() && !e.value.reset:
		case e.value.reset:
			for _, to := range k.targets() {
				l.put(out, e.key, to, e.value)
			}
		case k.lower != nil:
			l.in = n
			k.lower(l, e, out)
		case k.fate == same, k.fate == renamed:
			if !l.unset(e.value) {
				l.put(out, e.key, k.target(), e.value)
			}
		case k.fate == lowered && k.of != nil:
			l.into(e.value, k.of, out)
		case k.fate == hinted && l.unset(e.value):
		case k.fate == hinted:
			l.hint(e.key, k.do, "%q has no effect: %s", name, k.why)
		case k.fate == refused:
			l.w.refuse(e.key, nil, k.do, "%q: %s", name, k.why)
		}
	}
}

func (k *composeKey) target() string {
	if k.to != "" {
		return k.to
	}
	return k.name
}

// targets are the keys of the language that a key becomes.
func (k *composeKey) targets() []string {
	switch {
	case k.fate == ignored, k.fate == hinted, k.fate == refused:
		return nil
	case k.of != nil && k.fate == lowered && k.to == "":
		var all []string
		for i := range k.of.keys {
			all = append(all, k.of.keys[i].targets()...)
		}
		return all
	}
	return strings.Split(k.target(), ", ")
}

func (l *lowering) hint(n *node, do, format string, args ...any) {
	l.w.warn(n, nil, do, format, args...)
}

// put gives out an entry of the language for what is written at key. A list is added
// to one that is there; any other value has to be the same.
func (l *lowering) put(out, key *node, name string, value *node) {
	old := out.entry(name)
	switch {
	case old == nil:
		if out.index != nil {
			out.index[name] = len(out.entries)
		}
		out.entries = append(out.entries, entry{&node{place: key.place, path: key.path, text: name, quoted: true}, value})
	case old.value.kind == listNode && value.kind == listNode:
		if !old.value.made {
			both := *old.value
			both.items, both.made = slices.Clip(both.items), true
			old.value = &both
		}
		old.value.items = append(old.value.items, value.items...)
	case old.value.kind == mappingNode && value.kind == mappingNode:
		for _, e := range value.entries {
			l.put(old.value, e.key, e.key.text, e.value)
		}
	case old.value.kind != value.kind || old.value.text != value.text:
		l.w.error(key, nil, "say it once", "%s says something else than line %d", quote(key.text), old.key.line)
	}
}

// like is an empty node in place of another.
func (l *lowering) like(n *node, kind nodeKind) *node {
	return &node{kind: kind, place: n.place, path: n.path, override: n.override, reset: n.reset}
}

// word is a text that stands where n does.
func (l *lowering) word(n *node, text string) *node {
	return &node{place: n.place, path: n.path, text: text, quoted: true, replaced: true}
}

// plain is a number or a boolean that stands where n does.
func (l *lowering) plain(n *node, text string) *node {
	w := l.word(n, text)
	w.quoted = false
	return w
}

// unset reports whether a scalar is empty after variables: Compose takes that for a
// key without a value.
func (l *lowering) unset(n *node) bool {
	return n.kind == scalarNode && l.w.resolve(n, nil) && n.text == ""
}

// text returns the text of a scalar; false where it is none, which is said.
func (l *lowering) text(n *node) (string, bool) {
	if !l.w.visit(n) || !l.w.resolve(n, nil) {
		return "", false
	}
	if n.kind != scalarNode || n.null() {
		l.w.error(n, nil, "", "expected a string, found %s", n.describe())
		return "", false
	}
	return n.text, true
}

// flag returns a boolean; false where it is none, which is said.
func (l *lowering) flag(n *node) (value, ok bool) {
	return boolean().decode(l.w, n, n.path)
}

// items returns the items of a list, or of one alone.
func (l *lowering) items(n *node) []*node {
	n = asList(n)
	if !l.w.visit(n) {
		return nil
	}
	l.w.charge(len(n.items))
	return n.items
}

// list makes a list, which is added to that of an earlier file.
func (l *lowering) list(of *node, items []*node) *node {
	out := l.like(of, listNode)
	out.items, out.appends = items, !of.override
	return out
}

// appended is a row whose list is added to that of an earlier file, and which may be
// one text alone.
func appended(to string) func(l *lowering, e entry, out *node) {
	return func(l *lowering, e entry, out *node) {
		if l.unset(e.value) {
			return
		}
		l.put(out, e.key, to, l.list(e.value, l.items(e.value)))
	}
}

// below is a row whose mapping has keys of its own.
func below(keys *composeLevel) func(l *lowering, e entry, out *node) {
	return func(l *lowering, e entry, out *node) {
		l.put(out, e.key, e.key.text, l.mapping(e.value, keys))
	}
}

// each is a row of named mappings, or of a list that has mappings in it.
func each(keys *composeLevel, to string, list bool) func(l *lowering, e entry, out *node) {
	return func(l *lowering, e entry, out *node) {
		v := l.like(e.value, e.value.kind)
		switch {
		case e.value.kind == mappingNode:
			for _, c := range e.value.entries {
				if !strings.HasPrefix(c.key.text, "x-") {
					v.entries = append(v.entries, entry{c.key, l.mapping(c.value, keys)})
				}
			}
		case e.value.kind == listNode:
			v.appends = list
			for _, item := range e.value.items {
				if item.kind == mappingNode {
					item = l.mapping(item, keys)
				}
				v.items = append(v.items, item)
			}
		default:
			v = e.value // what reads it says what is wrong
		}
		l.put(out, e.key, to, v)
	}
}

// composeWords puts a finding into the words of Compose. What is quoted is the
// user's and stays.
func composeWords(s string) string {
	s = strings.Replace(s, `"destination" is missing`, `"target" is missing`, 1)
	parts := strings.Split(s, `"`)
	for i := 0; i < len(parts); i += 2 {
		parts[i] = vocabulary.Replace(parts[i])
		if i+1 < len(parts) {
			if rest, ok := strings.CutSuffix(parts[i], "container "); ok {
				parts[i] = rest + "service "
			}
		}
	}
	return strings.Join(parts, `"`)
}

var vocabulary = strings.NewReplacer(
	"a container cannot wait", "a service cannot wait",
	"a container cannot link", "a service cannot link",
	"has no containers", "has no services",
	"name for a container", "name for a service",
	"mounts[", "volumes[",
	"the destination of", "the target of",
	"destination is a path", "target is a path",
	"has no destination", "has no target",
	"source:destination", "source:target",
)

// composeMemory is the limit of a service that names none, in bytes. Compose has no
// limit; a machine has to have one. RAM that a machine has never used costs the host
// nothing (docs/performance.md).
const composeMemory = 4 << 30

// composeDefaults gives the services of a merged stack what Compose means where it
// says nothing.
func composeDefaults(root *node) {
	containers := root.child("containers")
	if containers == nil || containers.kind != mappingNode {
		return
	}
	for i, e := range containers.entries {
		if e.key.compose() && e.value.kind == mappingNode && !e.value.said("memory") {
			with := *e.value
			with.index = nil
			with.entries = slices.Clip(with.entries)
			with.add(e.key.place, "memory", &node{place: e.key.place, path: e.value.path, text: fmt.Sprint(uint64(composeMemory))})
			containers.entries[i].value = &with
		}
	}
}
