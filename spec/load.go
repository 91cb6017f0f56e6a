package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// projectName is the variable that names the stack.
const projectName = "COMPOSE_PROJECT_NAME"

// stdinFile is the name of Options.Stdin among the files.
const stdinFile = "-"

// Load reads the stack that opts name. The error is diag.Findings: everything
// that is wrong, in order of place, warnings among them. Nothing is started,
// written or fetched.
func Load(opts Options) (*Loaded, error) {
	l := newLoader(opts)
	stack := l.load()
	findings := l.report.done()
	if err := findings.Err(); err != nil {
		return nil, err
	}
	return &Loaded{Stack: stack, Files: l.read, Profiles: l.profiles, Findings: findings, Ports: l.ports}, nil
}

func newLoader(opts Options) *loader {
	return &loader{opts: opts, report: newReporter(), extends: map[string]*lowering{}}
}

type loader struct {
	opts   Options
	report *reporter
	read   []string // absolute paths
	// profiles are those that the files name.
	profiles []string
	ports    map[string][]Place
	// project is what projectName stands for where it is not set.
	project string
	// extends has the files that services are taken from, by path; others counts the
	// files beside those of the command line.
	extends map[string]*lowering
	service *composeLevel // of serviceKeys
	others  int
}

// serviceKeys is the table of a service's keys, which is made once.
func (l *loader) serviceKeys() *composeLevel {
	if l.service == nil {
		l.service = composeService()
	}
	return l.service
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
	variables := l.lookup(inputs[0], dir)
	w := newWalker(l.report, dir, l.near(inputs[0]), func(name string) (string, bool) {
		if v, ok := variables(name); ok || name != projectName {
			return v, ok
		}
		return l.project, true
	})
	w.publish = l.opts.PublishAddress
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
	composeDefaults(root)
	f, ok := keys.decode(w, root, nil)
	if !ok || w.nodes < 0 {
		return nil
	}
	c := &checker{w: w, root: root, file: &f, env: map[envKey][]envEntry{}, filters: map[string]string{}}
	c.linkDependencies()
	c.activate(l.opts)
	l.profiles, l.ports = c.profileNames(), c.portPlaces()
	c.movePorts(l.opts.PublishOffset)
	stack := &Stack{Name: l.name(f.name, root, dir, variables), Dir: dir, Containers: c.containers(), Inactive: c.inactive(),
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

// caller looks variables up in the caller's environment.
func (l *loader) caller() func(string) (string, bool) {
	if l.opts.LookupEnv == nil {
		return func(string) (string, bool) { return "", false }
	}
	return l.opts.LookupEnv
}

// valueOf is the value of a variable; "" where it is not set.
func valueOf(lookup func(string) (string, bool), name string) string {
	if v, ok := lookup(name); ok {
		return v
	}
	return ""
}

// lookup returns what looks variables up: in the caller's environment, then in .env
// beside the first file, or in the files that are named in its place.
func (l *loader) lookup(first input, dir string) func(string) (string, bool) {
	near := dir
	if first.path != stdinFile {
		dir, near = filepath.Dir(first.path), filepath.Dir(first.name)
	}
	return l.variables(dir, near, l.caller(), l.envFiles(near))
}

// envFiles are the files of variables that are read for a folder. One that is only
// looked for need not be there.
func (l *loader) envFiles(near string) (files []string) {
	if files = l.opts.EnvFiles; len(files) == 0 {
		text := valueOf(l.caller(), "COMPOSE_ENV_FILES")
		for name := range strings.SplitSeq(text, ",") {
			if name = strings.TrimSpace(name); name != "" {
				files = append(files, name)
			}
		}
	}
	return files
}

// variables lays those of first over those of files of variables, or of the .env of
// a folder where none is named.
func (l *loader) variables(dir, near string, first func(string) (string, bool), files []string) func(string) (string, bool) {
	optional := len(files) == 0
	if optional {
		files = []string{filepath.Join(near, ".env")}
	}
	vars := map[string]string{}
	w := newWalker(l.report, dir, near, first)
	lookup := func(name string) (string, bool) {
		if v, ok := first(name); ok {
			return v, true
		}
		v, ok := vars[name]
		return v, ok
	}
	for _, name := range files {
		data, err := readBounded(name)
		if err != nil {
			if !optional || !errors.Is(err, fs.ErrNotExist) {
				l.fail(name, "", "%s", reason(err))
			}
			continue
		}
		putEnv(w, parseEnv(w, name, data), vars, lookup)
	}
	return lookup
}

// merged returns the files' root, or nil where one cannot be read as YAML.
func (l *loader) merged(w *walker, inputs []input) *node {
	var read, roots []*node
	for _, in := range inputs {
		read = append(read, parse(in.name, in.data, l.report))
	}
	l.findProject(w, read)
	for i, in := range inputs {
		if root := l.stackFile(w, in, read[i], within{}); root != nil {
			roots = append(roots, root)
		}
	}
	if len(roots) < len(inputs) {
		return nil
	}
	return l.laid(w, roots)
}

// findProject finds what the variable COMPOSE_PROJECT_NAME stands for where it is not
// set: as in Compose, the name of the stack.
func (l *loader) findProject(w *walker, roots []*node) {
	l.project = l.opts.Name
	if l.project == "" {
		l.project = folderName(w.dir)
		for _, root := range roots {
			if n := root.child("name"); n != nil && n.kind == scalarNode && !n.null() && w.resolve(n, (*trail)(nil).key("name")) {
				l.project = n.text
			}
		}
	}
}

// laid lays files over each other, in order.
func (l *loader) laid(w *walker, roots []*node) *node {
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

// name returns the stack's name: the caller's, the file's, the folder's.
func (l *loader) name(written string, root *node, dir string, lookup func(string) (string, bool)) string {
	said := l.opts.Name
	if said == "" {
		said = valueOf(lookup, projectName)
	}
	switch {
	case said != "":
		if !stackText.MatchString(said) {
			l.fail("", "use lower-case letters, digits, _ and -, beginning with a letter or digit",
				"%s is not a name for a stack", quote(said))
		}
		return said
	case root.said("name"):
		return written
	}
	name := folderName(dir)
	if name == "" {
		l.fail("", "write name: at the top of the file", "the folder %s gives the stack no name", quote(filepath.Base(dir)))
	}
	return name
}

// folderName is the name that a folder gives its stack.
func folderName(dir string) string {
	name := strings.Map(func(r rune) rune {
		if stackText.MatchString("a" + string(r)) {
			return r
		}
		return -1
	}, strings.ToLower(filepath.Base(dir)))
	name = strings.TrimLeft(name, "_-")
	return name[:min(len(name), 63)]
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
