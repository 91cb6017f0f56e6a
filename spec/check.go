package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// checker checks what the keys of a stack mean together. Its findings point into
// the merged tree, where every value still stands in its own file.
type checker struct {
	w    *walker
	root *node
	file *file
	// env has the env files that were read.
	env map[envKey][]envEntry
	// active are the containers that are in the stack (profiles).
	active map[string]bool
	// filters has the digests of the seccomp profiles that were read, by path.
	filters map[string]string
	// loops counts cycles of dependencies.
	loops int
}

// envKey is a file of the environment, and how it is read.
type envKey struct {
	path string
	raw  bool
}

// containers answers the containers as the stack holds them.
func (c *checker) containers() map[string]Container {
	all := make(map[string]Container, len(c.file.containers))
	for name, d := range c.file.containers {
		out := d.Container
		out.Environment = c.environment(name, d)
		if len(out.DependsOn) == 0 {
			out.DependsOn = nil
		}
		switch {
		case out.RootFS != nil:
			out.Pull = ""
		case out.Pull == "":
			out.Pull = "missing"
		}
		if len(out.Hosts) == 0 {
			out.Hosts = nil
		}
		out.Interfaces = c.interfaces(name, d)
		out.Vsock = c.vsock(name, out)
		if c.active[name] {
			out.Seccomp.Digest = c.seccomp(name, out.Seccomp.Profile)
		}
		out.Secrets = c.given(name, "secrets", "secret", out.Secrets, c.file.secrets)
		out.Configs = c.given(name, "configs", "config", out.Configs, c.file.configs)
		d.Container = out
		if out.DependsOn = c.withActive(out.DependsOn); c.active[name] {
			out.Mounts = c.mounted(out.Mounts)
			all[name] = out
		}
		c.file.containers[name] = d
	}
	c.linkNames(all)
	return all
}

func (c *checker) node(container string) *node {
	return c.root.child("containers").child(container)
}

func (c *checker) at(container string) *trail {
	return (*trail)(nil).key("containers").key(container)
}

// environment lays environment over the files of env_file, of which a later one
// may use the variables of an earlier one and those of environment. A name without a
// value that the caller does not have either is taken out.
func (c *checker) environment(name string, d declared) map[string]string {
	all := map[string]string{}
	for i, f := range d.envFiles {
		lookup := func(name string) (string, bool) {
			if v, ok := c.w.variables(f.at)(name); ok {
				return v, true
			}
			v, ok := d.Environment[name]
			return v, ok
		}
		if !c.active[name] {
			break // its files need not be there
		}
		putEnv(c.w, c.envFile(f, c.at(name).key("env_file").item(i)), all, lookup)
	}
	if n := c.node(name).child("environment"); n != nil && c.w.spend(n, n) {
		for _, e := range pairs(c.w, n, c.at(name).key("environment"), "=").entries {
			delete(all, e.key.text)
		}
	}
	for k, v := range d.Environment {
		all[k] = v
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// envFile returns the statements of a file, which is read once for all that name
// it.
func (c *checker) envFile(f envFile, at *trail) []envEntry {
	as := envKey{f.path, f.raw}
	entries, read := c.env[as]
	if !read {
		data, err := readBounded(f.path)
		if c.w.room -= len(data); err == nil && c.w.room < 0 {
			err = fmt.Errorf("the files of the stack are larger than %s together", formatSize(maxExpansion))
		}
		if err != nil {
			if f.required || !errors.Is(err, fs.ErrNotExist) {
				c.w.error(f.at, at, "", "%s: %s", quote(f.at.text), reason(err))
			}
			return nil
		}
		parse := parseEnv
		if f.raw {
			parse = parseRaw
		}
		entries = parse(c.w, c.w.shown(f.path), data)
		c.env[as] = entries
	}
	c.w.charge(len(entries))
	if !c.w.visit(f.at) {
		return nil
	}
	return entries
}

// runtime finds an init beside an OCI runtime: the first is the agent's, which
// does not start the process then.
func (c *checker) runtime(e entry) {
	d := c.file.containers[e.key.text]
	if n := e.value.child("oci_runtime"); n != nil && d.OCIRuntime != "" && d.Init {
		c.w.error(n, c.at(e.key.text).key("oci_runtime"), "take init away, or have the image's own init as the command",
			"there is no init where an OCI runtime runs the container")
	}
	if n := e.value.child("seccomp"); n != nil && d.OCIRuntime != "" && d.Seccomp.Profile != "" && d.Seccomp.Profile != SeccompUnconfined {
		c.w.error(n, c.at(e.key.text).key("seccomp"), "take it away, or oci_runtime", "an OCI runtime is not given a profile yet")
	}
}

func (c *checker) check(o Options) {
	containers := c.root.child("containers")
	switch {
	case containers == nil:
		c.w.error(c.root, nil, "", "the stack has no containers")
		return
	case containers.kind != mappingNode || len(containers.entries) == 0:
		if containers.null() || containers.kind == mappingNode {
			c.w.error(containers, nil, "", "the stack has no containers")
		}
		return
	}
	for _, e := range containers.entries {
		if _, ok := c.file.containers[e.key.text]; !ok {
			continue
		}
		c.source(e)
		c.rootFS(e)
		c.healthCheck(e)
		c.dependencies(e)
		c.wanting(e)
		c.places(e)
		c.kernelFiles(e)
		c.platformOf(e, o.Platform)
		c.runtime(e)
	}
	c.instanceNames(containers)
	c.alike("containers", func(name string) string { return name })
	c.alike("volumes", c.volumeName)
	c.origins("secrets", c.file.secrets)
	c.origins("configs", c.file.configs)
	c.hostSockets(containers)
	c.networks(containers)
	c.published(containers)
	c.hostPorts(containers)
	c.volumes(containers)
	c.binds(containers)
	c.cycles()
}

// source: exactly one of image and rootfs.
func (c *checker) source(e entry) {
	name := e.key.text
	image, rootfs := e.value.said("image"), e.value.said("rootfs")
	switch {
	case image && rootfs:
		c.w.error(e.value.entry("rootfs").key, c.at(name), "", "a container has an image or a rootfs, not both")
	case !image && !rootfs && e.value.entry(extendsMark) != nil:
	case !image && !rootfs && e.value.entry(buildMark) != nil:
		c.w.refuse(e.value.entry(buildMark).key, c.at(name), "build the image elsewhere, and name it with image", "images are not built, and the service names none")
	case !image && !rootfs && e.key.compose():
		c.w.finding(diag.Error, e.value, e.key.place, c.at(name), "name one with image", "the service has no image")
	case !image && !rootfs:
		c.w.error(e.key, c.at(name), "", "one of image and rootfs is needed")
	case rootfs && e.value.said("pull") && e.value.child("pull") != c.root.child("defaults").child("pull"):
		c.w.error(e.value.entry("pull").key, c.at(name), "", "there is nothing to pull for a rootfs")
	}
}

// rootFS: the source exists and is what the key says.
func (c *checker) rootFS(e entry) {
	r := c.file.containers[e.key.text].RootFS
	if r == nil || !c.active[e.key.text] {
		return
	}
	regular := func(m fs.FileMode) bool { return m.IsRegular() }
	for _, s := range []struct {
		key, path, is string
		fits          func(fs.FileMode) bool
	}{
		{"tar", r.Tar, "a file", regular},
		{"directory", r.Directory, "a folder", fs.FileMode.IsDir},
		{"block", r.Block, "a file", regular},
	} {
		if s.path == "" {
			continue
		}
		c.there(e.value.child("rootfs").child(s.key), c.at(e.key.text).key("rootfs").key(s.key), s.path, s.is, s.fits)
	}
}

// there: a path of the host exists, and is what it has to be.
func (c *checker) there(n *node, at *trail, path, is string, fits func(fs.FileMode) bool) {
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		c.w.error(n, at, "", "%s does not exist", quote(n.text))
	case err != nil:
		c.w.error(n, at, "", "%s: %s", quote(n.text), reason(err))
	case !fits(info.Mode()):
		c.w.error(n, at, "", "%s is not %s", quote(n.text), is)
	}
}

// dependencies: they are containers of the stack.
func (c *checker) dependencies(e entry) {
	n := e.value.child("depends_on")
	if n == nil || !c.w.spend(n, n) {
		return
	}
	at := c.at(e.key.text).key("depends_on")
	for _, d := range pairs(c.w, n, at, "").entries {
		name := d.key.text
		switch {
		case name == e.key.text:
			c.w.error(d.key, at, "", "a container cannot wait for itself")
		case c.node(name) == nil:
			hint := ""
			if !c.w.report.full(diag.Error) {
				hint = suggest(name, sortedKeys(c.file.containers))
			}
			c.w.error(d.key, at, hint, "no container %s", quote(name))
		case c.file.containers[e.key.text].DependsOn[name].Condition == ConditionHealthy && c.unchecked(name):
			c.w.error(d.key, at, "give it a healthcheck, or wait for started", "container %s has no healthcheck", quote(name))
		}
	}
}

// unchecked reports whether a container has no health check, whatever its image
// says.
func (c *checker) unchecked(name string) bool {
	d := c.file.containers[name]
	return !d.Checked(d.Image != "")
}

// healthCheck: where there is no image to have the test it is in the file.
func (c *checker) healthCheck(e entry) {
	d := c.file.containers[e.key.text]
	if d.HealthCheck != nil && d.RootFS != nil && len(d.HealthCheck.Test) == 0 {
		c.w.error(e.value.child("healthcheck"), c.at(e.key.text).key("healthcheck"), `write test: ["CMD", "..."]`, `"test" is missing`)
	}
}

// cycles reports each loop of dependencies once, at a dependency that closes it.
func (c *checker) cycles() {
	const done = -1
	state := map[string]int{} // done, or the place in the stack of those open, from 1
	var open []string
	var visit func(name string)
	visit = func(name string) {
		open = append(open, name)
		state[name] = len(open)
		for _, on := range sortedKeys(c.file.containers[name].DependsOn) {
			switch at := state[on]; {
			case on == name || c.node(on) == nil:
			case at > 0 && c.loops < maxErrors:
				c.loops++
				c.cycle(append(append([]string{}, open[at-1:]...), on))
			case at == 0:
				visit(on)
			}
		}
		open = open[:len(open)-1]
		state[name] = done
	}
	for _, name := range sortedKeys(c.file.containers) {
		if state[name] == 0 {
			visit(name)
		}
	}
}

func (c *checker) cycle(loop []string) {
	n, at := c.dependency(loop[0], loop[1])
	shown := loop
	if len(loop) > 20 {
		shown = append(append([]string{}, loop[:10]...), fmt.Sprintf("(%d more)", len(loop)-20))
		shown = append(shown, loop[len(loop)-10:]...)
	}
	c.w.error(n, at, "", "containers wait for each other: %s", strings.Join(shown, " → "))
}

// kernelFiles: they are there.
func (c *checker) kernelFiles(e entry) {
	k := c.file.containers[e.key.text].Kernel
	if k == nil || !c.active[e.key.text] {
		return
	}
	n, at := e.value.child("kernel"), c.at(e.key.text).key("kernel")
	if k.Path != "" {
		c.there(n.child("path"), at.key("path"), k.Path, "a file or a folder", func(m fs.FileMode) bool { return m.IsRegular() || m.IsDir() })
	}
	if k.Modules != "" {
		c.there(n.child("modules"), at.key("modules"), k.Modules, "a folder", fs.FileMode.IsDir)
	}
}
