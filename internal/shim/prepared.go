package shim

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/undo"
	"github.com/vzcompose/vzcompose/internal/volume"
	"github.com/vzcompose/vzcompose/vmm"
)

// A prepared machine (docs/template.md) was saved with a container in it that is
// held right before its process is executed. What is said here to such a machine
// before it is saved is what instances have in common; all else comes at the go.

// preparationVersion is that of what is done to a machine before it is saved.
const preparationVersion = 1

// heldName stands for what is an instance's own.
const heldName = "held"

// The streams of a held process have their tokens before they have an instance.
const (
	heldStdin  = "held-stdin"
	heldStdout = "held-stdout"
	heldStderr = "held-stderr"
)

// preparation is what is said to a machine before it is saved.
type preparation struct {
	setup agentproto.Setup // without entropy
	start agentproto.Start
	key   string
	err   error // why a machine cannot be prepared for the instance
}

func heldOutputs(i store.Instance) *outputs {
	o := &outputs{stdoutTok: heldStdout, stderrTok: heldStderr}
	if i.Stdin {
		o.stdinTok = heldStdin
	}
	return o
}

// prepare answers what instances like i, whose filter is f, have in common.
func prepare(i store.Instance, f *agentproto.Filter) (p preparation) {
	if p.err = preparable(i); p.err != nil {
		return p
	}
	p.setup = agentproto.Setup{Hostname: heldName, Root: agentproto.Root{Lower: diskRoot, Upper: diskWritable}}
	for _, f := range i.Files {
		p.setup.Files = append(p.setup.Files, agentproto.File{ID: f.ID, Mode: f.Mode, UID: f.UID, GID: f.GID})
	}
	for _, c := range guestInterfaces(i) {
		c.MAC, c.Addresses, c.Gateways = c.Device, []netip.Prefix{}, nil
		p.setup.Interfaces = append(p.setup.Interfaces, c)
	}
	p.start = startOf(i, f, heldOutputs(i))
	if p.start.Spec, p.err = commonSpec(i.Runtime); p.err != nil {
		return p
	}
	p.start.Hold = true
	var b []byte
	if b, p.err = json.Marshal([]any{preparationVersion, p.setup, p.start}); p.err == nil {
		sum := sha256.Sum256(b)
		p.key = hex.EncodeToString(sum[:])
	}
	return p
}

// commonSpec is the runtime-spec without what is told at the go.
func commonSpec(of *specs.Spec) (*specs.Spec, error) {
	b, err := json.Marshal(of)
	if err != nil {
		return nil, err
	}
	c := new(specs.Spec)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, err
	}
	c.Hostname, c.Annotations = heldName, nil
	// What is executed is read ahead. Other arguments and variables may be secret.
	c.Process.Args = c.Process.Args[:min(1, len(c.Process.Args))]
	c.Process.Env = slices.DeleteFunc(c.Process.Env, func(e string) bool { return !strings.HasPrefix(e, "PATH=") })
	return c, nil
}

// Held answers of l what a machine can be told before it has an instance, and the
// key of those for which it is the same. errs.Unsupported says why there is no
// such machine for l.
func Held(l shimproto.Launch) (common shimproto.Launch, key string, err error) {
	p := prepare(l.Instance, filterOf(l))
	if p.err != nil {
		return shimproto.Launch{}, "", p.err
	}
	i := l.Instance
	l.Env = nil
	l.Instance = store.Instance{Container: i.Container, CPUs: i.CPUs, Memory: i.Memory, Root: i.Root, Writable: i.Writable,
		Runtime: p.start.Spec, User: i.User, Groups: i.Groups, Init: i.Init, Devices: i.Devices, Stdin: i.Stdin}
	for _, f := range p.setup.Files {
		l.Instance.Files = append(l.Instance.Files, store.File{ID: f.ID, Mode: f.Mode, UID: f.UID, GID: f.GID})
	}
	for _, n := range i.Interfaces {
		l.Instance.Interfaces = append(l.Instance.Interfaces, store.Interface{Network: n.Network, MTU: n.MTU})
	}
	return l, p.key, nil
}

// preparable says why no machine can be prepared for i.
func preparable(i store.Instance) error {
	six := func(s store.Interface) bool {
		return slices.ContainsFunc(s.Addresses, func(a netip.Prefix) bool { return a.Addr().Is6() })
	}
	for _, no := range []struct {
		is   bool
		what string
	}{
		{i.Runtime == nil || i.Runtime.Process == nil, "no process"},
		{len(i.Volumes) > 0, "volumes"}, {len(i.Shares) > 0, "shares"}, {i.Nested, "nested machines"}, {i.Vsock, "virtual sockets"},
		{i.OCIRuntime != "", "an OCI runtime"}, {len(i.Interfaces) > 1, "more than one interface"},
		{slices.ContainsFunc(i.Interfaces, six), "an IPv6 address"},
	} {
		if no.is {
			return errs.New(errs.Unsupported, "a machine cannot be prepared with %s", no.what)
		}
	}
	if i.Runtime.Process.Terminal {
		return errs.New(errs.Unsupported, "a machine cannot be prepared with a terminal")
	}
	return nil
}

// throwAway deletes the template away of which the instance's machine was made, so
// that the next one does not fail as this did.
func (s *shim) throwAway(ctx context.Context) error {
	maker, ok := s.driver.(vmm.Preparer)
	if !ok {
		return nil
	}
	cfg := s.machineConfig()
	cfg.Prepared = prepare(s.inst, s.filter()).key
	return maker.Discard(ctx, cfg)
}

// fits says whether the machine of cfg may be a prepared one: nothing has been
// written to its disk yet.
func (p preparation) fits(cfg *vmm.Config) bool {
	if p.err != nil || cfg.Cold {
		return false
	}
	for _, d := range cfg.Disks {
		if d.ID == diskWritable {
			ok, err := volume.Untouched(d.Path)
			return ok && err == nil // whoever boots it will say what is wrong
		}
	}
	return false
}

// Prepare makes the template of machines that are prepared for l.Instance and
// those like it, if it is not there. The instance's folder and its writable disk,
// which is used up, are the caller's to make and to remove.
func Prepare(ctx context.Context, driver vmm.Driver, l shimproto.Launch, ready func()) (err error) {
	var un undo.Stack
	defer func() { err = errors.Join(err, un.Run(context.Background(), undoLimit)) }()
	lock, err := l.Home.LockInstance(l.Instance.Stack, l.Instance.Name)
	if err != nil {
		return fmt.Errorf("take the lock: %w", err)
	}
	un.PushFunc("take the lock", lock.Release)
	s := &shim{launch: l, inst: l.Instance, driver: driver, final: make(chan struct{}), status: newBoard()}
	close(s.final) // nobody is told how far it has come
	p := prepare(s.inst, s.filter())
	maker, ok := driver.(vmm.Preparer)
	if !ok {
		p.err = errs.New(errs.Unsupported, "this driver prepares no machines")
	}
	if p.err != nil {
		return p.err
	}
	cfg := s.machineConfig()
	cfg.Prepared = p.key
	if _, err := maker.Prepare(ctx, cfg, func(ctx context.Context, m vmm.Machine) error { return s.holdIn(ctx, m, p) }); err != nil {
		return err
	}
	ready()
	return nil
}

// holdIn brings a machine to where the process waits for its go.
func (s *shim) holdIn(ctx context.Context, m vmm.Machine, p preparation) error {
	agent, err := s.dialAgent(ctx, m)
	if err != nil {
		return err
	}
	defer func() { _ = agent.Close() }()
	return hold(ctx, agent, p)
}

func hold(ctx context.Context, agent *agentproto.Client, p preparation) error {
	ctx, cancel := limit(ctx, setupLimit, "set up the machine in which a process is to be held")
	defer cancel()
	p.setup.Entropy = make([]byte, 64)
	if _, err := rand.Read(p.setup.Entropy); err != nil {
		return fmt.Errorf("draw entropy: %w", err)
	}
	if _, err := agent.Setup(ctx, p.setup); err != nil {
		return fmt.Errorf("set up machine: %w", err)
	}
	if _, err := agent.Start(ctx, p.start); err != nil {
		return fmt.Errorf("hold the process: %w", err)
	}
	return nil
}

// errPrepared is an error for which the machine in which the process was held is
// to blame.
type errPrepared struct {
	error
	saved bool // it is of a template
}

func (e errPrepared) Unwrap() error { return e.error }

// letGo makes a prepared machine that of the instance, and its process run.
func (s *shim) letGo(ctx context.Context, m vmm.Machine, agent *agentproto.Client, out *outputs) error {
	what := agentproto.Go{Hostname: s.inst.Runtime.Hostname, Entropy: make([]byte, 64), Interfaces: guestInterfaces(s.inst),
		Args: s.inst.Runtime.Process.Args, Env: s.inst.Runtime.Process.Env}
	if _, err := rand.Read(what.Entropy); err != nil {
		return fmt.Errorf("draw entropy: %w", err)
	}
	var err error
	if what.Files, err = s.files(); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { _, err := agent.Go(gctx, what); return err })
	out.open(gctx, g, m)
	err = g.Wait()
	switch errs.ClassOf(err) {
	case errs.NotFound, errs.PermissionDenied, errs.InvalidArgument, errs.Canceled: // of what the container is to run, as on any machine
		return err
	}
	if err != nil {
		_, spare := m.(*spareMachine)
		return errPrepared{err, !spare}
	}
	return nil
}
