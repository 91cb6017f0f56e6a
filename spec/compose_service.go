package spec

import (
	"slices"
	"strconv"
	"strings"
)

// This file has keys of a service that the language writes otherwise. Its mounts are
// in compose_mounts.go, its networks, ports and names in compose_network.go.

// buildMark keeps a build until the files are merged: a later file may name an image.
const buildMark = "x-compose-build"

// extendsMark says that what a service extends is not there: it may have had the image.
const extendsMark = "x-compose-extends"

func lowerServices(l *lowering, e entry, out *node) {
	if e.value.kind != mappingNode {
		l.put(out, e.key, "containers", l.mapping(e.value, l.loader.serviceKeys()))
		return
	}
	all := l.like(e.value, mappingNode)
	for _, s := range e.value.entries {
		if strings.HasPrefix(s.key.text, "x-") {
			continue
		}
		all.entries = append(all.entries, entry{s.key, l.service(s.key.text)})
	}
	for _, s := range e.value.entries {
		if from := s.value.child("volumes_from"); from != nil && !from.null() {
			l.volumesFrom(from, e.value, all.child(s.key.text))
		}
	}
	l.put(out, e.key, "containers", all)
}

// dependOn makes a service wait for another, unless it says itself how.
func (l *lowering) dependOn(service, at *node, name string) {
	on := service.child("depends_on")
	switch {
	case on == nil || on.null():
		l.put(service, at, "depends_on", l.list(at, []*node{l.word(at, name)}))
	case on.kind == listNode && !slices.ContainsFunc(on.items, func(n *node) bool { return n.text == name }):
		l.put(service, at, "depends_on", l.list(at, []*node{l.word(at, name)}))
	case on.kind == mappingNode && on.entry(name) == nil:
		condition := l.like(at, mappingNode)
		condition.add(at.place, "condition", l.word(at, "service_started"))
		one := l.like(at, mappingNode)
		one.add(at.place, name, condition)
		l.put(service, at, "depends_on", one)
	}
}

func onlyEntry(n *node, key string) []entry {
	if e := n.entry(key); e != nil {
		return []entry{*e}
	}
	return nil
}

func entryNames(n *node) []string {
	var names []string
	for _, e := range n.entries {
		names = append(names, e.key.text)
	}
	return names
}

func lowerBuild(l *lowering, e entry, out *node) {
	if e.value.kind == mappingNode {
		l.into(e.value, composeBuild(), l.like(e.value, mappingNode))
	}
	l.put(out, e.key, buildMark, l.like(e.value, mappingNode))
}

func lowerPull(l *lowering, e entry, out *node) {
	text, ok := l.text(e.value)
	if !ok || text == "" {
		return
	}
	v := e.value
	switch {
	case text == "if_not_present":
		v = l.word(v, "missing")
	case text == "build", text == "daily", text == "weekly", strings.HasPrefix(text, "every_"):
		l.hint(e.value, "vzcompose pull fetches the image anew", "%s is read as missing: an image is pulled where it is not there", quote(text))
		v = l.word(v, "missing")
	}
	l.put(out, e.key, "pull", v)
}

// propagations are options of a mount of the host, which does not reach into machines.
var propagations = []string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}

func lowerStorage(l *lowering, e entry, out *node) {
	if e.value.kind != mappingNode {
		l.mapping(e.value, nil)
		return
	}
	for _, o := range e.value.entries {
		if o.key.text != "size" {
			l.hint(o.key, "", "%s has no effect: it is of an engine's storage driver", quote(o.key.text))
			continue
		}
		layer := l.like(e.value, mappingNode)
		layer.add(o.key.place, "size", o.value)
		l.put(out, e.key, "writable_layer", layer)
	}
}

// lowerCommand: an empty text is an empty command, which replaces the image's.
func lowerCommand(l *lowering, e entry, out *node) {
	v := e.value
	if l.unset(v) {
		v = l.like(v, listNode)
	}
	l.put(out, e.key, e.key.text, v)
}

// lowerSecurity reads engines' security options, key:value or key=value.
func lowerSecurity(l *lowering, e entry, out *node) {
	for _, item := range l.items(e.value) {
		text, ok := l.text(item)
		if !ok {
			continue
		}
		i := strings.IndexAny(text, ":=")
		name, value := text, ""
		if i >= 0 {
			name, value = text[:i], text[i+1:]
		}
		switch name {
		case "seccomp":
			l.put(out, item, "seccomp", l.word(item, value))
		case "no-new-privileges":
			if value == "" {
				value = "true"
			}
			l.put(out, item, "no_new_privileges", l.plain(item, value))
		case "systempaths":
			if value != "unconfined" {
				l.w.error(item, nil, "write systempaths=unconfined", "%s is not unconfined", quote(value))
				continue
			}
			l.put(out, item, "masked_paths", l.like(item, listNode))
			l.put(out, item, "readonly_paths", l.like(item, listNode))
		case "apparmor", "label", "writable-cgroups":
			// AppArmor and SELinux of the host do not reach into machines.
		default:
			l.w.error(item, nil, suggest(name, []string{"seccomp", "no-new-privileges", "systempaths", "apparmor", "label"}), "unknown security option %s", quote(name))
		}
	}
}

// guestDevices are devices that a machine's kernel has without hardware.
var guestDevices = []string{"/dev/fuse", "/dev/net/tun", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/kmsg", "/dev/loop-control", "/dev/kvm"}

func lowerDevices(l *lowering, e entry, out *node) {
	if l.unset(e.value) {
		return
	}
	var all []*node
	for _, item := range l.items(e.value) {
		word := item
		if item.kind == mappingNode {
			text, ok := l.text(orNothing(item.child("source"), item))
			if !ok {
				continue
			}
			for _, key := range []string{"target", "permissions"} {
				if c := item.child(key); c != nil && l.w.resolve(c, nil) && c.text != "" {
					if key == "permissions" && item.child("target") == nil {
						text += ":" + text
					}
					text += ":" + c.text
				}
			}
			word = l.word(item, text)
		}
		text, ok := l.text(word)
		if !ok {
			continue
		}
		source, _, _ := strings.Cut(text, ":")
		if strings.HasPrefix(source, "/") && !slices.Contains(guestDevices, source) {
			l.w.refuse(word, nil, "run this service with an engine on the host", "%s is a device of the host, which a machine does not have", quote(source))
			continue
		}
		if strings.ContainsRune(source, '=') {
			l.w.refuse(word, nil, "run this service with an engine on the host", "%s is a device of the host (CDI), which a machine does not have", quote(source))
			continue
		}
		all = append(all, word)
	}
	l.put(out, e.key, "devices", l.list(e.value, all))
}

func orNothing(n, at *node) *node {
	if n != nil {
		return n
	}
	return &node{place: at.place, path: at.path}
}

func lowerRuntime(l *lowering, e entry, _ *node) {
	text, ok := l.text(e.value)
	switch {
	case !ok || text == "":
	case strings.Contains(text, "nvidia"):
		l.w.refuse(e.value, nil, "run this service with an engine on the host", "%s: a machine has no GPU", quote(text))
	default:
		l.hint(e.value, "oci_runtime of a vzcompose.yaml has a runtime in the machine", "%s has no effect: the container is run by the machine's agent", quote(text))
	}
}

// namespace is a row that would share something with the host or another service.
func namespace(what string) func(l *lowering, e entry, out *node) {
	return func(l *lowering, e entry, _ *node) {
		text, ok := l.text(e.value)
		if !ok || text == "" || text == "private" {
			return
		}
		l.w.refuse(e.value, nil, "leave it out: a machine sees its own", "%s: the %s of the host, or of another service, are in another machine", quote(text), what)
	}
}

func lowerIPC(l *lowering, e entry, _ *node) {
	text, ok := l.text(e.value)
	switch {
	case !ok || text == "" || text == "private" || text == "shareable" || text == "none":
	case text == "host":
		l.hint(e.value, "shm_size says how much shared memory there is", "%s has no effect: a machine has shared memory of its own", quote(text))
	default:
		l.w.refuse(e.value, nil, "put both programs into one service", "%s: shared memory of another service is in another machine", quote(text))
	}
}

func lowerAPISocket(l *lowering, e entry, _ *node) {
	if on, ok := l.flag(e.value); ok && on {
		l.w.refuse(e.value, nil, "run this service with the engine that it manages", "there is no engine whose socket it could have")
	}
}

// lowerCPUs: zero is no limit, as in Compose.
func lowerCPUs(l *lowering, e entry, out *node) {
	if text, ok := l.text(e.value); ok && text != "" && !isZero(text) {
		l.put(out, e.key, "cpus", e.value)
	}
}

func isZero(text string) bool {
	f, err := strconv.ParseFloat(text, 64)
	return err == nil && f == 0
}

// lowerMemory: zero is no limit; less than a machine starts in is the least.
func lowerMemory(l *lowering, e entry, out *node) {
	text, ok := l.text(e.value)
	if !ok || text == "" || isZero(text) {
		return
	}
	v := e.value
	if n, err := ParseSize(text); err == nil && n < minMemory {
		l.hint(e.value, "", "%s is read as %s, the least that a container starts in", text, formatSize(minMemory))
		v = l.word(v, formatSize(minMemory))
	}
	l.put(out, e.key, "memory", v)
}

// lowerQuota: microseconds of each period, which is 100,000 where nothing is said.
func lowerQuota(l *lowering, e entry, out *node) {
	text, ok := l.text(e.value)
	if !ok || text == "" || isZero(text) || text == "-1" {
		return
	}
	quota := 0.0
	period := 100_000.0
	for _, of := range []struct {
		n  *node
		to *float64
	}{{e.value, &quota}, {l.in.child("cpu_period"), &period}} {
		if of.n == nil || of.n.null() || l.unset(of.n) {
			continue
		}
		f, err := strconv.ParseFloat(of.n.text, 64)
		if err != nil || f <= 0 {
			l.w.error(of.n, nil, "write cpus", "%s is not a number of microseconds", quote(of.n.text))
			return
		}
		*of.to = f
	}
	l.put(out, e.key, "cpus", l.plain(e.value, strconv.FormatFloat(max(quota/period, 0.01), 'f', -1, 64)))
}

func lowerMode(l *lowering, e entry, _ *node) {
	if text, ok := l.text(e.value); ok && text != "" && text != "replicated" {
		l.hint(e.value, "write replicas", "%s is read as replicated: there is one host", quote(text))
	}
}

// lowerRestartPolicy: Swarm's words.
func lowerRestartPolicy(l *lowering, e entry, out *node) {
	l.into(e.value, &composeLevel{keys: []composeKey{
		{name: "condition", lower: nothing}, {name: "max_attempts", lower: nothing}, {name: "delay", fate: ignored}, {name: "window", fate: ignored}}}, l.like(e.value, mappingNode))
	if e.value.kind != mappingNode {
		return
	}
	policy, at := "always", e.value
	if c := e.value.child("condition"); c != nil && !c.null() {
		text, ok := l.text(c)
		if !ok {
			return
		}
		at = c
		switch text {
		case "", "any", "always":
		case "none", "no":
			policy = "no"
		case "on-failure", "unless-stopped":
			policy = text
		default:
			l.w.error(c, nil, suggest(text, []string{"none", "on-failure", "any"}), "%s is not none, on-failure or any", quote(text))
			return
		}
	}
	if m := e.value.child("max_attempts"); m != nil && !m.null() && policy == "on-failure" {
		if text, ok := l.text(m); ok && text != "" && !isZero(text) {
			policy += ":" + text
		}
	}
	l.put(out, e.key, "restart", l.word(at, policy))
}

// lowerRestart: deploy.restart_policy goes before it.
func lowerRestart(l *lowering, e entry, out *node) {
	policy := l.in.child("deploy").child("restart_policy")
	if !l.unset(e.value) && (policy == nil || policy.null()) {
		l.put(out, e.key, "restart", e.value)
	}
}

func lowerHooks(keys *composeLevel) func(l *lowering, e entry, out *node) {
	return func(l *lowering, e entry, out *node) {
		hooks := l.like(e.value, mappingNode)
		each(keys, e.key.text, true)(l, e, hooks)
		l.put(out, e.key, "hooks", hooks)
	}
}

func lowerLogging(l *lowering, e entry, out *node) {
	l.into(e.value, &composeLevel{keys: []composeKey{{name: "driver", lower: nothing}, {name: "options", lower: nothing}}}, l.like(e.value, mappingNode))
	if d := e.value.child("driver"); d != nil && !d.null() {
		if text, ok := l.text(d); ok && text != "" && text != "json-file" && text != "local" {
			l.hint(d, "vzcompose logs shows them", "%s is read as json-file: what a service says is kept by vzcompose", quote(text))
		}
	}
	options := e.value.child("options")
	if options == nil || options.kind != mappingNode {
		return
	}
	logging := l.like(e.value, mappingNode)
	for _, o := range options.entries {
		switch {
		case l.unset(o.value):
		case o.key.text == "max-size":
			v := o.value
			if n, err := ParseSize(strings.ToLower(v.text)); err == nil && n < 64<<10 {
				v = l.word(v, "64KiB")
			}
			logging.add(o.key.place, "max_size", v)
		case o.key.text == "max-file":
			logging.add(o.key.place, "max_files", l.plain(o.value, o.value.text))
		}
	}
	if len(logging.entries) > 0 {
		l.put(out, e.key, "logging", logging)
	}
}
