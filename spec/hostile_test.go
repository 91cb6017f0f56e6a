package spec

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// hostile are files that ask for much: each is refused or read, soon.
func hostile() map[string]string {
	laughs := "x-a: &a0 [x, x]\n"
	for i := 1; i < 60; i++ {
		laughs += fmt.Sprintf("x-%d: &a%d [*a%d, *a%d]\n", i, i, i-1, i-1)
	}
	list := "x-m: &m [" + strings.Repeat("'v:/a',", 20000) + "]\ncontainers:\n"
	maps := "x-e: &e {" + strings.Repeat("A: b, ", 1)
	for i := range 5000 {
		maps += fmt.Sprintf("K%d: v, ", i)
	}
	maps += "}\ndefaults: {environment: *e}\ncontainers:\n"
	merges := "x-0: &m0 {a: b}\n"
	loops := "containers:\n"
	for i := range 2000 {
		list += fmt.Sprintf("  c%d: {image: x, mounts: *m}\n", i)
		maps += fmt.Sprintf("  c%d: {image: x, environment: *e}\n", i)
		merges += fmt.Sprintf("x-%d: &m%d {<<: *m%d, k%d: v}\n", i+1, i+1, i, i)
		loops += fmt.Sprintf("  c%d: {image: x, depends_on: [c0, c1, c2, c3, c%d, nix%d]}\n", i, (i+1)%2000, i)
	}
	return map[string]string{
		"laughs":    laughs + "containers: {a: {image: x, command: *a59}}\n",
		"lists":     list,
		"maps":      maps,
		"merges":    merges + "containers: {a: *m2000}\n",
		"loops":     loops,
		"itself":    "a: &a\n  b: *a\n  <<: *a\n  ? *a\n  : c\n",
		"deep flow": "containers: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"deep":      "containers: " + strings.Repeat("{a: ", 5000) + "1" + strings.Repeat("}", 5000),
		"wide":      "containers: {" + strings.Repeat("a: {b: c}, ", 100000) + "}",
		"long key":  "containers: {" + strings.Repeat("k", 1<<20) + ": 1}",
		"key":       "containers: {? " + strings.Repeat("k", 2000) + " : 1}",
		"long line": `{"containers": {"a": {"image": "` + strings.Repeat("x", 1<<20) + `", "b": 1}}}`,
		"dollars":   "containers: {a: {image: x, command: '" + strings.Repeat("${A:-", 100000) + "'}}",
		"variables": "containers: {a: {image: x, command: '" + strings.Repeat("$BIG", 100000) + "'}}",
		"zero":      "containers: {a: {image: \"x\\0\"}}",
		"latin1":    "containers: {a: {image: \xe4}}",
		"utf16":     "\xff\xfea\x00:\x00",
		"comments":  strings.Repeat("#\n", 1<<20),
		"cr":        "containers:\r  a:\r    imag: x\r",
		"too large": strings.Repeat("#", maxFileBytes+1),
		"tags":      "containers: {a: !!binary x, b: !!set {a}, c: !!python/object x, d: !<tag:x> y}",
		"directive": "%YAML 1.1\n%TAG ! tag:x,2000:\n---\ncontainers: {a: !foo {image: x}}",
	}
}

func TestHostileFilesAreRefusedSoon(t *testing.T) {
	big := strings.Repeat("b", 1<<16)
	for name, text := range hostile() {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := Load(Options{
				Files: []string{"-"}, Stdin: []byte(text), Dir: "/nowhere/stack",
				LookupEnv: func(string) (string, bool) { return big, true },
			})
			findings, ok := err.(diag.Findings)
			if !ok || len(findings) == 0 || len(findings) > maxErrors+maxWarnings+2 {
				t.Fatalf("%d findings, %T", len(findings), err)
			}
			if n := len(findings.Error()); n > 1<<20 {
				t.Errorf("%d bytes of findings", n)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("took %s", took)
			}
			t.Logf("%s, %d findings, first: %s", time.Since(start).Round(time.Millisecond), len(findings), findings[0])
		})
	}
}

func TestFilesThatAreNotFilesAreRefused(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := syscall.Mkfifo("fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.Mkdir("folder", 0o755)
	_ = os.WriteFile("vzcompose.yaml", []byte("containers: {a: {image: x, env_file: [fifo, folder]}}\n"), 0o644)
	_ = os.Symlink(filepath.Join(dir, "fifo"), ".env")
	_, err := Load(Options{})
	want := `.env: not a file
vzcompose.yaml:1:39: containers.a.env_file[0]: "fifo": not a file
vzcompose.yaml:1:45: containers.a.env_file[1]: "folder": not a file`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v", err)
	}
}

func TestFindingsAreTheSameEveryTime(t *testing.T) {
	text := hostile()["loops"]
	_, first := loadText(t, text)
	for range 3 {
		if _, again := loadText(t, text); !reflect.DeepEqual(first, again) {
			t.Fatal("they differ")
		}
	}
}

func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.txt", "testdata/good/*.txt", "../test/composetest/testdata/*.txt"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			for _, part := range strings.Split(string(data), " --\n") {
				part, _, _ = strings.Cut(part, "\n-- ")
				f.Add([]byte(part))
			}
		}
	}
	for _, s := range []string{"a: &a [*a]", "<<: [*a]", "containers: {a: {<<: {image: x}}}", "? ? ?", "\ufeff{}", "a: !reset", "&a : *a", `containers: {a: {image: x, environment: {"a\nb": $U}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		opts := Options{Files: []string{"-"}, Stdin: data, Dir: "/nowhere/stack", LookupEnv: func(name string) (string, bool) {
			return "v$" + name, len(name)%2 == 0 && !strings.HasPrefix(name, "COMPOSE_")
		}}
		l, err := Load(opts)
		if err != nil {
			checkFindings(t, err.(diag.Findings))
			return
		}
		checkFindings(t, l.Findings)
		for _, print := range []func() ([]byte, error){l.Stack.YAML, l.Stack.JSON} {
			text, err := print()
			if err != nil {
				t.Fatal(err)
			}
			opts.Stdin = text
			again, err := Load(opts)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			again.Stack.Inactive = l.Stack.Inactive // what is not in the stack is not printed
			if !reflect.DeepEqual(l.Stack, again.Stack) {
				t.Fatalf("got %+v\nwant %+v\nfrom\n%s", again.Stack, l.Stack, text)
			}
		}
		for _, c := range l.Stack.Containers {
			if changes := Diff(c, c); len(changes) > 0 {
				t.Fatalf("differs from itself: %v", changes)
			}
		}
	})
}

// checkFindings: every finding can be shown.
func checkFindings(t *testing.T, findings diag.Findings) {
	t.Helper()
	for _, f := range findings {
		if strings.ContainsAny(f.Message+f.Hint+f.Path, "\n") {
			t.Fatalf("a finding has more than one line: %q", f)
		}
		if f.Source == "" {
			continue
		}
		if n := len([]rune(f.Source)); f.Position.Column < 1 || f.Position.Column > n+1 || f.Length < 1 || f.Position.Column+f.Length > n+2 {
			t.Fatalf("%+v points beside its line", f)
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	var text strings.Builder
	text.WriteString("name: big\ndefaults: {memory: 256MiB, environment: {ZONE: eu}}\ncontainers:\n")
	for i := range 200 {
		fmt.Fprintf(&text, `  web%d:
    image: registry.example/shop/web:${TAG:-1.27}
    cpus: 2
    command: ["nginx", "-g", "daemon off;"]
    environment: {MODE: smoke, PORT: "80%d", NAME: web%d}
    mounts:
      - {type: volume, source: data%d, destination: /data}
      - {type: tmpfs, destination: /tmp, options: [size=64m, mode=1777]}
    depends_on: [web%d]
    restart: on-failure:3
    labels: {tier: front, owner: shop}
`, i, i, i, i, i+1)
	}
	text.WriteString("  web200: {image: x}\nvolumes:\n")
	for i := range 200 {
		fmt.Fprintf(&text, "  data%d: {size: 1GiB}\n", i)
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := loadText(b, text.String()); err != nil {
			b.Fatal(err)
		}
	}
}
