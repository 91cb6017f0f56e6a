package spec

import (
	"os"
	"path/filepath"
)

// stackNames are the files that are looked for, in this order.
var stackNames = []string{"vzcompose.yaml", "vzcompose.yml"}

// composeNames are Compose's own, which an importer is to read one day.
var composeNames = []string{"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"}

// inputs reads the files of the stack. Fewer than there are: a finding says why.
func (l *loader) inputs() []input {
	names := l.opts.Files
	if len(names) == 0 {
		name := l.find()
		if name == "" {
			return nil
		}
		names = []string{name}
	}
	var all []input
	for _, name := range names {
		in, ok := l.input(name)
		if !ok {
			continue
		}
		all = append(all, in)
		l.read = append(l.read, in.path)
	}
	if len(all) < len(names) {
		return nil
	}
	if l.opts.Over != nil {
		all = append(all, input{name: l.opts.OverName, path: stdinFile, data: l.opts.Over})
	}
	return all
}

func (l *loader) input(name string) (input, bool) {
	if name == stdinFile {
		if len(l.opts.Stdin) > maxFileBytes {
			l.fail("<stdin>", "", "larger than %s", formatSize(maxFileBytes))
			return input{}, false
		}
		return input{name: "<stdin>", path: stdinFile, data: l.opts.Stdin}, true
	}
	path, err := filepath.Abs(name)
	if err != nil {
		l.fail(name, "", "%s", err)
		return input{}, false
	}
	data, err := readBounded(path)
	if err != nil {
		l.fail(name, "", "%s", reason(err))
		return input{}, false
	}
	return input{name: name, path: path, data: data}, true
}

// find looks for a stack file in Dir and the folders above it, and answers its
// path as it is reached from there.
func (l *loader) find() string {
	for dir := l.opts.Dir; ; dir = filepath.Join(dir, "..") {
		abs, err := filepath.Abs(dir)
		if err != nil {
			l.fail(dir, "", "%s", err)
			return ""
		}
		if name := firstFile(abs, stackNames); name != "" {
			return filepath.Join(dir, name)
		}
		if name := firstFile(abs, composeNames); name != "" {
			l.fail(filepath.Join(dir, name), `write a vzcompose.yaml beside it: "services" become "containers", "volumes" of a service "mounts"`,
				"this is a Compose file, and nothing imports those yet")
			return ""
		}
		if abs == filepath.Dir(abs) {
			l.fail("", "write vzcompose.yaml, or name a file with -f", "no stack file in this folder or above it")
			return ""
		}
	}
}

func firstFile(dir string, names []string) string {
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && !info.IsDir() {
			return name
		}
	}
	return ""
}
