package spec

import (
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"
)

// This file has what of Compose becomes mounts: volumes of services and of the stack.

// volumesFrom adds the mounts of other services: SERVICE, or SERVICE:ro.
func (l *lowering) volumesFrom(from, services, into *node) {
	for _, item := range l.items(from) {
		text, ok := l.text(item)
		if !ok {
			continue
		}
		name, mode, _ := strings.Cut(text, ":")
		switch {
		case name == "container":
			l.w.error(item, nil, "name a service of the stack", "%s is no service of the stack", quote(text))
			continue
		case mode != "" && mode != "ro" && mode != "rw":
			l.w.error(item, nil, "write "+name+":ro", "%s is not a mode", quote(mode))
			continue
		case services.child(name) == nil:
			l.w.error(item, nil, suggest(name, entryNames(services)), "no service %s", quote(name))
			continue
		}
		l.dependOn(into, item, name)
		mounts := &node{}
		l.into(&node{kind: mappingNode, entries: onlyEntry(services.child(name), "volumes")}, l.loader.serviceKeys(), mounts)
		list := mounts.child("mounts")
		if list == nil || list.kind != listNode {
			continue
		}
		var all []*node
		for _, m := range longMounts(l.w, list, nil).items {
			copied := *m
			copied.place, copied.path = item.place, item.path
			copied.entries = slices.Clone(m.entries)
			copied.index = nil
			if mode == "ro" {
				l.put(&copied, item, "options", l.list(item, []*node{l.word(item, "ro")}))
			}
			all = append(all, &copied)
		}
		l.put(into, item, "mounts", l.list(item, all))
	}
}

// lowerMounts: the short form is the language's; the long one has other words.
func lowerMounts(l *lowering, e entry, out *node) {
	keys := l.loader.serviceKeys().key("volumes").of
	var all []*node
	if e.value.kind != listNode {
		if !l.unset(e.value) {
			l.put(out, e.key, "mounts", e.value) // what reads it says what is wrong
		}
		return
	}
	for _, item := range l.items(e.value) {
		long := item
		if item.kind == mappingNode {
			long = l.mapping(item, keys)
			if !long.said("type") {
				long.add(item.place, "type", l.word(item, "volume"))
			}
		} else if l.unset(item) {
			continue
		} else if !item.null() {
			long = l.shortMount(item)
		}
		if long.kind == mappingNode && !long.broken && l.ofHost(long) {
			long.broken = true
		}
		all = append(all, l.disk(long))
	}
	list := l.list(e.value, all)
	list.appends = false // mounts have a merge of their own
	l.put(out, e.key, "mounts", list)
}

// shortMount writes the short form of a mount out. What Compose ignores among its
// options is left out.
func (l *lowering) shortMount(n *node) *node {
	long := longMount(l.w, n, n.path)
	options := long.entry("options")
	if options == nil {
		return long
	}
	list := l.like(options.value, listNode)
	for _, o := range options.value.items {
		_, err := mountOption(long.child("type").text, o.text)
		switch {
		case slices.Contains(bindHints, o.text), slices.Contains(propagations, o.text):
		case err != nil && !strings.Contains(o.text, ":"):
			var e wrong
			errors.As(err, &e)
			l.hint(o, e.hint, "%s, so it has no effect", err)
		default:
			list.items = append(list.items, o)
		}
	}
	options.value = list
	return long
}

// disk puts what a volume of the file is a mount of in its place.
func (l *lowering) disk(mount *node) *node {
	source := mount.child("source")
	if source == nil || source.kind != scalarNode || mount.child("type").text != "volume" || !l.w.resolve(source, nil) {
		return mount
	}
	of, ok := l.disks[source.text]
	if !ok {
		return mount
	}
	out := l.like(mount, mappingNode)
	for _, e := range mount.entries {
		if e.key.text != "type" && e.key.text != "source" {
			out.entries = append(out.entries, e)
		}
	}
	for _, e := range of.entries {
		l.put(out, e.key, e.key.text, e.value)
	}
	return out
}

// hostTrees are folders of the host that only make sense in the host's own kernel.
var hostTrees = []string{"/", "/boot", "/dev", "/lib/modules", "/proc", "/run", "/sys", "/var/run", "/var/lib/docker"}

// ofHost refuses what is bound of the host's own running.
func (l *lowering) ofHost(mount *node) bool {
	source := mount.child("source")
	if source == nil || source.kind != scalarNode || mount.child("type").text != "bind" || !l.w.resolve(source, nil) || source.text == "" {
		return false
	}
	switch p := l.w.path(source, source.text); {
	case path.Base(p) == "docker.sock", path.Base(p) == "podman.sock", path.Base(p) == "containerd.sock":
		l.w.refuse(source, nil, "run this service with the engine that it manages", "%s is the socket of an engine, which there is none of here", quote(source.text))
	case slices.Contains(hostTrees, p), strings.HasPrefix(p, "/dev/"), strings.HasPrefix(p, "/proc/"), strings.HasPrefix(p, "/sys/"):
		l.w.refuse(source, nil, "a machine has its own; run what looks at the host on the host", "%s is a tree of the host's kernel", quote(source.text))
	default:
		return false
	}
	return true
}

func lowerMountType(l *lowering, e entry, out *node) {
	text, ok := l.text(e.value)
	if !ok {
		return
	}
	out.broken = true // it cannot be read as a mount, and that is said here
	switch text {
	case "npipe", "cluster":
		l.w.refuse(e.value, nil, "use bind or volume", "%s is not for machines that run Linux", quote(text))
	case "image":
		l.w.refuse(e.value, nil, "copy what is needed into a volume", "files of another image cannot be mounted")
	case "bind", "volume", "tmpfs":
		out.broken = false
	default:
		l.w.error(e.value, nil, suggest(text, []string{"bind", "volume", "tmpfs"}), "%s is not bind, volume or tmpfs", quote(text))
	}
	l.put(out, e.key, "type", e.value)
}

// option is a row that is an option of the mount where it is true.
func option(name string) func(l *lowering, e entry, out *node) {
	return func(l *lowering, e entry, out *node) {
		if on, ok := l.flag(e.value); ok && on {
			l.put(out, e.key, "options", l.list(e.value, []*node{l.word(e.value, name)}))
		}
	}
}

// valued is a row that is an option of the mount with its value.
func valued(name string) func(l *lowering, e entry, out *node) {
	return func(l *lowering, e entry, out *node) {
		text, ok := l.text(e.value)
		if !ok || text == "" {
			return
		}
		if name == "mode" { // a number of YAML, which may be octal
			n, err := strconv.ParseUint(text, 0, 32)
			if err != nil {
				l.w.error(e.value, nil, "write 01777", "%s is not a mode", quote(text))
				return
			}
			text = strconv.FormatUint(n, 8)
		}
		l.put(out, e.key, "options", l.list(e.value, []*node{l.word(e.value, name+"="+text)}))
	}
}

// lowerTmpfs: each is a path, with options after a colon.
func lowerTmpfs(l *lowering, e entry, out *node) {
	if l.unset(e.value) {
		return
	}
	var all []*node
	for _, item := range l.items(e.value) {
		text, ok := l.text(item)
		if !ok {
			continue
		}
		place, options, _ := strings.Cut(text, ":")
		m := l.like(item, mappingNode)
		m.add(item.place, "type", l.word(item, "tmpfs"))
		m.add(item.place, "destination", item.at(0, place))
		if options != "" {
			list := l.like(item, listNode)
			for _, o := range strings.Split(options, ",") {
				list.items = append(list.items, l.word(item, o))
			}
			m.add(item.place, "options", list)
		}
		all = append(all, m)
	}
	l.put(out, e.key, "mounts", l.like(e.value, listNode).with(all))
}

// with gives a list its items.
func (n *node) with(items []*node) *node {
	n.items = items
	return n
}

func externalVolume(l *lowering, e entry, out *node) {
	if e.value.kind != mappingNode {
		if !l.unset(e.value) {
			l.put(out, e.key, "external", e.value)
		}
		return
	}
	l.put(out, e.key, "external", l.plain(e.value, "true"))
	if name := e.value.child("name"); name != nil && !name.null() {
		l.put(out, e.key, "name", name)
	}
}

func volumeDriver(l *lowering, e entry, _ *node) {
	if text, ok := l.text(e.value); ok && text != "" && text != "local" {
		l.w.refuse(e.value, nil, "leave it out: a volume is a disk of its stack; bind a folder of the host for what lies elsewhere", "there is no driver %s", quote(text))
	}
}

// lowerVolumes: what driver_opts make a bind or a tmpfs is one in the services too.
func lowerVolumes(l *lowering, e entry, out *node) {
	keys := composeVolume()
	if e.value.kind != mappingNode {
		l.put(out, e.key, "volumes", l.mapping(e.value, keys))
		return
	}
	all := l.like(e.value, mappingNode)
	for _, v := range e.value.entries {
		if strings.HasPrefix(v.key.text, "x-") {
			continue
		}
		lowered := l.mapping(v.value, keys)
		if _, is := l.disks[v.key.text]; !is {
			all.entries = append(all.entries, entry{v.key, lowered})
		}
	}
	l.put(out, e.key, "volumes", all)
}

// findDisks reads driver_opts of the volumes before the services are read.
func (l *lowering) findDisks(volumes *node) {
	if volumes == nil || volumes.kind != mappingNode {
		return
	}
	for _, v := range volumes.entries {
		o := v.value.child("driver_opts")
		if o == nil || o.kind != mappingNode || len(o.entries) == 0 {
			continue
		}
		get := func(key string) *node {
			if n := o.child(key); n != nil && n.kind == scalarNode && l.w.resolve(n, nil) {
				return n
			}
			return &node{place: o.place, path: o.path}
		}
		mount := &node{kind: mappingNode, place: o.place, path: o.path}
		switch kind, options := get("type").text, get("o").text; {
		case slices.Contains(strings.Split(options, ","), "bind") && get("device").text != "":
			mount.add(o.place, "type", l.word(o, "bind"))
			mount.add(o.place, "source", get("device"))
		case kind == "tmpfs":
			mount.add(o.place, "type", l.word(o, "tmpfs"))
			if options != "" {
				list := &node{kind: listNode, place: o.place, path: o.path}
				for _, word := range strings.Split(options, ",") {
					list.items = append(list.items, l.word(get("o"), word))
				}
				mount.add(o.place, "options", list)
			}
		default:
			l.w.refuse(o, nil, "mount it on the host, and bind the folder", "a volume of type %s cannot be made", quote(kind))
			continue
		}
		l.disks[v.key.text] = mount
	}
}
