package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// lastRelease is the commit whose shims this program must be able to see and end. It
// becomes that of each release.
const lastRelease = "2741c437a346bdb02774105e013a63ea17ba9d08"

// TestUpgrade runs the scripts in testdata/upgrade: vzcompose is of the last release,
// until the command "upgrade" puts the program of now in its place, as a package
// manager does. The last release is built from the history of this repository: where
// there is none (an archive, a shallow clone), nothing is tested here, and the
// transcripts of internal/shimproto are what is left.
func TestUpgrade(t *testing.T) {
	now, err := exec.LookPath("vzcompose")
	if err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(filepath.Dir(now), "vzcompose-of-the-last-release")
	buildLastRelease(t, old)
	params := scripts(filepath.Join("testdata", "upgrade"), func(e *testscript.Env) error {
		bin := filepath.Join(e.WorkDir, ".bin")
		if err := os.Mkdir(bin, 0o700); err != nil {
			return err
		}
		if err := os.Link(old, filepath.Join(bin, "vzcompose")); err != nil {
			return err
		}
		e.Setenv("PATH", bin+string(filepath.ListSeparator)+e.Getenv("PATH"))
		if _, _, err := writeSources(e.WorkDir); err != nil {
			return err
		}
		return setUpScript(e, t.TempDir())
	})
	params.Cmds["upgrade"] = func(ts *testscript.TestScript, neg bool, args []string) {
		wants(ts, neg, args, 0, "upgrade")
		ts.Check(os.Remove(ts.MkAbs(".bin/vzcompose"))) // what runs of it goes on
		ts.Check(os.Link(now, ts.MkAbs(".bin/vzcompose")))
	}
	testscript.Run(t, params)
}

// buildLastRelease puts vzcompose of the last release, with machines in memory, at
// path: the tests of this package are one as soon as they are called so.
func buildLastRelease(t *testing.T, path string) {
	t.Helper()
	tree := t.TempDir()
	run := func(name string, args ...string) error {
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Env = tree, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
		}
		return nil
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(tree, "tree.tar")
	if err := run("git", "-C", root, "archive", "-o", archive, lastRelease); err != nil {
		t.Skipf("NOT TESTED: there is no history with the last release: %v", err)
	}
	for _, args := range [][]string{
		{"tar", "-xf", archive},
		{"cp", "-R", filepath.Join(root, "internal", "agents", "bin"), filepath.Join("internal", "agents")}, // any will do
		// With -trimpath what is in the build cache is found wherever the tree is.
		{"go", "test", "-c", "-trimpath", "-ldflags", "-s -w -X github.com/vzcompose/vzcompose/internal/cli.version=last-release", "-o", path, "./internal/cli"},
	} {
		if err := run(args[0], args[1:]...); err != nil {
			t.Fatal(err)
		}
	}
}
