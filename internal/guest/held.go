//go:build linux

package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/boot"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// A container is held for a machine to be saved with it (docs/template.md): all
// is made that is the same for every instance of an image, and its process waits
// where it has all rights still. What it runs and what its variables are is not
// in the machine yet. Go tells it, once the machine is one of many.

// stageHeld is what the stage reports when it waits for its last orders.
const stageHeld = 'H'

// lastOrders are what a process that is held is told at the end.
type lastOrders struct {
	Hostname string   `json:"hostname,omitempty"` // of the container; "": as it is
	Args     []string `json:"args"`
	Env      []string `json:"env,omitempty"`
}

// held is the container's process before its last orders.
type held struct {
	process *process
	stage   *heldStage
}

// heldStage is its stage, with the end of its report.
type heldStage struct {
	*stageProcess
	report *os.File
}

func (a *agent) keepHeld(p *process, s *heldStage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held = &held{p, s}
}

func (a *agent) takeHeld() *held {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.held
	a.held = nil
	return h
}

func (a *agent) holds() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.held != nil
}

// awaitLast says that this process is held, and takes its last orders.
func (p *processOrders) awaitLast(h *handed) error {
	warm, err := json.Marshal(lastOrders{Args: []string{"a"}, Env: []string{"A=b"}})
	if err == nil {
		_, err = decodeOrders[lastOrders](strings.NewReader(string(warm))) // builds what decodes it, before the machine is saved
	}
	if err != nil {
		return err
	}
	p.readAhead()
	if _, err := unix.Write(h[slotReport], []byte{stageHeld}); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	kind, last, err := receive()
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(last[slotOrders]), "orders")
	defer func() { _ = f.Close() }() // only read
	for _, fd := range last[slotOrders+1:] {
		_ = unix.Close(fd) // of no use
	}
	if kind != handLast {
		return errs.New(errs.Internal, "orders of the kind %q for a process that is held", kind)
	}
	o, err := decodeOrders[lastOrders](f)
	if err != nil {
		return err
	}
	if o.Hostname != "" {
		if err := unix.Sethostname([]byte(o.Hostname)); err != nil {
			return fmt.Errorf("set the host name: %w", err)
		}
	}
	p.complete(o)
	return nil
}

// readAheadLimit is how much of a file is read ahead, in bytes.
const readAheadLimit = 32 << 20

// readAhead has in memory what will be executed, so that no machine has to read
// it from its disk. What cannot be read is not.
func (p *processOrders) readAhead() {
	for _, file := range p.candidates() {
		f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() {
			_, _ = io.Copy(struct{ io.Writer }{io.Discard}, io.LimitReader(f, readAheadLimit))
		}
		_ = f.Close() // only read
		return
	}
}

// complete gives p what the last orders say. A HOME that they do not say is the
// one that was looked up.
func (p *processOrders) complete(o *lastOrders) {
	isHome := func(e string) bool { return strings.HasPrefix(e, "HOME=") }
	env := slices.Clone(o.Env)
	if i := slices.IndexFunc(p.Env, isHome); i >= 0 && !slices.ContainsFunc(env, isHome) {
		env = append(env, p.Env[i])
	}
	p.Args, p.Env = o.Args, env
}

// send gives the stage its last orders.
func (s *heldStage) send(o lastOrders) error {
	file, err := writeOrders(o)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // the stage has its own
	h := handover{slotOrders: file}
	return h.send(s.socket, handLast)
}

// awaitHeld waits until the stage says that it is held.
func awaitHeld(ctx context.Context, report *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit,
		errs.New(errs.DeadlineExceeded, "the set-up of the process took longer than %s", startLimit))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = report.SetReadDeadline(time.Unix(1, 0)) })
	var b [1]byte
	_, err := report.Read(b[:])
	if !stop() {
		return context.Cause(ctx)
	}
	switch {
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case err != nil:
		return fmt.Errorf("read the stage's report: %w", err)
	case b[0] == stageHeld:
		return nil
	}
	rest, err := io.ReadAll(io.LimitReader(report, maxReport))
	if err != nil {
		return fmt.Errorf("read the stage's report: %w", err)
	}
	return parseReport(append(b[:], rest...))
}

// Go makes the machine that of one instance, and lets the held process go. After
// an error the machine is of no use.
func (a *agent) Go(ctx context.Context, g agentproto.Go) (agentproto.Started, error) {
	want := agentproto.Setup{Hostname: g.Hostname, Time: g.Time, Clock: g.Clock, Entropy: g.Entropy,
		Files: g.Files, Interfaces: g.Interfaces, Root: agentproto.Root{Lower: "root"}}
	if err := checkSetup(want); err != nil {
		return agentproto.Started{}, err
	}
	po, err := parseProcess(&specs.Process{Args: g.Args, Env: g.Env, Cwd: "/"})
	if err != nil {
		return agentproto.Started{}, err
	}
	h := a.takeHeld()
	if h == nil {
		return agentproto.Started{}, errs.New(errs.FailedPrecondition, "no container is held in this machine")
	}
	err = a.letGo(ctx, h, want, lastOrders{Hostname: g.Hostname, Args: po.Args, Env: po.Env})
	_ = h.stage.report.Close()
	_ = h.stage.socket.Close()
	if err != nil {
		a.log.printf("go: %v", err)
		return agentproto.Started{}, err
	}
	a.follow(h.process)
	return agentproto.Started{PID: h.process.child.pid, Elapsed: a.age(time.Now())}, nil
}

func (a *agent) letGo(ctx context.Context, h *held, want agentproto.Setup, last lastOrders) error {
	m := &setup{agent: a, want: want}
	if err := m.identify(); err != nil { // ahead of all else: it reseeds the random numbers
		return err
	}
	var g errgroup.Group
	g.Go(func() error { return rewriteFiles(want.Files) })
	if len(want.Interfaces) > 0 {
		g.Go(func() error { return complete(want.Interfaces) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	a.mu.Lock()
	a.interfaces = want.Interfaces
	a.mu.Unlock()
	if err := h.stage.send(last); err != nil {
		return err
	}
	return awaitReport(ctx, h.stage.report)
}

// rewriteFiles gives the files of the set-up what they hold. Mounts of them show
// it, since the files stay.
func rewriteFiles(files []agentproto.File) error {
	for _, f := range files {
		at, err := os.OpenFile(filepath.Join(filesDir, f.ID), os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			return err
		}
		_, err = at.Write(f.Data)
		if err := errors.Join(err, at.Close()); err != nil {
			return err
		}
	}
	return nil
}

// complete gives the interfaces, which are up, what is an instance's.
func complete(all []agentproto.Interface) error {
	for _, i := range all {
		l, err := netlink.LinkByName(i.Name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", i.Name, err)
		}
		mac, err := net.ParseMAC(i.MAC)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetHardwareAddr(l, mac); err != nil {
			return fmt.Errorf("interface %s: set its MAC: %w", i.Name, err)
		}
		if err := errors.Join(addAddresses(l, i.Addresses), addRoutes(l, i.Gateways)); err != nil {
			return fmt.Errorf("interface %s: %w", i.Name, err)
		}
	}
	return nil
}

// serveAgain serves l. When the host has ended the session in which it had a
// container held, the machine says that it may be saved, and serves the session
// that is the first of each machine restored from it.
func (a *agent) serveAgain(ctx context.Context, l net.Listener, listen func() (net.Listener, error), build string) error {
	err := a.serve(ctx, l, build, fromHost)
	if !a.holds() || ctx.Err() != nil {
		return err
	}
	if err := l.Close(); err != nil { // until when the port is busy
		a.log.printf("end the session: %v", err)
	}
	if l, err = listen(); err != nil {
		return fmt.Errorf("listen again: %w", err)
	}
	if err := a.settleHeld(); err != nil {
		a.log.printf("%v", err) // the machine is larger, or slower
	}
	a.mu.Lock()
	a.born = time.Now() // of those that are restored from here
	a.mu.Unlock()
	_, _ = unix.Write(1, []byte(boot.Ready+"\n")) // a host that does not hear it has a limit
	return a.serve(ctx, l, build, fromHost)
}

// settleHeld makes the machine ready to be saved. What was read of the image stays
// in memory.
func (a *agent) settleHeld() error {
	b, err := json.Marshal(agentproto.Go{Args: []string{"a"}, Env: []string{"A=b"}, Time: time.Now()})
	if err == nil {
		err = json.Unmarshal(b, new(agentproto.Go)) // builds what decodes it
	}
	runtime.GC()
	unix.Sync()
	return errors.Join(err, scrub(scrubLimit))
}
