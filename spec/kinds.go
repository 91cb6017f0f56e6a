package spec

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// errKind is what parse answers for a text that is of another kind altogether.
var errKind = errors.New("another kind of value")

// scalar is the kind of values that are one word in the file. want names them
// ("a number"); parse reads the text of a scalar that accept allows.
func scalar[V any](want string, accept scalarKind, schema schemaDoc, parse func(w *walker, n *node, text string) (V, error), encode func(V) any) kind[V] {
	decode := func(w *walker, n *node, at *trail) (v V, ok bool) {
		if !w.visit(n) || !w.resolve(n, at) {
			return v, false
		}
		err := errKind
		if n.kind == scalarNode && n.scalar()&accept != 0 {
			v, err = parse(w, n, n.text)
		}
		switch {
		case errors.Is(err, errKind):
			hint := ""
			if n.kind == scalarNode && !n.null() && accept == stringScalar {
				hint = fmt.Sprintf("write %q", n.text)
			}
			w.error(n, at, hint, "expected %s, found %s", want, n.describe())
		case err != nil:
			w.wrong(n, at, err)
		}
		return v, err == nil
	}
	return kind[V]{schema: schema, decode: decode, encode: encode}
}

// variables lets a schema of something other than text accept a variable.
func variables(s schemaDoc) schemaDoc {
	return schemaDoc{"anyOf": []any{s, schemaDoc{"type": "string", "pattern": `\$`}}}
}

var textSchema = schemaDoc{"type": []any{"string", "number", "boolean"}}

// word is text that must not look like a number, a boolean or nothing.
func word(schema schemaDoc, parse func(string) (string, error)) kind[string] {
	return scalar("a string", stringScalar, with(schemaDoc{"type": "string"}, schema),
		func(_ *walker, _ *node, text string) (string, error) { return parse(text) }, encodeText)
}

// text is any scalar as it is written.
func text(schema schemaDoc, parse func(string) (string, error)) kind[string] {
	return scalar("a string", anyScalar, with(textSchema, schema),
		func(_ *walker, _ *node, text string) (string, error) { return parse(text) }, encodeText)
}

// verbatim is any scalar as it is written, where empty text is a value.
func verbatim() kind[string] {
	k := text(nil, anyText)
	k.encode = func(s string) any { return s }
	return k
}

func anyText(s string) (string, error) { return s, nil }

func encodeText(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// hostPath is a path of the host; relative ones start at the stack's folder.
func hostPath() kind[string] {
	return scalar("a path", anyScalar, textSchema, func(w *walker, n *node, text string) (string, error) {
		if text == "" {
			return "", errors.New("the path is empty")
		}
		return w.path(n, text), nil
	}, encodeText)
}

func size(low, multiple uint64, why string) kind[uint64] {
	schema := variables(schemaDoc{"anyOf": []any{
		schemaDoc{"type": "integer", "minimum": low, "maximum": uint64(maxSize)},
		schemaDoc{"type": "string", "pattern": sizeText.String()},
	}})
	return scalar("a size", intScalar|floatScalar|stringScalar, schema, func(_ *walker, _ *node, text string) (uint64, error) {
		n, err := ParseSize(text)
		switch {
		case err != nil:
			return 0, err
		case n < low:
			return 0, fmt.Errorf("%s is below %s, %s", text, formatSize(low), why)
		case n%multiple != 0:
			return 0, fmt.Errorf("%s is not a multiple of %s", text, formatSize(multiple))
		}
		return n, nil
	}, func(n uint64) any { return formatSize(n) })
}

func duration() kind[time.Duration] {
	schema := schemaDoc{"type": "string", "examples": []any{"10s", "1m30s"}}
	return scalar("a duration", intScalar|floatScalar|stringScalar, schema,
		func(_ *walker, _ *node, text string) (time.Duration, error) { return parseDuration(text) },
		func(d time.Duration) any { return formatDuration(d) })
}

func integer(low, high int) kind[int] {
	schema := variables(schemaDoc{"type": "integer", "minimum": low, "maximum": high})
	return scalar("an integer", intScalar|stringScalar, schema, func(_ *walker, _ *node, text string) (int, error) {
		if !intText.MatchString(text) {
			return 0, errKind
		}
		n, err := strconv.ParseInt(strings.TrimPrefix(text, "+"), 0, 64)
		if err != nil || n < int64(low) || n > int64(high) {
			return 0, fmt.Errorf("%s is not between %d and %d", text, low, high)
		}
		return int(n), nil
	}, func(n int) any { return n })
}

func number(low, high float64) kind[float64] {
	schema := variables(schemaDoc{"type": "number", "minimum": low, "maximum": high})
	return scalar("a number", intScalar|floatScalar|stringScalar, schema, func(_ *walker, _ *node, text string) (float64, error) {
		if !intText.MatchString(text) && !floatText.MatchString(text) {
			return 0, errKind
		}
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || !(f >= low && f <= high) {
			return 0, fmt.Errorf("%s is not between %v and %v", text, low, high)
		}
		return f, nil
	}, func(f float64) any { return f })
}

func boolean() kind[bool] {
	schema := variables(schemaDoc{"type": "boolean"})
	return scalar("true or false", boolScalar|stringScalar, schema, func(_ *walker, n *node, text string) (bool, error) {
		switch strings.ToLower(text) {
		case "true":
			return true, nil
		case "false":
			return false, nil
		case "y", "yes", "on": // of YAML 1.1, as Compose takes them
			if n.compose() {
				return true, nil
			}
		case "n", "no", "off":
			if n.compose() {
				return false, nil
			}
		}
		return false, errKind
	}, func(b bool) any { return b })
}

// unlessZero leaves a key out where its value is the one it has without it.
func unlessZero[V comparable](k kind[V]) kind[V] {
	encode := k.encode
	k.encode = func(v V) any {
		if v == *new(V) {
			return nil
		}
		return encode(v)
	}
	k.diff = func(field string, old, now V) []Change {
		if old == now {
			return nil
		}
		return []Change{{field, words(encode(old)), words(encode(now))}}
	}
	return k
}

// choice is one value of an enumeration.
type choice struct {
	name    string
	means   string // another name of what it means; "": itself
	refused string // why it cannot be had in this version
}

func choices(all []choice) []any {
	var names []any
	for _, c := range all {
		if c.refused == "" {
			names = append(names, c.name)
		}
	}
	return names
}

// choose answers the choice of a name.
func choose(all []choice, text string) (choice, error) {
	var names, near []string
	for _, c := range all {
		if c.name == text {
			if c.refused != "" {
				return c, fmt.Errorf("%q %s", text, c.refused)
			}
			if c.means != "" {
				c.name = c.means
			}
			return c, nil
		}
		if c.refused == "" {
			near = append(near, c.name)
		}
		if c.means == "" && c.refused == "" {
			names = append(names, c.name)
		}
	}
	last := len(names) - 1
	listed := strings.Join(names[:last], ", ") + " or " + names[last]
	return choice{}, wrong{quote(text) + " is not " + listed, suggest(text, near)}
}

func enum[V ~string](all ...choice) kind[V] {
	schema := variables(schemaDoc{"enum": choices(all)})
	return scalar("a string", stringScalar, schema, func(_ *walker, _ *node, text string) (V, error) {
		c, err := choose(all, text)
		return V(c.name), err
	}, func(v V) any { return encodeText(string(v)) })
}

// orDefault leaves a key out where nothing was said, which means d.
func orDefault[V comparable](k kind[V], d V) kind[V] {
	k = unlessZero(k)
	diff := k.diff
	or := func(v V) V {
		if v == *new(V) {
			return d
		}
		return v
	}
	k.diff = func(field string, old, now V) []Change { return diff(field, or(old), or(now)) }
	return k
}

// list is the kind of lists of k. An entry that is wrong is left out.
func list[V any](k kind[V]) kind[[]V] {
	return kind[[]V]{
		schema: schemaDoc{"type": "array", "items": k.schema},
		decode: func(w *walker, n *node, at *trail) ([]V, bool) {
			if !w.list(n, at) {
				return nil, false
			}
			var out []V
			var from []item
			for i, one := range n.items {
				if v, ok := k.decode(w, one, at.item(i)); ok {
					out, from = append(out, v), append(from, item{one, i})
				}
			}
			w.items[n] = from
			return out, true
		},
		encode: func(all []V) any {
			if len(all) == 0 {
				return nil
			}
			return encodeAll(k, all)
		},
	}
}

// byPlace collects the values of a list. Each has a place of its own.
type byPlace[V any] struct {
	all   []V
	from  []item
	first map[string]int // by place, the index in all
}

// put adds a value. Where the place is taken it returns the item that has it and
// true; in a Compose file the later value replaces the earlier one.
func (b *byPlace[V]) put(place string, v V, at item) (by item, taken bool) {
	i, taken := b.first[place]
	switch {
	case !taken:
		if b.first == nil {
			b.first = map[string]int{}
		}
		b.first[place] = len(b.all)
		b.all, b.from = append(b.all, v), append(b.from, at)
		return item{}, false
	case at.node.compose():
		b.all[i], b.from[i] = v, at
		return item{}, false
	}
	return b.from[i], true
}

func encodeAll[V any](k kind[V], all []V) []any {
	out := []any{}
	for _, v := range all {
		out = append(out, k.encode(v))
	}
	return out
}

func (w *walker) list(n *node, at *trail) bool {
	if !w.visit(n) {
		return false
	}
	if n.kind == listNode {
		return true
	}
	if w.resolve(n, at) {
		w.error(n, at, "", "expected a list, found %s", n.describe())
	}
	return false
}

// mapping is the kind of mappings from keys that check allows to k.
func mapping[V any](k kind[V], check func(key string) error) kind[map[string]V] {
	return kind[map[string]V]{
		schema: schemaDoc{"type": "object", "additionalProperties": k.schema},
		decode: func(w *walker, n *node, at *trail) (map[string]V, bool) {
			if !w.mapping(n, at) {
				return nil, false
			}
			out := make(map[string]V, len(n.entries))
			for _, e := range n.entries {
				if err := check(e.key.text); err != nil {
					w.wrong(e.key, at, err)
				} else if v, ok := k.decode(w, e.value, at.key(e.key.text)); ok {
					out[e.key.text] = v
				}
			}
			return out, true
		},
		encode: func(all map[string]V) any {
			var doc document
			for _, name := range sortedKeys(all) {
				doc = append(doc, pair{name, k.encode(all[name])})
			}
			if doc == nil {
				return nil
			}
			return doc
		},
		diff: func(field string, old, new map[string]V) []Change {
			return diffMaps(k, func(name string) string { return field + "." + name }, old, new)
		},
		merge: func(w *walker, base, over *node, at *trail) *node {
			if only, ok := mergeable(base, over); !ok {
				return only
			}
			if !w.spend(base, over) {
				return over
			}
			return mergeEntries(base, over, func(name string, b, o *node) *node {
				if k.merge == nil {
					return replaced(b, o)
				}
				return k.merge(w, b, o, at.key(name))
			})
		},
	}
}

// changes compares two values of the kind.
func (k kind[V]) changes(field string, old, new V) []Change {
	if k.diff != nil {
		return k.diff(field, old, new)
	}
	before, after := k.encode(old), k.encode(new)
	if reflect.DeepEqual(before, after) {
		return nil
	}
	return []Change{{field, words(before), words(after)}}
}

// pointer is the kind of values that may be absent.
func pointer[V any](k kind[V]) kind[*V] {
	return kind[*V]{
		schema: k.schema, merge: k.merge,
		decode: func(w *walker, n *node, at *trail) (*V, bool) {
			v, ok := k.decode(w, n, at)
			if !ok {
				return nil, false
			}
			return &v, true
		},
		encode: func(v *V) any {
			if v == nil {
				return nil
			}
			return k.encode(*v)
		},
	}
}

func sortedKeys[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
