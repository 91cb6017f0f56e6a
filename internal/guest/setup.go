//go:build linux

package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// setupState is how far the one set-up of the machine has come. One that failed
// stays so: the machine holds half of it.
type setupState int

const (
	setupNone setupState = iota
	setupUnderWay
	setupFailed
	setupDone
)

const (
	diskLimit  = 20 * time.Second // for the disks to appear
	maxVolumes = 128
	minEntropy = 32 // bytes
	// maxClockAge is how long ago the time may have been told.
	maxClockAge = 24 * time.Hour
)

// Where the root's parts are mounted.
const (
	lowerDir   = runDir + "/lower"
	upperDir   = runDir + "/rw"
	volumesDir = runDir + "/volumes"
	emptyDir   = runDir + "/empty"
	filesDir   = runDir + "/files"
)

func (a *agent) requireSetup() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.setup != setupDone {
		return errs.New(errs.FailedPrecondition, "the machine is not set up")
	}
	return nil
}

// Setup makes the machine that of one instance.
func (a *agent) Setup(ctx context.Context, s agentproto.Setup) (agentproto.SetupResult, error) {
	if err := checkSetup(s); err != nil {
		return agentproto.SetupResult{}, err
	}
	a.mu.Lock()
	state := a.setup
	if state == setupNone {
		a.setup = setupUnderWay
	}
	a.mu.Unlock()
	if state != setupNone {
		return agentproto.SetupResult{}, errs.New(errs.FailedPrecondition, "the machine has been set up before")
	}
	m := &setup{agent: a, want: s, disks: map[string]chan string{}}
	err := m.run(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.setup = setupFailed
		a.log.printf("set-up: %v", err)
		return agentproto.SetupResult{}, err
	}
	a.setup, a.places, a.mounted, a.interfaces = setupDone, m.places, m.mounted, s.Interfaces
	return agentproto.SetupResult{Kernel: kernelName(), Phases: m.phases}, nil
}

func checkSetup(s agentproto.Setup) error {
	seen := map[string]bool{}
	disks := []string{s.Root.Lower}
	if s.Root.Upper != "" {
		disks = append(disks, s.Root.Upper)
	}
	for _, v := range s.Volumes {
		disks = append(disks, v.ID)
	}
	if err := checkShares(s.Shares); err != nil {
		return err
	}
	for _, d := range disks {
		if checkID(d) != nil || len(d) > maxSerial || seen[d] {
			return errs.New(errs.InvalidArgument, "disk ID %q is no ID or there twice", cutName(d))
		}
		seen[d] = true
	}
	switch {
	case len(s.Volumes) > maxVolumes:
		return errs.New(errs.InvalidArgument, "%d volumes", len(s.Volumes))
	case len(s.Hostname) > 64 || !sound(s.Hostname):
		return errs.New(errs.InvalidArgument, "host name of %d bytes", len(s.Hostname))
	case s.Time.Before(time.Unix(0, 0)) || s.Time.Year() > 2200:
		return errs.New(errs.InvalidArgument, "clock set to %v", s.Time)
	case s.Clock < 0 || s.Clock > 0 && (monotonic()-s.Clock < 0 || monotonic()-s.Clock > maxClockAge):
		return errs.New(errs.InvalidArgument, "clock set by what it was at %v", s.Clock)
	case len(s.Entropy) < minEntropy || len(s.Entropy) > maxEntropy:
		return errs.New(errs.InvalidArgument, "entropy of %d bytes is not %d to %d", len(s.Entropy), minEntropy, maxEntropy)
	}
	for _, v := range s.Volumes {
		if v.CopyUp != "" && (!absolute(v.CopyUp) || v.ReadOnly || v.Type != "") || v.Type != "" && !soundName(v.Type) {
			return errs.New(errs.InvalidArgument, "volume %q of the type %.64q with the files of %.200q", v.ID, v.Type, v.CopyUp)
		}
	}
	if err := checkInterfaces(s.Interfaces); err != nil {
		return err
	}
	return checkFiles(s.Files)
}

// setup is the work of one Setup.
type setup struct {
	agent *agent
	want  agentproto.Setup
	disks map[string]chan string // by ID: gets the device, once

	mu      sync.Mutex // guards the following
	phases  []agentproto.Phase
	places  map[string]string // of agent.places
	mounted []string          // of agent.mounted
}

// phase runs fn and records what it took; its error names it.
func (m *setup) phase(name string, fn func() error) error {
	start := time.Now()
	err := fn()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.phases = append(m.phases, agentproto.Phase{Name: name, Start: m.agent.age(start), Duration: time.Since(start)})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (m *setup) run(ctx context.Context) error {
	m.places = map[string]string{}
	if err := m.phase("identity", m.identify); err != nil {
		return err
	}
	if err := m.phase("modules", func() error { return m.awaitModules(ctx) }); err != nil {
		return err
	}
	lower, upper := m.want.Root.Lower, m.want.Root.Upper
	m.disks[lower] = make(chan string, 1)
	if upper != "" {
		m.disks[upper] = make(chan string, 1)
	}
	for _, v := range m.want.Volumes {
		m.disks[v.ID] = make(chan string, 1)
	}
	return m.mountAll(ctx, lower, upper)
}

// mountAll mounts each disk as soon as it is there, and the root from its two.
func (m *setup) mountAll(ctx context.Context, lower, upper string) error {
	whole := ctx
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.phase("disks", func() error { return m.findDisks(ctx) }) })
	for _, v := range m.want.Volumes {
		g.Go(func() error { return m.phase("volume "+v.ID, func() error { return m.mountVolume(ctx, v) }) })
	}
	g.Go(func() error { return m.phase("interfaces", func() error { return m.bringUp(ctx) }) })
	if len(m.want.Shares) > 0 {
		g.Go(func() error { return m.phase("shares", func() error { return m.mountShares(ctx) }) })
	}
	if len(m.want.Files) > 0 {
		g.Go(func() error { return m.phase("files", m.writeFiles) })
	}
	ready := make(chan struct{}, 2) // one for each of lower and upper
	g.Go(func() error {
		err := m.phase("lower", func() error { return m.mountLower(ctx, lower) })
		ready <- struct{}{}
		return err
	})
	if upper == "" {
		ready <- struct{}{}
	} else {
		g.Go(func() error {
			err := m.phase("upper", func() error { return m.mountUpper(ctx, upper) })
			ready <- struct{}{}
			return err
		})
	}
	g.Go(func() error {
		<-ready
		<-ready
		if ctx.Err() != nil {
			return nil // one of them failed and has said why
		}
		return m.phase("overlay", m.mountOverlay)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	for _, v := range m.want.Volumes {
		if v.CopyUp == "" {
			continue
		}
		if err := m.phase("copy to volume "+v.ID, func() error { return m.copyUp(whole, v) }); err != nil {
			return err
		}
	}
	for _, h := range m.want.Shares {
		if h.CopyUp == "" {
			continue
		}
		if err := m.phase("copy to volume "+h.ID, func() error { return m.fillShared(whole, h) }); err != nil {
			return err
		}
	}
	return nil
}

// identify makes this machine unlike its template: clones share clock, random
// numbers and name until it has run.
func (m *setup) identify() error {
	now := m.want.Time
	if m.want.Clock != 0 {
		now = now.Add(monotonic() - m.want.Clock)
	}
	ts := unix.NsecToTimespec(now.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	if err := creditEntropy(m.want.Entropy); err != nil {
		return fmt.Errorf("credit entropy: %w", err)
	}
	if m.want.Hostname != "" {
		if err := unix.Sethostname([]byte(m.want.Hostname)); err != nil {
			return fmt.Errorf("set the host name: %w", err)
		}
	}
	if err := m.agent.ahead.loopback(); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

// setupModules are what every set-up needs.
var setupModules = []string{"virtio_blk", "ext4", "erofs", "overlay"}

func (m *setup) awaitModules(ctx context.Context) error {
	select {
	case <-m.agent.booted:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for _, name := range setupModules {
		if err := m.agent.modules.need(name); err != nil {
			return err
		}
	}
	return nil
}

// findDisks finds every disk and hands its device to who waits.
func (m *setup) findDisks(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, diskLimit, errDisksMissing)
	defer cancel()
	want := map[string]bool{}
	for id := range m.disks {
		want[id] = true
	}
	f := finder{sys: sysBlock, listen: listenUevents}
	if m.agent.restored {
		f.rescan = rescan
	}
	err := f.find(ctx, want, func(id, dev string) { m.disks[id] <- "/dev/" + dev })
	if failed := m.agent.modules.failures(); err != nil && failed != nil {
		err = errs.WithHint(err, "%v", failed)
	}
	return err
}

// device answers the device of the disk id once it is there.
func (m *setup) device(ctx context.Context, id string) (string, error) {
	select {
	case dev := <-m.disks[id]:
		return dev, nil
	case <-ctx.Done():
		return "", fmt.Errorf("disk %q: %w", id, context.Cause(ctx))
	}
}

func (m *setup) mountLower(ctx context.Context, id string) error {
	dev, err := m.device(ctx, id)
	if err != nil {
		return err
	}
	// What it usually is comes first: to look at the disk takes as long as to
	// mount it, where all code runs for the first time.
	if err := mountDisk(id, dev, lowerDir, "erofs", unix.MS_RDONLY, ""); err == nil {
		return nil
	}
	fstype, err := probe(dev)
	if err != nil {
		return fmt.Errorf("disk %q: %w", id, err)
	}
	data := ""
	if fstype == "ext4" {
		data = "noload" // a journal cannot be replayed on a read-only disk
	}
	return mountDisk(id, dev, lowerDir, fstype, unix.MS_RDONLY, data)
}

func (m *setup) mountUpper(ctx context.Context, id string) error {
	dev, err := m.device(ctx, id)
	if err != nil {
		return err
	}
	return mountExt4(id, dev, upperDir, 0)
}

// mountOverlay puts the root together. Without a disk the changes are in
// memory: a tmpfs of its own, with the kernel's limit of half the memory.
func (m *setup) mountOverlay() error {
	if m.want.Root.Upper == "" {
		if err := os.MkdirAll(upperDir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", upperDir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount memory for changes: %w", err)
		}
	}
	upper, work := filepath.Join(upperDir, "upper"), filepath.Join(upperDir, "work")
	if err := makeUpper(upper); err != nil {
		return err
	}
	for _, d := range []string{work, m.agent.root} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lowerDir, upper, work)
	if err := unix.Mount("overlay", m.agent.root, "overlay", 0, data); err != nil {
		return mountError("the root", err)
	}
	return nil
}

// makeUpper makes the upper directory look like the image's root, whose owner
// and mode it hides.
func makeUpper(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil
		}
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(lowerDir, &st); err != nil {
		return fmt.Errorf("look at the image's root: %w", err)
	}
	if err := unix.Chown(dir, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("own the root: %w", err)
	}
	return unix.Chmod(dir, st.Mode&0o7777)
}

func (m *setup) mountVolume(ctx context.Context, v agentproto.Volume) error {
	dev, err := m.device(ctx, v.ID)
	if err != nil {
		return err
	}
	at := filepath.Join(volumesDir, v.ID)
	flags := uintptr(0)
	if v.ReadOnly {
		flags = unix.MS_RDONLY
	}
	if v.Type != "" {
		return m.mountBlock(v, dev, at, flags)
	}
	if err := mountExt4(v.ID, dev, at, flags); err != nil {
		return err
	}
	m.keep(at)
	// The volume proper is a directory, so that lost+found is not seen.
	data := filepath.Join(at, volumeData)
	err = os.Mkdir(data, 0o755)
	if errors.Is(err, unix.EROFS) {
		err = nil
		if _, serr := os.Stat(data); serr != nil { // never written to
			data = filepath.Join(emptyDir, v.ID)
			err = mountEmpty(data)
		}
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("volume %q: %w", v.ID, err)
	}
	m.place(agentproto.VolumeScheme+v.ID, data)
	return nil
}

// anyType is the type of a volume of which the disk itself tells the filesystem.
const anyType = "auto"

// mountBlock mounts a disk that somebody else made: all of it is the volume.
func (m *setup) mountBlock(v agentproto.Volume, dev, at string, flags uintptr) error {
	fstype := v.Type
	if fstype == anyType {
		var err error
		if fstype, err = probe(dev); err != nil {
			return fmt.Errorf("disk %q: %w", v.ID, err)
		}
	}
	if err := m.agent.modules.need(fstype); err != nil {
		return err
	}
	data := ""
	if fstype == "ext4" && v.ReadOnly {
		data = "noload" // a journal cannot be replayed on a read-only disk
	}
	if err := mountDisk(v.ID, dev, at, fstype, flags, data); err != nil {
		return err
	}
	m.keep(at)
	m.place(agentproto.VolumeScheme+v.ID, at)
	return nil
}

// keep notes a mount for the machine's end.
func (m *setup) keep(at string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mounted = append(m.mounted, at)
}

// place notes what a mount's source is in the machine.
func (m *setup) place(source, at string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.places[source] = at
}

// mountEmpty mounts an empty directory that stays so.
func mountEmpty(at string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	return unix.Mount("tmpfs", at, "tmpfs", unix.MS_RDONLY, "size=0k,nr_inodes=2,mode=0755")
}

func kernelName() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:]) + " " +
		unix.ByteSliceToString(u.Machine[:])
}

// monotonic is the machine's monotonic clock. It goes on where it was in a
// machine that is restored.
func monotonic() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0 // there is one in every kernel
	}
	return time.Duration(ts.Nano())
}
