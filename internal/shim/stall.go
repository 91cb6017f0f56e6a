package shim

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/vmm"
)

// A machine whose host has no room for what it writes stands still (vmm.Staller).
// Its process cannot be asked, signalled or measured then, and whoever tries is
// told so at once. It goes on by itself when there is room. A boot does not wait
// for that: starting is all or nothing, and the restart policy tries again.

// Of going on after a stall.
const (
	mostPause    = 30 * time.Second       // between two tries; then it is tried whatever room there is
	leastRoom    = 4 << 20                // bytes that are room
	proceedLimit = 500 * time.Millisecond // without a stall: then it goes on
	bootTries    = 3                      // of one that is to boot
)

// stalls is where calls that need the machine hear that it stands still.
type stalls struct {
	mu     sync.Mutex // guards the following
	cause  error      // nil: it does not
	begins chan struct{}
}

// set records that the machine stands still for a reason, or goes on.
func (s *stalls) set(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cause != nil && s.begins != nil {
		close(s.begins)
		s.begins = nil
	}
	s.cause = cause
}

// get returns why the machine stands still, and a channel that is closed when it
// next begins to.
func (s *stalls) get() (begins <-chan struct{}, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begins == nil {
		s.begins = make(chan struct{})
	}
	return s.begins, s.cause
}

// context returns ctx that ends, with the cause, when the machine stands still.
func (s *stalls) context(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	begins, cause := s.get()
	if cause != nil {
		cancel(cause)
		return ctx, func() {}
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-begins:
			_, cause := s.get()
			cancel(cause)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil); <-watched }
}

// stallWords is how a stall is told to people.
func stallWords(path string) string { return "host disk full: " + path }

// stallError is why a call of a machine that stands still fails.
func stallError(path string) error {
	return errs.New(errs.ResourceExhausted, "the machine stands still: %s; it goes on by itself when there is room", stallWords(path))
}

// failOnStall returns ctx that ends when m stands still; settled ends the watch. A
// machine of the pool may have stood still since there was no room once: where
// there is some now it is let go on, a few times.
func failOnStall(ctx context.Context, m vmm.Machine) (_ context.Context, settled func()) {
	st, ok := vmm.As[vmm.Staller](m)
	if !ok {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for tries := 0; ctx.Err() == nil; {
			path, changed := st.Stalled()
			if path != "" && tries < bootTries && roomFor(path) {
				tries++
				pctx, done := limit(ctx, callLimit, "let the machine go on")
				err := st.Proceed(pctx)
				done()
				if err == nil {
					continue
				}
			}
			if path != "" {
				cancel(errs.WithHint(errs.New(errs.ResourceExhausted, "%s", stallWords(path)), "make room there, and start it again"))
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}()
	return ctx, func() { cancel(nil); <-watched }
}

// watchStall follows whether m stands still, and lets it go on when there is
// room, until the agent's connection or the shim ends.
func (s *shim) watchStall(m vmm.Machine, agent *agentproto.Client) {
	st, ok := vmm.As[vmm.Staller](m)
	if !ok {
		return
	}
	const look = time.Second
	var pause time.Duration
	var next time.Time // when it is to be tried
	was := ""
	for {
		path, changed := st.Stalled()
		s.send(func() { s.stalled(m, path) })
		var tick <-chan time.Time
		if path != "" {
			tick = time.After(look)
			if was == "" {
				pause, next = look, time.Now().Add(look)
			}
		}
		was = path
		select {
		case <-agent.Done():
			return
		case <-s.ctx.Done():
			return
		case <-changed:
		case <-tick:
			if late := time.Since(next); late < 0 || late < mostPause && !roomFor(path) {
				continue
			}
			s.proceed(st, agent)
			pause = min(2*pause, mostPause)
			next = time.Now().Add(pause)
		}
	}
}

// proceed lets a machine that stands still go on, and returns when it does or is
// stalled again.
func (s *shim) proceed(st vmm.Staller, agent *agentproto.Client) {
	tried := make(chan bool, 1)
	s.send(func() {
		if s.life != lifecycle.Started { // a paused one stays so, a stopping one is ended
			tried <- false
			return
		}
		ctx, cancel := limit(s.ctx, callLimit, "let the machine go on")
		defer cancel()
		tried <- st.Proceed(ctx) == nil // tried again, unless the machine is gone
	})
	select {
	case ok := <-tried:
		if !ok {
			return
		}
	case <-s.final:
		return
	}
	over := time.After(proceedLimit)
	for {
		path, changed := st.Stalled()
		if path != "" {
			return
		}
		select {
		case <-changed:
		case <-agent.Done():
			return
		case <-over:
			ctx, cancel := limit(s.ctx, proceedLimit, "set the machine's clock")
			defer cancel()
			_ = agent.Clock(ctx) // its clocks stood still; one that is stalled again gets it the next time
			return
		}
	}
}

// roomFor reports whether the filesystem of path has room.
func roomFor(path string) bool {
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &fs); err != nil {
		return true // trying tells
	}
	return uint64(fs.Bavail)*uint64(fs.Bsize) >= leastRoom
}

// stalled records that the machine stands still for want of room at path, or that
// it goes on. The loop's.
func (s *shim) stalled(m vmm.Machine, path string) {
	words := ""
	if path != "" {
		words = stallWords(path)
	}
	if now, _, err := s.running.get(); err != nil || now != m || words == s.st.Stall {
		return
	}
	s.st.Stall = words
	if path != "" {
		s.stall.set(stallError(path))
		s.enter("stall", map[string]string{"cause": words})
	} else {
		s.stall.set(nil)
		s.enter("unstall", nil)
	}
	s.save()
	s.tell("")
	if path != "" && s.life == lifecycle.Stopping {
		s.cut(m)
	}
}

// cut ends a machine that stands still and is to end: its process cannot. What it
// had not written is lost, as with a loss of power. keep sees the end of it. The
// loop's.
func (s *shim) cut(m vmm.Machine) {
	s.cutExit = &state.Exit{Code: 128 + agentproto.SIGKILL, Signal: "SIGKILL", At: time.Now(), Requested: s.life == lifecycle.Stopping}
	s.cutCause = "its machine was ended while it stood still (" + s.st.Stall + "): what it had not written is lost"
	_ = m.Kill()
}

// forgetStall is for the end of a machine. The loop's.
func (s *shim) forgetStall() {
	s.st.Stall = ""
	s.stall.set(nil)
	s.cutExit, s.cutCause = nil, ""
}

// guarded is the handler, whose calls that need the machine fail at once while it
// stands still, or when it begins to.
type guarded struct{ handler }

var _ shimproto.Handler = guarded{}

func guard[P, R any](ctx context.Context, s *shim, p P, call func(context.Context, P) (R, error)) (R, error) {
	ctx, done := s.stall.context(ctx)
	defer done()
	if ctx.Err() != nil {
		var none R
		return none, context.Cause(ctx)
	}
	r, err := call(ctx, p)
	if cause := context.Cause(ctx); err != nil && errs.Is(cause, errs.ResourceExhausted) {
		err = cause
	}
	return r, err
}

// Signal of a machine that stands still reaches nobody, but for SIGKILL: that
// ends it.
func (g guarded) Signal(ctx context.Context, p shimproto.Signal) (shimproto.Empty, error) {
	if p.Signal != agentproto.SIGKILL {
		return guard(ctx, g.s, p, g.handler.Signal)
	}
	var killed bool
	err := g.ask(ctx, func() error {
		m, _, err := g.s.running.get()
		if killed = err == nil && g.s.st.Stall != "" && g.s.life == lifecycle.Started; killed {
			g.s.enter("kill", map[string]string{"signal": agentproto.SignalName(p.Signal)})
			g.s.cut(m)
		}
		return nil
	})
	if err != nil || killed {
		return shimproto.Empty{}, err
	}
	return guard(ctx, g.s, p, g.handler.Signal)
}

func (g guarded) Exec(ctx context.Context, p shimproto.Exec) (shimproto.ExecStarted, error) {
	return guard(ctx, g.s, p, g.handler.Exec)
}

func (g guarded) Pause(ctx context.Context, p shimproto.Empty) (shimproto.Status, error) {
	return guard(ctx, g.s, p, g.handler.Pause)
}

func (g guarded) Resize(ctx context.Context, p shimproto.Resize) (shimproto.Empty, error) {
	return guard(ctx, g.s, p, g.handler.Resize)
}

func (g guarded) Stats(ctx context.Context, p shimproto.Empty) (agentproto.Stats, error) {
	return guard(ctx, g.s, p, g.handler.Stats)
}

func (g guarded) Top(ctx context.Context, p shimproto.Empty) (agentproto.Top, error) {
	return guard(ctx, g.s, p, g.handler.Top)
}

func (g guarded) Stat(ctx context.Context, p agentproto.Stat) (agentproto.FileInfo, error) {
	return guard(ctx, g.s, p, g.handler.Stat)
}

func (g guarded) Read(ctx context.Context, p agentproto.Read) (shimproto.Empty, error) {
	return guard(ctx, g.s, p, g.handler.Read)
}

func (g guarded) Write(ctx context.Context, p agentproto.Write) (shimproto.Empty, error) {
	return guard(ctx, g.s, p, g.handler.Write)
}

func (g guarded) Vsock(ctx context.Context, p shimproto.Vsock) (shimproto.Connected, error) {
	return guard(ctx, g.s, p, g.handler.Vsock)
}

func (g guarded) Relay(ctx context.Context, p state.Relay) (shimproto.Empty, error) {
	return guard(ctx, g.s, p, g.handler.Relay)
}

func (g guarded) Unrelay(ctx context.Context, p shimproto.Unrelay) (shimproto.Empty, error) {
	return guard(ctx, g.s, p, g.handler.Unrelay)
}
