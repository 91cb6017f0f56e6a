package spec

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// filesystems are the types of mounts that the guest's kernel may know; others
// pass too, unless they look like one of these misspelled.
var filesystems = []string{
	"bind", "volume", "tmpfs", "block", "proc", "sysfs", "mqueue", "devpts", "cgroup", "cgroup2", "devtmpfs", "debugfs", "tracefs",
	"securityfs", "bpf", "fusectl", "hugetlbfs", "ramfs", "configfs", "overlay", "binfmt_misc", "efivarfs", "pstore",
	"ext4", "erofs", "squashfs", "9p", "virtiofs", "nfs", "nfs4", "cifs", "none",
}

var filesystemText = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,31}$`)

func mountType() kind[string] {
	schema := schemaDoc{"pattern": filesystemText.String(), "examples": []any{"bind", "volume", "tmpfs", "block"}}
	return word(schema, func(text string) (string, error) {
		for _, known := range filesystems {
			if text == known {
				return text, nil
			}
		}
		if hint := suggest(text, filesystems); hint != "" || !filesystemText.MatchString(text) {
			return "", wrong{quote(text) + " is not a type of mount", hint}
		}
		return text, nil
	})
}

// guestPath is an absolute path in the container.
func guestPath(what string, root bool) kind[string] {
	schema := variables(schemaDoc{"type": "string", "pattern": "^/"})
	return scalar("a path", stringScalar, schema, func(_ *walker, _ *node, text string) (string, error) {
		switch clean := path.Clean(text); {
		case !strings.HasPrefix(text, "/"):
			return "", wrong{quote(text) + " is not an absolute path", what + " is a path in the container"}
		case len(clean) > 4095:
			return "", errors.New("the path is longer than 4095 bytes")
		case clean == "/" && !root:
			return "", errors.New("the root of the container comes from its image or rootfs")
		default:
			return clean, nil
		}
	}, encodeText)
}

// mounts is a list of mounts, each a mapping or a short form:
// source:destination[:options], or the destination of a volume without a name.
func mounts() kind[[]Mount] {
	one := mountKeys().kind()
	changes := one.diff
	one.diff = func(field string, old, new Mount) []Change { // whose it is is no key of the mount
		all := changes(field, old, new)
		if old.External != new.External {
			all = append(all, Change{field + ".source", old.volume(), new.volume()})
		}
		return all
	}
	return kind[[]Mount]{
		schema: schemaDoc{"type": "array", "items": schemaDoc{"anyOf": []any{schemaDoc{"type": "string"}, one.schema}}},
		encode: list(one).encode,
		diff:   func(field string, old, new []Mount) []Change { return diffMounts(one, field, old, new) },
		merge:  mergeMounts,
		decode: func(w *walker, n *node, at *trail) ([]Mount, bool) {
			if !w.list(n, at) {
				return nil, false
			}
			long := longMounts(w, n, at)
			var all byPlace[Mount]
			for i, mount := range long.items {
				m, ok := one.decode(w, mount, at.item(i))
				if !ok {
					continue
				}
				if by, taken := all.put(m.Destination, m, item{mount, i}); taken {
					w.error(mount.child("destination"), at.item(i), "", "%s is already the destination of mounts[%d] (line %d)",
						quote(m.Destination), by.index, by.node.child("destination").line)
				}
			}
			w.items[n] = all.from
			return all.all, true
		},
	}
}

// longMounts writes the short forms of a list out.
func longMounts(w *walker, n *node, at *trail) *node {
	out := *n
	out.items = make([]*node, len(n.items))
	for i, item := range n.items {
		out.items[i] = item
		if item.kind == scalarNode && !item.broken {
			out.items[i] = longMount(w, item, at.item(i))
		}
	}
	return &out
}

func longMount(w *walker, n *node, at *trail) *node {
	out := &node{kind: mappingNode, place: n.place, broken: true}
	if !w.resolve(n, at) {
		return out
	}
	if n.scalar() != stringScalar {
		w.error(n, at, "", "expected a mapping or source:destination, found %s", n.describe())
		return out
	}
	parts := strings.SplitN(n.text, ":", 3)
	source, kind := parts[0], "volume"
	switch {
	case len(parts) > 1 && source != "" && strings.ContainsAny(source[:1], "/~."):
		kind = "bind"
	case strings.HasPrefix(source, "/") && len(parts) == 1: // a volume without a name
		parts = []string{"", source}
	case strings.ContainsAny(source, "/~") || source == "" || source[0] == '.':
		hint := ""
		if len(parts) > 1 && source != "" {
			hint = "write ./" + n.text + " for a folder of the host"
		}
		w.error(n, at, hint, "%s is not source:destination", quote(n.text))
		return out
	case len(parts) == 1:
		w.error(n, at, "write source:destination", "%s has no destination", quote(n.text))
		return out
	}
	out.broken = false
	out.add(n.place, "type", &node{place: n.place, text: kind, quoted: true})
	if parts[0] == "" {
		out.add(n.place, "destination", n.at(0, source))
		return out
	}
	out.add(n.place, "source", n.at(0, source))
	out.add(n.place, "destination", n.at(len(source)+1, parts[1]))
	if len(parts) == 3 {
		options := &node{kind: listNode, place: n.at(len(source)+len(parts[1])+2, parts[2]).place}
		offset := len(source) + len(parts[1]) + 2
		for _, o := range strings.Split(parts[2], ",") {
			options.items = append(options.items, n.at(offset, o))
			offset += len(o) + 1
		}
		out.add(n.place, "options", options)
	}
	return out
}

// add appends an entry that is not written in the file.
func (n *node) add(p place, key string, value *node) {
	n.entries = append(n.entries, entry{&node{place: p, text: key, quoted: true}, value})
}

// flags are the options of every mount that a kernel knows, after the OCI
// runtime-spec (config.md, "Linux mount options").
var flags = []string{
	"ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "atime", "noatime", "diratime", "nodiratime",
	"relatime", "norelatime", "strictatime", "nostrictatime", "lazytime", "nolazytime", "sync", "async", "dirsync",
	"symfollow", "nosymfollow", "private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable",
	"defaults", "silent", "loud", "mand", "nomand", "iversion", "noiversion",
}

// bindHints are options of other engines that mean nothing here.
var bindHints = []string{"z", "Z", "cached", "delegated", "consistent", "bind", "rbind"}

// tmpfsValues are the options of tmpfs that have a value (tmpfs(5)).
var tmpfsValues = []string{"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "huge", "mpol"}

// finishMount checks what a mount's keys mean together.
func finishMount(w *walker, n *node, at *trail, m *Mount) bool {
	if m.Type == "" || m.Destination == "" {
		return false // said already
	}
	if m.CreateHostPath != nil && m.Type != "bind" {
		w.error(n.child("create_host_path"), at.key("create_host_path"), "take it away", "only the source of a bind is made")
		return false
	}
	if m.CreateHostPath != nil && *m.CreateHostPath {
		m.CreateHostPath = nil // the default
	}
	switch {
	case (m.Type == "bind" || m.Type == "block") && m.Source == "":
		w.error(n, at, "", "%q is missing: what of the host it is", "source")
		return false
	case m.Type == "bind", m.Type == "block":
		m.Source = w.path(n.child("source"), m.Source)
	case m.Type == "tmpfs":
		m.Source = "" // the kernel looks at none
	case m.Type != "volume":
		return true
	}
	ok := true
	if m.Type == "bind" {
		m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return slices.Contains(bindHints, o) })
	}
	for i, option := range m.Options {
		o, err := mountOption(m.Type, option)
		if m.Options[i] = o; err != nil {
			where := n
			if items := n.child("options").items; i < len(items) {
				where = items[i]
			}
			w.wrong(where, at.key("options").item(i), err)
			ok = false
		}
	}
	return ok
}

// mountOption answers an option as the kernel reads it.
func mountOption(mount, option string) (string, error) {
	known := flags
	name, value, valued := strings.Cut(option, "=")
	if mount == "volume" {
		known = append(slices.Clone(flags), "nocopy")
	}
	if mount == "tmpfs" {
		known = append(append([]string{}, flags...), tmpfsValues...)
	}
	for i, k := range known {
		if name != k {
			continue
		}
		switch takes := mount == "tmpfs" && i >= len(flags); {
		case takes && value == "":
			return option, fmt.Errorf("option %q needs a value", name)
		case !takes && valued:
			return option, fmt.Errorf("option %q takes no value", name)
		case takes:
			return tmpfsOption(name, value)
		}
		return option, nil
	}
	return option, wrong{fmt.Sprintf("a %s has no option %s", mount, quote(option)), suggest(name, known)}
}

func tmpfsOption(name, value string) (string, error) {
	option := name + "=" + value
	switch name {
	case "size":
		if percent, ok := strings.CutSuffix(value, "%"); ok {
			if n, err := strconv.ParseUint(percent, 10, 8); err != nil || n == 0 || n > 100 {
				return option, fmt.Errorf("size %s is not between 1%% and 100%%", quote(value))
			}
			return option, nil
		}
		n, err := ParseSize(value)
		if err != nil {
			return option, err
		}
		if n == 0 {
			return option, errors.New("size 0 would be no limit at all")
		}
		return "size=" + kernelSize(n), nil
	case "mode":
		n, err := strconv.ParseUint(value, 8, 16)
		if err != nil || n > 0o7777 {
			return option, wrong{fmt.Sprintf("mode %s is not an octal mode", quote(value)), "write mode=1777"}
		}
		return "mode=" + strconv.FormatUint(n, 8), nil
	case "uid", "gid":
		if _, err := strconv.ParseUint(value, 10, 32); err != nil {
			return option, fmt.Errorf("%s %s is not a number", name, quote(value))
		}
	}
	return option, nil
}

// kernelSize writes a number of bytes as tmpfs reads it.
func kernelSize(n uint64) string {
	for i, unit := range []string{"g", "m", "k"} {
		if shift := uint(30 - 10*i); n%(1<<shift) == 0 {
			return strconv.FormatUint(n>>shift, 10) + unit
		}
	}
	return strconv.FormatUint(n, 10)
}

// volume says which volume a mount is of.
func (m Mount) volume() string {
	if m.External {
		return "external volume " + m.Source
	}
	return "volume " + m.Source
}

// ReadOnly reports whether the container cannot write to the mount.
func (m Mount) ReadOnly() bool {
	readOnly := false
	for _, o := range m.Options {
		readOnly = o == "ro" || readOnly && o != "rw"
	}
	return readOnly
}
