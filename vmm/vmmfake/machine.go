package vmmfake

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

// Context IDs of virtual sockets: linux/vm_sockets.h has the host's.
const (
	hostCID  = 2
	guestCID = 3
)

// Machine is a machine in memory. Its methods beyond those of vmm.Machine are
// what happens to it, or in it, for tests.
type Machine struct {
	driver *Driver
	cfg    vmm.Config
	agent  *agent

	ctx    context.Context // ends with the machine
	cancel context.CancelFunc
	up     chan struct{} // closed when the guest's driver answers dials
	gone   chan struct{} // closed when nothing of it runs any more
	once   sync.Once     // the end
	err    error         // of Wait; read after gone
	work   sync.WaitGroup
	stall  stall
	trace  vmm.Trace

	mu          sync.Mutex // guards the following
	ended       bool
	console     string // path
	disks       map[string]vmm.Disk
	guest, host map[string]*listener // by port, and what is in the container: see door
	conns       map[*conn]struct{}
	plugged     chan struct{} // closed at the next change of disks
	cards       []*card
}

var (
	_ vmm.Machine  = (*Machine)(nil)
	_ vmm.Attacher = (*Machine)(nil)
	_ vmm.Adopter  = (*Machine)(nil)
	_ vmm.Vsocker  = (*Machine)(nil)
	_ vmm.Tracer   = (*Machine)(nil)
)

// Adopt implements vmm.Adopter, as far as Options let it.
func (m *Machine) Adopt(ctx context.Context, cfg *vmm.Config) error {
	if fn := m.driver.o.Adopt; fn != nil {
		if err := fn(cfg); err != nil {
			return err
		}
	}
	if old := m.cfg; cfg.CPUs != old.CPUs || cfg.Memory != old.Memory || cfg.Kernel != old.Kernel || cfg.Initramfs != old.Initramfs ||
		!slices.Equal(cfg.KernelArgs, old.KernelArgs) {
		return errs.New(errs.FailedPrecondition, "machine %s is of another make", old.Name)
	}
	if cfg.Vsock && !m.cfg.Vsock {
		return errs.New(errs.FailedPrecondition, "machine %s has no virtual sockets", m.cfg.Name)
	}
	if err := m.addCards(cfg.Cards); err != nil {
		return err
	}
	m.mu.Lock()
	m.console = cfg.Console
	m.mu.Unlock()
	for _, d := range cfg.Disks {
		if err := m.DetachDisk(ctx, d.ID); err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
		if err := m.AttachDisk(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

func newMachine(d *Driver, cfg *vmm.Config) *Machine {
	m := &Machine{
		driver: d, cfg: *cfg, console: cfg.Console, up: make(chan struct{}), gone: make(chan struct{}),
		disks: map[string]vmm.Disk{}, guest: map[string]*listener{}, host: map[string]*listener{},
		conns: map[*conn]struct{}{}, plugged: make(chan struct{}),
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.agent = newAgent(m)
	return m
}

// start lets the machine run. One goroutine lives as long as it does and sees
// to its end.
func (m *Machine) start() {
	m.work.Go(func() {
		if err := m.boot(); err != nil {
			m.end(err)
		}
		<-m.ctx.Done()
		m.tearDown()
	})
	go func() {
		m.work.Wait()
		m.closeCards()
		m.driver.forget(m)
		close(m.gone)
	}()
}

func (m *Machine) boot() error {
	if m.driver.o.Ready != nil {
		if err := m.driver.o.Ready(m.ctx, m); err != nil {
			return err
		}
	}
	l, err := m.GuestListen(vmm.AgentPort)
	if err != nil {
		return err
	}
	m.Print("vzcompose-agent: up\n")
	m.work.Go(func() { m.agent.serve(l) })
	close(m.up)
	return nil
}

// end begins the machine's end; only the first cause counts. It does not wait.
//
// Connections break before anything in the machine can notice and answer: a
// machine that lost its power says nothing more.
func (m *Machine) end(err error) {
	m.once.Do(func() {
		m.err = err
		m.mu.Lock()
		m.ended = true
		for c := range m.conns {
			c.reset(syscall.ECONNRESET)
		}
		clear(m.conns)
		m.mu.Unlock()
		m.cancel()
	})
}

// tearDown ends what is left in the machine.
func (m *Machine) tearDown() {
	m.mu.Lock()
	var ls []*listener
	for _, at := range []map[string]*listener{m.guest, m.host} {
		for _, l := range at {
			ls = append(ls, l)
		}
	}
	m.mu.Unlock()
	for _, l := range ls { // which forget themselves
		_ = l.Close()
	}
	m.agent.kill()
}

// Config is what the machine was booted with.
func (m *Machine) Config() vmm.Config { return m.cfg }

// Crash ends the machine; Wait answers err.
func (m *Machine) Crash(err error) { m.end(err) }

// Panic ends the machine as a panic of its kernel does, with words on the
// console.
func (m *Machine) Panic(text string) {
	m.Print("Kernel panic - not syncing: " + text + "\n")
	m.end(errs.New(errs.Unavailable, "its kernel panicked or reset itself"))
}

// Print appends to the console.
func (m *Machine) Print(text string) {
	m.mu.Lock()
	path := m.console
	m.mu.Unlock()
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return // a console that cannot be written does not end a machine
	}
	_, _ = f.WriteString(text)
	_ = f.Close()
}

func (m *Machine) unavailable(what string) error {
	return errs.New(errs.Unavailable, "%s: machine %s is gone", what, m.cfg.Name)
}

// Dial connects to a guest port, as vmm.Machine says.
func (m *Machine) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	what := fmt.Sprintf("dial port %d of machine %s", port, m.cfg.Name)
	select {
	case <-m.up:
	case <-m.ctx.Done():
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	return m.connect(m.guest, door(port), addr{hostCID, 0}, addr{guestCID, port}, m.awaitGoing)
}

// Listen takes the guest's connections to a host port.
func (m *Machine) Listen(port uint32) (net.Listener, error) {
	return m.listen(m.host, door(port), addr{hostCID, port})
}

// GuestDial connects to a host port as a process in the machine does.
func (m *Machine) GuestDial(port uint32) (net.Conn, error) {
	return m.connect(m.host, door(port), addr{guestCID, 0}, addr{hostCID, port}, nil)
}

// GuestListen listens on a guest port as a process in the machine does.
func (m *Machine) GuestListen(port uint32) (net.Listener, error) {
	return m.listen(m.guest, door(port), addr{guestCID, port})
}

// Serve listens as a server in the container does, at "tcp:80", "udp:53" or the
// path of a socket. A datagram is framed as package relay does it.
func (m *Machine) Serve(at string) (net.Listener, error) {
	return m.listen(m.guest, at, addr{guestCID, 0})
}

// Reach connects as a client in the container does, to what Serve can name.
func (m *Machine) Reach(at string) (net.Conn, error) {
	return m.connect(m.guest, at, addr{guestCID, 0}, addr{guestCID, 0}, nil)
}

// door is where a port of a virtual socket is listened on.
func door(port uint32) string { return strconv.FormatUint(uint64(port), 10) }

// connect makes a connection; going is of its far end.
func (m *Machine) connect(at map[string]*listener, door string, from, to addr, going func()) (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return nil, m.unavailable("dial port " + door)
	}
	var near, far *conn
	near, far = newConns(from, to, func() { m.dropConn(near) })
	far.going = going
	l := at[door]
	if l == nil || !l.offer(far) {
		return nil, errs.New(errs.Unavailable, "dial port %s of machine %s: connection refused", door, m.cfg.Name)
	}
	m.conns[near] = struct{}{}
	return near, nil
}

// dropConn forgets a connection one end of which is closed: the other has seen
// its end coming.
func (m *Machine) dropConn(near *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.conns, near)
}

func (m *Machine) listen(at map[string]*listener, door string, to addr) (net.Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return nil, m.unavailable("listen on port " + door)
	}
	if at[door] != nil {
		return nil, errs.New(errs.AlreadyExists, "port %s of machine %s is listened on", door, m.cfg.Name)
	}
	l := newListener(to, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(at, door)
	})
	at[door] = l
	return l, nil
}

// Stop ends the machine and waits.
func (m *Machine) Stop(ctx context.Context) error {
	m.end(nil)
	select {
	case <-m.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("await the end of machine %s: %w", m.cfg.Name, context.Cause(ctx))
	}
}

// Kill ends the machine.
func (m *Machine) Kill() error { m.end(nil); return nil }

// Wait answers when the machine is gone.
func (m *Machine) Wait(ctx context.Context) error {
	select {
	case <-m.gone:
		return m.err
	default:
	}
	select {
	case <-m.gone:
		return m.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// AttachDisk plugs a disk in.
func (m *Machine) AttachDisk(ctx context.Context, d vmm.Disk) error {
	if err := d.Check(); err != nil {
		return err
	}
	if m.ctx.Err() != nil {
		return m.unavailable("attach disk " + d.ID)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("attach disk %s: %w", d.ID, context.Cause(ctx))
	}
	return m.plug(d)
}

func (m *Machine) plug(d vmm.Disk) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.disks[d.ID]; ok {
		return errs.New(errs.AlreadyExists, "machine %s has a disk %s", m.cfg.Name, d.ID)
	}
	if err := m.driver.claim(m, d); err != nil {
		return err
	}
	m.disks[d.ID] = d
	close(m.plugged)
	m.plugged = make(chan struct{})
	return nil
}

// DetachDisk pulls a disk out.
func (m *Machine) DetachDisk(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.disks[id]
	if !ok {
		return errs.New(errs.NotFound, "machine %s has no disk %s", m.cfg.Name, id)
	}
	delete(m.disks, id)
	m.driver.release(m, d)
	return nil
}

// findDisk waits for a disk, as the agent does.
func (m *Machine) findDisk(ctx context.Context, id string) error {
	for {
		m.mu.Lock()
		_, ok := m.disks[id]
		plugged := m.plugged
		m.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-plugged:
		case <-ctx.Done():
			return errs.New(errs.NotFound, "no disk %s: %w", id, context.Cause(ctx))
		}
	}
}
