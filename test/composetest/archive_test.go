package composetest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/spec"
)

// project is a folder of files and how it is loaded.
type project struct {
	dir      string
	files    []string // of -f; none: those that are found in dir
	profiles []string
	env      map[string]string
}

// unpack writes a txtar to a folder of its own: files after lines "-- NAME --".
// The file "args" has options (-f FILE, --profile NAME), "env" the caller's
// environment.
func unpack(t testing.TB, path string) project {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files, name := map[string]string{}, ""
	for line := range strings.SplitAfterSeq(string(data), "\n") {
		if rest, ok := strings.CutPrefix(line, "-- "); ok && strings.HasSuffix(rest, " --\n") {
			name = strings.TrimSuffix(rest, " --\n")
			files[name] = ""
			continue
		}
		files[name] += line
	}
	p := project{dir: filepath.Join(t.TempDir(), "proj"), env: map[string]string{}}
	args := strings.Fields(files["args"])
	for i := 0; i+1 < len(args); i += 2 {
		switch args[i] {
		case "-f":
			p.files = append(p.files, filepath.Join(p.dir, args[i+1]))
		case "--profile":
			p.profiles = append(p.profiles, args[i+1])
		default:
			t.Fatalf("%s: no option %s", path, args[i])
		}
	}
	for line := range strings.SplitSeq(files["env"], "\n") {
		if k, v, ok := strings.Cut(line, "="); ok {
			p.env[k] = v
		}
	}
	for name, text := range files {
		if slices.Contains([]string{"", "args", "env"}, name) {
			continue
		}
		file := filepath.Join(p.dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(file, 0o755)
		} else {
			err = os.WriteFile(file, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p project) lookup(name string) (string, bool) {
	v, ok := p.env[name]
	return v, ok
}

// ours loads the project with package spec.
func (p project) ours() (*spec.Loaded, error) {
	o := spec.Options{Dir: p.dir, Files: p.files, Profiles: p.profiles, LookupEnv: p.lookup}
	if len(p.files) > 0 {
		o.Dir = ""
	}
	return spec.Load(o)
}

// lines are a text as a set, one fact a line.
type lines map[string]bool

func (l lines) add(format string, args ...any) { l[fmt.Sprintf(format, args...)] = true }

// without returns the lines that other lacks, sorted.
func (l lines) without(other lines) []string {
	var left []string
	for line := range l {
		if !other[line] {
			left = append(left, line)
		}
	}
	slices.Sort(left)
	return left
}
