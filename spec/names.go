package spec

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// This file has what things may be called.

// stackPattern is the rule for names of stacks: a stack is named after its folder
// in lower case, and -n is typed.
const stackPattern = `^[a-z0-9][a-z0-9_-]{0,62}$`

// namePattern is the rule for all other names, that of Compose but for the first
// letter: a name that begins with a dot is a hidden file and a path of the host, and
// one that begins with - an option of a command.
const namePattern = `^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,62}$`

var (
	stackText = regexp.MustCompile(stackPattern)
	nameText  = regexp.MustCompile(namePattern)
)

// nameRule is namePattern in words.
const nameRule = "names have letters, digits, _, . and -, begin with a letter, a digit or _, and are at most 63 long"

// ValidStackName reports whether a stack may have the name.
func ValidStackName(name string) bool { return stackText.MatchString(name) }

// ValidName reports whether a container or a volume may have the name.
func ValidName(name string) bool { return nameText.MatchString(name) }

// ValidInstanceName reports whether an instance may have the name. It is that of a
// folder beside the files of the stack's own.
func ValidInstanceName(name string) bool { return nameText.MatchString(name) && !stackFile(name) }

// stackFiles are the files of a stack's folder (internal/store). Others begin with
// these names: stack.json.damaged, events.jsonl.1.
var stackFiles = []string{"lock", "stack.json", "events.jsonl", "networks.json", "leases.json", "switch.lock", "switch.log"}

func stackFile(name string) bool {
	return slices.ContainsFunc(stackFiles, func(f string) bool {
		return len(name) >= len(f) && strings.EqualFold(name[:len(f)], f) && (len(name) == len(f) || name[len(f)] == '.')
	})
}

// named is the kind of mappings from names to k.
func named[V any](what string, k kind[V]) kind[map[string]V] {
	m := mapping(k, func(name string) error {
		if !nameText.MatchString(name) {
			return wrong{fmt.Sprintf("%s is not a name for a %s", quote(name), what), nameRule}
		}
		return nil
	})
	m.schema["propertyNames"] = schemaDoc{"pattern": namePattern}
	return m
}

// nameOf is the kind of a name of something of the stack.
func nameOf(what string) kind[string] {
	return text(schemaDoc{"pattern": namePattern + `|\$`}, func(text string) (string, error) {
		if !nameText.MatchString(text) {
			return "", wrong{fmt.Sprintf("%s is not a name for a %s", quote(text), what), nameRule}
		}
		return text, nil
	})
}

// alike finds names that differ only in the case of letters, or not at all. Volumes
// are files, on a filesystem that may take one for the other; containers are looked
// up in DNS, where they are the same.
func (c *checker) alike(key string, name func(key string) string) {
	n := c.root.child(key)
	if n == nil || n.kind != mappingNode || !c.w.spend(n, n) {
		return
	}
	first := map[string]*node{}
	for _, e := range n.entries {
		called, at, where := name(e.key.text), (*trail)(nil).key(key), e.key
		if called != e.key.text {
			at, where = at.key(e.key.text).key("name"), e.value.child("name")
		}
		folded := strings.ToLower(called)
		switch f := first[folded]; {
		case f == nil:
			first[folded] = where
		case f.text == where.text:
			c.w.error(where, at, "", "%s is already the name of another (line %d)", quote(called), f.line)
		default:
			c.w.error(where, at, "", "%s and %s (line %d) differ only in the case of letters", quote(called), quote(f.text), f.line)
		}
	}
}

// instanceName is the kind of the name of an instance.
func instanceName() kind[string] {
	k := nameOf("container")
	decode := k.decode
	k.decode = func(w *walker, n *node, at *trail) (string, bool) {
		name, ok := decode(w, n, at)
		if ok && stackFile(name) {
			w.error(n, at, "", "%s is a file in the folder of the stack, where instances have their folders", quote(name))
			return "", false
		}
		return name, ok
	}
	return k
}

// instanceNames: no instance is called as a container, or an instance, of another
// name is. Both are names in DNS and on the command line.
func (c *checker) instanceNames(containers *node) {
	folded, named := map[string]*node{}, map[string]*node{}
	for _, e := range containers.entries {
		folded[strings.ToLower(e.key.text)] = e.key
	}
	for _, e := range containers.entries {
		if of := c.instanceOf(strings.ToLower(e.key.text), folded); of != nil {
			c.w.error(e.key, c.at(e.key.text), "", "%q is the name of an instance of container %q (line %d)", e.key.text, of.text, of.line)
		}
		d, n := c.file.containers[e.key.text], e.value.child("container_name")
		if n == nil || d.ContainerName == "" || !c.active[e.key.text] {
			continue
		}
		at, name := c.at(e.key.text).key("container_name"), strings.ToLower(d.ContainerName)
		if d.Replicas > 1 {
			c.w.error(n, at, "leave it out, or make replicas 1", "%d instances of %q would have the same name", d.Replicas, e.key.text)
		}
		if of := folded[name]; of != nil && of != e.key {
			c.w.error(n, at, "", "%q is the name of container %q (line %d)", d.ContainerName, of.text, of.line)
		} else if of := c.instanceOf(name, folded); of != nil {
			c.w.error(n, at, "", "%q is the name of an instance of container %q (line %d)", d.ContainerName, of.text, of.line)
		} else if of := named[name]; of != nil {
			c.w.error(n, at, "", "%q is already the name of the instance of container %q (line %d)", d.ContainerName, of.text, of.line)
		}
		named[name] = e.key
	}
}

// instanceOf returns the key of the container whose instance is called name, in
// lower case, for it says nothing else; nil: there is none.
func (c *checker) instanceOf(name string, containers map[string]*node) *node {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return nil
	}
	of := containers[name[:i]]
	if of == nil {
		return nil
	}
	index, err := strconv.Atoi(name[i+1:])
	d, ok := c.file.containers[of.text]
	if err != nil || !ok || d.ContainerName != "" || index < 1 || index > d.Replicas || InstanceName(name[:i], index) != name {
		return nil
	}
	return of
}
