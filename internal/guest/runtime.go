//go:build linux

package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// ociRuntime is a program of the container's root that runs the container in our
// place: crun, runc, or one that takes the same words. Each of its steps is a
// process of its own in the machine's namespaces, but that of mounts: it sees the
// container's root as its own, and beside it the machine's kernel (viewOf). It
// has every right in the machine.
type ociRuntime struct {
	path    string // in the container's root
	exe     string // of the stage
	root    string // the container's root filesystem in the machine
	cgroups string // where the cgroups of its steps are made
	dir     string // its folder in the machine's memory: bundle, state, logs
	reaper  *reaper
	log     *ring
	sources []string // folders from which the container mounts

	limit time.Duration // of each step

	steps   atomic.Int64
	turns   chan struct{} // one taken a step that runs
	deleted chan struct{} // closed once delete has been carried out
}

const (
	// ociLimit is how long one step of a runtime may take.
	ociLimit = 30 * time.Second
	// maxSteps is how many run at a time: their memory is the machine's, beside
	// the container's.
	maxSteps = 4
	// maxSaid bounds what is read of what a runtime says, in bytes.
	maxSaid = 64 << 10
	// ociID is the container's ID in the runtime.
	ociID = "init"
	// ociDir is where the runtime's folder is.
	ociDir = runDir + "/oci"
)

// newRuntime makes the folder for the runtime at path anew.
func (a *agent) newRuntime(path string) (*ociRuntime, error) {
	r := &ociRuntime{path: path, exe: a.exe, root: a.root, cgroups: a.cgroups, dir: a.oci, reaper: a.reaper, log: a.log, limit: ociLimit,
		turns: make(chan struct{}, maxSteps), deleted: make(chan struct{})}
	if err := os.RemoveAll(r.dir); err != nil {
		return nil, fmt.Errorf("clear the runtime's folder: %w", err)
	}
	for _, d := range []string{bundleRoot, "state"} {
		if err := os.MkdirAll(filepath.Join(r.dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("make the runtime's folder: %w", err)
		}
	}
	for _, d := range []string{volumesDir, sharesDir, filesDir, emptyDir} {
		if _, err := os.Stat(d); err == nil {
			r.sources = append(r.sources, d)
		}
	}
	return r, nil
}

// file answers a path in the runtime's folder that no other step uses.
func (r *ociRuntime) file(kind string) string {
	return filepath.Join(r.dir, kind+"-"+strconv.FormatInt(r.steps.Add(1), 10))
}

// check finds out whether there is a runtime that can be executed.
func (r *ociRuntime) check(ctx context.Context) error {
	version, err := r.ask(ctx, "--version")
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(version, "\n")
	r.log.printf("%s: %.200q", r.path, first)
	return nil
}

// ask runs a step that has no part in the container's streams, and answers what
// it printed.
func (r *ociRuntime) ask(ctx context.Context, args ...string) (string, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = null.Close() }()
	ours, theirs, err := os.Pipe()
	if err != nil {
		return "", fmt.Errorf("make a pipe: %w", err)
	}
	printed := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(ours, maxSaid))
		_, _ = io.Copy(io.Discard, ours) // or the runtime would stand still
		printed <- b
	}()
	log := r.file("log")
	err = r.run(ctx, [3]*os.File{null, theirs, theirs}, log, args)
	_ = theirs.Close()
	_ = ours.SetReadDeadline(time.Now().Add(time.Second)) // whoever has it open still
	b := <-printed
	_ = ours.Close()
	return string(b), r.explain(err, log, b, args)
}

// become runs a step whose streams the container's process inherits. What the
// runtime says on them is the container's.
func (r *ociRuntime) become(ctx context.Context, stdio [3]*os.File, args ...string) error {
	log := r.file("log")
	err := r.run(ctx, stdio, log, args)
	return r.explain(err, log, nil, args)
}

// errStep says that a step ended with another status than 0.
var errStep = errors.New("it failed")

// explain names the runtime and the step in an error, and has what the runtime
// says of it.
func (r *ociRuntime) explain(err error, log string, printed []byte, args []string) error {
	b, lerr := readBounded(log, maxSaid)
	if lerr != nil {
		b = nil // it had nothing to say
	}
	_ = os.Remove(log) // likewise
	if err == nil {
		return nil
	}
	if text := said(b, printed); errors.Is(err, errStep) && text != "" {
		return errs.New(errs.FailedPrecondition, "oci_runtime %s: %s: %s", r.path, args[0], text)
	}
	return fmt.Errorf("oci_runtime %s: %s: %w", r.path, args[0], err)
}

// run runs one step to its end. Nothing of it is left then but what it has moved
// into the container's cgroup.
func (r *ociRuntime) run(ctx context.Context, stdio [3]*os.File, log string, args []string) error {
	select {
	case r.turns <- struct{}{}:
		defer func() { <-r.turns }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.limit, errs.New(errs.DeadlineExceeded, "it took longer than %s", r.limit))
	defer cancel()
	g, err := makeCgroup(ctx, r.cgroups, filepath.Base(r.file("runtime")))
	if err != nil {
		return err
	}
	defer r.sweep(ctx, g)
	enter, err := os.OpenFile(filepath.Join(g.dir, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	defer func() { _ = enter.Close() }()
	l := launch{exe: r.exe, orders: r.orders(log, args), stdio: stdio, cgroup: enter, here: true}
	c, err := l.run(ctx, r.reaper)
	if err != nil {
		return err
	}
	close(c.settled) // its end is nobody else's business
	defer func() { _ = c.pidfd.Close() }()
	select {
	case <-c.reaped:
	case <-ctx.Done():
		_ = g.kill(unix.SIGKILL)
		_ = c.signal(unix.SIGKILL) // or it has ended
		select {
		case <-c.reaped:
		case <-time.After(stopLimit):
		}
		return context.Cause(ctx)
	}
	if c.status.ExitStatus() != 0 {
		return fmt.Errorf("%w: %s", errStep, describe(c.status))
	}
	return nil
}

// sweep ends what a step has left, and removes its cgroup.
func (r *ociRuntime) sweep(ctx context.Context, g *cgroup) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	if g.populated() {
		_ = g.kill(unix.SIGKILL) // removing it tells
	}
	if err := g.remove(ctx); err != nil {
		r.log.printf("%s: %v", r.path, err)
	}
}

// orders are those of a step: the runtime with every right, in its view.
func (r *ociRuntime) orders(log string, args []string) *orders {
	rights := permitted()
	words := []string{r.path, "--root", filepath.Join(r.dir, "state"), "--log", log, "--log-format", "json"}
	if strings.HasPrefix(args[0], "-") {
		words = words[:1] // a question about itself
	}
	return &orders{
		Container: &containerOrders{Root: r.root, Propagation: unix.MS_REC | unix.MS_PRIVATE, Namespaces: unix.CLONE_NEWNS,
			Mounts: viewOf(r.root, r.dir, r.sources)},
		Process: processOrders{
			Args: append(words, args...), Env: []string{"PATH=" + defaultPath, "HOME=/root"}, Cwd: "/", Umask: 0o022,
			Caps: capSets{Bounding: ^uint64(0), Effective: rights, Permitted: rights},
		},
	}
}

// delete has the runtime forget its container, and clears its folder.
func (r *ociRuntime) delete(ctx context.Context) error {
	_, err := r.ask(ctx, "delete", "--force", ociID)
	return errors.Join(err, os.RemoveAll(r.dir))
}

// retire deletes the container after its process has ended.
func (r *ociRuntime) retire() {
	defer close(r.deleted)
	ctx, cancel := context.WithTimeout(context.Background(), 2*ociLimit) // its turn included
	defer cancel()
	if err := r.delete(ctx); err != nil {
		r.log.printf("%v", err)
	}
}

// awaitRetired waits until retire, which has begun, has ended.
func (r *ociRuntime) awaitRetired(ctx context.Context) error {
	if r == nil {
		return nil
	}
	select {
	case <-r.deleted:
		return nil
	case <-ctx.Done():
		return errs.New(errs.DeadlineExceeded, "oci_runtime %s: delete: %w", r.path, context.Cause(ctx))
	}
}
