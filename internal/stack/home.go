// Package stack is what can be done with a stack: bring it up, take it down, stop,
// start and scale it, run a process in it, follow its output. It is what the command
// line and Go programs have in common. It reads no flags and prints nothing: what a
// caller may want to show is sent to an Events function while it happens, and what
// came of it is returned.
package stack

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/kernel"
	"github.com/vzcompose/vzcompose/internal/settings"
	"github.com/vzcompose/vzcompose/internal/shim"
	"github.com/vzcompose/vzcompose/internal/store"
)

// The commands that make a process of vzcompose one that outlives the command which
// started it. They are the first argument behind Options.Program.
const (
	ShimCommand   = "shim"
	SwitchCommand = "switch"
	FillCommand   = "fill-pool"
	RemoveCommand = "remove-ended"
)

// Options of a home folder.
type Options struct {
	// LookupEnv returns variables of the environment: where the home folder is, and
	// what secrets and secret files are named after.
	LookupEnv func(string) (string, bool)
	// Program is the command line to which one of these commands is appended; nil:
	// this executable.
	Program []string
	// Cold boots every machine and restores none.
	Cold bool
	// Probe returns what keeps this host from running machines; nil: a start tells.
	Probe func() error
}

// Home is the home folder, opened.
type Home struct {
	Folder   store.Home
	Images   *image.Store
	Kernels  *kernel.Store
	Engine   *engine.Engine
	Settings settings.Settings
	// Cold is why every machine boots: "by --cold"; "" where they do not.
	Cold string

	program []string
	lookup  func(string) (string, bool)
}

// Open opens the home folder that the environment names.
func Open(o Options) (*Home, error) {
	folder, err := store.Locate(o.LookupEnv)
	if err != nil {
		return nil, err
	}
	h := &Home{Folder: folder, program: o.Program, lookup: o.LookupEnv}
	if h.Settings, err = settings.Read(settingsOf(folder)); err != nil {
		return nil, err
	}
	h.Cold = whyCold(o, h.Settings)
	if h.Images, err = image.Open(folder.Images()); err != nil {
		return nil, err
	}
	if h.Kernels, err = kernel.Open(folder.Kernels()); err != nil {
		return nil, err
	}
	if len(h.program) == 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find vzcompose itself: %w", err)
		}
		h.program = []string{self}
	}
	h.Engine = engine.New(engine.Options{Home: folder, Images: h.Images, Kernels: h.Kernels, Probe: o.Probe,
		Shim: h.command(ShimCommand), Switch: h.command(SwitchCommand), Remove: h.command(RemoveCommand), CPUs: runtime.NumCPU(), LookupEnv: o.LookupEnv,
		Cold: h.Cold != "", Held: shim.Held, TemplatesLimit: h.Settings.Templates.Limit})
	return h, nil
}

func settingsOf(folder store.Home) string { return filepath.Join(folder.Dir, "config.yaml") }

// ReadSettings reads what is set in the home folder that the environment names; where
// that names none, nothing is.
func ReadSettings(lookup func(string) (string, bool)) (settings.Settings, error) {
	folder, err := store.Locate(lookup)
	if err != nil {
		return settings.Default(), nil
	}
	return settings.Read(settingsOf(folder))
}

// command returns the command line of a process of vzcompose.
func (h *Home) command(name string) []string {
	return append(append([]string(nil), h.program...), name)
}

// whyCold returns why every machine boots, "" where none must: the option leads,
// then the environment, then the file.
func whyCold(o Options, s settings.Settings) string {
	env, _ := o.LookupEnv("VZCOMPOSE_COLD")
	switch {
	case o.Cold:
		return "by --cold"
	case env != "" && env != "0":
		return "by VZCOMPOSE_COLD"
	case !s.Templates.Use:
		return "in config.yaml"
	}
	return ""
}
