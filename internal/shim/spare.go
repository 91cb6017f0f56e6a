package shim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/accept"
	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/undo"
	"github.com/vzcompose/vzcompose/internal/volume"
	"github.com/vzcompose/vzcompose/vmm"
)

// A spare is a shim whose machine waits for an instance (docs/pool.md). It has
// been through the life of a container that does nothing, so that all which is
// slow the first time has been done, and has been reset; then it may hold a
// container whose process waits for its go (prepared.go). Whoever dials its
// socket tells it a Launch; it answers as a shim that was just started does, and
// is one from then on.

// orderLimit is how long a Launch may take to arrive whole.
const orderLimit = 10 * time.Second

// RunSpare keeps a machine of l.Instance's make until it is wanted, terminate
// ends, or the machine is lost. ready is called when it waits, and wanted once it
// is to be the shim of the Launch that it is given. l.Home is the pool's;
// l.Instance is what is rehearsed.
func RunSpare(terminate context.Context, driver vmm.Driver, l shimproto.Launch, ready func(), wanted func(shimproto.Launch) error) (err error) {
	var un undo.Stack
	defer func() { err = errors.Join(err, un.Run(context.Background(), undoLimit)) }()
	lock, err := l.Home.LockInstance(l.Instance.Stack, l.Instance.Name)
	if err != nil {
		return fmt.Errorf("take the spare's lock: %w", err)
	}
	un.PushFunc("take the lock", lock.Release)
	un.Push("make its folder", func(context.Context) error { return l.Home.DropInstance(l.Instance.Stack, l.Instance.Name) })

	if err := l.Home.WriteInstance(l.Instance); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	s := &shim{launch: l, inst: l.Instance, driver: driver, born: time.Now(), final: make(chan struct{}), status: newBoard()}
	close(s.final) // nobody is told how far it has come
	m, err := s.rehearse(terminate)
	if err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	un.Push("boot the machine", m.Stop)
	if l.Hold != nil {
		if err := s.holdFor(terminate, m, *l.Hold); err != nil {
			return fmt.Errorf("hold a container of %s: %w", l.Hold.Instance.Container, err)
		}
	}
	socket, err := s.listen()
	if err != nil {
		return err
	}
	un.PushFunc("listen", func() { _ = socket.Close(); l.Home.RemoveRuntime() })
	ready()
	order, c, err := s.awaitOrder(terminate, m, socket)
	if err != nil || c == nil {
		return err
	}
	defer func() { _ = c.Close() }()
	// From here on it is another's: what it was goes, and its machine stays.
	un.Release()
	m.forgotten = func() error {
		_ = socket.Close()
		defer lock.Release()
		return l.Home.DropInstance(l.Instance.Stack, l.Instance.Name)
	}
	if err := wanted(order); err != nil {
		return errors.Join(err, m.end())
	}
	adopt := &adopter{Driver: driver, spare: m}
	taken, giveBack := context.WithCancel(terminate)
	defer giveBack()
	var answered atomic.Bool
	go func() { // ends with c
		_, _ = io.Copy(io.Discard, c)
		if !answered.Load() { // whoever gave the order takes it back
			giveBack()
		}
	}()
	err = Run(taken, adopt, order, sync.OnceFunc(func() {
		answered.Store(true)                           // from here on it is for who asks to say what becomes of it
		_, _ = io.WriteString(c, shimproto.Ready+"\n") // whoever waited may be gone
		_ = c.Close()
	}))
	if err != nil {
		_, _ = io.WriteString(c, err.Error()+"\n") // nobody hears it if it was ready
	}
	return errors.Join(err, adopt.drop())
}

// spareMachine is a machine that waits.
type spareMachine struct {
	vmm.Machine
	forgotten func() error // removes what it was as a spare
	trace     vmm.Trace

	held           string // the key of the container that it holds; "": none
	root, writable string // the files of that container's disks
}

// end puts the machine away that nobody needs.
func (m *spareMachine) end() error {
	ctx, cancel := limit(context.Background(), undoLimit, "end the machine that waited")
	defer cancel()
	return errors.Join(m.Stop(ctx), m.forgotten())
}

// heldIn says whether m came from the pool with a container in it.
func heldIn(m vmm.Machine) bool {
	s, ok := m.(*spareMachine)
	return ok && s.held != ""
}

// holdFor has m hold the container of l, with a writable disk of its own.
func (s *shim) holdFor(ctx context.Context, m *spareMachine, l shimproto.Launch) error {
	l.Home, l.Instance.Stack, l.Instance.Name = s.launch.Home, s.inst.Stack, s.inst.Name
	h := &shim{launch: l, inst: l.Instance, driver: s.driver, final: s.final, status: newBoard()}
	p := prepare(h.inst, h.filter())
	if p.err != nil {
		return p.err
	}
	at := l.Home.Writable(l.Instance.Stack, l.Instance.Name)
	if err := os.Remove(at); err != nil { // that of the rehearsal
		return err
	}
	if err := volume.Create(at, cmp.Or(l.Instance.Writable, volume.WritableLayer)); err != nil {
		return err
	}
	if err := adopt(ctx, m.Machine, h.machineConfig()); err != nil {
		return err
	}
	if err := h.holdIn(ctx, m, p); err != nil {
		return err
	}
	m.held, m.root, m.writable = p.key, l.Instance.Root, at
	return nil
}

// adopt gives m what cfg has.
func adopt(ctx context.Context, m vmm.Machine, cfg *vmm.Config) error {
	ad, ok := m.(vmm.Adopter)
	if !ok {
		return errs.New(errs.Unsupported, "this driver's machines cannot be adopted")
	}
	return ad.Adopt(ctx, cfg)
}

// bringDisk puts the disk of the container that m holds, if it does, in the place
// of the instance's, to which nothing was written.
func (m *spareMachine) bringDisk(cfg *vmm.Config) error {
	if m.held == "" {
		return nil
	}
	root, writable := diskPath(cfg, diskRoot), diskPath(cfg, diskWritable)
	if cfg.Prepared != m.held || root != m.root || writable == "" {
		return errs.New(errs.FailedPrecondition, "it holds another container")
	}
	return durable.Rename(m.writable, writable)
}

// diskPath is the file of the disk id, "" if there is none.
func diskPath(cfg *vmm.Config, id string) string {
	for _, d := range cfg.Disks {
		if d.ID == id {
			return d.Path
		}
	}
	return ""
}

// Unwrap answers the machine itself.
func (m *spareMachine) Unwrap() vmm.Machine { return m.Machine }

// Trace says that it came from the pool.
func (m *spareMachine) Trace() vmm.Trace { return m.trace }

// rehearse boots the machine and takes it through the life of a container.
func (s *shim) rehearse(ctx context.Context) (_ *spareMachine, err error) {
	r, err := s.bring(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			uctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
			defer cancel()
			err = errors.Join(err, r.machine.Stop(uctx))
		}
	}()
	defer func() { _ = r.agent.Close() }()
	defer r.out.close()
	ctx, cancel := limit(ctx, startLimit, "await the rehearsal's end")
	defer cancel()
	e, err := r.agent.Wait(ctx, agentproto.InitID)
	if err != nil {
		return nil, err
	}
	if e.Code != 0 {
		return nil, errs.New(errs.Internal, "it ended with %d", e.Code)
	}
	if err := r.agent.Release(ctx, agentproto.InitID); err != nil {
		return nil, err
	}
	if err := r.agent.Reset(ctx); err != nil {
		return nil, err
	}
	return &spareMachine{Machine: r.machine}, nil
}

// awaitOrder answers what the machine is wanted for, and the connection on which
// to answer; no connection: it is not wanted any more.
func (s *shim) awaitOrder(terminate context.Context, m vmm.Machine, socket net.Listener) (shimproto.Launch, net.Conn, error) {
	socket = accept.Through(socket, nil) // who gives orders has a limit
	ctx, cancel := context.WithCancel(terminate)
	defer cancel()
	lost := make(chan error, 1)
	go func() {
		err := m.Wait(ctx)
		if ctx.Err() == nil {
			lost <- errs.New(errs.Unavailable, "the machine that waited is gone: %w", err)
		}
		_ = socket.Close()
	}()
	for {
		c, err := socket.Accept()
		if err != nil {
			select {
			case err := <-lost:
				return shimproto.Launch{}, nil, err
			default:
				return shimproto.Launch{}, nil, nil // terminate has ended
			}
		}
		l, err := readOrder(c)
		if err == nil && l.Retire {
			return shimproto.Launch{}, nil, c.Close()
		}
		if err == nil {
			return l, c, nil
		}
		// No error is sent: the caller starts a shim of its own build, which carries
		// the order out or reports what is wrong with it.
		_ = c.Close()
	}
}

func readOrder(c net.Conn) (l shimproto.Launch, err error) {
	if err := c.SetReadDeadline(time.Now().Add(orderLimit)); err != nil {
		return l, err
	}
	if l, err = shimproto.ReadLaunch(c); err != nil {
		return l, err
	}
	return l, c.SetReadDeadline(time.Time{})
}

// adopter is a driver that has one machine already, for the first Boot.
type adopter struct {
	vmm.Driver
	mu    sync.Mutex    // guards the following
	spare *spareMachine // nil once it is given away
}

// Boot gives the machine that waited to cfg. One that cannot be had is ended,
// and another booted.
func (a *adopter) Boot(ctx context.Context, cfg *vmm.Config) (vmm.Machine, error) {
	a.mu.Lock()
	m := a.spare
	a.spare = nil
	a.mu.Unlock()
	if m == nil {
		return a.Driver.Boot(ctx, cfg)
	}
	began := time.Now()
	err := m.bringDisk(cfg)
	if err == nil {
		err = adopt(ctx, m.Machine, cfg)
	}
	if err == nil {
		m.trace = vmm.Trace{Origin: vmm.Pooled, Phases: []vmm.Phase{{Name: "machine adopted", Duration: time.Since(began)}}}
		if err := m.forgotten(); err != nil {
			m.trace.Notes = append(m.trace.Notes, fmt.Sprintf("what it was as a spare is left: %v", err))
		}
		return m, nil
	}
	if eerr := m.end(); eerr != nil {
		return nil, errors.Join(err, eerr)
	}
	again := *cfg
	if m.held != "" { // its disk may have been brought, and is not as new
		again.Prepared = ""
	}
	next, berr := a.Driver.Boot(ctx, &again)
	if berr != nil {
		return nil, berr
	}
	return noted{next, fmt.Sprintf("the machine that waited was of no use: %v", err)}, nil
}

// drop ends a machine that nobody has come to boot.
func (a *adopter) drop() error {
	a.mu.Lock()
	m := a.spare
	a.spare = nil
	a.mu.Unlock()
	if m == nil {
		return nil
	}
	return m.end()
}

// noted is a machine of which there is something more to tell.
type noted struct {
	vmm.Machine
	note string
}

// Unwrap answers the machine itself.
func (n noted) Unwrap() vmm.Machine { return n.Machine }

// Trace is the machine's own, and the note.
func (n noted) Trace() (t vmm.Trace) {
	if tr, ok := n.Machine.(vmm.Tracer); ok {
		t = tr.Trace()
	}
	t.Notes = append([]string{n.note}, t.Notes...)
	return t
}
