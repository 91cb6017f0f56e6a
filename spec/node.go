package spec

import (
	"regexp"
	"strings"
)

type nodeKind int

const (
	scalarNode nodeKind = iota
	listNode
	mappingNode
)

// node is a value of a stack file. Unlike the parser's it knows its file, and
// aliases and merges are resolved: an anchored node is shared by its users, and
// its place is where its text stands.
type node struct {
	kind nodeKind
	place
	text   string // of a scalar
	quoted bool   // or tagged a string: never a number, boolean or null
	// replaced says that variables were put in, or could not be (then broken).
	replaced, broken bool
	// reset and override are Compose's tags for merging files.
	reset, override bool
	// made: the list is the lowering's own, and may be added to.
	made bool
	// appends: in a later file the list is added to that of an earlier one.
	appends bool
	// path names the node in the words of its file, where that is not the language's
	// own: findings say it.
	path *trail

	items   []*node
	entries []entry
	index   map[string]int // of entries; made when a large mapping is first asked
}

// entry is one key of a mapping. Keys are always text.
type entry struct {
	key   *node
	value *node
}

// entry answers the entry of a key, or nil.
func (n *node) entry(key string) *entry {
	const large = 16
	if n == nil || n.kind != mappingNode {
		return nil
	}
	if len(n.entries) > large {
		if n.index == nil {
			n.index = make(map[string]int, len(n.entries))
			for i := range n.entries {
				n.index[n.entries[i].key.text] = i
			}
		}
		if i, ok := n.index[key]; ok {
			return &n.entries[i]
		}
		return nil
	}
	for i := range n.entries {
		if n.entries[i].key.text == key {
			return &n.entries[i]
		}
	}
	return nil
}

// child answers the value of a key, or nil.
func (n *node) child(key string) *node {
	if e := n.entry(key); e != nil {
		return e.value
	}
	return nil
}

// said reports whether a key is there with a value. A key without one says
// nothing, as in Compose.
func (n *node) said(key string) bool {
	c := n.child(key)
	return c != nil && !c.null()
}

func (n *node) null() bool { return n.kind == scalarNode && n.scalar() == nullScalar }

// compose reports whether the node was written in Compose's dialect.
func (n *node) compose() bool { return n.src != nil && n.src.compose }

// at answers a node for a part of a scalar: offset bytes into its text.
func (n *node) at(offset int, text string) *node {
	part := &node{kind: scalarNode, place: n.place, path: n.path, text: text, quoted: true, replaced: true}
	written := n.src.rest(n.line, n.column)
	if n.quoted && written != "" {
		written = written[1:]
		part.column++
	}
	if n.replaced || !strings.HasPrefix(written, n.text) {
		part.column = n.column
		return part
	}
	part.column += len([]rune(n.text[:offset]))
	part.length = max(1, len([]rune(text)))
	return part
}

// scalarKind is what a scalar means by itself.
type scalarKind int

const (
	nullScalar scalarKind = 1 << iota
	boolScalar
	intScalar
	floatScalar
	stringScalar
	anyScalar = boolScalar | intScalar | floatScalar | stringScalar
)

var (
	intText   = regexp.MustCompile(`^[-+]?([0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$`)
	floatText = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$`)
)

// scalar types a scalar by YAML 1.2's core schema. It is asked after variables
// were put in, so that "cpus: ${N}" is a number; an empty variable is an empty
// string, not null.
func (n *node) scalar() scalarKind {
	if n.quoted {
		return stringScalar
	}
	switch n.text {
	case "":
		if n.replaced {
			return stringScalar
		}
		return nullScalar
	case "~", "null", "Null", "NULL":
		return nullScalar
	case "true", "True", "TRUE", "false", "False", "FALSE":
		return boolScalar
	}
	switch c := n.text[0]; {
	case !strings.ContainsRune("+-.0123456789", rune(c)), len(n.text) > 64:
	case intText.MatchString(n.text):
		return intScalar
	case floatText.MatchString(n.text):
		return floatScalar
	}
	return stringScalar
}

// describe says what a node is, for "expected a list, found ...".
func (n *node) describe() string {
	switch n.kind {
	case listNode:
		return "a list"
	case mappingNode:
		return "a mapping"
	}
	switch n.scalar() {
	case nullScalar:
		return "nothing"
	case boolScalar:
		return "boolean " + n.text
	case intScalar:
		return "integer " + n.text
	case floatScalar:
		return "number " + n.text
	}
	return "string " + quote(n.text)
}
