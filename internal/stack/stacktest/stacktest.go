// Package stacktest lets tests of what brings stacks up do it without machines: it has a
// home folder with a kernel and the image "base", and a driver of machines in memory.
package stacktest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/kernel"
	"github.com/vzcompose/vzcompose/internal/kernel/kerneltest"
	"github.com/vzcompose/vzcompose/internal/process"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

// Home returns a new home folder. Sockets of the test are in a short path of their own.
func Home(t testing.TB) string {
	t.Helper()
	run, err := os.MkdirTemp("", "vz") // a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	t.Setenv("XDG_RUNTIME_DIR", run)
	home := t.TempDir()
	file := filepath.Join(home, "Image")
	if err := os.WriteFile(file, kerneltest.Image(runtime.GOARCH, "6.1.0-1-test"), 0o600); err != nil {
		t.Fatal(err)
	}
	kernels, err := kernel.Open(filepath.Join(home, "kernels"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kernels.Import(t.Context(), file, nil); err != nil {
		t.Fatal(err)
	}
	tar := filepath.Join(home, "root.tar")
	if err := os.WriteFile(tar, make([]byte, 1024), 0o600); err != nil { // an empty tar
		t.Fatal(err)
	}
	images, err := image.Open(filepath.Join(home, "images"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := images.Import(t.Context(), tar, "base", image.Config{Cmd: []string{"serve"}}, func(image.Progress) {}); err != nil {
		t.Fatal(err)
	}
	return home
}

// NewDriver returns a driver of machines in memory. Beside vmmfake's own programs there
// is serve, which prints "ready", and "bye" when it is stopped.
func NewDriver(func(string) (string, bool), process.DriverOptions) (vmm.Driver, error) {
	return vmmfake.New(vmmfake.Options{Programs: map[string]vmmfake.Program{"serve": Serve}}), nil
}

// Serve is that program.
func Serve(ctx context.Context, p *vmmfake.Process) int {
	const sigTerm = 15
	ended := p.Trap(sigTerm)
	fmt.Fprintln(p.Stdout, "ready")
	select {
	case <-ended:
		fmt.Fprintln(p.Stdout, "bye")
	case <-ctx.Done():
	}
	return 0
}
