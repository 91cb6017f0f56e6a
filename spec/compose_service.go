package spec

import (
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"
)

// This file has the keys of Compose that become something else than themselves.

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

// propagations are options of a mount of the host, which does not reach into machines.
var propagations = []string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}

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

func lowerDomain(l *lowering, e entry, out *node) {
	if l.unset(e.value) {
		return
	}
	dns := l.like(e.value, mappingNode)
	dns.add(e.key.place, "domain", e.value)
	l.put(out, e.key, "dns", dns)
}

func lowerDNS(key string) func(l *lowering, e entry, out *node) {
	return func(l *lowering, e entry, out *node) {
		if l.unset(e.value) {
			return
		}
		dns := l.like(e.value, mappingNode)
		dns.add(e.key.place, key, l.list(e.value, l.items(e.value)))
		l.put(out, e.key, "dns", dns)
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

// lowerAttachments: no network at all is the default one.
func lowerAttachments(l *lowering, e entry, out *node) {
	if n := e.value; n.kind == scalarNode || n.override || len(n.items)+len(n.entries) > 0 {
		each(composeAttachment(), "networks", true)(l, e, out)
	}
}

func lowerNetworkMode(l *lowering, e entry, out *node) {
	text, ok := l.text(e.value)
	if !ok {
		return
	}
	kind, of, _ := strings.Cut(text, ":")
	if n := l.in.entry("networks"); n != nil && text != "" && !n.value.null() && len(n.value.items)+len(n.value.entries) > 0 {
		l.w.error(e.key, nil, "take one of them away", "a service has network_mode or networks, not both")
		return
	}
	switch {
	case text == "", text == "bridge", text == "default":
	case text == "none":
		l.put(out, e.key, "interfaces", l.like(e.value, listNode))
	case text == "host":
		l.w.refuse(e.value, nil, "publish the ports that it serves with ports, and reach the host's by host.docker.internal", "a machine is not on the host's network")
	case kind == "service" || kind == "container":
		l.w.refuse(e.value, nil, "put both on a network, and use the name "+plain(of), "two machines do not share a network card")
	default:
		l.w.error(e.value, nil, "name it under networks", "%s is not none or bridge", quote(text))
	}
}

func lowerMAC(l *lowering, e entry, out *node) {
	if l.unset(e.value) {
		return
	}
	one := l.like(e.value, mappingNode)
	one.add(e.key.place, "network", l.word(e.value, DefaultNetwork))
	one.add(e.key.place, "mac", e.value)
	if out.child("networks") != nil {
		l.hint(e.key, "write it in the network", "%q has no effect beside networks", "mac_address")
		return
	}
	l.put(out, e.key, "interfaces", l.like(e.value, listNode).with([]*node{one}))
}

// lowerPorts: a port without an address is on all of the host's.
func lowerPorts(l *lowering, e entry, out *node) {
	keys := l.loader.serviceKeys().key("ports").of
	if e.value.kind != listNode {
		l.put(out, e.key, "ports", e.value)
		return
	}
	var all []*node
	for _, item := range l.items(e.value) {
		if item.kind == mappingNode {
			item = l.mapping(item, keys)
			if !item.said("host_ip") {
				item.add(item.place, "host_ip", l.word(item, l.w.publishAddress()))
			}
		} else if l.unset(item) {
			continue
		}
		all = append(all, item)
	}
	l.put(out, e.key, "ports", l.list(e.value, all))
}

// lowerHosts: NAME:ADDRESS, NAME=ADDRESS, or a mapping from names to addresses; the
// language has names by address.
func lowerHosts(l *lowering, e entry, out *node) {
	all := l.like(e.value, mappingNode)
	add := func(at *node, name, address string) {
		address = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(address), "["), "]")
		list := l.list(at, []*node{l.word(at, strings.TrimSpace(name))})
		l.put(all, at, address, list)
	}
	switch e.value.kind {
	case listNode:
		for _, item := range l.items(e.value) {
			text, ok := l.text(item)
			if !ok {
				continue
			}
			i := strings.IndexByte(text, '=')
			if i < 0 {
				i = strings.IndexByte(text, ':')
			}
			if i < 0 {
				l.w.error(item, nil, `write "name:10.0.0.1"`, "%s has no address", quote(text))
				continue
			}
			add(item, text[:i], text[i+1:])
		}
	case mappingNode:
		for _, h := range e.value.entries {
			for _, address := range l.items(h.value) {
				if text, ok := l.text(address); ok {
					add(address, h.key.text, text)
				}
			}
		}
	default:
		if !l.unset(e.value) {
			l.w.error(e.value, nil, "", "expected a list or a mapping, found %s", e.value.describe())
		}
		return
	}
	l.put(out, e.key, "hosts", all)
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

// Networks, volumes, secrets and configs of the stack.

func lowerDriver(l *lowering, e entry, _ *node) {
	text, ok := l.text(e.value)
	switch {
	case !ok || text == "" || text == "bridge" || text == "default":
	case text == "host" || text == "none":
		l.w.refuse(e.value, nil, "publish ports, or leave the network out", "a machine is not on the host's network")
	default:
		l.hint(e.value, "", "%s is read as bridge: every network is carried by the stack's own switch", quote(text))
	}
}

func lowerDriverOptions(l *lowering, e entry, out *node) {
	if v := e.value.child("com.docker.network.driver.mtu"); v != nil && !v.null() && !l.unset(v) {
		l.put(out, e.key, "mtu", l.plain(v, v.text))
	}
}

func lowerPools(l *lowering, e entry, out *node) {
	var keys *composeLevel
	for _, k := range composeNetwork().key("ipam").of.keys {
		if k.name == "config" {
			keys = k.of
		}
	}
	for _, item := range l.items(e.value) {
		pool := l.mapping(item, keys)
		for _, key := range []string{"subnet", "gateway"} {
			if v := pool.entry(key); v != nil && !v.value.null() && !l.unset(v.value) {
				l.put(out, v.key, key, l.like(v.value, listNode).with([]*node{v.value}))
			}
		}
	}
}

func lowerIPv6(l *lowering, e entry, _ *node) {
	if on, ok := l.flag(e.value); ok && on {
		l.w.warnUnlessIPv6(e.key)
	}
}

// externals returns what external says: true, or a mapping with a name.
func (l *lowering) externals(n *node) bool {
	if n.kind == mappingNode {
		return true
	}
	on, ok := l.flag(n)
	return ok && on
}

func externalNetwork(l *lowering, e entry, _ *node) {
	if l.externals(e.value) {
		l.w.refuse(e.key, nil, "take external away: the network is made for this stack; to reach another stack publish a port there and use host.docker.internal", "an external network cannot be joined: one switch serves one stack")
	}
}

func externalOrigin(l *lowering, e entry, out *node) {
	if l.externals(e.value) {
		out.broken = true // it comes from nowhere
		l.w.refuse(e.key, nil, "name a file or a variable", "there is no store of secrets and configs")
	}
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

func originDriver(l *lowering, e entry, out *node) {
	if !l.unset(e.value) {
		out.broken = true // it comes from nowhere
		l.w.refuse(e.key, nil, "use file or environment", "there is no store of secrets")
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

// warnUnlessIPv6 says that IPv6 takes a subnet.
func (w *walker) warnUnlessIPv6(n *node) {
	w.warn(n, nil, `write ipam: {config: [{subnet: "10.40.0.0/24"}, {subnet: "fd00:40::/64"}]}`, "%q has no effect without a subnet of IPv6", "enable_ipv6")
}

// publishAddress is where ports of a Compose file without an address are opened.
func (w *walker) publishAddress() string {
	if w.publish == "" {
		return AllAddresses
	}
	return w.publish
}
