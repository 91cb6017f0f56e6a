package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/vmm"
)

// keep waits for the process's end, or the machine's, and puts everything away.
// Every step is done, whatever became of those before; the first error leads.
func (s *shim) keep(m vmm.Machine, agent *agentproto.Client, out *outputs, place *membership) {
	var copies sync.WaitGroup
	var mu sync.Mutex // guards copyErrs
	var copyErrs []error
	for name, st := range map[string]*wire.Stream{"stdout": out.stdout, "stderr": out.stderr} {
		if st == nil {
			continue
		}
		copies.Go(func() {
			if err := s.copyLog(name, st); err != nil {
				mu.Lock()
				copyErrs = append(copyErrs, fmt.Errorf("keep %s: %w", name, err))
				mu.Unlock()
			}
		})
	}
	exit, err := agent.Wait(context.Background(), agentproto.InitID)
	if err != nil { // not the process: the agent or the machine ended
		err = s.autopsy(context.Background(), m, fmt.Errorf("the agent was lost: %w", err))
		if serr := s.forceOff(m); serr != nil { // an agent lost alone takes its machine with it
			err = errors.Join(err, serr)
		}
		s.relays.close()
		_ = agent.Close() // its peer is gone
		out.close()       // what came is in the log
		copies.Wait()
		place.leave() // before it may come again
		s.send(func() { s.lose(err) })
		return
	}
	var all *multierror.Error
	step := func(err error) {
		if err != nil {
			all = multierror.Append(all, err)
		}
	}
	s.relays.close() // before what they lead to goes
	step(waitFor(&copies, drainLimit, "drain the output"))
	mu.Lock()
	step(errors.Join(copyErrs...))
	mu.Unlock()
	if s.discard.Load() && !s.keepsVolumes() {
		step(s.forceOff(m))
	} else {
		step(s.powerOff(m, agent))
	}
	_ = agent.Close() // its peer is gone
	out.close()       // where the output was not drained
	copies.Wait()
	place.leave() // before it may come again
	s.send(func() {
		s.running.set(nil, nil)
		s.noteLast(m)
		cause := s.cutCause
		if all.ErrorOrNil() != nil {
			cause = "while it was put away: " + all.Error()
			if s.st.Stall != "" {
				cause += " (" + s.st.Stall + ")"
			}
		}
		s.forgetStall()
		x := exitState(exit)
		x.Requested = s.life == lifecycle.Stopping
		s.conclude(lifecycle.Exit, x, cause, errors.Join(s.hookErr, all.ErrorOrNil()))
	})
}

// lose records a machine that is not there any more. The loop's.
func (s *shim) lose(err error) {
	s.running.set(nil, nil)
	exit, cause := s.cutExit, s.cutCause
	s.forgetStall()
	if exit != nil {
		s.conclude(lifecycle.Exit, exit, cause, s.hookErr)
		return
	}
	if s.lost != nil {
		err = s.lost
	}
	s.conclude(lifecycle.Fail, nil, err.Error(), errors.Join(s.hookErr, err))
}

// copyLog writes a stream to the log until its end. What the log does not take
// it counts, and goes on: a process must not stand still for that.
func (s *shim) copyLog(name string, st *wire.Stream) error {
	defer st.Close()
	defer s.taps.end(name)
	w := s.logs.Stream(name, s.st.Boots)
	// Neither side may take over: the frames need the stream, the lines the log.
	_, err := io.CopyBuffer(tee{w, &s.taps, name}, struct{ io.Reader }{st}, make([]byte, 64<<10))
	return errors.Join(err, w.Close())
}

// noteLast records what the driver has to tell of the machine only now. The
// loop's.
func (s *shim) noteLast(m vmm.Machine) {
	if t, ok := m.(vmm.Tracer); ok {
		s.noteMachine(t.Trace().Notes)
	}
}

// noteMachine records what the driver tells of the machine, beside what the shim
// has noted itself. The loop's.
func (s *shim) noteMachine(notes []string) { s.st.Notes = slices.Concat(s.notes, notes) }

// note records what went otherwise than it should have. The loop's.
func (s *shim) note(text string) {
	s.notes, s.st.Notes = append(s.notes, text), append(s.st.Notes, text)
}

// keepsVolumes reports whether the machine can have written what outlives the
// instance.
func (s *shim) keepsVolumes() bool {
	return slices.ContainsFunc(s.inst.Volumes, func(d store.Disk) bool { return !d.ReadOnly })
}

// powerOff ends the machine in order, and by force where that takes too long.
func (s *shim) powerOff(m vmm.Machine, agent *agentproto.Client) error {
	ctx, cancel := limit(context.Background(), powerOffLimit, "power the machine off")
	defer cancel()
	var all *multierror.Error
	if err := agent.PowerOff(ctx); err != nil && !errs.Is(err, errs.Unavailable) {
		all = multierror.Append(all, fmt.Errorf("power off: %w", err))
	}
	if err := m.Wait(ctx); err != nil {
		all = multierror.Append(all, err)
		if err := s.forceOff(m); err != nil {
			all = multierror.Append(all, err)
		}
	}
	return all.ErrorOrNil()
}

// forceOff ends the machine from outside.
func (s *shim) forceOff(m vmm.Machine) error {
	ctx, cancel := limit(context.Background(), powerOffLimit, "end the machine")
	defer cancel()
	return m.Stop(ctx)
}

// waitFor waits for wg, at most d.
func waitFor(wg *sync.WaitGroup, d time.Duration, phase string) error {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(d):
		return errs.New(errs.DeadlineExceeded, "%s: not done within %s", phase, d)
	}
}

// stop asks the instance to end; what ends it is keep or boot. The loop's.
func (s *shim) stop(grace *time.Duration) {
	if s.hurry != nil { // one is under way: a second may only be in more of a hurry
		if grace != nil && *grace == 0 {
			s.hurry()
		}
		return
	}
	was := s.life
	if err := s.move(lifecycle.Stop, "stopping"); err != nil {
		return // there is nothing left to stop: final says so to whoever waits
	}
	d := s.inst.StopTimeout
	if grace != nil {
		d = *grace
	}
	hurry := make(chan struct{})
	s.hurry = sync.OnceFunc(func() { close(hurry) })
	s.stopping = func(agent *agentproto.Client, m vmm.Machine) {
		s.tasks.Go(func() { s.end(m, agent, d, hurry) })
	}
	if was == lifecycle.Restarting {
		s.cancelRetry()
		return
	}
	if m, agent, err := s.running.get(); err == nil {
		if s.st.Stall != "" {
			s.cut(m)
			return
		}
		if p, ok := vmm.As[vmm.Pauser](m); ok && was == lifecycle.Paused {
			s.release(m, p)
		}
		s.stopping(agent, m)
		return
	}
	s.abort(errs.New(errs.Canceled, "it was stopped")) // the boot; if it comes through all the same, it calls stopping
}

// release lets a held machine go on, so that it can be ended in order. One that
// cannot is ended at once; keep sees the end of it.
func (s *shim) release(m vmm.Machine, p vmm.Pauser) {
	ctx, cancel := limit(context.Background(), callLimit, "resume the machine")
	defer cancel()
	if err := p.Resume(ctx); err != nil {
		s.lost = fmt.Errorf("resume the machine: %w", err)
		_ = m.Kill()
	}
}

// end makes the process go: by the stop signal, after grace by SIGKILL, and if
// that does not help by its machine's end.
func (s *shim) end(m vmm.Machine, agent *agentproto.Client, grace time.Duration, hurry <-chan struct{}) {
	if grace > 0 && len(s.inst.PreStop) > 0 {
		began := time.Now()
		hctx, cancel := context.WithTimeoutCause(s.ctx, grace, errs.New(errs.DeadlineExceeded, "not done within %s", grace))
		free := context.AfterFunc(s.ctx, cancel)
		go func() {
			select {
			case <-hurry:
				cancel()
			case <-hctx.Done():
			}
		}()
		if err := s.lastHooks(hctx, m, agent, "pre_stop", s.inst.PreStop); err != nil {
			s.send(func() { s.hookErr = err })
		}
		free()
		cancel()
		grace -= time.Since(began)
	}
	if grace > 0 {
		sig := agentproto.Signal{ID: agentproto.InitID, Signal: s.inst.StopSignal}
		if err := s.signal(agent, sig); err == nil {
			select {
			case <-s.final:
				return
			case <-hurry:
			case <-time.After(grace):
			}
		}
	}
	_ = s.signal(agent, agentproto.Signal{ID: agentproto.InitID, Signal: agentproto.SIGKILL, All: true})
	if b, ok := vmm.As[vmm.LockBreaker](m); ok {
		b.BreakLockWaits() // the kernel does not kill who waits for one
	}
	select {
	case <-s.final:
	case <-time.After(killLimit):
		_ = m.Kill() // keep sees the end of it
	}
}

func (s *shim) signal(agent *agentproto.Client, sig agentproto.Signal) error {
	ctx, cancel := limit(context.Background(), killLimit, "signal the process")
	defer cancel()
	return agent.Signal(ctx, sig)
}
