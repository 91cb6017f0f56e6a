package vmmfake

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

const (
	build     = "fake"
	diskLimit = 10 * time.Second // how long set-up waits for a disk
	sigKill   = 9
	sigPipe   = 13
)

// agent answers the host.
type agent struct {
	m       *Machine
	born    time.Time
	streams *streams

	mu      sync.Mutex         // guards the following
	setups  []agentproto.Setup // all of them
	isSetUp bool               // and not reset since
	held    *agentproto.Start  // of the container that waits for its go
	starts  []agentproto.Start
	procs   map[string]*Process
	lastPID int
	notices []notice
	changed chan struct{} // closed at the next notice
	relays  map[string]*relaying
}

var _ agentproto.Agent = (*agent)(nil)

// notice is what the agent tells every control connection.
type notice struct {
	topic string
	body  any
}

func newAgent(m *Machine) *agent {
	return &agent{m: m, born: time.Now(), streams: newStreams(&m.work),
		procs: map[string]*Process{}, changed: make(chan struct{}), relays: map[string]*relaying{}}
}

func (a *agent) serve(l net.Listener) {
	srv := agentproto.NewServer(a, build, a.open, a.greet)
	for {
		c, err := l.Accept()
		if err != nil {
			return // the machine's end
		}
		a.m.work.Go(func() { _ = srv.ServeConn(a.m.ctx, c) }) // the host is told
	}
}

// greet tells a control connection of every notice from now on, in order. ctx
// ends with the connection.
func (a *agent) greet(ctx context.Context, notify func(string, any) error) {
	a.mu.Lock()
	next := len(a.notices)
	a.mu.Unlock()
	a.m.work.Go(func() {
		for {
			a.mu.Lock()
			news, changed := slices.Clone(a.notices[next:]), a.changed
			a.mu.Unlock()
			for _, n := range news {
				if notify(n.topic, n.body) != nil {
					return // the connection is gone
				}
			}
			next += len(news)
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
}

func (a *agent) tellLocked(topic string, body any) {
	a.notices = append(a.notices, notice{topic, body})
	close(a.changed)
	a.changed = make(chan struct{})
}

// Setups answers what the machine was set up with, in order: what Go has made of
// a set-up, too.
func (m *Machine) Setups() []agentproto.Setup {
	m.agent.mu.Lock()
	defer m.agent.mu.Unlock()
	return slices.Clone(m.agent.setups)
}

// Starts answers what was asked to be started, in order.
func (m *Machine) Starts() []agentproto.Start {
	m.agent.mu.Lock()
	defer m.agent.mu.Unlock()
	return slices.Clone(m.agent.starts)
}

// Process answers a process by its ID, or nil.
func (m *Machine) Process(id string) *Process {
	m.agent.mu.Lock()
	defer m.agent.mu.Unlock()
	return m.agent.procs[id]
}

func (a *agent) Setup(ctx context.Context, s agentproto.Setup) (r agentproto.SetupResult, err error) {
	begin := time.Now()
	if len(s.Entropy) < 32 {
		return r, errs.New(errs.InvalidArgument, "%d bytes of entropy", len(s.Entropy))
	}
	a.mu.Lock()
	again := a.isSetUp
	a.isSetUp, a.setups = true, append(a.setups, s)
	a.mu.Unlock()
	if again {
		return r, errs.New(errs.FailedPrecondition, "the machine is set up already")
	}
	dctx, cancel := context.WithTimeoutCause(ctx, diskLimit,
		errs.New(errs.DeadlineExceeded, "it did not appear within %s", diskLimit))
	defer cancel()
	ids := []string{s.Root.Lower}
	if s.Root.Upper != "" {
		ids = append(ids, s.Root.Upper)
	}
	for _, v := range s.Volumes {
		ids = append(ids, v.ID)
	}
	for _, id := range ids {
		if err := a.m.findDisk(dctx, id); err != nil {
			return r, err
		}
	}
	if err := a.m.mount(s.Root.Upper); err != nil {
		return r, err
	}
	if err := a.m.configure(s.Interfaces); err != nil {
		return r, err
	}
	if fn := a.m.driver.o.Setup; fn != nil {
		if err := fn(ctx, s); err != nil {
			return r, err
		}
	}
	return agentproto.SetupResult{Kernel: "Linux fake", Phases: []agentproto.Phase{
		{Name: "set up", Start: begin.Sub(a.born), Duration: time.Since(begin)}}}, nil
}

func (a *agent) Start(ctx context.Context, s agentproto.Start) (r agentproto.Started, err error) {
	if fn := a.m.driver.o.Start; fn != nil {
		if err := fn(ctx, s); err != nil {
			return r, err
		}
	}
	sp, err := check(s)
	if err != nil {
		return r, err
	}
	if s.Hold {
		return r, a.hold(s)
	}
	return a.launch(s, sp)
}

// launch starts the process.
func (a *agent) launch(s agentproto.Start, sp *specs.Process) (r agentproto.Started, err error) {
	prog, err := a.program(sp)
	if err != nil {
		return r, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.admitLocked(s); err != nil {
		return r, err
	}
	in, out, errOut := newInput(a.streams), newOutput(a.streams), newOutput(a.streams)
	p := &Process{
		ID: s.ID, Args: sp.Args, Env: sp.Env, Dir: sp.Cwd, User: s.User, PID: a.lastPID + 1, Machine: a.m,
		Stdin: in.reader(s.Stdin), Stdout: out.writer(s.Stdout), Stderr: errOut.writer(s.Stderr),
		traps: map[int]chan<- int{}, done: make(chan struct{}),
		in: in, outs: []*output{out, errOut}, tokens: []string{s.Stdin, s.Stdout, s.Stderr},
	}
	p.Stdout, p.Stderr = signalling{p.Stdout, p}, signalling{p.Stderr, p}
	if err := a.streams.bind(p.tokens, []end{in, out, errOut}); err != nil {
		return r, err
	}
	a.lastPID++
	a.procs[s.ID] = p
	a.starts = append(a.starts, s)
	pctx, cancel := context.WithCancel(a.m.ctx)
	p.cancel = cancel
	a.m.work.Go(func() { a.run(pctx, p, prog) })
	return agentproto.Started{PID: p.PID, Elapsed: time.Since(a.born)}, nil
}

// check returns the process that s is to start.
func check(s agentproto.Start) (*specs.Process, error) {
	sp := s.Process
	if s.Spec != nil {
		sp = s.Spec.Process
	}
	switch {
	case !validID(s.ID):
		return nil, errs.New(errs.InvalidArgument, "process id %.80q", s.ID)
	case (s.Spec != nil) == (s.Process != nil) || (s.Spec != nil) != (s.ID == agentproto.InitID):
		return nil, errs.New(errs.InvalidArgument, "process %s: the first has a spec, others a process", s.ID)
	case s.Spec != nil && (s.Spec.Root == nil || s.Spec.Root.Path != agentproto.RootPath):
		return nil, errs.New(errs.InvalidArgument, "root path is not %s", agentproto.RootPath)
	case s.Hold && s.Spec == nil:
		return nil, errs.New(errs.InvalidArgument, "process %s cannot be held", s.ID)
	case sp == nil || len(sp.Args) == 0 || sp.Args[0] == "":
		return nil, errs.New(errs.InvalidArgument, "process %s without arguments", s.ID)
	}
	return sp, nil
}

// program returns what sp executes.
func (a *agent) program(sp *specs.Process) (Program, error) {
	name := path.Base(sp.Args[0])
	if prog := a.m.driver.o.Programs[name]; prog != nil {
		return prog, nil
	}
	if prog := Builtin(name); prog != nil {
		return prog, nil
	}
	return nil, errs.New(errs.NotFound, "executable %q is not there", sp.Args[0])
}

func (a *agent) admitLocked(s agentproto.Start) error {
	first := a.procs[agentproto.InitID]
	switch {
	case a.m.ctx.Err() != nil: // kill may have passed
		return errs.New(errs.Unavailable, "the machine is ending")
	case !a.isSetUp:
		return errs.New(errs.FailedPrecondition, "the machine is not set up")
	case a.procs[s.ID] != nil, a.held != nil:
		return errs.New(errs.AlreadyExists, "process %s", s.ID)
	case s.ID != agentproto.InitID && (first == nil || stopped(first.done)):
		return errs.New(errs.FailedPrecondition, "the container does not run")
	}
	return nil
}

func validID(id string) bool {
	ok := len(id) >= 1 && len(id) <= 64
	for _, r := range id {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}
	return ok
}

// run is a process's life. The end of the first is the end of all, as it is of
// a pid namespace.
func (a *agent) run(ctx context.Context, p *Process, prog Program) {
	code := prog(ctx, p)
	a.mu.Lock()
	p.exit = p.verdict(code)
	a.tellLocked(agentproto.NoticeExit, p.exit)
	close(p.done)
	var others []*Process
	if p.ID == agentproto.InitID {
		for _, o := range a.procs {
			others = append(others, o)
		}
	}
	a.mu.Unlock()
	p.cancel()
	p.in.exited()
	for _, o := range p.outs {
		o.exited()
	}
	for _, o := range others {
		o.deliver(sigKill)
	}
	if p.ID == agentproto.InitID {
		a.endRelays()
	}
}

func (a *agent) process(id string) (*Process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.procs[id]; p != nil {
		return p, nil
	}
	return nil, errs.New(errs.NotFound, "no process %.80q", id)
}

func (a *agent) Signal(ctx context.Context, s agentproto.Signal) (e agentproto.Empty, err error) {
	p, err := a.process(s.ID)
	if err != nil {
		return e, err
	}
	if s.Signal < 1 || s.Signal > 64 {
		return e, errs.New(errs.InvalidArgument, "signal %d", s.Signal)
	}
	if stopped(p.done) {
		return e, errs.New(errs.FailedPrecondition, "process %s has ended", s.ID)
	}
	p.deliver(s.Signal)
	if fn := a.m.driver.o.Signal; fn != nil {
		fn(ctx, s)
	}
	if !s.All || s.ID != agentproto.InitID {
		return e, nil
	}
	for _, o := range a.others(p) {
		o.deliver(s.Signal)
	}
	return e, nil
}

func (a *agent) others(p *Process) (ps []*Process) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range a.procs {
		if o != p {
			ps = append(ps, o)
		}
	}
	return ps
}

func (a *agent) Wait(ctx context.Context, w agentproto.Wait) (e agentproto.Exit, err error) {
	p, err := a.process(w.ID)
	if err != nil {
		return e, err
	}
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return e, fmt.Errorf("wait for process %s: %w", w.ID, context.Cause(ctx))
	}
}

func (a *agent) Release(_ context.Context, r agentproto.Release) (e agentproto.Empty, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.procs[r.ID]
	if p == nil {
		return e, nil
	}
	if !stopped(p.done) {
		return e, errs.New(errs.FailedPrecondition, "process %s runs", r.ID)
	}
	delete(a.procs, r.ID)
	if p.attached() { // otherwise a stream that is on its way is awaited
		a.streams.unbind(p.tokens)
	}
	return e, nil
}

func (a *agent) Reset(context.Context, agentproto.Reset) (e agentproto.Empty, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.isSetUp || a.held != nil || len(a.procs) > 0 {
		return e, errs.New(errs.FailedPrecondition, "set up: %v, with %d processes", a.isSetUp, len(a.procs))
	}
	a.isSetUp = false
	a.m.unconfigure()
	return e, nil
}

// Clock takes the time, as far as Options let it.
func (a *agent) Clock(ctx context.Context, c agentproto.Clock) (e agentproto.Empty, err error) {
	if fn := a.m.driver.o.Clock; fn != nil {
		err = fn(ctx, c)
	}
	return e, err
}

// PowerOff ends the machine. Its answer may be lost to that, as it may be in
// a real one.
func (a *agent) PowerOff(context.Context, agentproto.PowerOff) (e agentproto.Empty, err error) {
	a.m.Print("reboot: Power down\n")
	a.m.end(nil)
	return e, nil
}

func (a *agent) Log(context.Context, agentproto.Empty) (agentproto.Log, error) {
	return agentproto.Log{Kernel: []byte("fake kernel\n"), Agent: []byte("fake agent\n")}, nil
}

// Stats counts processes; nothing in a machine in memory uses anything else.
func (a *agent) Stats(ctx context.Context, e agentproto.Empty) (r agentproto.Stats, err error) {
	top, err := a.Top(ctx, e)
	return agentproto.Stats{Processes: len(top.Processes), At: time.Now()}, err
}

// Top lists the processes that run, in the order of their starts.
func (a *agent) Top(context.Context, agentproto.Empty) (r agentproto.Top, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.procs {
		if !stopped(p.done) {
			r.Processes = append(r.Processes, agentproto.TopProcess{PID: p.PID, State: "S", Started: a.born, Command: strings.Join(p.Args, " ")})
		}
	}
	slices.SortFunc(r.Processes, func(x, y agentproto.TopProcess) int { return cmp.Compare(x.PID, y.PID) })
	return r, nil
}

// kill ends every process, for the end of the machine.
func (a *agent) kill() {
	for _, p := range a.others(nil) {
		p.deliver(sigKill)
	}
	a.streams.close()
}
