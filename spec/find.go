package spec

import (
	"os"
	"path/filepath"
	"strings"
)

// stackNames are the files that are looked for, in this order.
var stackNames = []string{"vzcompose.yaml", "vzcompose.yml"}

// composeNames are Compose's own, which are looked for beside them, and
// composeOverrides what is laid over one that was found.
var (
	composeNames     = []string{"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"}
	composeOverrides = []string{"compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml"}
)

// inputs reads the files of the stack. Fewer than there are: a finding says why.
func (l *loader) inputs() []input {
	names := l.opts.Files
	if len(names) == 0 {
		names = l.listed()
	}
	if len(names) == 0 {
		if names = l.find(); len(names) == 0 {
			return nil
		}
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

// listed returns the files that COMPOSE_FILE names, in the environment or in the
// .env of Dir.
func (l *loader) listed() []string {
	lookup := l.variables(l.opts.Dir, l.opts.Dir, l.caller(), l.envFiles(l.opts.Dir))
	text, separator := valueOf(lookup, "COMPOSE_FILE"), valueOf(lookup, "COMPOSE_PATH_SEPARATOR")
	if separator == "" {
		separator = string(os.PathListSeparator)
	}
	var names []string
	for name := range strings.SplitSeq(text, separator) {
		switch {
		case name == "":
		case filepath.IsAbs(name):
			names = append(names, name)
		default:
			names = append(names, filepath.Join(l.opts.Dir, name))
		}
	}
	return names
}

// find looks for a stack file in Dir and the folders above it, and returns its path
// as it is reached from there, with that of the file that is laid over it.
func (l *loader) find() []string {
	for dir := l.opts.Dir; ; dir = filepath.Join(dir, "..") {
		abs, err := filepath.Abs(dir)
		if err != nil {
			l.fail(dir, "", "%s", err)
			return nil
		}
		if name := firstFile(abs, stackNames); name != "" {
			return []string{filepath.Join(dir, name)}
		}
		if name := firstFile(abs, composeNames); name != "" {
			names := []string{filepath.Join(dir, name)}
			if over := firstFile(abs, composeOverrides); over != "" {
				names = append(names, filepath.Join(dir, over))
			}
			return names
		}
		if abs == filepath.Dir(abs) {
			l.fail("", "write vzcompose.yaml or compose.yaml, or name a file with -f", "no stack file in this folder or above it")
			return nil
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
