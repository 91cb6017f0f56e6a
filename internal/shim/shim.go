// Package shim looks after one instance: its machine, the agent in it, its logs
// and its record. A shim is a process of its own, detached from the command that
// started it; it holds the lock of the instance's folder for as long as it
// lives, is the only writer of its record, and answers commands on a socket. It
// ends with its machine, and its machine with it.
//
// One goroutine owns the state (loop); booting and stopping run beside it and
// send it what came of them.
package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/accept"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/logs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/undo"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/vmm"
)

// Limits of phases.
const (
	bootLimit     = 180 * time.Second // from the machine's start to the agent's answer
	setupLimit    = 60 * time.Second
	startLimit    = 60 * time.Second
	killLimit     = 20 * time.Second // from SIGKILL to the process's end
	drainLimit    = 5 * time.Minute  // the last output, from the guest to the log
	powerOffLimit = 20 * time.Second
	undoLimit     = 30 * time.Second
	farewellLimit = 2 * time.Second // the last notices, to commands that listen
	attendLimit   = 60 * time.Second
)

// shim is one instance's keeper.
type shim struct {
	launch shimproto.Launch
	inst   store.Instance
	driver vmm.Driver
	born   time.Time
	logs   *logs.Writer

	inbox chan func() // what the loop is to do; it alone touches the following
	life  lifecycle.State
	st    store.State
	hurry func()                  // makes the stop under way kill at once; nil: none is
	abort context.CancelCauseFunc // ends the boot under way
	lost  error                   // why we ended the machine ourselves
	// stopping ends a process that was started although a stop was asked for.
	stopping func(*agentproto.Client, vmm.Machine)

	// final is closed once the record has the last state and status its word.
	final   chan struct{}
	stopErr error // of the stop; valid after final

	status  *board
	running live
	execs   execs
	stall   stalls
	// cutExit and cutCause are how an end is recorded that cut has made; the loop's.
	cutExit  *state.Exit
	cutCause string

	input  input
	taps   taps
	relays relays
	ports  ports

	connected connected
	oneOff    oneOff
	carried   chan struct{}  // has an element for each connection of a port or a relay
	hookErr   error          // of a hook before the stop; the loop's
	notes     []string       // of the shim itself; the loop's
	unsaved   unsaved        // what the disk has not taken yet; the loop's
	retry     retry          // of the restart policy; the loop's
	discard   atomic.Bool    // what only this instance has need not be kept
	tasks     sync.WaitGroup // all goroutines but the loop's; from serve on
	ctx       context.Context
	// attended is closed once somebody is attached.
	attended chan struct{}
	attend   func() // closes it
	console  int64  // where this boot's words begin in the console's file, in bytes
}

// live is the machine while there is one to talk to.
type live struct {
	mu      sync.Mutex // guards the following
	machine vmm.Machine
	agent   *agentproto.Client
	execs   int
	changed chan struct{} // closed and replaced when there is another machine; nil: nobody waits
}

func (l *live) set(m vmm.Machine, a *agentproto.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.machine, l.agent = m, a
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// changes answers a channel that is closed when there is another machine, or
// none.
func (l *live) changes() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

func (l *live) get() (vmm.Machine, *agentproto.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.agent == nil {
		return nil, nil, errs.New(errs.FailedPrecondition, "the instance is not running")
	}
	return l.machine, l.agent, nil
}

// Run looks after an instance until its machine is gone. ready is called once
// the shim can be dialled. When terminate ends the instance is stopped in order.
// The error says why the shim could not do its work; how the instance ended is
// in its record.
func Run(terminate context.Context, driver vmm.Driver, l shimproto.Launch, ready func()) (err error) {
	s := &shim{launch: l, inst: l.Instance, driver: driver, born: time.Now(),
		inbox: make(chan func()), final: make(chan struct{}), status: newBoard(), attended: make(chan struct{}), carried: make(chan struct{}, carriedLimit()),
		unsaved: unsaved{lossy: make(chan struct{}, 1)}}
	s.attend = sync.OnceFunc(func() { close(s.attended) })
	var un undo.Stack
	defer func() { err = errors.Join(err, un.Run(context.Background(), undoLimit)) }()

	lock, err := l.Home.LockInstance(s.inst.Stack, s.inst.Name)
	if err != nil {
		return fmt.Errorf("take the instance's lock: %w", err)
	}
	un.PushFunc("take the lock", lock.Release)
	last, lost, err := l.Home.TakeState(s.inst.Stack, s.inst.Name)
	if err != nil {
		return fmt.Errorf("read the last record: %w", err)
	}
	if s.logs, err = logs.OpenWriter(l.Home.Log(s.inst.Stack, s.inst.Name), logs.Options{MaxSize: s.inst.LogSize, MaxFiles: s.inst.LogFiles, OnLoss: s.nudge}); err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	un.Push("open the log", func(context.Context) error { return s.logs.Close() })
	socket, err := s.listen()
	if err != nil {
		return err
	}
	un.PushFunc("listen", func() { _ = socket.Close(); l.Home.RemoveRuntime() })

	if err := s.publish(); err != nil {
		return err
	}
	un.PushFunc("publish the ports", s.ports.close)
	s.life = lifecycle.Initialized
	s.st = store.State{Boots: last.Boots + 1, PID: os.Getpid(), Ports: s.ports.chosen}
	if lost != "" {
		s.note(lost)
	}
	if err := s.move(lifecycle.Boot, "starting machine"); err != nil {
		return err
	}
	if s.unsaved.state != nil { // nothing has begun yet
		return fmt.Errorf("write the record: %w", s.unsaved.state)
	}
	ready()
	s.serve(socket, terminate)
	return s.removeLater()
}

// listenTries is how often the folder of sockets may vanish beneath us.
const listenTries = 10

// listen opens the socket. What lies at its path is a dead shim's: we have the
// lock. Another instance's shim may take the empty folder away at its end, just
// before our socket is in it.
func (s *shim) listen() (l net.Listener, err error) {
	path := s.launch.Home.Socket(s.inst.Stack, s.inst.Name)
	for range listenTries {
		if err := s.launch.Home.MakeRuntime(); err != nil {
			return nil, err
		}
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("remove the old socket: %w", err)
		}
		if l, err = net.Listen("unix", path); err == nil || !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the shim's socket: %w", err)
	}
	return l, nil
}

// serve boots, answers and ends.
func (s *shim) serve(socket net.Listener, terminate context.Context) {
	ctx, cancel := context.WithCancel(context.Background())
	s.ctx = ctx
	srv := shimproto.NewServer(guarded{handler{s}}, s.openStream, s.greet)
	socket = accept.Through(socket, func(err error) {
		s.tasks.Go(func() { s.send(func() { s.enter("shortage", map[string]string{"cause": err.Error()}) }) })
	})
	s.tasks.Go(func() {
		for {
			c, err := socket.Accept()
			if err != nil {
				return // closed; nothing else ends a unix listener
			}
			s.tasks.Go(func() { _ = srv.ServeConn(ctx, c) }) // a command's broken connection is the command's matter
		}
	})
	s.begin()
	stop := context.AfterFunc(terminate, func() { s.send(func() { s.stop(nil) }) })
	s.loop()
	stop()
	s.abort(nil)
	_ = socket.Close() // first: nobody new
	s.taps.close()
	s.connected.close()
	s.status.farewell(farewellLimit)
	cancel()
	s.tasks.Wait()
}

// loop runs what is sent until the last state is recorded.
func (s *shim) loop() {
	for {
		select {
		case f := <-s.inbox:
			f()
		case <-s.unsaved.lossy:
			s.saveLater()
		case <-s.final:
			return
		}
	}
}

// send gives the loop something to do; after the end it is dropped.
func (s *shim) send(f func()) {
	select {
	case s.inbox <- f:
	case <-s.final:
	}
}

// move takes the event, records and tells. A record that cannot be written is
// written later: what is true is what the shim answers. The loop's.
func (s *shim) move(e lifecycle.Event, phase string) error {
	next, err := s.life.Next(e)
	if err != nil {
		return errs.As(errs.FailedPrecondition, err)
	}
	was := s.life
	s.life, s.st.State = next, next
	s.save()
	s.tell(phase)
	s.keepJournal(e, was)
	return nil
}

func (s *shim) tell(phase string) {
	s.status.post(shimproto.Status{State: s.life, Phase: phase, Cause: s.st.Cause, Refused: s.st.Refused, Exit: s.st.Exit, Health: s.st.Health, Stall: s.st.Stall, Restarts: s.st.Restarts,
		Started: s.st.Started, Finished: s.st.Finished, Boots: s.st.Boots, PID: s.st.PID, Notes: s.st.Notes, Ports: s.st.Ports})
}

// begin starts a boot beside the loop.
func (s *shim) begin() {
	ctx, abort := context.WithCancelCause(s.ctx)
	s.abort = abort
	s.tasks.Go(func() { s.boot(ctx) })
}

// finish records the last state. The loop's, once.
func (s *shim) finish(e lifecycle.Event, exit *state.Exit, cause string, stopErr error) {
	s.st.Exit, s.st.Cause, s.st.Finished = exit, cause, time.Now()
	if err := s.move(e, ""); err != nil {
		stopErr = errors.Join(stopErr, err)
		s.tell("")
	}
	s.stopErr = errors.Join(stopErr, s.saveLast())
	s.oneOff.conclude()
	close(s.final)
}

// greet lets a command hear of every change.
func (s *shim) greet(ctx context.Context, notify func(topic string, body any) error) {
	s.status.enter()
	s.tasks.Go(func() {
		defer s.status.leave()
		s.status.watch(ctx, func(st shimproto.Status) error { return notify(shimproto.NoticeStatus, st) })
	})
}

// openStream passes a command's stream on to the agent.
func (s *shim) openStream(token string, st *wire.Stream) error {
	if strings.HasPrefix(token, shimproto.AttachPrefix) {
		return s.taps.offer(token, st)
	}
	if strings.HasPrefix(token, shimproto.VsockPrefix) {
		return s.attachVsock(token, st)
	}
	m, _, err := s.running.get()
	if err != nil {
		return err
	}
	s.tasks.Go(func() { s.pass(m, token, st) })
	return nil
}
