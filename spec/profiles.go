package spec

import (
	"slices"
	"strings"
)

// everyProfile stands for all of them among Options.Profiles.
const everyProfile = "*"

// profiles are the names under which a container is asked for: as Compose's.
func profiles() kind[[]string] {
	return list(text(schemaDoc{"pattern": `^[a-zA-Z0-9][a-zA-Z0-9_.-]*$|\$`}, func(text string) (string, error) {
		if !profileText(text) {
			return "", wrong{quote(text) + " is not a name for a profile", "names have letters, digits, _, . and -, and begin with a letter or digit"}
		}
		return text, nil
	}))
}

func profileText(s string) bool {
	letter := func(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' }
	return s != "" && len(s) <= 128 && letter(rune(s[0])) &&
		!strings.ContainsFunc(s, func(r rune) bool { return !letter(r) && !strings.ContainsRune("_.-", r) })
}

// profilesOf are those that the environment, or .env, asks for.
func profilesOf(lookup func(string) (string, bool)) []string {
	text, said := lookup("VZCOMPOSE_PROFILES")
	if !said {
		text = valueOf(lookup, "COMPOSE_PROFILES")
	}
	var all []string
	for p := range strings.SplitSeq(text, ",") {
		if p = strings.TrimSpace(p); p != "" {
			all = append(all, p)
		}
	}
	return all
}

// activate says which containers are in the stack: those without profiles, those
// of a profile that is asked for, those that are named, and what these cannot be
// without.
func (c *checker) activate(o Options) {
	c.active = map[string]bool{}
	for name, d := range c.file.containers {
		asked := func(p string) bool { return slices.Contains(o.Profiles, p) }
		if len(d.profiles) == 0 || asked(everyProfile) || slices.ContainsFunc(d.profiles, asked) {
			c.active[name] = true
		}
	}
	seen := map[string]bool{}
	for todo := slices.Clone(o.Named); len(todo) > 0; {
		name := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		d, there := c.file.containers[name]
		if !there || seen[name] {
			continue
		}
		seen[name], c.active[name] = true, true
		for on, dep := range d.DependsOn {
			if dep.Required {
				todo = append(todo, on)
			}
		}
	}
}

// inactive are the containers of the file that are not in the stack.
func (c *checker) inactive() []string {
	var all []string
	for _, name := range sortedKeys(c.file.containers) {
		if !c.active[name] {
			all = append(all, name)
		}
	}
	return all
}

// wanting finds where a container of the stack cannot be without one that is not
// in it.
func (c *checker) wanting(e entry) {
	of := e.key.text
	if !c.active[of] {
		return
	}
	for _, on := range sortedKeys(c.file.containers[of].DependsOn) {
		d, there := c.file.containers[on]
		if !there || c.active[on] || !c.file.containers[of].DependsOn[on].Required {
			continue
		}
		if n := e.value.child("depends_on"); n != nil && !c.w.spend(n, n) {
			return
		}
		n, at := c.dependency(of, on)
		c.w.error(n, at, "--profile "+d.profiles[0]+" has it, and required: false does without",
			"container %s is not in the stack: its %s not asked for", quote(on), profileWords(d.profiles))
	}
}

func profileWords(all []string) string {
	if len(all) == 1 {
		return "profile " + quote(all[0]) + " is"
	}
	quoted := make([]string, len(all))
	for i, p := range all {
		quoted[i] = quote(p)
	}
	return "profiles " + strings.Join(quoted, ", ") + " are"
}

// profileNames are all that containers name.
func (c *checker) profileNames() []string {
	var all []string
	for _, d := range c.file.containers {
		all = append(all, d.profiles...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// volumesInUse leaves out those that only containers have that are not in the
// stack. One that nobody has is made, as it is declared.
func (c *checker) volumesInUse() map[string]Volume {
	all := map[string]Volume{}
	for name, v := range c.file.volumes {
		used, needed := false, false
		for container, d := range c.file.containers {
			if slices.ContainsFunc(d.Mounts, func(m Mount) bool { return m.Type == "volume" && m.Source == name }) {
				used, needed = true, needed || c.active[container]
			}
		}
		if needed || !used {
			v.name = ""
			all[c.volumeName(name)] = v
		}
	}
	return all
}

// withActive leaves out dependencies on what is not in the stack; wanting has told
// of those that are required.
func (c *checker) withActive(all map[string]Dependency) map[string]Dependency {
	var kept map[string]Dependency
	for name, d := range all {
		if _, there := c.file.containers[name]; there && !c.active[name] {
			continue
		}
		if kept == nil {
			kept = make(map[string]Dependency, len(all))
		}
		kept[name] = d
	}
	return kept
}
