// Package vzcompose brings up stacks of containers from Go, each container in a virtual
// machine of its own, as the command vzcompose does.
//
//	func main() {
//		vzcompose.RunHelper()
//		home, err := vzcompose.Open(vzcompose.Options{})
//		…
//		stack, err := home.Load(vzcompose.LoadOptions{Files: []string{"vzcompose.yaml"}})
//		…
//		err = stack.Up(ctx, vzcompose.UpOptions{Wait: true})
//		address, err := stack.Port(ctx, "web", 80)
//	}
//
// A stack outlives the program that brought it up: every instance belongs to a helper
// process. The helper is this same executable, so that a program calls RunHelper before
// anything else, or it is a vzcompose that is installed (Options.Program). Tests use
// package vztest, which does this and takes the stack down.
//
// The package works on the home folder that the command has, unless it is told another:
// what one brings up the other lists, and images and kernels are shared. The agent of
// the machines is built into the program; `make agents` in this module makes it.
//
// Errors have a class (ClassOf) and may have a hint (HintOf). What is wrong with a stack
// file is a Findings, what went wrong with an up or a down a *PlanError.
//
// This is version 0 of the interface: a release may change it, and says so.
package vzcompose

import (
	"context"
	"os"
	"path/filepath"

	"github.com/vzcompose/vzcompose/internal/driver"
	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/process"
	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/spec"
)

// helper is the first argument of a helper process.
const helper = "vzcompose-helper"

// RunHelper returns at once, unless this process was started as a helper of a stack:
// then it does that work and exits. Call it first in main, or in TestMain.
func RunHelper() { runHelper(driver.New) }

func runHelper(newDriver process.NewDriver) {
	if !isHelper() {
		return
	}
	status, ok := process.Run(os.Args[2], process.Deps{Stdin: os.Stdin, Stderr: os.Stderr, LookupEnv: os.LookupEnv, Driver: newDriver})
	if !ok {
		status = 2
	}
	os.Exit(status)
}

func isHelper() bool { return len(os.Args) > 2 && os.Args[1] == helper }

// Options of Open. The zero value is what the command vzcompose has.
type Options struct {
	// Home is the folder of images, kernels and stacks; "": that of VZCOMPOSE_HOME, or
	// the system's usual place.
	Home string
	// Program is the path of a vzcompose of this release, which becomes the helper
	// processes; "": this executable, whose main calls RunHelper.
	Program string
	// LookupEnv returns variables: for ${VAR} in stack files, for secrets, and
	// VZCOMPOSE_HOME; nil: os.LookupEnv.
	LookupEnv func(string) (string, bool)
	// Cold boots every machine in place of restoring it from a template.
	Cold bool
}

// Home is a home folder. Its methods may be called from several goroutines.
type Home struct {
	home   *stack.Home
	lookup func(string) (string, bool)
}

// Open opens a home folder, and makes it where there is none.
func Open(o Options) (*Home, error) {
	if isHelper() {
		return nil, errs.WithHint(errs.New(errs.FailedPrecondition, "this process is a helper of a stack, and has not become one"),
			"call vzcompose.RunHelper first in main or TestMain, or name a vzcompose in Options.Program")
	}
	lookup := o.LookupEnv
	if lookup == nil {
		lookup = os.LookupEnv
	}
	if o.Home != "" {
		dir, err := filepath.Abs(o.Home)
		if err != nil {
			return nil, err
		}
		outer := lookup
		lookup = func(name string) (string, bool) {
			if name == "VZCOMPOSE_HOME" {
				return dir, true
			}
			return outer(name)
		}
	}
	program := []string{o.Program}
	if o.Program == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		program = []string{self, helper}
	}
	h, err := stack.Open(stack.Options{LookupEnv: lookup, Program: program, Cold: o.Cold, Probe: process.Probe(driver.New, lookup)})
	if err != nil {
		return nil, err
	}
	return &Home{home: h, lookup: lookup}, nil
}

// LoadOptions say which stack is meant.
type LoadOptions struct {
	// Files are merged in order; none: vzcompose.yaml, or another of the known names,
	// in Dir or a folder above it. They may be Compose files.
	Files []string
	// Dir is where the search for a file starts, and where relative paths of Files
	// start; "": the working directory, and the folder of the first file.
	Dir string
	// Name replaces the name that the files give the stack.
	Name string
	// Profiles have the containers of a profile in the stack.
	Profiles []string
	// EnvFiles have the variables of the files, in place of .env beside the first; a
	// later one goes before an earlier one.
	EnvFiles []string
	// PublishOffset is added to each port of the host that the files fix.
	PublishOffset int
}

// Stack is a stack as its files declare it. Its methods may be called from several
// goroutines: those that change the stack wait for each other, also between processes.
type Stack struct {
	home     *Home
	loaded   *spec.Loaded
	options  spec.Options
	warnings Findings
}

// Load reads the files of a stack. The error is a Findings where they are wrong.
// Nothing is fetched or started.
func (h *Home) Load(o LoadOptions) (*Stack, error) {
	so := spec.Options{Files: o.Files, Dir: o.Dir, Name: o.Name, Profiles: o.Profiles, Platform: engine.Platform(), LookupEnv: h.lookup,
		EnvFiles: o.EnvFiles, PublishOffset: o.PublishOffset, PublishAddress: h.home.Settings.PublishAddress}
	loaded, err := spec.Load(so)
	if err != nil {
		return nil, asFindings(err)
	}
	return &Stack{home: h, loaded: loaded, options: so, warnings: findingsOf(loaded.Findings)}, nil
}

// Name returns the name under which the stack is brought up.
func (s *Stack) Name() string { return s.loaded.Stack.Name }

// Warnings returns what may be wrong with the files and is no error.
func (s *Stack) Warnings() Findings { return s.warnings }

// use returns the stack for one use case, whose options it has to itself.
func (s *Stack) use() *stack.Stack { return s.home.home.Declare(s.loaded, s.options) }

// Instances returns the instances that there are.
func (s *Stack) Instances(ctx context.Context) ([]Instance, error) {
	_, picked, err := s.use().Select(ctx, nil)
	if err != nil {
		return nil, err
	}
	var all []Instance
	for _, i := range picked {
		all = append(all, instanceOf(i))
	}
	return all, nil
}
