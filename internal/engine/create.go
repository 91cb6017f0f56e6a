package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/image/erofs"
	"github.com/vzcompose/vzcompose/internal/kernel"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/undo"
	"github.com/vzcompose/vzcompose/internal/users"
	"github.com/vzcompose/vzcompose/internal/volume"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// Memory that a machine has beside what its container may use: the kernel, the
// agent and the page tables of it all.
const (
	overhead      = 128 << 20 // bytes
	overheadShare = 32        // and one part in this many of the container's
	memoryUnit    = 2 << 20   // machines have a multiple of this
)

const undoLimit = 30 * time.Second

// maxHostname is what the kernel takes (HOST_NAME_MAX), in bytes: an instance of a
// container with a long name has a longer one.
const maxHostname = 64

// create makes an instance: its folder, its writable layer and, last, its
// record, without which it counts as half-made.
func (s *Stack) create(ctx context.Context, op planner.Create, report func(event.Progress)) (err error) {
	var un undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, un.Run(ctx, undoLimit))
		}
	}()
	rec, err := s.describeWithUndo(ctx, &un, op.Target, op.Spec, report)
	if err != nil {
		return err
	}
	if err := s.record(); err != nil {
		return err
	}
	if err := s.o.Home.MakeInstance(s.Name, op.Instance); err != nil {
		return fmt.Errorf("make the instance's folder: %w", err)
	}
	un.Push("make the instance's folder", func(context.Context) error {
		return s.o.Home.RemoveInstance(s.Name, op.Instance)
	})
	if err := volume.Create(s.o.Home.Writable(s.Name, op.Instance), cmp.Or(rec.Writable, volume.WritableLayer)); err != nil {
		return err
	}
	if err := s.makeVolumes(rec, &un, report); err != nil {
		return err
	}
	if err := s.o.Home.WriteInstance(rec); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	un.Release()
	return nil
}

// update gives an instance another record; its writable layer stays. What a
// live update changes is read from the record when it is needed.
func (s *Stack) update(ctx context.Context, op planner.Update, report func(event.Progress)) (err error) {
	old, err := s.o.Home.ReadInstance(s.Name, op.Instance)
	if err != nil {
		return err
	}
	if op.Live { // nothing that the machine or the process was made from
		old.StopTimeout = op.Spec.StopGracePeriod
		old.Restart = store.Restart{Policy: op.Spec.Restart.Policy, Max: op.Spec.Restart.Max}
		if old.Spec, err = spec.EncodeContainer(op.Spec); err != nil {
			return err
		}
		if err := s.o.Home.WriteInstance(old); err != nil {
			return err
		}
		return s.reload(ctx, op.Instance)
	}
	var un undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, un.Run(ctx, undoLimit))
		}
	}()
	rec, err := s.describeWithUndo(ctx, &un, op.Target, op.Spec, report)
	if err != nil {
		return err
	}
	rec.Created = old.Created
	if err := s.record(); err != nil {
		return err
	}
	if err := s.makeVolumes(rec, new(undo.Stack), report); err != nil { // a next update finds them
		return err
	}
	if _, err := s.ended(ctx, op.Instance); err != nil {
		return err
	}
	if err := s.forget(op.Instance); err != nil {
		return err
	}
	if err := s.o.Home.WriteInstance(rec); err != nil {
		return err
	}
	un.Release()
	return nil
}

// reload has the shim of a running instance read its record again.
func (s *Stack) reload(ctx context.Context, name string) error {
	c, err := s.dial(ctx, name, nil)
	if errs.Is(err, errs.NotFound) {
		return nil // it does not run: the next start reads the record
	}
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := limited(ctx, s.o.SpawnLimit, "tell the shim")
	defer cancel()
	if err := c.Reload(ctx); err != nil && !errs.Is(err, errs.FailedPrecondition) {
		return fmt.Errorf("tell its shim: %w", err)
	}
	return nil
}

// forget makes an instance one that has not run, as it has not since it was
// declared as it is now. Its boots are counted on.
func (s *Stack) forget(name string) error {
	lock, err := s.o.Home.LockInstance(s.Name, name)
	if err != nil {
		return fmt.Errorf("take the instance's lock: %w", err)
	}
	defer lock.Release()
	st, _, err := s.o.Home.TakeState(s.Name, name)
	if err != nil {
		return err
	}
	return s.o.Home.WriteState(s.Name, name, store.State{State: lifecycle.Initialized, Boots: st.Boots})
}

// instance decides everything about an instance that does not wait for its
// start.
func (s *Stack) instance(ctx context.Context, t planner.Target, c spec.Container, report func(event.Progress)) (store.Instance, error) {
	return s.describe(ctx, t, c, func() ([]store.Interface, error) { return s.interfaces(t.Instance, c) }, report)
}

// describe is instance, with the interfaces that on answers.
func (s *Stack) describe(ctx context.Context, t planner.Target, c spec.Container, on func() ([]store.Interface, error),
	report func(event.Progress)) (store.Instance, error) {
	rec := store.Instance{Stack: s.Name, Container: t.Container, Name: t.Instance, Index: t.Index, Created: time.Now(),
		CPUs: s.machineCPUs(c), Memory: machineMemory(c), StopTimeout: c.StopGracePeriod,
		Restart: store.Restart{Policy: c.Restart.Policy, Max: c.Restart.Max}, Stdin: c.StdinOpen}
	transcribe(&rec, c)
	img, err := s.root(ctx, c, &rec, report)
	if err != nil {
		return rec, err
	}
	if err := s.ownKernel(ctx, c, &rec, report); err != nil {
		return rec, err
	}
	if rec.Spec, err = spec.EncodeContainer(c); err != nil {
		return rec, err
	}
	rec.Health = health(c, img)
	if c, rec.Anonymous, err = withVolumes(c, img, t.Instance); err != nil {
		return rec, err
	}
	sources, err := s.attach(&rec, c.Mounts)
	if err != nil {
		return rec, err
	}
	var given []specs.Mount
	if rec.Interfaces, err = on(); err != nil {
		return rec, err
	}
	hostname := first(c.Hostname, t.Instance[:min(len(t.Instance), maxHostname)])
	rec.Files, given = files(c, rec.Interfaces, hostname)
	if rec.Runtime, err = runtimeSpec(c, img, hostname, sources, given); err != nil {
		return rec, err
	}
	if rec.Seccomp, err = seccompOf(c); err != nil {
		return rec, err
	}
	rec.User = first(c.User, img.User)
	if len(rec.Shares) > 0 {
		who := userIn(rec.Root, rec.User)
		for n := range rec.Shares {
			if !rec.Shares[n].Volume { // which is no container's own
				rec.Shares[n].UID, rec.Shares[n].GID = who.UID, who.GID
			}
		}
	}
	if rec.StopSignal, err = agentproto.ParseSignal(first(c.StopSignal, img.StopSignal, "SIGTERM")); err != nil {
		return rec, fmt.Errorf("stop signal: %w", err)
	}
	return rec, nil
}

// attach gives an instance the disks and shares that mounts are of, and returns the
// sources of these mounts in the machine, by sourceKey.
func (s *Stack) attach(rec *store.Instance, mounts []spec.Mount) (map[string]string, error) {
	sources := map[string]string{}
	for _, m := range mounts {
		key := sourceKey(m)
		switch {
		case m.Type == "bind":
			if sources[key] != "" {
				continue
			}
			h, err := shareOf(m, shareID(len(rec.Shares)))
			if err != nil {
				return nil, err
			}
			sources[key] = addShare(rec, h)
		case m.Type == "block":
			sources[key] = addDisk(rec, store.Disk{Path: m.Source, ReadOnly: m.ReadOnly(), Type: "auto"})
		case m.Type == "volume" && s.volumesWith(m).IsDirectory(m.Source):
			sources[key] = addShare(rec, store.Share{ID: shareID(len(rec.Shares)), Path: s.volumesWith(m).Directory(m.Source),
				ReadOnly: m.ReadOnly(), Volume: true, CopyUp: copyUp(m)})
		case m.Type == "volume":
			sources[key] = addDisk(rec, store.Disk{Path: s.VolumePath(m), ReadOnly: m.ReadOnly(), CopyUp: copyUp(m)})
		}
	}
	return sources, nil
}

// addDisk gives an instance a disk. Of one that is mounted twice it is what the freer
// mount wants.
func addDisk(rec *store.Instance, d store.Disk) string {
	i := slices.IndexFunc(rec.Volumes, func(o store.Disk) bool { return o.Path == d.Path })
	if i < 0 {
		d.ID = diskID(len(rec.Volumes))
		rec.Volumes = append(rec.Volumes, d)
		return agentproto.VolumeScheme + d.ID
	}
	rec.Volumes[i].ReadOnly = rec.Volumes[i].ReadOnly && d.ReadOnly
	rec.Volumes[i].CopyUp = first(rec.Volumes[i].CopyUp, d.CopyUp)
	return agentproto.VolumeScheme + rec.Volumes[i].ID
}

// addShare is addDisk for a share. Each of a bind is another: one folder that may be
// written to is another share where it may only be read.
func addShare(rec *store.Instance, h store.Share) string {
	i := slices.IndexFunc(rec.Shares, func(o store.Share) bool { return o.Volume && o.Path == h.Path })
	if i < 0 || !h.Volume {
		rec.Shares = append(rec.Shares, h)
		return agentproto.ShareScheme + h.ID
	}
	rec.Shares[i].ReadOnly = rec.Shares[i].ReadOnly && h.ReadOnly
	rec.Shares[i].CopyUp = first(rec.Shares[i].CopyUp, h.CopyUp)
	return agentproto.ShareScheme + rec.Shares[i].ID
}

// sourceKey tells apart what mounts are of. The source of a bind or a block is
// absolute, and no volume's name.
func sourceKey(m spec.Mount) string {
	switch {
	case m.Type != "bind":
		return m.Source
	case m.ReadOnly():
		return "read " + m.Source
	}
	return "write " + m.Source
}

// shareID names the nth share.
func shareID(n int) string { return "share" + strconv.Itoa(n) }

// shareOf is the share of a bind.
func shareOf(m spec.Mount, id string) (store.Share, error) {
	h := store.Share{ID: id, Path: m.Source, ReadOnly: m.ReadOnly(), Make: m.CreatesHostPath()}
	fi, err := os.Stat(m.Source)
	if os.IsNotExist(err) && h.Make {
		return h, nil
	}
	if err != nil {
		return h, fmt.Errorf("bind %s: %w", m.Source, err)
	}
	if !fi.IsDir() {
		path, err := filepath.EvalSymlinks(m.Source)
		if err != nil {
			return h, fmt.Errorf("bind %s: %w", m.Source, err)
		}
		h.Path, h.File, h.Make = path, filepath.Base(path), false
	}
	return h, nil
}

// userIn returns who a user is in a root, by its /etc/passwd and /etc/group. Root: it
// is not known, and the start reports it.
func userIn(root, user string) users.Identity {
	f, err := os.Open(root)
	if err != nil {
		return users.Identity{}
	}
	defer f.Close()
	var d users.Database
	d.Passwd, _ = erofs.ReadFile(f, "etc/passwd", users.MaxFile) // an image may lack it
	d.Group, _ = erofs.ReadFile(f, "etc/group", users.MaxFile)   // likewise
	who, err := d.Resolve(user)
	if err != nil {
		return users.Identity{}
	}
	return who
}

// makeShares makes the folders that an instance shares and that are missing, as the
// user who starts it. They stay, whatever comes of the start: others may be at work
// in them by then.
func makeShares(rec store.Instance) error {
	for _, h := range rec.Shares {
		if !h.Make {
			continue
		}
		if err := os.MkdirAll(h.Path, 0o777); err != nil { // less the umask, as mkdir(1) has it
			return fmt.Errorf("make the source of a bind: %w", err)
		}
	}
	return nil
}

// root finds the read-only root disk, and what its image says.
func (s *Stack) root(ctx context.Context, c spec.Container, rec *store.Instance, report func(event.Progress)) (cfg image.Config, err error) {
	progress := func(p image.Progress) {
		report(event.Progress{Phase: p.Phase, Current: p.Current, Total: p.Total})
	}
	switch r := c.RootFS; {
	case c.Image != "":
		img, err := s.o.Images.Find(ctx, c.Image, Platform())
		if err != nil {
			return cfg, err
		}
		rec.Image = img.Digest
		rec.Root, err = s.o.Images.RootFS(ctx, img.Digest, progress)
		return img.Config, err
	case r == nil:
		return cfg, errs.New(errs.Internal, "neither image nor rootfs")
	case r.Tar != "":
		_, rec.Root, err = s.o.Images.RootFSFromTar(ctx, r.Tar, progress)
	case r.Directory != "":
		_, rec.Root, err = s.o.Images.RootFSFromDirectory(ctx, r.Directory, progress)
	default:
		rec.Root = r.Block
		_, err = os.Stat(r.Block)
	}
	return cfg, err
}

// ownKernel takes in the kernel that a container asks for. What lies there now is
// what its machine boots until it is declared anew.
func (s *Stack) ownKernel(ctx context.Context, c spec.Container, rec *store.Instance, report func(event.Progress)) error {
	if c.Kernel == nil {
		return nil
	}
	rec.KernelArgs = c.Kernel.Cmdline
	if c.Kernel.Path == "" {
		return nil
	}
	k, err := s.takeKernel(ctx, *c.Kernel, func(phase string, current, total int64) {
		report(event.Progress{Phase: phase, Current: current, Total: total})
	})
	if err != nil {
		return err
	}
	if k.Arch != runtime.GOARCH {
		return errs.New(errs.InvalidArgument, "kernel %s is for %s, machines of this host are %s", c.Kernel.Path, k.Arch, runtime.GOARCH)
	}
	rec.Kernel = k.ID
	return nil
}

// takeKernel takes a kernel in once for all that ask for it in one command: a
// package takes seconds to unpack.
func (e *Engine) takeKernel(ctx context.Context, k spec.Kernel, report kernel.Progress) (kernel.Kernel, error) {
	e.taking.Lock()
	defer e.taking.Unlock()
	from := [2]string{k.Path, k.Modules}
	if taken, ok := e.taken[from]; ok {
		return taken, nil
	}
	taken, err := e.o.Kernels.Take(ctx, k.Path, k.Modules, report)
	if err != nil {
		return taken, err
	}
	if e.taken == nil {
		e.taken = map[[2]string]kernel.Kernel{}
	}
	e.taken[from] = taken
	return taken, nil
}

// copyUp is the directory of the image whose files a new volume gets: where it
// is mounted, unless only to be read or with nocopy.
func copyUp(m spec.Mount) string {
	if m.ReadOnly() || slices.Contains(m.Options, "nocopy") {
		return ""
	}
	return m.Destination
}

func machineMemory(c spec.Container) uint64 {
	n := c.Memory + overhead + c.Memory/overheadShare
	if c.Overhead != nil && c.Overhead.Memory > 0 {
		n = c.Memory + c.Overhead.Memory
	}
	return (n + memoryUnit - 1) / memoryUnit * memoryUnit
}

// ended reports whether an instance has no shim. One whose record has its last word
// is waited for: it is putting itself away.
func (s *Stack) ended(ctx context.Context, name string) (bool, error) {
	alive, err := s.o.Home.Alive(s.Name, name)
	if err != nil || !alive {
		return err == nil, err
	}
	st, err := s.o.Home.ReadState(s.Name, name)
	if owner, oerr := s.o.Home.Owner(s.Name, name); err != nil || oerr != nil || st.State.Live() || owner != st.PID {
		return false, nil // and whoever looks sees why
	}
	return true, s.awaitGone(ctx, name)
}

// remove deletes an instance that has no shim.
func (s *Stack) remove(ctx context.Context, name string, report func(event.Progress)) error {
	i, err := s.observe(ctx, name)
	if err != nil {
		return err
	}
	ended, err := s.ended(ctx, name)
	if err != nil {
		return err
	}
	if !ended {
		return errs.New(errs.FailedPrecondition, "%s is still running", name)
	}
	if err := s.awaitGone(ctx, name); err != nil {
		return err
	}
	err = s.o.Home.RemoveInstance(s.Name, name)
	if errs.Is(err, errs.FailedPrecondition) {
		return errs.New(errs.FailedPrecondition, "%s is still running", name)
	}
	if err != nil {
		return fmt.Errorf("delete its folder: %w", err)
	}
	if i.Broken == "" && i.Index == 0 { // no other will have the name of a one-off
		if err := s.removeVolumes(name, report); err != nil {
			return err
		}
	}
	if err := s.returnLeases(name); err != nil {
		return err
	}
	// A shim that was killed has left its socket.
	if err := os.Remove(s.o.Home.Socket(s.Name, name)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("delete its socket: %w", err)
	}
	return nil
}
