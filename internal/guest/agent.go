//go:build linux

package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/users"
)

// Agent answers the host. See agentproto for what the calls mean.
type agent struct {
	exe      string // what to execute as the stage
	root     string // the container's root filesystem in the machine
	cgroups  string // the mount of the unified hierarchy
	oci      string // the folder of an OCI runtime
	modules  *modules
	booted   chan struct{} // closed once the modules of boot.list are loaded
	restored bool          // this machine is, or is to be, restored from a template
	off      func()        // ends the machine; does not return in one
	log      *ring

	reaper  *reaper
	ahead   ahead
	procs   *processes
	streams *streams
	notices *notices
	relays  relays
	ports   chan struct{} // one taken a connection to a port

	mu         sync.Mutex // guards the following
	born       time.Time  // when the machine began to be this one
	spare      *spare
	setup      setupState
	places     map[string]string      // what a mount's source like "volume:ID" is in the machine
	mounted    []string               // what the set-up mounted beside the root's parts
	interfaces []agentproto.Interface // what the set-up configured
	container  *container             // nil before the first start
	held       *held                  // the container's process, where it waits for a Go
}

var _ agentproto.Agent = (*agent)(nil)

// container is what a process in it needs to know of it.
type container struct {
	process *process
	pidfd   *os.File // of its first process
	cgroup  *cgroup
	spec    processOrders // of its first process
	runtime *ociRuntime   // nil: the agent runs it
}

func newAgent(born time.Time) *agent {
	return &agent{
		born:    born,
		exe:     "/proc/self/exe",
		root:    agentproto.RootPath,
		cgroups: cgroupDir,
		oci:     ociDir,
		modules: newModules("/modules"),
		booted:  make(chan struct{}),
		log:     newRing(64 << 10),
		reaper:  newReaper(),
		spare:   newSpare(),
		procs:   &processes{byID: map[string]*process{}},
		streams: newStreams(),
		notices: newNotices(),
		places:  map[string]string{},
		ports:   make(chan struct{}, maxPorts),
	}
}

// Start starts the container or a process in it.
func (a *agent) Start(ctx context.Context, s agentproto.Start) (agentproto.Started, error) {
	o, err := a.order(s)
	if err != nil {
		return agentproto.Started{}, err
	}
	p, err := a.procs.reserve(s.ID)
	if err != nil {
		return agentproto.Started{}, err
	}
	if err := a.start(ctx, p, o, s); err != nil {
		a.procs.remove(s.ID)
		a.log.printf("start %s: %v", s.ID, err)
		return agentproto.Started{}, err
	}
	return agentproto.Started{PID: p.child.pid, Elapsed: a.age(time.Now())}, nil
}

// order makes orders of the call, validated.
func (a *agent) order(s agentproto.Start) (*orders, error) {
	if err := checkID(s.ID); err != nil {
		return nil, err
	}
	if len(s.User) > 512 || !sound(s.User) {
		return nil, errs.New(errs.InvalidArgument, "user of %d bytes", len(s.User))
	}
	var o *orders
	var err error
	switch {
	case (s.Spec == nil) == (s.Process == nil):
		return nil, errs.New(errs.InvalidArgument, "start with both a container and a process, or neither")
	case (s.Spec != nil) != (s.ID == agentproto.InitID):
		return nil, errs.New(errs.InvalidArgument, "the ID %q is the container's own process", agentproto.InitID)
	case s.Spec != nil:
		o, err = parseSpec(s.Spec, a.root, a.place)
	default:
		o, err = a.orderProcess(s.Process)
	}
	if err != nil {
		return nil, err
	}
	if len(s.Groups) > users.MaxGroups {
		return nil, errs.New(errs.InvalidArgument, "process with %d groups", len(s.Groups))
	}
	for _, g := range s.Groups {
		if len(g) > 128 || !sound(g) {
			return nil, errs.New(errs.InvalidArgument, "group of %d bytes", len(g))
		}
	}
	o.Process.User, o.Process.Groups, o.Process.Init, o.Process.Hold = s.User, s.Groups, s.Init, s.Hold
	if err := o.addDevices(s.Devices); err != nil {
		return nil, err
	}
	switch {
	case s.Spec != nil && s.Unfiltered, s.Process != nil && s.Filter != nil:
		return nil, errs.New(errs.InvalidArgument, "the filter is the container's own process's to have, and further ones' to do without")
	case s.Runtime != "" && s.Filter != nil:
		return nil, errs.New(errs.Unsupported, "a filter for a container that an OCI runtime runs")
	case s.Spec != nil:
		if o.Process.Filter, err = parseFilter(s.Filter); err != nil {
			return nil, err
		}
	case s.Unfiltered:
		o.Process.Filter = nil
	}
	switch {
	case s.Init && s.Spec == nil:
		return nil, errs.New(errs.InvalidArgument, "an init for a process in the container")
	case s.Hold && (s.Spec == nil || o.Process.Terminal != nil || s.Runtime != ""):
		return nil, errs.New(errs.InvalidArgument, "to hold what is no container, or has a terminal or a runtime")
	}
	if err := checkRuntime(s.Runtime, s.Spec, s.Init); err != nil {
		return nil, err
	}
	if s.Runtime != "" {
		o.Container.runtimePath, o.Container.asked = s.Runtime, s.Spec
	}
	return o, nil
}

// orderProcess makes orders of a further process. What it does not say of
// capabilities and limits is as the container's own process has it, and so is
// the filter.
func (a *agent) orderProcess(p *specs.Process) (*orders, error) {
	c, err := a.running()
	if err != nil {
		return nil, err
	}
	po, err := parseProcess(p)
	if err != nil {
		return nil, err
	}
	if p.Capabilities == nil {
		// The user may be another one: what root gets at its execve it has before.
		po.Caps = c.spec.Caps
		po.Caps.Effective |= po.Caps.Bounding
		po.Caps.Permitted |= po.Caps.Bounding
	}
	if p.Rlimits == nil {
		po.Rlimits = c.spec.Rlimits
	}
	po.Filter = c.spec.Filter
	return &orders{Process: po}, nil
}

func checkID(id string) error {
	ok := len(id) >= 1 && len(id) <= 64
	for _, r := range id {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}
	if !ok {
		return errs.New(errs.InvalidArgument, "process ID %q is not 1 to 64 of [a-z0-9-]", cutName(id))
	}
	return nil
}

// place answers what a source like "volume:ID" is in the machine.
func (a *agent) place(source string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.places[source]
	if !ok {
		return "", errs.New(errs.NotFound, "no %q in this machine", cutName(source))
	}
	return at, nil
}

// spareStage is that of the container to come.
func (a *agent) spareStage() *spare {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.spare
}

func (a *agent) running() (*container, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.container == nil || a.container.process.ended() {
		return nil, errs.New(errs.FailedPrecondition, "the container does not run")
	}
	return a.container, nil
}

// start starts the reserved p. On error nothing of it is left but the place.
func (a *agent) start(ctx context.Context, p *process, o *orders, s agentproto.Start) (err error) {
	if o.Process.Terminal != nil {
		p.stdio, err = a.streams.nullStdio(s.Stdin, s.Stdout, s.Stderr)
	} else {
		p.stdio, err = a.streams.newStdio(s.Stdin, s.Stdout, s.Stderr)
	}
	if err != nil {
		return err
	}
	if o.Container != nil {
		err = a.startContainer(ctx, p, o)
	} else {
		err = a.startProcess(ctx, p, o)
	}
	p.stdio.closeChild()
	if err != nil {
		p.stdio.exited()
		p.stdio.release()
		return err
	}
	if !o.Process.Hold {
		a.follow(p)
	}
	return nil
}

// follow has the end of p told.
func (a *agent) follow(p *process) {
	p.child.onEnd = func(ws unix.WaitStatus, at time.Time) {
		if p.id == agentproto.InitID {
			a.retire() // ahead of all who hear of the end, and may power off
		}
		e := p.finish(ws, at)
		a.log.printf("process %s ended: %d", e.ID, e.Code)
		a.notices.publish(agentproto.NoticeExit, e)
		if p.id == agentproto.InitID {
			a.endRelays()
		}
	}
	close(p.child.settled)
}

// containerCgroup is the name of the container's cgroup.
const containerCgroup = "container"

// stopLimit is how long the dead may take to leave their cgroup.
const stopLimit = 10 * time.Second

// limitedCgroup makes the container's cgroup, with its limits but that of
// processes, which is answered.
func (a *agent) limitedCgroup(ctx context.Context, o *orders) (*cgroup, string, error) {
	now, pids := settings(o.Container.resources)
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	g := a.ahead.takeCgroup()
	if g == nil {
		var err error
		if g, err = makeCgroup(ctx, a.cgroups, containerCgroup); err != nil {
			return nil, "", err
		}
	}
	return g, pids, g.apply(now)
}

func (a *agent) startContainer(ctx context.Context, p *process, o *orders) error {
	if err := a.requireSetup(); err != nil {
		return err
	}
	for _, m := range o.Container.Mounts {
		if m.Type == "" {
			continue
		}
		if err := a.modules.need(m.Type); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	if err := a.findDevices(o.Container); err != nil {
		return err
	}
	if o.Container.runtimePath != "" {
		return a.startBundle(ctx, p, o)
	}
	g, pids, err := a.limitedCgroup(ctx, o)
	if err != nil {
		return err
	}
	enter, err := os.OpenFile(g.dir+"/cgroup.procs", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	defer func() { _ = enter.Close() }()
	l := launch{exe: a.exe, orders: o, stdio: p.stdio.child, cgroup: enter, spare: a.spareStage()}
	if pids != "" {
		if l.late, err = os.OpenFile(g.dir+"/pids.max", os.O_WRONLY, 0); err != nil {
			return errs.New(errs.Unsupported, "limit the number of processes: %w", err)
		}
		defer func() { _ = l.late.Close() }()
		o.Late = pids
	}
	p.cgroup = g
	c, err := l.run(ctx, a.reaper)
	if err != nil {
		return a.undoContainer(ctx, g, err)
	}
	p.stdio.adopt(l.terminal)
	if l.held != nil {
		a.keepHeld(p, l.held)
	}
	return a.adopt(p, c, o)
}

// undoContainer removes the cgroup of a container that did not start.
func (a *agent) undoContainer(ctx context.Context, g *cgroup, cause error) error {
	if g.oomKills() > 0 {
		cause = errs.New(errs.ResourceExhausted, "the memory limit is too low to start in: %w", cause)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	if err := errors.Join(g.kill(unix.SIGKILL), g.remove(ctx)); err != nil {
		a.log.printf("undo the container: %v", err)
	}
	return cause
}

// adopt makes p the container's process.
func (a *agent) adopt(p *process, c *child, o *orders) error {
	fd, err := unix.FcntlInt(c.pidfd.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		fd = -1 // joining fails then, with a reason
	}
	a.procs.started(p, c)
	a.watchOOM(p)
	a.mu.Lock()
	defer a.mu.Unlock()
	// The former pidfd is closed when the last joiner lets go of it.
	a.container = &container{process: p, pidfd: os.NewFile(uintptr(fd), "pidfd"), cgroup: p.cgroup, spec: o.Process, runtime: o.Container.runtime}
	return nil
}

// startProcess starts p in the container. The stage is born outside the
// container's cgroup and enters it right before the execve, so that neither
// its threads nor its memory count there.
func (a *agent) startProcess(ctx context.Context, p *process, o *orders) error {
	c, err := a.running()
	if err != nil {
		return err
	}
	p.cgroup, p.ooms = c.cgroup, c.cgroup.oomKills()
	if c.runtime != nil {
		return a.execBundle(ctx, c, p, o)
	}
	l := launch{exe: a.exe, orders: o, stdio: p.stdio.child, init: c.pidfd}
	at := c.cgroup.ofProcess(c.process.child.pid)
	if l.late, err = os.OpenFile(at.dir+"/cgroup.procs", os.O_WRONLY, 0); err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	defer func() { _ = l.late.Close() }()
	o.Late = "0"
	ch, err := l.run(ctx, a.reaper)
	if err != nil {
		if c.process.ended() {
			err = errs.New(errs.FailedPrecondition, "the container has ended: %w", err)
		}
		return err
	}
	p.stdio.adopt(l.terminal)
	a.procs.started(p, ch)
	return nil
}

// Signal sends a signal.
func (a *agent) Signal(_ context.Context, s agentproto.Signal) (agentproto.Empty, error) {
	p, err := a.procs.find(s.ID)
	if err != nil {
		return agentproto.Empty{}, err
	}
	if s.Signal < 1 || s.Signal > 64 {
		return agentproto.Empty{}, errs.New(errs.InvalidArgument, "no signal %d", s.Signal)
	}
	if p.ended() {
		return agentproto.Empty{}, errs.New(errs.FailedPrecondition, "process %q has ended", s.ID)
	}
	switch {
	case s.All:
		err = p.cgroup.kill(unix.Signal(s.Signal))
	case s.Group:
		err = a.reaper.signalGroup(p.child, unix.Signal(s.Signal))
	default:
		err = p.child.signal(unix.Signal(s.Signal))
	}
	if errors.Is(err, unix.ESRCH) {
		err = errs.New(errs.FailedPrecondition, "process %q has ended", s.ID)
	}
	return agentproto.Empty{}, err
}

// Wait answers once the process has ended.
func (a *agent) Wait(ctx context.Context, w agentproto.Wait) (agentproto.Exit, error) {
	p, err := a.procs.find(w.ID)
	if err != nil {
		return agentproto.Exit{}, err
	}
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return agentproto.Exit{}, context.Cause(ctx)
	}
}

// Release forgets an ended process.
func (a *agent) Release(_ context.Context, r agentproto.Release) (agentproto.Empty, error) {
	return agentproto.Empty{}, a.procs.release(r.ID)
}

// Log answers what the kernel and the agent have said.
func (a *agent) Log(context.Context, agentproto.Empty) (agentproto.Log, error) {
	return agentproto.Log{Kernel: kernelLog(), Agent: a.log.bytes()}, nil
}
