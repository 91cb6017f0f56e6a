package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// parser turns the text of one file into nodes and reports what is wrong with
// it as YAML. It knows nothing of the language.
type parser struct {
	src    *source
	report *reporter
	made   map[*yaml.Node]*node
	open   map[*yaml.Node]bool // being made: an alias to one of these has no end
	copied int                 // entries copied by merges
}

// parse answers the root of a file, or nil where there is none to read.
func parse(name string, data []byte, report *reporter) *node {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	p := &parser{
		src: newSource(name, string(data)), report: report,
		made: map[*yaml.Node]*node{}, open: map[*yaml.Node]bool{},
	}
	if line := invalidLine(p.src); line > 0 {
		p.error(place{src: p.src, line: line, column: 1}, nil, "save the file as UTF-8", "the text is not UTF-8")
		return nil
	}
	docs, err := decodeYAML(data, 2)
	if err != nil {
		p.syntax(data, err)
		return nil
	}
	if len(docs) > 1 {
		p.error(p.place(docs[1]), nil, "", "a second document begins here; a stack file is one document")
	}
	if len(docs) == 0 || len(docs[0].Content) == 0 {
		p.error(place{src: p.src}, nil, "", "the file is empty")
		return nil
	}
	return p.convert(docs[0].Content[0], nil, 0)
}

// decodeYAML reads up to limit documents. The parser reports some damage by
// panicking; such a panic is an error of the text like any other.
func decodeYAML(data []byte, limit int) (docs []*yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: the parser gave up: %v", r)
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for len(docs) < limit {
		doc := new(yaml.Node)
		if err := dec.Decode(doc); errors.Is(err, io.EOF) {
			return docs, nil
		} else if err != nil {
			return nil, err
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

func invalidLine(src *source) int {
	for i, text := range src.lines {
		if !utf8.ValidString(text) {
			return i + 1
		}
	}
	return 0
}

func (p *parser) error(at place, path *trail, hint, format string, args ...any) {
	p.report.add(at, diag.Finding{Path: path.String(), Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (p *parser) place(n *yaml.Node) place {
	return place{src: p.src, line: n.Line, column: n.Column}
}

// convert makes a node of a parsed one. The answer is never nil.
func (p *parser) convert(y *yaml.Node, at *trail, depth int) *node {
	if y.Kind == yaml.AliasNode {
		return p.alias(y, at)
	}
	if n := p.made[y]; n != nil {
		return n
	}
	n := &node{place: p.place(y), quoted: y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0}
	p.tag(y, n, at)
	if depth > maxDepth {
		p.error(n.place, nil, "", "the file nests deeper than %d levels", maxDepth)
		return n
	}
	p.open[y] = true
	switch y.Kind {
	case yaml.SequenceNode:
		n.kind = listNode
		for i, c := range y.Content {
			n.items = append(n.items, p.convert(c, at.item(i), depth+1))
		}
	case yaml.MappingNode:
		n.kind = mappingNode
		p.mapping(y, n, at, depth)
	default:
		n.text = y.Value
	}
	delete(p.open, y)
	if y.Anchor != "" {
		p.made[y] = n
	}
	return n
}

func (p *parser) alias(y *yaml.Node, at *trail) *node {
	if y.Alias != nil && !p.open[y.Alias] {
		// An anchor stands before its aliases, so its node is made.
		if n := p.made[y.Alias]; n != nil {
			return n
		}
	}
	at0 := p.place(y)
	at0.length = 1 + utf8.RuneCountInString(y.Value)
	p.error(at0, at, "", "alias %q contains itself", "*"+cut(y.Value))
	return &node{place: at0, broken: true}
}

// tag applies a tag that is written out.
func (p *parser) tag(y *yaml.Node, n *node, at *trail) {
	if y.Style&yaml.TaggedStyle == 0 {
		return
	}
	switch tag := y.ShortTag(); tag {
	case "!!str", "!":
		n.quoted = true
	case "!reset":
		n.reset = true
	case "!override":
		n.override = true
	case "!!int", "!!float", "!!bool", "!!null", "!!map", "!!seq", "!!merge":
	default:
		p.error(n.place, at, suggest(tag, []string{"!reset", "!override"}), "unknown tag %s", quote(tag))
	}
}

func (p *parser) mapping(y *yaml.Node, n *node, at *trail, depth int) {
	seen := make(map[string]*node, len(y.Content)/2)
	var merges []*node
	for i := 0; i+1 < len(y.Content); i += 2 {
		k, v := y.Content[i], y.Content[i+1]
		if k.Kind == yaml.AliasNode && k.Alias != nil && k.Alias.Kind == yaml.ScalarNode {
			k = &yaml.Node{Kind: yaml.ScalarNode, Value: k.Alias.Value, Tag: "!!str", Line: k.Line, Column: k.Column}
		}
		key := &node{place: p.place(k), text: k.Value, quoted: true}
		if k.Kind != yaml.ScalarNode || len(k.Value) > maxKeyBytes {
			p.badKey(k, key, at)
			continue
		}
		value := p.convert(v, at.key(k.Value), depth+1)
		if k.Value == "<<" && (k.Tag == "!!merge" || k.Tag == "") {
			merges = append(merges, value)
			continue
		}
		if first := seen[k.Value]; first != nil {
			p.error(key.place, at, "", "key %s is already given on line %d", quote(k.Value), first.line)
			continue
		}
		seen[k.Value] = key
		n.entries = append(n.entries, entry{key, value})
	}
	for _, m := range merges {
		p.merge(n, m, seen, at)
	}
}

func (p *parser) badKey(k *yaml.Node, key *node, at *trail) {
	if k.Kind == yaml.ScalarNode {
		p.error(key.place, at, "", "a key of %d bytes; at most %d are read", len(k.Value), maxKeyBytes)
		return
	}
	p.error(key.place, at, "", "a key must be text")
}

// merge adds what a "<<" names: keys that are written out win, and among merged
// mappings the first one wins (https://yaml.org/type/merge.html).
func (p *parser) merge(n, from *node, seen map[string]*node, at *trail) {
	if from.broken {
		return
	}
	switch from.kind {
	case listNode:
		for _, m := range from.items {
			if m.kind == listNode {
				p.error(m.place, at, "", "expected a mapping to merge, found a list")
				continue
			}
			p.merge(n, m, seen, at)
		}
	case scalarNode:
		p.error(from.place, at, "", "expected a mapping to merge, found %s", from.describe())
	case mappingNode:
		if p.copied > maxNodes {
			return // said
		}
		if p.copied += len(from.entries); p.copied > maxNodes {
			p.error(n.place, nil, "", "merges expand to more than %d keys", maxNodes)
			return
		}
		for _, e := range from.entries {
			if seen[e.key.text] == nil {
				seen[e.key.text] = e.key
				n.entries = append(n.entries, e)
			}
		}
	}
}

var (
	yamlLine      = regexp.MustCompile(`^line ([0-9]+): `)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// syntax reports an error of the YAML parser, which knows at most a line, and
// that is often the line before.
func (p *parser) syntax(data []byte, err error) {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = message[len(m[0]):]
	}
	if m := unknownAnchor.FindStringSubmatch(message); m != nil {
		if l, c, ok := p.src.find(1, 1, "*"+m[1]); ok {
			p.error(place{src: p.src, line: l, column: c}, nil, "", "no anchor %q before this alias", "&"+cut(m[1]))
			return
		}
	}
	if len(data) <= maxLocateBytes {
		line = p.firstBad(message)
	}
	line = min(max(line, 1), len(p.src.lines))
	text := p.src.lines[line-1]
	start := len(text) - len(strings.TrimLeft(text, " \t"))
	hint := ""
	switch {
	case strings.Contains(text[:start], "\t"):
		hint = "indent with spaces; YAML allows no tabs there"
	case strings.Contains(text, "${") && strings.Contains(message, "or '}'"):
		hint = `quote what has a variable in it: {KEY: "${NAME}"}`
	}
	at := place{src: p.src, line: line, column: start + 1, length: max(1, utf8.RuneCountInString(text[start:]))}
	p.error(at, nil, hint, "not YAML: %s", message)
}

// firstBad finds the first line with which the parser says message: the text up
// to the line before it is still good, or bad in another way.
func (p *parser) firstBad(message string) int {
	low, high := 1, len(p.src.lines)
	for low < high {
		mid := (low + high) / 2
		_, err := decodeYAML([]byte(strings.Join(p.src.lines[:mid], "\n")+"\n"), 2)
		if err != nil && strings.HasSuffix(err.Error(), message) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}
