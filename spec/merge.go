package spec

import "path"

// mergeEntries lays over over base: keys of base keep their order, both together
// are what each says. Compose's rules: a key without a value says nothing,
// "!reset" takes a key out, "!override" replaces without merging.
func mergeEntries(base, over *node, each func(name string, base, over *node) *node) *node {
	out := &node{kind: mappingNode, place: over.place, entries: make([]entry, 0, len(base.entries)+len(over.entries))}
	later := make(map[string]entry, len(over.entries))
	for _, e := range over.entries {
		later[e.key.text] = e
	}
	both := map[string]bool{}
	for _, e := range base.entries {
		o, ok := later[e.key.text]
		switch {
		case !ok:
			out.entries = append(out.entries, e)
			continue
		case o.value.reset:
		case o.value.override:
			out.entries = append(out.entries, o)
		default:
			out.entries = append(out.entries, entry{o.key, each(e.key.text, e.value, o.value)})
		}
		both[e.key.text] = true
	}
	for _, e := range over.entries {
		if !both[e.key.text] && !e.value.reset {
			out.entries = append(out.entries, e)
		}
	}
	return out
}

// replaced returns what stands of two values that have no merge of their own: the
// later one, or both where it is a list that is added.
func replaced(base, over *node) *node {
	if !over.appends || over.override || base.kind != listNode || over.kind != listNode {
		return over
	}
	out := *over
	out.items = append(append([]*node(nil), base.items...), over.items...)
	return &out
}

// mergeable reports whether two nodes can be merged as mappings, and where they
// cannot, which of them stands.
func mergeable(base, over *node) (*node, bool) {
	switch {
	case over.null():
		return base, false
	case over.override || base.null() || base.kind != mappingNode || over.kind != mappingNode:
		return over, false
	}
	return nil, true
}

// spend counts the nodes that a merge looks at; false: too many.
func (w *walker) spend(base, over *node) bool {
	w.charge(len(base.entries) + len(over.entries) + len(base.items) + len(over.items))
	return w.visit(over)
}

func (o *object[T]) merge(w *walker, base, over *node, at *trail) *node {
	if only, ok := mergeable(base, over); !ok {
		return only
	}
	if !w.spend(base, over) {
		return over
	}
	return mergeEntries(o.without(base, over), over, func(name string, b, v *node) *node {
		f := o.field(name)
		switch {
		case v.null():
			return b
		case f == nil || f.merge == nil:
			return replaced(b, v)
		}
		return f.merge(w, b, v, at.key(name))
	})
}

// without drops from base the alternatives that over chooses against.
func (o *object[T]) without(base, over *node) *node {
	chosen := false
	for _, name := range o.alternatives {
		chosen = chosen || over.said(name)
	}
	if !chosen {
		return base
	}
	out := *base
	out.entries, out.index = nil, nil
	for _, e := range base.entries {
		drop := false
		for _, name := range o.alternatives {
			drop = drop || e.key.text == name && !over.said(name)
		}
		if !drop {
			out.entries = append(out.entries, e)
		}
	}
	return &out
}

// mergeMounts replaces mounts that have the same destination and adds the rest.
func mergeMounts(w *walker, base, over *node, at *trail) *node {
	if over.override || base.kind != listNode || over.kind != listNode || !w.spend(base, over) {
		return over
	}
	base, over = longMounts(w, base, at), longMounts(w, over, at)
	out := &node{kind: listNode, place: over.place, items: append([]*node(nil), base.items...)}
	index := map[string]int{}
	for i, m := range base.items {
		if d := destinationOf(w, m, at); d != "" {
			index[d] = i
		}
	}
	for _, m := range over.items {
		if i, ok := index[destinationOf(w, m, at)]; ok {
			out.items[i] = m
		} else {
			out.items = append(out.items, m)
		}
	}
	return out
}

func destinationOf(w *walker, mount *node, at *trail) string {
	d := mount.child("destination")
	if d == nil || d.kind != scalarNode || !w.resolve(d, at.key("destination")) {
		return ""
	}
	return path.Clean(d.text)
}
