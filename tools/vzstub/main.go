// Vzstub writes a twin of github.com/Code-Hex/vz/v3 without cgo: the same
// exported names and types, and functions that panic. With it the go command
// builds, vets and tests code for macOS on any host.
//
//	go run ./tools/vzstub DIR
//
// It writes DIR/vz and DIR/go.work, which uses the present module with the twin
// in place of the original; DIR is outside of the module, and nothing of it is
// committed:
//
//	GOWORK=DIR/go.work GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 go vet ./...
package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const original = "github.com/Code-Hex/vz/v3"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: vzstub DIR")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "vzstub:", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	ours, err := run("go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	// Downloads the original where it is not there yet.
	if _, err := run("go", "mod", "download", original); err != nil {
		return err
	}
	theirs, err := run("go", "list", "-m", "-f", "{{.Dir}}", original)
	if err != nil {
		return err
	}
	twin := filepath.Join(dir, "vz")
	if err := os.RemoveAll(twin); err != nil {
		return err
	}
	if err := writeTwin(twin, theirs); err != nil {
		return fmt.Errorf("write twin: %w", err)
	}
	work := fmt.Sprintf("go 1.26.0\n\nuse %q\n\nreplace %s => %q\n", ours, original, twin)
	return os.WriteFile(filepath.Join(dir, "go.work"), []byte(work), 0o644)
}

// run answers what a command prints, without the newline.
func run(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return string(bytes.TrimSpace(out)), nil
}

// writeTwin writes the packages of the module at from, without its commands,
// examples and tests.
func writeTwin(to, from string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel == "." || rel == "internal" || strings.HasPrefix(rel, "internal"+string(filepath.Separator)) {
				return os.MkdirAll(filepath.Join(to, rel), 0o755)
			}
			return fs.SkipDir
		}
		isGo := strings.HasSuffix(rel, ".go") && !strings.HasSuffix(rel, "_test.go")
		if !isGo && rel != "go.mod" && rel != "go.sum" {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if isGo {
			if text, err = withoutC(p, text); err != nil {
				return fmt.Errorf("%s: %w", rel, err)
			}
		}
		return os.WriteFile(filepath.Join(to, rel), text, 0o644)
	})
}
