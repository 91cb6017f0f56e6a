package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// stdinFile is the name of Options.Stdin among the files.
const stdinFile = "-"

// Load reads the stack that opts name. The error is diag.Findings: everything
// that is wrong, in order of place, warnings among them. Nothing is started,
// written or fetched.
func Load(opts Options) (*Loaded, error) {
	l := &loader{opts: opts, report: newReporter()}
	stack := l.load()
	findings := l.report.done()
	if err := findings.Err(); err != nil {
		return nil, err
	}
	return &Loaded{Stack: stack, Files: l.read, Profiles: l.profiles, Findings: findings, Ports: l.ports}, nil
}

type loader struct {
	opts   Options
	report *reporter
	read   []string // absolute paths
	// profiles are those that the files name.
	profiles []string
	ports    map[string][]Place
}

// input is one stack file that was read.
type input struct {
	name string // as the user knows it
	path string // absolute; "-" for standard input
	data []byte
}

func (l *loader) load() *Stack {
	inputs := l.inputs()
	if len(inputs) == 0 {
		return nil
	}
	dir, err := l.dir(inputs[0])
	if err != nil {
		l.fail(inputs[0].name, "", "find the folder of the stack: %s", err)
		return nil
	}
	w := newWalker(l.report, dir, l.near(inputs[0]), l.lookup(inputs[0], dir))
	if len(l.opts.Profiles) == 0 {
		l.opts.Profiles = profilesOf(w.lookup)
	}
	root := l.merged(w, inputs)
	if root == nil {
		return nil
	}
	keys := stackKeys()
	if d := root.child("defaults"); d != nil {
		keys.field("defaults").decode(w, d, (*trail)(nil).key("defaults"), new(file))
	}
	applyDefaults(w, root)
	f, ok := keys.decode(w, root, nil)
	if !ok || w.nodes < 0 {
		return nil
	}
	c := &checker{w: w, root: root, file: &f, env: map[string][]envEntry{}, filters: map[string]string{}}
	c.activate(l.opts)
	l.profiles, l.ports = c.profileNames(), c.portPlaces()
	c.movePorts(l.opts.PublishOffset)
	stack := &Stack{Name: l.name(f.name, root, dir), Dir: dir, Containers: c.containers(), Inactive: c.inactive(),
		Volumes: c.volumesInUse(), Secrets: f.secrets, Configs: f.configs}
	stack.Networks = usedNetworks(stack.Containers, f.networks)
	c.check(l.opts)
	if len(stack.Volumes) == 0 {
		stack.Volumes = nil
	}
	if len(stack.Secrets) == 0 {
		stack.Secrets = nil
	}
	if len(stack.Configs) == 0 {
		stack.Configs = nil
	}
	return stack
}

// fail reports what is wrong with a whole file.
func (l *loader) fail(file, hint, format string, args ...any) {
	l.report.add(place{src: &source{name: file}}, diag.Finding{Message: fmt.Sprintf(format, args...), Hint: hint})
}

// dir is what relative paths are relative to.
func (l *loader) dir(first input) (string, error) {
	if first.path == stdinFile || len(l.opts.Files) > 0 && l.opts.Dir != "" {
		return filepath.Abs(l.opts.Dir)
	}
	return filepath.Dir(first.path), nil
}

// near is dir as the user reaches it.
func (l *loader) near(first input) string {
	if first.path == stdinFile || len(l.opts.Files) > 0 && l.opts.Dir != "" {
		return l.opts.Dir
	}
	return filepath.Dir(first.name)
}

// lookup answers variables: the caller's, then those of .env beside the first
// file.
func (l *loader) lookup(first input, dir string) func(string) (string, bool) {
	caller := l.opts.LookupEnv
	if caller == nil {
		caller = func(string) (string, bool) { return "", false }
	}
	name := ".env"
	if first.path != stdinFile {
		dir, name = filepath.Dir(first.path), filepath.Join(filepath.Dir(first.name), name)
	}
	data, err := readBounded(filepath.Join(dir, ".env"))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			l.fail(name, "", "%s", reason(err))
		}
		return caller
	}
	vars := map[string]string{}
	w := newWalker(l.report, dir, l.near(first), caller)
	putEnv(w, parseEnv(w, name, data), vars, caller)
	return func(name string) (string, bool) {
		if v, ok := caller(name); ok {
			return v, true
		}
		v, ok := vars[name]
		return v, ok
	}
}

// merged answers the files' root, or nil where one cannot be read as YAML.
func (l *loader) merged(w *walker, inputs []input) *node {
	var roots []*node
	for _, in := range inputs {
		root := parse(in.name, in.data, l.report)
		if root == nil {
			continue
		}
		if root.kind != mappingNode {
			w.error(root, nil, "", "a stack file is a mapping; found %s", root.describe())
			continue
		}
		roots = append(roots, root)
	}
	if len(roots) < len(inputs) {
		return nil
	}
	keys := stackKeys()
	root := roots[0]
	if len(roots) > 1 {
		// What a later file replaces must be right all the same.
		w.parts = true
		for _, r := range roots {
			keys.decode(w, r, nil)
		}
		w.parts = false
		for _, r := range roots[1:] {
			root = keys.merge(w, root, r, nil)
		}
	}
	return root
}

// applyDefaults merges the defaults under every container.
func applyDefaults(w *walker, root *node) {
	defaults, containers := root.child("defaults"), root.child("containers")
	if defaults == nil || defaults.kind != mappingNode || containers == nil || containers.kind != mappingNode {
		return
	}
	keys := containerKeys()
	out := *containers
	out.index = nil
	out.entries = make([]entry, len(containers.entries))
	for i, e := range containers.entries {
		out.entries[i] = entry{e.key, keys.merge(w, defaults, e.value, (*trail)(nil).key("containers").key(e.key.text))}
	}
	root.entry("containers").value = &out
}

// name answers the stack's name: the caller's, the file's, the folder's.
func (l *loader) name(written string, root *node, dir string) string {
	switch {
	case l.opts.Name != "":
		if !nameText.MatchString(l.opts.Name) {
			l.fail("", "use lower-case letters, digits, _ and -, beginning with a letter or digit",
				"%s is not a name for a stack", quote(l.opts.Name))
		}
		return l.opts.Name
	case root.said("name"):
		return written
	}
	name := strings.Map(func(r rune) rune {
		if nameText.MatchString("a" + string(r)) {
			return r
		}
		return -1
	}, strings.ToLower(filepath.Base(dir)))
	name = strings.TrimLeft(name, "_-")
	name = name[:min(len(name), 63)]
	if name == "" {
		l.fail("", "write name: at the top of the file", "the folder %s gives the stack no name", quote(filepath.Base(dir)))
	}
	return name
}

// reason says an error of the file system without the path, which the finding
// has already.
func reason(err error) string {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err.Error()
	}
	return err.Error()
}
