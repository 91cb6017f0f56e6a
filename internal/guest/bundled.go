//go:build linux

package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/users"
)

// startBundle starts the container by an OCI runtime: its own process is created,
// adopted, and started.
func (a *agent) startBundle(ctx context.Context, p *process, o *orders) (err error) {
	a.mu.Lock()
	former := a.container
	a.mu.Unlock()
	if former != nil {
		if err := former.runtime.awaitRetired(ctx); err != nil {
			return err
		}
	}
	if s := a.spareStage().take(); s != nil {
		s.drop() // it is of no use to a runtime
	}
	r, err := a.newRuntime(o.Container.runtimePath)
	if err != nil {
		return err
	}
	if err := r.check(ctx); err != nil {
		return errors.Join(err, os.RemoveAll(r.dir))
	}
	g, pids, err := a.limitedCgroup(ctx, o)
	if err != nil {
		return errors.Join(err, os.RemoveAll(r.dir))
	}
	p.cgroup = g
	created := false
	defer func() {
		if err != nil {
			err = a.undoBundle(ctx, r, g, created, err)
		}
	}()
	if pids != "" {
		if err := g.write(setting{"pids.max", pids}); err != nil {
			return err
		}
	}
	if err := enableControllers(g.dir); err != nil {
		return err
	}
	if err := r.prepare(o, g); err != nil {
		return err
	}
	created = true
	c, t, err := r.create(ctx, p, o.Process.Terminal, "create", "--bundle", r.dir, ociID)
	if err != nil {
		return err
	}
	if err := a.startCreated(ctx, r, g, c); err != nil {
		t.discard()
		c.abandon()
		return err
	}
	p.stdio.adopt(t)
	o.Container.runtime = r
	return a.adopt(p, c, o)
}

// discard gives up a terminal that nothing reads or writes; nil is none.
func (t *terminal) discard() {
	if t == nil {
		return
	}
	_ = t.in.Close()
	_ = t.out.Close()
	t.close()
}

// startCreated starts what has been created, once it is where it is to be.
func (a *agent) startCreated(ctx context.Context, r *ociRuntime, g *cgroup, c *child) error {
	if !g.holds(c.pid) {
		return errs.New(errs.FailedPrecondition, "oci_runtime %s: create: it has put process %d outside of linux.cgroupsPath", r.path, c.pid)
	}
	// The limit is at the runtime's cgroup, too, and there the kernel looks first.
	leaf := g.ofProcess(c.pid)
	if err := leaf.write(setting{"memory.oom.group", "1"}); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, err := r.ask(ctx, "start", ociID)
	return err
}

// undoBundle takes away what is there of a container that did not start.
func (a *agent) undoBundle(ctx context.Context, r *ociRuntime, g *cgroup, created bool, cause error) error {
	cause = a.undoContainer(ctx, g, cause)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	if created {
		// One that failed to create it has nothing to delete, and says so.
		if _, err := r.ask(ctx, "delete", "--force", ociID); err != nil {
			a.log.printf("%v", err)
		}
	}
	if err := os.RemoveAll(r.dir); err != nil {
		a.log.printf("undo the container: %v", err)
	}
	return cause
}

// prepare looks up the user, makes the working directory and writes the bundle.
func (r *ociRuntime) prepare(o *orders, g *cgroup) error {
	fd, err := unix.Open(r.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the root filesystem: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	root := inRoot{fd}
	if err := o.Process.resolveUser(func() (users.Database, error) { return readDatabaseIn(root) }); err != nil {
		return err
	}
	if err := makeCwd(root, o.Process.Cwd); err != nil {
		return err
	}
	// As it sees the hierarchy, which begins at the mount.
	path := filepath.Join("/", strings.TrimPrefix(g.dir, cgroupDir), ociID)
	config := bundleSpec(o.Container.asked, o, filepath.Join(r.dir, bundleRoot), path)
	if err := writeJSON(filepath.Join(r.dir, "config.json"), config); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	return nil
}

// create has the runtime make a process, by a step that ends with the
// container's ID, and adopts it. The terminal is nil where none is ordered.
func (r *ociRuntime) create(ctx context.Context, p *process, want *terminalOrder, args ...string) (*child, *terminal, error) {
	defer r.reaper.expect()()
	pidFile := r.file("pid")
	defer func() { _ = os.Remove(pidFile) }()
	words := append(args[:len(args)-1:len(args)-1], "--pid-file", pidFile)
	var at *console
	if want != nil {
		var err error
		if at, err = listenConsole(r.file("tty")); err != nil {
			return nil, nil, err
		}
		defer at.close()
		words = append(words, "--console-socket", at.path)
	}
	words = append(words, args[len(args)-1])
	var err error
	if want != nil {
		_, err = r.ask(ctx, words...)
	} else {
		err = r.become(ctx, p.stdio.child, words...)
	}
	if err != nil {
		return nil, nil, err
	}
	c, err := r.adopt(pidFile)
	if err != nil {
		return nil, nil, fmt.Errorf("oci_runtime %s: %s: %w", r.path, args[0], err)
	}
	if want == nil {
		return c, nil, nil
	}
	t, err := at.receive(consoleLimit)
	if err != nil {
		c.abandon()
		return nil, nil, fmt.Errorf("oci_runtime %s: %s: %w", r.path, args[0], err)
	}
	return c, t, nil
}

// adopt makes ours the process that a step has left.
func (r *ociRuntime) adopt(pidFile string) (*child, error) {
	b, err := readBounded(pidFile, 64)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.New(errs.FailedPrecondition, "it has left no pid file")
	}
	if err != nil {
		return nil, err
	}
	pid, err := parsePID(b)
	if err != nil {
		return nil, err
	}
	return r.reaper.adopt(pid)
}

// abandon ends a child that is of no use; its end is told to nobody.
func (c *child) abandon() {
	_ = c.signal(unix.SIGKILL) // or it has ended
	_ = c.pidfd.Close()
	close(c.settled)
}

// execBundle starts p in a container that a runtime runs.
func (a *agent) execBundle(ctx context.Context, c *container, p *process, o *orders) error {
	if err := c.identify(o); err != nil {
		return err
	}
	r := c.runtime
	file := r.file("process")
	defer func() { _ = os.Remove(file) }()
	if err := writeJSON(file, bundleProcess(o.Process)); err != nil {
		return fmt.Errorf("write the process: %w", err)
	}
	ch, t, err := r.create(ctx, p, o.Process.Terminal, "exec", "--process", file, "--detach", ociID)
	if err != nil {
		if c.process.ended() {
			err = errs.New(errs.FailedPrecondition, "the container has ended: %w", err)
		}
		return err
	}
	p.stdio.adopt(t)
	a.procs.started(p, ch)
	return nil
}

// identify looks up the user of a process in the container, as that sees its
// files, and makes the working directory.
func (c *container) identify(o *orders) error {
	f, err := c.openRoot()
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	root := inRoot{int(f.Fd())}
	if err := o.Process.resolveUser(func() (users.Database, error) { return readDatabaseIn(root) }); err != nil {
		return err
	}
	return makeCwd(root, o.Process.Cwd)
}

// checkRuntime says whether a runtime can be asked for as that.
func checkRuntime(path string, s *specs.Spec, init bool) error {
	switch {
	case path == "":
		return nil
	case s == nil:
		return errs.New(errs.InvalidArgument, "an OCI runtime for a process in the container")
	case init:
		return errs.New(errs.InvalidArgument, "an init beside an OCI runtime")
	case !absolute(path) || len(path) > maxPath:
		return errs.New(errs.InvalidArgument, "OCI runtime %.200q is not an absolute path", path)
	}
	return nil
}

// retire has the runtime of a container whose process has ended forget it. A
// machine that is going off has no time for that, nor needs it.
func (a *agent) retire() {
	a.mu.Lock()
	c := a.container
	a.mu.Unlock()
	if c == nil || c.runtime == nil {
		return
	}
	if a.procs.isClosed() {
		close(c.runtime.deleted)
		return
	}
	go c.runtime.retire()
}
