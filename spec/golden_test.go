package spec

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/diag"
)

var update = flag.Bool("update", false, "write the golden files and the schema anew")

// archive is a txtar: files after lines "-- NAME --".
type archive struct {
	names []string
	files map[string]string
}

func readArchive(t *testing.T, path string) *archive {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a := &archive{files: map[string]string{}}
	name := ""
	for _, line := range strings.SplitAfter(string(data), "\n") {
		if rest, ok := strings.CutPrefix(line, "-- "); ok && strings.HasSuffix(rest, " --\n") {
			name = strings.TrimSuffix(rest, " --\n")
			a.names = append(a.names, name)
			continue
		}
		a.files[name] += line
	}
	return a
}

func (a *archive) write(t *testing.T, path string) {
	t.Helper()
	var b strings.Builder
	b.WriteString(a.files[""])
	for _, name := range a.names {
		fmt.Fprintf(&b, "-- %s --\n%s", name, a.files[name])
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// load writes the files of the archive to a folder named "stack" and loads them
// from there. Lines of "args" are Files, lines of "env" are the caller's
// environment.
func (a *archive) load(t *testing.T) (*Loaded, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "stack")
	for _, name := range append(a.names, "."+"/") {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(name, "/") {
			if err := os.WriteFile(path, []byte(a.files[name]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Chdir(dir)
	env := map[string]string{}
	for _, line := range strings.Split(a.files["env"], "\n") {
		if k, v, ok := strings.Cut(line, "="); ok {
			env[k] = v
		}
	}
	return Load(Options{
		Files:     strings.Fields(a.files["args"]),
		Stdin:     []byte(a.files["stdin"]),
		LookupEnv: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
	})
}

// render shows findings as a person sees them: with the line and a marker.
func render(findings diag.Findings) string {
	var b strings.Builder
	for _, f := range findings {
		b.WriteString(f.String() + "\n")
		if f.Source == "" {
			continue
		}
		number := fmt.Sprintf("%3d", f.Position.Line)
		blank := strings.Map(func(r rune) rune {
			if r == '\t' {
				return r
			}
			return ' '
		}, string([]rune(f.Source)[:f.Position.Column-1]))
		marker := "^" + strings.Repeat("~", f.Length-1)
		fmt.Fprintf(&b, "%s | %s\n    | %s%s\n", number, f.Source, blank, marker)
	}
	return b.String()
}

func goldens(t *testing.T, pattern string, got func(t *testing.T, a *archive) string) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	for _, path := range paths {
		path, _ := filepath.Abs(path)
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			a := readArchive(t, path)
			want := a.files["want"]
			text := got(t, a)
			if *update {
				a.files["want"] = text
				if a.names[len(a.names)-1] != "want" {
					a.names = append(a.names, "want")
				}
				a.write(t, path)
				return
			}
			if text != want {
				t.Errorf("got\n%s\nwant\n%s", text, want)
			}
		})
	}
}

func TestBadStacksAreReported(t *testing.T) {
	goldens(t, "testdata/bad/*.txt", func(t *testing.T, a *archive) string {
		_, err := a.load(t)
		findings, ok := err.(diag.Findings)
		if !ok {
			t.Fatalf("loaded with %T %v", err, err)
		}
		return render(findings)
	})
}

func TestGoodStacksAreResolved(t *testing.T) {
	goldens(t, "testdata/good/*.txt", func(t *testing.T, a *archive) string {
		l, err := a.load(t)
		if err != nil {
			t.Fatal(err)
		}
		text, err := l.Stack.YAML()
		if err != nil {
			t.Fatal(err)
		}
		cwd, _ := os.Getwd()
		return render(l.Findings) + strings.ReplaceAll(string(text), cwd, "/stack")
	})
}
