//go:build linux

package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/childenv"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/mux"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/qemu/share"
	"github.com/vzcompose/vzcompose/vmm/qemu/vsock"
)

// machine is one QEMU and the devices that this process serves to it.
type machine struct {
	name   string
	cfg    vmm.Config   // as it was made
	port   *mux.Session // to the agent
	con    *console
	qmp    *qmp
	stderr tail
	trace  vmm.Trace // not changed any more once Boot has returned

	monitored chan struct{} // closed once qmp is set
	gone      chan struct{} // closed once err is set and everything is released
	err       error         // why it is gone; nil: it was to be

	mu       sync.Mutex       // guards the following
	disks    map[string]drive // by ID
	killed   bool             // we ended it
	shutdown string           // QMP's reason for the end: "guest-shutdown", "guest-reset", ...
	proc     *os.Process
	stall    stall
	ports    [rootPorts]string // the disk or card in each
	cards    []*os.File        // the host's ends; closed when the machine is gone

	deviceNotes []string      // of what is not served as it should be; mu
	vsock       *vsock.Device // nil: none
	shares      []*share.Device
	waiting     map[string]chan struct{} // for the guest to let go of a device

	lasting  *os.File       // keeps the agent's port connected, where it must outlive port; may be nil
	migrated chan string    // gets the last status of a migration
	served   sync.WaitGroup // devices of this process; they end with QEMU
}

var (
	_ vmm.Machine  = (*machine)(nil)
	_ vmm.Attacher = (*machine)(nil)
	_ vmm.Tracer   = (*machine)(nil)
	_ vmm.Adopter  = (*machine)(nil)
	_ vmm.Pauser   = (*machine)(nil)
	_ vmm.Staller  = (*machine)(nil)

	_ vmm.LockBreaker = (*machine)(nil)

	_ vmm.Networker = (*machine)(nil)
	_ vmm.Vsocker   = (*machine)(nil)
)

func newMachine(cfg *vmm.Config, port net.Conn, con *console) *machine {
	disks := map[string]drive{}
	for _, d := range cfg.Disks {
		disks[d.ID] = newDrive(d, 0)
	}
	return &machine{name: cfg.Name, cfg: *cfg, disks: disks, port: mux.New(port, mux.Host, mux.Options{}), con: con, monitored: make(chan struct{}),
		gone: make(chan struct{}), waiting: map[string]chan struct{}{}, migrated: make(chan string, 1)}
}

// start runs QEMU and its keepers. It owns ends; ram, which QEMU inherits after
// them and may be nil, stays the caller's until the monitor has answered or the
// machine is gone. A failure to start is an early end: Wait tells it.
func (m *machine) start(path string, args []string, ends []*os.File, ram *os.File) {
	go m.con.run()
	go func() {
		err := m.run(path, args, ends, ram)
		_ = m.port.Close() // it has lost its peer, and so has the console
		<-m.con.done
		m.con.close()
		m.err = err
		m.closeCards()
		if m.lasting != nil {
			_ = m.lasting.Close()
		}
		m.served.Wait()
		select { // the monitor, if there ever was one, has lost its peer
		case <-m.monitored:
			m.qmp.close()
		default:
		}
		close(m.gone)
	}()
}

// run is QEMU's life. It keeps its thread: the kernel sends the parent-death
// signal when the thread that forked ends, not the process.
func (m *machine) run(path string, args []string, ends []*os.File, ram *os.File) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(path, args...)
	cmd.Env = childenv.List()
	cmd.ExtraFiles = slices.Clone(ends)
	if ram != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, ram)
	}
	cmd.Stdout, cmd.Stderr = &m.stderr, &m.stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	err := cmd.Start()
	for _, f := range ends {
		_ = f.Close() // QEMU has its own
	}
	if err != nil {
		return errs.New(errs.Unavailable, "start qemu: %w", err)
	}
	m.mu.Lock()
	m.proc = cmd.Process
	killed := m.killed
	m.mu.Unlock()
	if killed { // before there was anything to kill
		_ = cmd.Process.Kill()
	}
	err = cmd.Wait()
	m.hearOut()
	return m.verdict(err)
}

// hearLimit bounds hearOut.
const hearLimit = 10 * time.Second

// hearOut waits until what QEMU said on its monitor before it ended has been
// taken: why it ended is the last of that.
func (m *machine) hearOut() {
	select {
	case <-m.monitored:
	default: // it ended before its monitor had answered
		return
	}
	limit := time.NewTimer(hearLimit)
	defer limit.Stop()
	select {
	case <-m.qmp.done:
	case <-limit.C: // the end of a process is the end of its sockets
	}
}

// verdict says what an end of QEMU means.
func (m *machine) verdict(err error) error {
	m.mu.Lock()
	killed, shutdown := m.killed, m.shutdown
	m.mu.Unlock()
	switch {
	case killed:
		return nil
	case err == nil && shutdown == "guest-reset":
		// The agent only ever powers off; a reset is the kernel's panic=-1.
		return errs.New(errs.Unavailable, "its kernel panicked or reset itself")
	case err == nil && (shutdown == "guest-shutdown" || shutdown == "guest-panic"):
		return nil
	case err == nil:
		return m.explain(errs.New(errs.Unavailable, "qemu ended by itself (%q)", shutdown))
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return errs.New(errs.Unavailable, "qemu was ended by %s", unix.SignalName(ws.Signal()))
		}
	}
	return m.explain(errs.New(errs.Unavailable, "qemu ended: %w", err))
}

// explain adds the last of what QEMU said.
func (m *machine) explain(err error) error {
	if said := bytes.TrimSpace(m.stderr.bytes()); len(said) > 0 {
		return fmt.Errorf("%w: qemu says: %s", err, said)
	}
	return err
}

func (m *machine) takeEvent(e qmpEvent) {
	switch e.Name {
	case "BLOCK_IO_ERROR":
		m.takeIOError(e.Data)
	case "RESUME":
		m.takeResume()
	case "MIGRATION":
		var d struct {
			Status string `json:"status"`
		}
		if json.Unmarshal(e.Data, &d) == nil && (d.Status == "completed" || d.Status == "failed") {
			select {
			case m.migrated <- d.Status:
			default: // there is one, and it is told once
			}
		}
	case "SHUTDOWN":
		var d struct {
			Reason string `json:"reason"`
		}
		if json.Unmarshal(e.Data, &d) == nil {
			m.mu.Lock()
			m.shutdown = d.Reason
			m.mu.Unlock()
		}
	case "DEVICE_DELETED":
		var d struct {
			Device string `json:"device"`
		}
		if json.Unmarshal(e.Data, &d) == nil {
			m.mu.Lock()
			if ch := m.waiting[d.Device]; ch != nil {
				delete(m.waiting, d.Device)
				close(ch)
			}
			m.mu.Unlock()
		}
	}
}

// Trace says how the machine came to be, and what has gone wrong with it since
// that does not end it.
func (m *machine) Trace() vmm.Trace {
	t := m.trace
	if n, err := m.con.loss(); err != nil {
		t.Notes = append(slices.Clone(t.Notes), fmt.Sprintf("%d bytes of the console are lost: %v", n, err))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t.Notes = append(slices.Clone(t.Notes), m.deviceNotes...)
	return t
}

// Dial connects to a guest port.
func (m *machine) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := m.port.Dial(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", m.name, err)
	}
	return c, nil
}

// Listen takes the guest's connections to a host port.
func (m *machine) Listen(port uint32) (net.Listener, error) { return m.port.Listen(port) }

// Stop ends QEMU and waits.
func (m *machine) Stop(ctx context.Context) error {
	if err := m.Kill(); err != nil {
		return err
	}
	select {
	case <-m.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("await the end of qemu: %w", context.Cause(ctx))
	}
}

// discard is Stop of a machine that came to nothing, on a context of its own.
func (m *machine) discard(ctx context.Context) error {
	ctx, cancel := within(context.WithoutCancel(ctx), undoLimit, "end qemu")
	defer cancel()
	return m.Stop(ctx)
}

// Kill ends QEMU. A machine's writable disks are no worse off than after a loss
// of power: their filesystems have journals.
func (m *machine) Kill() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.gone:
		return nil
	default:
	}
	m.killed = true
	if m.proc == nil { // run looks at killed once it has started
		return nil
	}
	if err := m.proc.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill qemu: %w", err)
	}
	return nil
}

// Wait answers when QEMU is gone.
func (m *machine) Wait(ctx context.Context) error {
	select {
	case <-m.gone: // leads: of two ready cases select takes any
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

// PID is QEMU's process, 0 before it is started. It is for tests and people.
func (m *machine) PID() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc == nil {
		return 0
	}
	return m.proc.Pid
}

// tail keeps the last of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// tailSize is how much is kept, in bytes.
const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - tailSize; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.b)
}
