// Package engine does what a plan says: it observes the World and carries out
// each operation, with images, kernels, volumes, records and shims. It decides
// nothing about what is to be done, and prints nothing.
package engine

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/executor"
	"github.com/vzcompose/vzcompose/internal/agents"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/kernel"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/volume"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// statusLimit is how long a shim may take to answer about itself.
const statusLimit = 2 * time.Second

// Limits of phases, where Options does not say other.
const (
	spawnLimit = 30 * time.Second // from a shim's exec to its readiness
	startLimit = 10 * time.Minute // from a shim's readiness to a running process; the shim has finer limits
	stopLimit  = 8 * time.Minute  // beside the grace period; the shim has finer limits
)

// Options say what an Engine works with.
type Options struct {
	Home    store.Home
	Images  *image.Store
	Kernels *kernel.Store
	// Shim is the command that becomes a shim: it reads a shimproto.Launch from its
	// standard input and says it is ready on descriptor 3.
	Shim []string
	// Switch is the command that becomes the switch of a stack; see
	// internal/switchproc.
	Switch []string
	// Remove is the command that removes a one-off whose command is gone: it reads a
	// shimproto.RemoveOrder from its standard input.
	Remove []string
	// Probe returns what keeps this host from running machines; nil: a start tells.
	Probe func() error
	// CPUs of the host: no machine gets more.
	CPUs int
	// Templates is the folder of what machines are restored from; "": the home's.
	Templates string
	// LookupEnv answers the caller's variables, from which secrets may come; nil:
	// os.LookupEnv.
	LookupEnv func(string) (string, bool)
	// Cold has every machine booted.
	Cold bool
	// Held is shim.Held; nil: no machine that waits holds a container.
	Held func(shimproto.Launch) (common shimproto.Launch, key string, err error)
	// TemplatesLimit bounds the templates of machines, in bytes; 0: the driver's
	// own bound.
	TemplatesLimit uint64
	// SpawnLimit, StartLimit and StopLimit bound what is asked of a shim; 0: the
	// usual ones.
	SpawnLimit, StartLimit, StopLimit time.Duration
}

// Engine works on one home folder. It is for many goroutines.
type Engine struct {
	o Options

	boot sync.Mutex            // guards the following: what machines boot from
	from map[string]*bootFiles // by the id of the kernel; "": the default one

	taking sync.Mutex // held while a kernel is taken in, guards the following
	taken  map[[2]string]kernel.Kernel
}

// bootFiles are the kernel and the initramfs.
type bootFiles struct {
	kernel, initramfs string
	version           string // of the kernel, as uname says it
}

// Stack is an Engine at work on one stack: the executor's Runner.
type Stack struct {
	*Engine
	Name  string
	Dir   string   // of the stack file; "" where it was not read
	Files []string // absolute
	// Adopt has the stack become that of Dir, whichever directory it belongs to.
	Adopt bool
	// Grace replaces the declared time between stop signal and SIGKILL; nil: as
	// declared.
	Grace *time.Duration
	// AutoRemove is the instance that is removed when it has ended; "": none.
	AutoRemove string
	// Kill, where it ends, has a start that is being taken back killed; nil: never.
	Kill context.Context
	// WaitLimit bounds how long a step waits for an instance to be up
	// (planner.CondUp); 0: it is not bounded.
	WaitLimit time.Duration
	// Statics are the addresses that the stack file gives.
	Statics []Static
	// Ports are the places of the ports of containers in the stack file.
	Ports map[string][]spec.Place
	// Attended is the instance whose process waits until somebody is attached to
	// it; "": none. Launched, where it is set, is told when that can be done.
	Attended string
	Launched func(ctx context.Context, instance string)

	leases sync.Mutex // held while leases are given
}

var _ executor.Runner = (*Stack)(nil)

// New allocates an Engine.
func New(o Options) *Engine {
	o.SpawnLimit = cmp.Or(o.SpawnLimit, spawnLimit)
	o.StartLimit = cmp.Or(o.StartLimit, startLimit)
	o.StopLimit = cmp.Or(o.StopLimit, stopLimit)
	return &Engine{o: o}
}

// Platform is what images are wanted for.
func Platform() string { return "linux/" + runtime.GOARCH }

func (s *Stack) volumes() *volume.Store { return s.volumesOf(s.Name) }

func (e *Engine) external() *volume.Store { return e.volumesOf("") }

// volumesWith returns the volumes among which that of a mount is.
func (s *Stack) volumesWith(m spec.Mount) *volume.Store {
	if m.External {
		return s.external()
	}
	return s.volumes()
}

// VolumePath is where the disk of a volume that a container mounts is.
func (s *Stack) VolumePath(m spec.Mount) string { return s.volumesWith(m).Path(m.Source) }

// Run carries out one step.
func (s *Stack) Run(ctx context.Context, step planner.Step, report func(event.Progress)) error {
	if err := s.do(ctx, step, report); err != nil {
		return err
	}
	s.enter(step.Op, report)
	return nil
}

func (s *Stack) do(ctx context.Context, step planner.Step, report func(event.Progress)) error {
	switch op := step.Op.(type) {
	case planner.Pull:
		return s.pull(ctx, op, report)
	case planner.CreateVolume:
		if op.Shared {
			return s.volumes().CreateDirectory(op.Name)
		}
		return s.volumes().Create(op.Name, op.Size)
	case planner.RemoveVolume:
		return s.volumes().Remove(op.Name)
	case planner.CreateNetwork:
		return s.defineNetwork(op.Name, op.Spec)
	case planner.UpdateNetwork:
		return s.defineNetwork(op.Name, op.Spec)
	case planner.RemoveNetwork:
		return s.removeNetwork(op.Name)
	case planner.Create:
		return s.create(ctx, op, report)
	case planner.Update:
		return s.update(ctx, op, report)
	case planner.Start:
		return s.start(ctx, op.Instance, report)
	case planner.Await:
		return s.await(ctx, op, report)
	case planner.Stop:
		return s.stop(ctx, op.Instance, s.Grace, op.Discard)
	case planner.Remove:
		return s.remove(ctx, op.Instance, report)
	}
	return errs.New(errs.Internal, "no way to %s %s", step.Op.Verb(), step.Op.Subject())
}

// pull makes an image and its root filesystem available.
func (s *Stack) pull(ctx context.Context, op planner.Pull, report func(event.Progress)) error {
	progress := func(p image.Progress) {
		report(event.Progress{Phase: p.Phase, Current: p.Current, Total: p.Total})
	}
	img, err := s.o.Images.Find(ctx, op.Ref, Platform())
	switch {
	case op.Policy == "always", errs.Is(err, errs.NotFound) && op.Policy != "never":
		img, err = s.o.Images.Pull(ctx, op.Ref, Platform(), progress)
	}
	if err != nil {
		return err
	}
	_, err = s.o.Images.RootFS(ctx, img.Digest, progress)
	return err
}

// bootFrom answers what machines boot from, found or made once.
func (e *Engine) bootFrom(ctx context.Context) (*bootFiles, error) { return e.bootWith(ctx, "") }

// bootWith is bootFrom for machines that ask for a kernel; "": the default one.
func (e *Engine) bootWith(ctx context.Context, id string) (*bootFiles, error) {
	e.boot.Lock()
	defer e.boot.Unlock()
	if from := e.from[id]; from != nil {
		return from, nil
	}
	agent, err := agents.Binary(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	k, err := e.kernel(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("find a kernel: %w", err)
	}
	initramfs, err := e.o.Kernels.Initramfs(ctx, k, agent)
	if err != nil {
		return nil, fmt.Errorf("build the initramfs: %w", err)
	}
	if e.from == nil {
		e.from = map[string]*bootFiles{}
	}
	e.from[id] = &bootFiles{kernel: k.Image, initramfs: initramfs, version: k.Version}
	return e.from[id], nil
}

func (e *Engine) kernel(ctx context.Context, id string) (kernel.Kernel, error) {
	if id == "" {
		return e.o.Kernels.Default(ctx, runtime.GOARCH)
	}
	k, err := e.o.Kernels.Find(id)
	if errs.Is(err, errs.NotFound) || store.Damaged(err) {
		err = errs.WithHint(err, "up --force-recreate takes it in again, and replaces one that is damaged")
	}
	return k, err
}
