package spec

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

func limitKeys() []field[declared] {
	return []field[declared]{
		key("init", "A small init stands before the process: it passes signals on and reaps. Default: false.", unlessZero(boolean()),
			func(c *declared) *bool { return &c.Init }),
		key("group_add", "Groups beside those of the user: names of the image, or numbers.", list(group()),
			func(c *declared) *[]string { return &c.GroupAdd }),
		key("devices", "Devices of the machine that the container has too: /dev/fuse, or source:destination.", devices(),
			func(c *declared) *[]string { return &c.Devices }),
		key("ulimits", "Limits of each process: a number, or {soft, hard}; -1 is none.", ulimits(),
			func(c *declared) *map[string]Ulimit { return &c.Ulimits }),
		key("masked_paths", "Paths that the container cannot see into, in place of the usual ones.", guestPaths("masked_paths"),
			func(c *declared) *[]string { return &c.MaskedPaths }),
		key("readonly_paths", "Paths that the container cannot write to, in place of the usual ones.", guestPaths("readonly_paths"),
			func(c *declared) *[]string { return &c.ReadonlyPaths }),
		key("shm_size", "Of /dev/shm. Default: 64MiB.", unlessZero(size(4096, 1, "a page")),
			func(c *declared) *uint64 { return &c.ShmSize }),
		key("writable_layer", "What the container writes beside its mounts.", absentWhenEmpty(pointer(writableKeys().kind())),
			func(c *declared) **WritableLayer { return &c.WritableLayer }),
		key("overhead", "What the machine has beside what the container may use.", absentWhenEmpty(pointer(overheadKeys().kind())),
			func(c *declared) **Overhead { return &c.Overhead }),
		key("kernel", "The kernel of the machine, in place of the usual.", absentWhenEmpty(pointer(kernelKeys().kind())),
			func(c *declared) **Kernel { return &c.Kernel }),
		key("virtualization", "true: machines can be run in the machine, where the host can do that.", unlessZero(boolean()),
			func(c *declared) *bool { return &c.Virtualization }),
		key("vsock", "true: the container may use virtual sockets. Sockets that are ports of them imply it.", unlessZero(boolean()),
			func(c *declared) *bool { return &c.Vsock }),
		key("oci_runtime", "Path in the root of an OCI runtime, crun or runc, which runs the container. Default: the agent runs it.",
			guestPath("oci_runtime", false), func(c *declared) *string { return &c.OCIRuntime }),
	}
}

// devices are Compose's words, source[:destination[:permissions]]. Whether the
// machine's kernel has such a device is known when there is a machine.
func devices() kind[[]string] {
	k := list(text(nil, device))
	decode := k.decode
	k.decode = func(w *walker, n *node, at *trail) ([]string, bool) {
		all, ok := decode(w, n, at)
		first := map[string]bool{}
		for i, d := range all {
			_, to := SplitDevice(d)
			if first[to] && i < len(n.items) {
				w.error(n.items[i], at.item(i), "", "%s is already a device's", quote(to))
				ok = false
			}
			first[to] = true
		}
		return all, ok
	}
	return k
}

func device(text string) (string, error) {
	from, rest, _ := strings.Cut(text, ":")
	to, rights, given := strings.Cut(rest, ":")
	if to == "" {
		to = from
	}
	clean := func(s string) bool { return path.Clean(s) == s && path.IsAbs(s) && len(s) < 4096 }
	switch {
	case !clean(from) || !strings.HasPrefix(from, "/dev/"):
		return "", wrong{quote(text) + " is not a device", "write one of the machine's, such as /dev/fuse"}
	case !clean(to) || to == "/":
		return "", wrong{quote(to) + " is not a place for a device", "write an absolute path"}
	case given && rights != "rwm":
		return "", wrong{quote(rights) + " cannot be held: who has a device has it whole", "leave it out; permission bits say who may open it"}
	case from == to:
		return from, nil
	}
	return from + ":" + to, nil
}

// SplitDevice takes a word of Container.Devices apart.
func SplitDevice(word string) (source, destination string) {
	source, destination, ok := strings.Cut(word, ":")
	if !ok {
		destination = source
	}
	return source, destination
}

func writableKeys() *object[WritableLayer] {
	return &object[WritableLayer]{fields: []field[WritableLayer]{
		key("size", "What it may come to. Default: 16GiB. The host stores what is used.",
			unlessZero(size(minVolume, 4096, "the least that holds a filesystem")), func(l *WritableLayer) *uint64 { return &l.Size }),
	}}
}

func overheadKeys() *object[Overhead] {
	return &object[Overhead]{fields: []field[Overhead]{
		key("cpus", "Processors beside those of cpus. Default: 0.", unlessZero(integer(0, maxCPUs)), func(o *Overhead) *int { return &o.CPUs }),
		key("memory", "Beside memory. Default: 128MiB and a 32nd of memory.",
			unlessZero(size(64<<20, 1, "the least that the kernel and the agent need")), func(o *Overhead) *uint64 { return &o.Memory }),
	}}
}

func group() kind[string] {
	return text(nil, func(text string) (string, error) {
		if !userText.MatchString(text) || strings.ContainsRune(text, ':') || len(text) > 128 {
			return "", wrong{quote(text) + " is not a group", "write a name or a number"}
		}
		return text, nil
	})
}

// guestPaths are paths in the container. Nil: not said; empty: none.
func guestPaths(what string) kind[[]string] {
	k := list(guestPath(what, false))
	decode := k.decode
	k.decode = func(w *walker, n *node, at *trail) ([]string, bool) {
		all, ok := decode(w, n, at)
		slices.Sort(all)
		return append([]string{}, slices.Compact(all)...), ok
	}
	item := verbatim()
	k.encode = func(all []string) any {
		if all == nil {
			return nil
		}
		return encodeAll(item, all)
	}
	return k
}

// ulimitNames are those of setrlimit(2), as Compose writes them.
var ulimitNames = strings.Fields("as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack")

// unlimited stands for -1 in the file.
const unlimited = ^uint64(0)

func ulimits() kind[map[string]Ulimit] {
	pair := ulimitKeys().kind()
	number := limit()
	one := kind[Ulimit]{
		schema: schemaDoc{"anyOf": []any{number.schema, pair.schema}},
		encode: pair.encode, merge: pair.merge,
		decode: func(w *walker, n *node, at *trail) (Ulimit, bool) {
			if n.kind == scalarNode && !n.null() {
				v, ok := number.decode(w, n, at)
				return Ulimit{v, v}, ok
			}
			return pair.decode(w, n, at)
		},
	}
	k := mapping(one, func(name string) error {
		if slices.Contains(ulimitNames, name) {
			return nil
		}
		return wrong{quote(name) + " is not a limit", suggest(name, ulimitNames)}
	})
	k.schema["propertyNames"] = schemaDoc{"enum": anySlice(ulimitNames)}
	decode := k.decode
	k.decode = func(w *walker, n *node, at *trail) (map[string]Ulimit, bool) {
		all, ok := decode(w, n, at)
		if len(all) == 0 {
			return nil, ok
		}
		return all, ok
	}
	return k
}

func anySlice(names []string) []any {
	var all []any
	for _, n := range names {
		all = append(all, n)
	}
	return all
}

func ulimitKeys() *object[Ulimit] {
	return &object[Ulimit]{
		required: []string{"soft", "hard"},
		fields: []field[Ulimit]{
			key("soft", "What holds.", limit(), func(u *Ulimit) *uint64 { return &u.Soft }),
			key("hard", "To what a process may raise it.", limit(), func(u *Ulimit) *uint64 { return &u.Hard }),
		},
		finish: func(w *walker, n *node, at *trail, u *Ulimit) bool {
			if u.Soft > u.Hard {
				w.error(n.child("soft"), at.key("soft"), "", "the soft limit is above the hard limit")
			}
			return u.Soft <= u.Hard
		},
	}
}

func limit() kind[uint64] {
	schema := variables(schemaDoc{"type": "integer", "minimum": -1})
	return scalar("an integer", intScalar|stringScalar, schema, func(_ *walker, _ *node, text string) (uint64, error) {
		if text == "-1" {
			return unlimited, nil
		}
		if !intText.MatchString(text) {
			return 0, errKind
		}
		n, err := strconv.ParseUint(strings.TrimPrefix(text, "+"), 0, 63)
		if err != nil {
			return 0, fmt.Errorf("%s is not a limit: it is -1 or above", text)
		}
		return n, nil
	}, func(n uint64) any {
		if n == unlimited {
			return -1
		}
		return int(n)
	})
}

// mode is an octal mode, however it is written.
func mode() kind[uint32] {
	return scalar("a mode", intScalar|stringScalar, schemaDoc{"type": []any{"string", "integer"}}, func(_ *walker, _ *node, text string) (uint32, error) {
		n, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), 8, 16)
		if err != nil || n > 0o777 {
			return 0, wrong{quote(text) + " is not a mode", `write mode: "0440"`}
		}
		return uint32(n), nil
	}, func(m uint32) any { return fmt.Sprintf("0%o", m) })
}

// number32 is a uid or gid.
func number32() kind[uint32] {
	return scalar("an integer", intScalar|stringScalar, schemaDoc{"type": []any{"string", "integer"}}, func(_ *walker, _ *node, text string) (uint32, error) {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || n == 1<<32-1 {
			return 0, errors.New(quote(text) + " is not the number of a user or group")
		}
		return uint32(n), nil
	}, func(n uint32) any { return int(n) })
}
