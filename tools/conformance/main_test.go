package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"conformance-booted.json":   `[{"line": 2, "what": "w", "test": "TestA/02_w", "mode": "booted", "result": "passed"}]`,
		"conformance-restored.json": `[{"line": 2, "what": "w", "test": "TestA/02_w", "mode": "restored", "result": "failed"}, {"line": 1, "what": "v", "test": "TestB/01_v", "mode": "restored", "result": "passed"}]`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	to := filepath.Join(dir, "page.md")
	if err := run(dir, to); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| 1 | v | not run | passed | `TestB` |\n| 2 | w | passed | failed | `TestA` |\n", "lines 3, 4,"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in\n%s", want, b)
		}
	}
	if err := run(t.TempDir(), to); err == nil {
		t.Error("nothing to read, and it went well")
	}
}
