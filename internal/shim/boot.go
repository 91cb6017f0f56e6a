package shim

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/undo"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/vmm"
)

// IDs of the disks of a machine.
const (
	diskRoot     = "root"
	diskWritable = "writable"
)

// outputs are the streams of the container's process, each with its token. With
// a terminal there is no stderr; stdin is there if the process reads it.
type outputs struct {
	stdin, stdout, stderr          *wire.Stream
	stdinTok, stdoutTok, stderrTok string
}

func (s *shim) newOutputs() *outputs {
	o := &outputs{stdoutTok: rand.Text()}
	if !s.terminal() {
		o.stderrTok = rand.Text()
	}
	if s.inst.Stdin {
		o.stdinTok = rand.Text()
	}
	return o
}

// open opens the streams to the agent, all at once.
func (o *outputs) open(ctx context.Context, g *errgroup.Group, m vmm.Machine) {
	for _, one := range []struct {
		token string
		to    **wire.Stream
	}{{o.stdinTok, &o.stdin}, {o.stdoutTok, &o.stdout}, {o.stderrTok, &o.stderr}} {
		if one.token != "" {
			g.Go(func() (err error) {
				*one.to, err = openStream(ctx, m, one.token)
				return err
			})
		}
	}
}

func (o *outputs) close() {
	for _, s := range []*wire.Stream{o.stdin, o.stdout, o.stderr} {
		if s != nil {
			_ = s.Close() // the machine goes with it
		}
	}
}

// brought is what a boot came to.
type brought struct {
	machine vmm.Machine
	agent   *agentproto.Client
	out     *outputs
	place   *membership
	clock   stopwatch
}

// boot takes the instance from a record to a running process, and tells the
// loop what came of it. All or nothing: on failure the machine is gone.
func (s *shim) boot(ctx context.Context) {
	r, err := s.bring(ctx)
	s.send(func() {
		if err != nil {
			s.failed(err)
			return
		}
		m, agent := r.machine, r.agent
		s.st.Phases, s.st.Origin = r.clock.phases, string(r.clock.origin)
		s.running.set(m, agent)
		s.st.Started = time.Now()
		// Only from here on: a process that ends at once must not be seen to end
		// before it was seen to run.
		s.tasks.Go(func() { s.keep(m, agent, r.out, r.place) })
		s.tasks.Go(func() { s.watchStall(m, agent) })
		s.input.connect(r.out.stdin)
		if s.life == lifecycle.Stopping { // asked for while the process was being started
			s.stopping(agent, m)
			return
		}
		if s.inst.Health != nil {
			s.st.Health = healthStarting
		}
		if err := s.move(lifecycle.Start, ""); err != nil {
			s.lost = err
			_ = m.Kill() // keep sees the end of it
			return
		}
		s.watchHealth(m, agent)
	})
}

// errRefused is why the agent did not execute the container's process.
type errRefused struct{ error }

func (e *errRefused) Unwrap() error { return e.error }

// failed ends a boot that came to nothing: it was stopped, or it broke. The
// loop's.
func (s *shim) failed(err error) {
	if s.life == lifecycle.Stopping {
		if errs.Is(err, errs.Canceled) { // what a stop does to a boot
			err = nil
		}
		s.finish(lifecycle.Exit, nil, "stopped before it was started", err)
		return
	}
	s.st.Refused = ""
	if refused := (*errRefused)(nil); errors.As(err, &refused) {
		s.st.Refused = errs.ClassOf(refused.error)
	}
	s.conclude(lifecycle.Fail, nil, err.Error(), nil)
}

// bring boots the machine, sets it up and starts the process. Where a prepared
// machine turns out to be of no use, another comes in its place.
func (s *shim) bring(ctx context.Context) (*brought, error) {
	r, err := s.bringMachine(ctx, true)
	var bad errPrepared
	if err == nil || !errors.As(err, &bad) || ctx.Err() != nil {
		return r, err
	}
	var gone error
	if bad.saved {
		gone = s.throwAway(ctx)
	}
	if r, err = s.bringMachine(ctx, false); err == nil {
		r.clock.notes = append(r.clock.notes, "the prepared machine was of no use: "+strings.ReplaceAll(errors.Join(bad, gone).Error(), "\n", "; "))
		s.send(func() { s.noteMachine(r.clock.notes) })
	}
	return r, err
}

func (s *shim) bringMachine(ctx context.Context, prepared bool) (_ *brought, err error) {
	var un undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, un.Run(ctx, undoLimit))
		}
	}()
	clock := stopwatch{born: s.born, last: s.born}
	cfg := s.machineConfig()
	if p := prepare(s.inst, s.filter()); prepared && p.fits(cfg) {
		cfg.Prepared = p.key
	}
	if fi, err := os.Stat(cfg.Console); err == nil {
		s.console = fi.Size()
	}
	cfg.Progress = func(text string) { s.send(func() { s.progress(text) }) }
	m, err := s.driver.Boot(ctx, cfg)
	if err != nil {
		return nil, err
	}
	un.Push("boot the machine", m.Stop)
	ctx, settled := failOnStall(ctx, m)
	defer func() {
		settled()
		if cause := context.Cause(ctx); err != nil && errs.Is(cause, errs.ResourceExhausted) {
			err = cause // all else is for want of that
		}
	}()
	clock.machine(m)
	s.send(func() {
		s.noteMachine(clock.notes)
		if clock.origin == "" || clock.origin == vmm.Booted {
			s.progress("booting kernel")
		}
	})

	joined := make(chan struct{})
	var place *membership
	var joinErr error
	s.tasks.Go(func() { // while the agent is set up
		defer close(joined)
		place, joinErr = s.join(ctx, m)
	})
	un.PushFunc("join the networks", func() {
		<-joined
		if place != nil {
			place.leave()
		}
	})
	agent, err := s.dialAgent(ctx, m)
	if err != nil {
		return nil, s.autopsy(ctx, m, err)
	}
	un.Push("dial the agent", func(context.Context) error { return agent.Close() })
	clock.lap("kernel booted, agent answers")
	s.send(func() { s.progress("setting up") })

	out, did := heldOutputs(s.inst), []agentproto.Phase(nil)
	held := clock.origin == vmm.Prepared || heldIn(m)
	switch {
	case held:
	case s.launch.Hold != nil: // what is rehearsed goes the way of what will be held
		held, err = true, hold(ctx, agent, prepare(s.inst, s.filter()))
	default:
		out, did, err = s.setUp(ctx, m, agent)
	}
	if err != nil {
		return nil, s.autopsy(ctx, m, fmt.Errorf("set up machine: %w", err))
	}
	un.PushFunc("open the output", out.close)
	if !held {
		clock.guest(did)
		clock.lap("root mounted, streams open")
	}
	s.send(func() {
		if s.life == lifecycle.Booting { // not where a stop came first
			if err := s.move(lifecycle.Ready, "starting process"); err != nil {
				s.abort(err)
			}
		}
	})

	if <-joined; joinErr != nil {
		return nil, joinErr
	}
	if err := s.awaitAttended(ctx); err != nil {
		return nil, err
	}
	err = s.readyVsock(ctx, m)
	sctx, cancel := limit(ctx, startLimit, "start the process")
	defer cancel()
	switch {
	case err != nil:
	case held:
		err = s.letGo(sctx, m, agent, out)
	default:
		_, err = agent.Start(sctx, startOf(s.inst, s.filter(), out))
	}
	if err != nil {
		err = &errRefused{err}
	}
	if err == nil {
		err = s.openRelays(sctx, m, agent)
	}
	if err == nil {
		err = s.hooks(ctx, m, agent, "post_start", s.inst.PostStart)
	}
	if err != nil {
		s.relays.close()
		if perr := s.powerOff(m, agent); perr != nil {
			err = errors.Join(err, perr)
		}
		return nil, err
	}
	clock.lap("process started")
	un.Release()
	return &brought{m, agent, out, place, clock}, nil
}

func devicesOf(i store.Instance) []agentproto.Device {
	var all []agentproto.Device
	for _, d := range i.Devices {
		all = append(all, agentproto.Device(d))
	}
	return all
}

// filter is what holds for system calls of the container.
func (s *shim) filter() *agentproto.Filter { return filterOf(s.launch) }

func filterOf(l shimproto.Launch) *agentproto.Filter {
	if len(l.Filter) == 0 {
		return nil
	}
	return &agentproto.Filter{Program: l.Filter, Flags: l.FilterFlags}
}

func startOf(i store.Instance, f *agentproto.Filter, out *outputs) agentproto.Start {
	return agentproto.Start{ID: agentproto.InitID, Spec: i.Runtime, Filter: f, User: i.User, Groups: i.Groups, Init: i.Init,
		Devices: devicesOf(i), Runtime: i.OCIRuntime, Stdin: out.stdinTok, Stdout: out.stdoutTok, Stderr: out.stderrTok}
}

// awaitAttended waits until somebody is attached, where somebody is to be.
func (s *shim) awaitAttended(ctx context.Context) error {
	if !s.launch.Attended {
		return nil
	}
	ctx, cancel := limit(ctx, attendLimit, "await the command that attaches to the process")
	defer cancel()
	select {
	case <-s.attended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// progress tells how far a boot has come, unless it is being stopped. The
// loop's.
func (s *shim) progress(phase string) {
	if s.life == lifecycle.Booting {
		s.tell(phase)
	}
}

func (s *shim) machineConfig() *vmm.Config {
	home, i := s.launch.Home, s.inst
	cfg := &vmm.Config{
		Name:      i.Stack + "-" + i.Name,
		CPUs:      i.CPUs,
		Memory:    i.Memory,
		Kernel:    s.launch.Kernel,
		Initramfs: s.launch.Initramfs,
		Cold:      s.launch.Cold,
		Console:   home.ConsoleOf(i),
		Nested:    i.Nested,
		Vsock:     i.Vsock,

		KernelArgs: i.KernelArgs,
		Disks: []vmm.Disk{
			{ID: diskRoot, Path: i.Root, ReadOnly: true},
			{ID: diskWritable, Path: home.Writable(i.Stack, i.Name)},
		},
	}
	cfg.Cards = len(i.Interfaces)
	for _, v := range i.Volumes {
		cfg.Disks = append(cfg.Disks, vmm.Disk{ID: v.ID, Path: v.Path, ReadOnly: v.ReadOnly})
	}
	for _, h := range i.Shares {
		cfg.Shares = append(cfg.Shares, vmm.Share{ID: h.ID, Path: h.Path, ReadOnly: h.ReadOnly, Owners: home.Owners(), UID: h.UID, GID: h.GID, Coherent: h.Volume})
	}
	return cfg
}

func (s *shim) dialAgent(ctx context.Context, m vmm.Machine) (*agentproto.Client, error) {
	ctx, cancel := limit(ctx, bootLimit, "boot the kernel and reach the agent")
	defer cancel()
	conn, err := m.Dial(ctx, vmm.AgentPort)
	if err != nil {
		return nil, err
	}
	oom := make(chan agentproto.OOM, 1)
	agent, err := agentproto.NewClient(ctx, conn, agentproto.Notices{
		Exit:     s.execs.end,
		Accepted: s.relays.accepted,
		OOM:      func(o agentproto.OOM) { replace(oom, o) },
	})
	if err != nil {
		return nil, err
	}
	s.tasks.Go(func() { s.tellOOM(agent, oom) })
	return agent, nil
}

// setUp gives the machine its identity and its root, and opens the output
// streams meanwhile.
func (s *shim) setUp(ctx context.Context, m vmm.Machine, agent *agentproto.Client) (_ *outputs, did []agentproto.Phase, err error) {
	ctx, cancel := limit(ctx, setupLimit, "set the machine up")
	defer cancel()
	set := agentproto.Setup{
		Hostname: s.inst.Runtime.Hostname,
		Entropy:  make([]byte, 64),
		Root:     agentproto.Root{Lower: diskRoot, Upper: diskWritable},

		Interfaces: guestInterfaces(s.inst),
	}
	if _, err := rand.Read(set.Entropy); err != nil {
		return nil, nil, fmt.Errorf("draw entropy: %w", err)
	}
	for _, v := range s.inst.Volumes {
		set.Volumes = append(set.Volumes, agentproto.Volume{ID: v.ID, ReadOnly: v.ReadOnly, CopyUp: v.CopyUp, Type: v.Type})
	}
	for _, h := range s.inst.Shares {
		set.Shares = append(set.Shares, agentproto.Share{ID: h.ID, ReadOnly: h.ReadOnly, File: h.File, Volume: h.Volume, CopyUp: h.CopyUp})
	}
	if set.Files, err = s.files(); err != nil {
		return nil, nil, err
	}
	out := s.newOutputs()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		done, err := agent.Setup(gctx, set)
		did = done.Phases
		return err
	})
	out.open(gctx, g, m)
	if err := g.Wait(); err != nil {
		out.close()
		return nil, nil, err
	}
	return out, did, nil
}

func openStream(ctx context.Context, m vmm.Machine, token string) (*wire.Stream, error) {
	conn, err := m.Dial(ctx, vmm.AgentPort)
	if err != nil {
		return nil, err
	}
	return agentproto.OpenStream(ctx, conn, token)
}

// limit is ctx with a limit whose error names the phase.
func limit(ctx context.Context, d time.Duration, phase string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, errs.New(errs.DeadlineExceeded, "%s: not done within %s", phase, d))
}

// stopwatch records the phases of a boot.
type stopwatch struct {
	born, last time.Time
	phases     []store.Phase
	origin     vmm.Origin
	notes      []string
}

func (w *stopwatch) lap(name string) {
	now := time.Now()
	w.phases = append(w.phases, store.Phase{Name: name, Start: w.last.Sub(w.born), Duration: now.Sub(w.last)})
	w.last = now
}

// machine records how m came to be, as far as its driver tells.
func (w *stopwatch) machine(m vmm.Machine) {
	t, ok := m.(vmm.Tracer)
	if !ok {
		w.lap("machine started")
		return
	}
	began := w.last.Sub(w.born)
	trace := t.Trace()
	for _, p := range trace.Phases {
		w.phases = append(w.phases, store.Phase{Name: p.Name, Start: began + p.Start, Duration: p.Duration})
	}
	w.origin, w.notes = trace.Origin, trace.Notes
	w.last = time.Now()
}

// guest records what the agent did within the phase that ends next. Its clock is
// not ours: the first of them is taken to begin with the phase.
func (w *stopwatch) guest(did []agentproto.Phase) {
	for _, p := range did {
		w.phases = append(w.phases, store.Phase{Name: "guest: " + p.Name,
			Start: w.last.Sub(w.born) + p.Start - did[0].Start, Duration: p.Duration})
	}
}
