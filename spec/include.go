package spec

import (
	"path/filepath"
	"slices"
)

// included is the key of files that belong to the stack: they are read before the
// keys are.
func included() field[file] {
	path := schemaDoc{"anyOf": []any{textSchema, schemaDoc{"type": "array", "items": textSchema}}}
	long := schemaDoc{"type": "object", "additionalProperties": false, "required": []any{"path"},
		"properties": schemaDoc{"path": path, "project_directory": textSchema, "env_file": path}}
	return field[file]{
		name: "include", doc: "Further files of the stack, of either dialect: a path, or {path, project_directory, env_file}.",
		schema: schemaDoc{"type": "array", "items": schemaDoc{"anyOf": []any{textSchema, long}}},
	}
}

// maxFiles bounds how many files a stack is read from: includes and extends.
const maxFiles = 200

// within says for which file a file is read.
type within struct {
	chain []string // absolute paths of the files that include it
	dir   string   // where its relative paths start; "": where those of the stack do
	near  string
	// lookup returns its variables; nil: as the stack's.
	lookup func(string) (string, bool)
}

// stackFile returns the root of a file that was parsed in the language, with what it
// includes; nil where it cannot be read.
func (l *loader) stackFile(w *walker, in input, root *node, from within) *node {
	if root == nil {
		return nil
	}
	if root.kind != mappingNode {
		w.error(root, nil, "", "a stack file is a mapping; found %s", root.describe())
		return nil
	}
	root.src.dir, root.src.near, root.src.lookup = from.dir, from.near, from.lookup
	from.chain = append(slices.Clone(from.chain), in.path)
	include := root.child("include")
	if isCompose(in.name, root) {
		root = w.lower(root, l)
	} else if include != nil {
		only := *root
		only.index = nil
		only.entries = slices.DeleteFunc(slices.Clone(root.entries), func(e entry) bool { return e.key.text == "include" })
		root = &only
	}
	if include == nil || include.null() {
		return root
	}
	for i, item := range asList(include).items {
		if other := l.include(w, item, (*trail)(nil).key("include").item(i), from); other != nil {
			root = l.beside(w, other, root)
		}
	}
	return root
}

// inclusion is what an entry of include says.
type inclusion struct {
	paths, envFiles []string
	at              []*node // of paths
	dir             string
}

// include reads what an entry of include names; nil where it cannot be read.
func (l *loader) include(w *walker, item *node, at *trail, from within) *node {
	one, ok := l.inclusion(w, item, at)
	if !ok {
		return nil
	}
	dir := one.dir
	if dir == "" {
		dir = filepath.Dir(one.paths[0])
	}
	near := w.shown(dir)
	within := within{chain: from.chain, dir: dir, near: near, lookup: l.variables(dir, near, w.variables(item), one.envFiles)}
	var roots []*node
	for i, path := range one.paths {
		if slices.Contains(from.chain, path) {
			w.error(one.at[i], at, "", "%s includes itself", quote(w.shown(path)))
			return nil
		}
		in, ok := l.another(w, path, one.at[i], at)
		if !ok {
			return nil
		}
		root := l.stackFile(w, in, parse(in.name, in.data, l.report), within)
		if root == nil {
			return nil
		}
		only := *root // its name is not the stack's
		only.index = nil
		only.entries = slices.DeleteFunc(slices.Clone(root.entries), func(e entry) bool { return e.key.text == "name" })
		roots = append(roots, &only)
	}
	return l.laid(w, roots)
}

// another reads one more file of the stack.
func (l *loader) another(w *walker, path string, n *node, at *trail) (input, bool) {
	if l.others++; l.others > maxFiles {
		w.error(n, at, "", "a stack is read from at most %d files", maxFiles)
		return input{}, false
	}
	data, err := readBounded(path)
	if err != nil {
		w.error(n, at, "", "%s: %s", quote(n.text), reason(err))
		return input{}, false
	}
	return input{name: w.shown(path), path: path, data: data}, true
}

func (l *loader) inclusion(w *walker, item *node, at *trail) (one inclusion, ok bool) {
	paths, env := item, (*node)(nil)
	if item.kind == mappingNode {
		for _, e := range item.entries {
			switch e.key.text {
			case "path", "project_directory", "env_file":
			default:
				w.error(e.key, at, suggest(e.key.text, []string{"path", "project_directory", "env_file"}), "unknown key %s", quote(e.key.text))
			}
		}
		if paths = item.child("path"); paths == nil || paths.null() {
			w.error(item, at, "", "%q is missing", "path")
			return one, false
		}
		if d := item.child("project_directory"); d != nil && !d.null() {
			if text, ok := hostPath().decode(w, d, at.key("project_directory")); ok {
				one.dir = text
			}
		}
		env = item.child("env_file")
	}
	read := func(n *node) (all []string, from []*node, ok bool) {
		ok = true
		for i, p := range asList(n).items {
			text, good := hostPath().decode(w, p, at)
			ok = ok && good
			if good {
				all, from = append(all, text), append(from, asList(n).items[i])
			}
		}
		return all, from, ok && len(all) > 0
	}
	if env != nil && !env.null() {
		one.envFiles, _, _ = read(env)
	}
	one.paths, one.at, ok = read(paths)
	return one, ok
}

// beside puts a file and what it includes together. What both have is an error: it
// would not be plain which of them holds.
func (l *loader) beside(w *walker, included, root *node) *node {
	for _, key := range []string{"containers", "networks", "volumes", "secrets", "configs"} {
		of := included.child(key)
		if of == nil || of.kind != mappingNode {
			continue
		}
		for _, e := range of.entries {
			if own := root.child(key).entry(e.key.text); own != nil && !sameText(own.value, e.value) {
				w.error(own.key, (*trail)(nil).key(key), "take it away here, or there; a file that is laid over (-f) may change it", "%s is already in %s (line %d)",
					quote(e.key.text), e.key.src.name, e.key.line)
			}
		}
	}
	return stackKeys().merge(w, included, root, nil)
}

// sameText reports whether two nodes say the same.
func sameText(a, b *node) bool {
	if a.kind != b.kind || a.text != b.text || len(a.items) != len(b.items) || len(a.entries) != len(b.entries) {
		return false
	}
	for i := range a.items {
		if !sameText(a.items[i], b.items[i]) {
			return false
		}
	}
	for _, e := range a.entries {
		if o := b.entry(e.key.text); o == nil || !sameText(e.value, o.value) {
			return false
		}
	}
	return true
}

// extended returns a service with those that it extends under it. A name may be of a
// service that is being read: a cycle.
func (l *lowering) service(name string) *node {
	raw := l.services.child(name)
	if n, ok := l.done[name]; ok {
		return n
	}
	n := l.mapping(raw, l.loader.serviceKeys())
	l.done[name] = n
	e := raw.child("extends")
	if e == nil || e.null() {
		return n
	}
	l.done[name] = nil // being read
	switch base := l.base(e); {
	case n.kind != mappingNode:
	case base == nil:
		l.put(n, e, extendsMark, l.like(e, mappingNode))
	case base.kind == mappingNode:
		n = containerKeys().merge(l.w, base, n, n.path)
	}
	l.done[name] = n
	return n
}

// base returns the service that extends names; nil where there is none, which is said.
func (l *lowering) base(e *node) *node {
	service, from := e, l
	if e.kind == mappingNode {
		l.into(&node{kind: mappingNode, place: e.place, path: e.path, entries: e.entries},
			&composeLevel{keys: []composeKey{{name: "service", lower: nothing}, {name: "file", lower: nothing}}}, &node{})
		service = e.child("service")
		if service == nil || service.null() {
			l.w.error(e, nil, `write extends: {service: NAME}`, "%q is missing", "service")
			return nil
		}
		if f := e.child("file"); f != nil && !f.null() && !l.unset(f) {
			if from = l.file(f); from == nil {
				return nil
			}
		}
	}
	name, ok := l.text(service)
	if !ok {
		return nil
	}
	if from.services == nil || from.services.child(name) == nil {
		where := ""
		if from != l {
			where = " in " + plain(from.name)
		}
		var names []string
		if from.services != nil {
			names = entryNames(from.services)
		}
		l.w.error(service, nil, suggest(name, names), "no service %s%s", quote(name), where)
		return nil
	}
	base := from.service(name)
	if base == nil {
		l.w.error(service, nil, "", "%s extends itself", quote(name))
	}
	return base
}

// file returns another file that services are taken from.
func (l *lowering) file(f *node) *lowering {
	text, ok := l.text(f)
	if !ok {
		return nil
	}
	path := l.w.path(f, text)
	if other, ok := l.loader.extends[path]; ok {
		return other
	}
	in, ok := l.loader.another(l.w, path, f, nil)
	if !ok {
		return nil
	}
	root := parse(in.name, in.data, l.w.report)
	if root == nil {
		return nil
	}
	if root.kind != mappingNode {
		l.w.error(f, nil, "", "a stack file is a mapping; found %s", root.describe())
		return nil
	}
	root.src.dir, root.src.near, root.src.lookup = filepath.Dir(path), filepath.Dir(in.name), f.src.lookup
	other := l.w.begin(root, l.loader, in.name)
	l.loader.extends[path] = other
	return other
}
