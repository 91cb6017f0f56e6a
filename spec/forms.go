package spec

import (
	"fmt"
	"strconv"
	"strings"
)

// This file holds the kinds that may be written in more than one form. The other
// forms are first turned into one, node by node, so that merging and messages
// see the same thing.

// command is a list of words, or a string that is split into them. Nil: not
// said; empty: none.
func command() kind[[]string] {
	item := verbatim()
	words := list(item)
	return kind[[]string]{
		schema: schemaDoc{"anyOf": []any{schemaDoc{"type": "string"}, words.schema}},
		decode: func(w *walker, n *node, at *trail) ([]string, bool) {
			if n.kind == listNode {
				all, ok := words.decode(w, n, at)
				return append([]string{}, all...), ok
			}
			if !w.visit(n) || !w.resolve(n, at) {
				return nil, false
			}
			if n.kind != scalarNode || n.scalar() != stringScalar {
				w.error(n, at, "", "expected a string or a list, found %s", n.describe())
				return nil, false
			}
			all, err := split(n.text)
			if err != nil {
				w.wrong(n, at, err)
				return nil, false
			}
			warnOperators(w, n, at, all)
			return all, true
		},
		encode: func(all []string) any {
			if all == nil {
				return nil
			}
			return encodeAll(item, all)
		},
	}
}

// warnOperators warns of what only a shell would act on.
func warnOperators(w *walker, n *node, at *trail, all []string) {
	for _, word := range all {
		switch word {
		case "&&", "||", "|", ";", ">", ">>", "<", "&":
			w.warn(n, at, `for a shell, write ["sh", "-c", "..."]`, "%q goes to the program as it stands; no shell reads the command", word)
			return
		}
	}
}

// textMap is a mapping from keys to text, or a list of KEY=VALUE. alone answers
// what a key without a value stands for; false leaves it out.
func textMap(alone func(w *walker, key *node) (string, bool)) kind[map[string]string] {
	value := verbatim()
	k := mapping(value, func(string) error { return nil })
	merge := k.merge
	return kind[map[string]string]{
		schema: schemaDoc{"anyOf": []any{
			schemaDoc{"type": "object", "additionalProperties": schemaDoc{"type": append([]any{"null"}, textSchema["type"].([]any)...)}},
			schemaDoc{"type": "array", "items": schemaDoc{"type": "string"}},
		}},
		encode: k.encode,
		diff:   k.diff,
		decode: func(w *walker, n *node, at *trail) (map[string]string, bool) {
			n = pairs(w, n, at, "=")
			if !w.mapping(n, at) {
				return nil, false
			}
			out := map[string]string{}
			for _, e := range n.entries {
				name := e.key.text
				if name == "" || strings.ContainsAny(name, "=\x00") {
					w.error(e.key, at, "", "%s is not a name", quote(name))
				} else if e.value.null() {
					if v, ok := alone(w, e.key); ok {
						out[name] = v
					}
				} else if v, ok := value.decode(w, e.value, at.key(name)); ok {
					out[name] = v
				}
			}
			if len(out) == 0 {
				return nil, true // as without the key
			}
			return out, true
		},
		merge: func(w *walker, base, over *node, at *trail) *node {
			return merge(w, pairs(w, base, at, "="), pairs(w, over, at, "="), at)
		},
	}
}

// callerValue is the value that the caller has for a name.
func callerValue(w *walker, name *node) (string, bool) { return w.variables(name)(name.text) }

// pairs turns a list of KEY<separator>VALUE into a mapping; without a separator
// the value is null. What is no list is left alone.
func pairs(w *walker, n *node, at *trail, separator string) *node {
	if n.kind == scalarNode && !n.null() && w.resolve(n, at) {
		w.error(n, at, "", "expected a mapping or a list, found %s", n.describe())
		n.broken = true
	}
	if n.kind != listNode {
		return n
	}
	out := &node{kind: mappingNode, place: n.place, path: n.path, override: n.override, reset: n.reset}
	seen := map[string]int{} // places in out.entries
	for i, item := range n.items {
		if !w.visit(item) || !w.resolve(item, at.item(i)) {
			continue
		}
		if item.kind != scalarNode || item.null() {
			w.error(item, at.item(i), "", "expected a string, found %s", item.describe())
			continue
		}
		name, value, found := item.text, "", false
		if separator != "" {
			name, value, found = strings.Cut(item.text, separator)
		}
		key := item.at(0, name)
		v := &node{place: key.place, path: key.path}
		if found {
			v = item.at(len(name)+len(separator), value)
		}
		first, given := seen[name]
		switch {
		case !given:
			seen[name] = len(out.entries)
			out.entries = append(out.entries, entry{key, v})
		case item.compose(): // the later one holds
			out.entries[first] = entry{key, v}
		default:
			w.error(key, at, "", "%s is already given on line %d", quote(name), out.entries[first].key.line)
		}
	}
	return out
}

// dependencies is a mapping from containers to conditions, or a list of names.
func dependencies() kind[map[string]Dependency] {
	k := named("container", dependencyKeys().kind())
	names := schemaDoc{"type": "array", "items": schemaDoc{"type": "string"}}
	decode, merge := k.decode, k.merge
	k.schema = schemaDoc{"anyOf": []any{k.schema, names}}
	k.decode = func(w *walker, n *node, at *trail) (map[string]Dependency, bool) {
		return decode(w, pairs(w, n, at, ""), at)
	}
	k.merge = func(w *walker, base, over *node, at *trail) *node {
		return merge(w, pairs(w, base, at, ""), pairs(w, over, at, ""), at)
	}
	return k
}

// restart is a policy, with a number of attempts for "on-failure:3". YAML's
// false is what "no" became in files that other tools wrote.
func restart() kind[Restart] {
	policies := []choice{{name: "no"}, {name: "always"}, {name: "on-failure"}, {name: "unless-stopped"}}
	schema := schemaDoc{"anyOf": []any{
		schemaDoc{"enum": append(choices(policies), false)},
		schemaDoc{"type": "string", "pattern": `^on-failure:[0-9]+$|\$`},
	}}
	return scalar("a policy", stringScalar|boolScalar, schema, func(_ *walker, _ *node, text string) (Restart, error) {
		if strings.ToLower(text) == "false" {
			text = "no"
		}
		name, max, counted := strings.Cut(text, ":")
		c, err := choose(policies, name)
		if err != nil || !counted {
			return Restart{Policy: c.name}, err
		}
		n, err := strconv.ParseUint(max, 10, 16)
		switch {
		case c.name != "on-failure":
			return Restart{}, fmt.Errorf("only on-failure takes a number of attempts")
		case err != nil:
			return Restart{}, wrong{quote(max) + " is not a number of attempts", "write on-failure:3"}
		}
		return Restart{Policy: c.name, Max: int(n)}, nil
	}, func(r Restart) any {
		if r.Max > 0 {
			return r.Policy + ":" + strconv.Itoa(r.Max)
		}
		return encodeText(r.Policy)
	})
}

// envFile is one entry of env_file: read when the container's environment is
// made, and no part of what is stored.
type envFile struct {
	path     string
	required bool
	raw      bool // values are taken as they are
	at       *node
}

// envFiles is a path, or a list of paths and of {path, required}.
func envFiles() kind[[]envFile] {
	entry := envFileKeys().kind()
	item := schemaDoc{"anyOf": []any{textSchema, entry.schema}}
	return kind[[]envFile]{
		schema: schemaDoc{"anyOf": []any{textSchema, schemaDoc{"type": "array", "items": item}}},
		encode: func([]envFile) any { return nil },
		decode: func(w *walker, n *node, at *trail) ([]envFile, bool) {
			var all []envFile
			for i, item := range asList(n).items {
				if item.kind == scalarNode {
					path := entryOf(item)
					item = &path
				}
				if f, ok := entry.decode(w, item, at.item(i)); ok && f.path != "" {
					f.at = item.child("path")
					all = append(all, f)
				}
			}
			return all, true
		},
		merge: func(_ *walker, base, over *node, _ *trail) *node {
			if over.override {
				return over
			}
			out := *asList(over)
			out.items = append(append([]*node(nil), asList(base).items...), out.items...)
			return &out
		},
	}
}

func asList(n *node) *node {
	if n.kind == listNode {
		return n
	}
	return &node{kind: listNode, place: n.place, items: []*node{n}}
}

func entryOf(path *node) node {
	key := &node{place: path.place, text: "path", quoted: true}
	return node{kind: mappingNode, place: path.place, entries: []entry{{key, path}}}
}
