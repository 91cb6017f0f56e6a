package shim

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/vmm"
)

// What health can be.
const (
	healthStarting  = "starting"
	healthHealthy   = "healthy"
	healthUnhealthy = "unhealthy"
)

// maxSaid is how much of what a check or a hook says is kept, in bytes.
const maxSaid = 4 << 10

// watchHealth checks the instance's health for as long as its process runs. The
// loop's.
func (s *shim) watchHealth(m vmm.Machine, agent *agentproto.Client) {
	h := s.inst.Health
	if h == nil {
		return
	}
	boot := s.st.Boots
	s.tasks.Go(func() { s.checkHealth(m, agent, *h, boot) })
}

// checkHealth is a check at a time, an interval after the end of the last. It
// ends with the agent's connection.
func (s *shim) checkHealth(m vmm.Machine, agent *agentproto.Client, h store.Health, boot int) {
	began, misses := time.Now(), 0
	for n := 0; ; n++ {
		d := h.Interval
		if within := time.Since(began) < h.StartPeriod; within && h.StartInterval > 0 {
			d = h.StartInterval
		}
		select {
		case <-agent.Done():
			return
		case <-s.ctx.Done():
			return
		case <-time.After(d):
		}
		if _, full := s.stall.get(); full != nil {
			continue // it says nothing of the container's health
		}
		said, err := s.check(m, agent, h)
		if s.ctx.Err() != nil || agent.Err() != nil {
			return
		}
		if _, full := s.stall.get(); full != nil && err != nil {
			continue
		}
		switch {
		case err == nil:
			misses = 0
			s.send(func() { s.feel(boot, healthHealthy, "") })
		case time.Since(began) < h.StartPeriod:
		default:
			if misses++; misses >= max(1, h.Retries) {
				why := strings.TrimSpace(err.Error() + ": " + said)
				s.send(func() { s.feel(boot, healthUnhealthy, strings.TrimSuffix(why, ":")) })
			}
		}
	}
}

func (s *shim) check(m vmm.Machine, agent *agentproto.Client, h store.Health) (string, error) {
	ctx, cancel := context.WithTimeoutCause(s.ctx, h.Timeout, errs.New(errs.DeadlineExceeded, "the check was not done within %s", h.Timeout))
	defer cancel()
	return s.aside(ctx, m, agent, store.Hook{Args: h.Args})
}

// feel records a change of health. The loop's.
func (s *shim) feel(boot int, health, why string) {
	if s.life != lifecycle.Started || s.st.Boots != boot || s.st.Health == health {
		return
	}
	s.st.Health, s.st.Cause = health, why
	s.save()
	s.tell("")
	var words map[string]string
	if why != "" {
		words = map[string]string{"cause": why}
	}
	s.enter("health_status: "+health, words)
}

// hooks runs the processes of a turn of the container's life, one after the
// other, up to the first that fails.
func (s *shim) hooks(ctx context.Context, m vmm.Machine, agent *agentproto.Client, turn string, all []store.Hook) error {
	for n := range all {
		if err := s.hook(ctx, m, agent, turn, all, n); err != nil {
			return err
		}
	}
	return nil
}

// lastHooks runs all of them, whatever becomes of those before: an end has no
// step that another may prevent. The first error leads.
func (s *shim) lastHooks(ctx context.Context, m vmm.Machine, agent *agentproto.Client, turn string, all []store.Hook) error {
	var failed []error
	for n := range all {
		if ctx.Err() != nil { // no time is left
			failed = append(failed, fmt.Errorf("hook %s[%d]: %w", turn, n, context.Cause(ctx)))
			continue
		}
		failed = append(failed, s.hook(ctx, m, agent, turn, all, n))
	}
	return errors.Join(failed...)
}

func (s *shim) hook(ctx context.Context, m vmm.Machine, agent *agentproto.Client, turn string, all []store.Hook, n int) error {
	said, err := s.aside(ctx, m, agent, all[n])
	if err == nil {
		return nil
	}
	if said = strings.TrimSpace(said); said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return fmt.Errorf("hook %s[%d]: %w", turn, n, err)
}

// aside runs a process in the container to its end, which is its status 0 or an
// error, and answers the end of what it said. When ctx ends it is killed.
func (s *shim) aside(ctx context.Context, m vmm.Machine, agent *agentproto.Client, h store.Hook) (string, error) {
	id := s.running.nextExec()
	ear, err := openEar(ctx, m)
	if err != nil {
		return "", err
	}
	defer ear.close()
	p := handler{s}.process(shimproto.Exec{Args: h.Args, Env: h.Env, Cwd: h.Cwd})
	p.Terminal = false
	start := agentproto.Start{ID: id, Process: p, User: h.User, Groups: s.inst.Groups, Stdout: ear.tokens[0], Stderr: ear.tokens[1]}
	if start.User == "" {
		start.User = s.inst.User
	}
	e, err := s.startExec(ctx, ctx, agent, start, 0)
	if err != nil {
		return "", err
	}
	ear.listen()
	exit, err := s.execs.wait(ctx, e)
	if err != nil && ctx.Err() != nil {
		select { // it is being killed
		case <-e.ended:
		case <-time.After(killLimit):
			err = errors.Join(err, errs.New(errs.DeadlineExceeded, "kill the process: not done within %s", killLimit))
		}
	}
	if err != nil {
		ear.close() // whoever else holds its streams is not waited for
	}
	ear.copies.Wait()
	if err == nil && exit.Code != 0 {
		err = errs.New(errs.FailedPrecondition, "it ended with %d", exit.Code)
	}
	return ear.said.String(), err
}

// ear hears what a process says on both of its streams, as it comes.
type ear struct {
	tokens  [2]string // of stdout and stderr
	streams [2]*wire.Stream
	said    tail
	copies  sync.WaitGroup
}

// openEar opens the streams; close is for every path out.
func openEar(ctx context.Context, m vmm.Machine) (*ear, error) {
	e := &ear{}
	for i := range e.streams {
		var err error
		e.tokens[i] = rand.Text()
		if e.streams[i], err = openStream(ctx, m, e.tokens[i]); err != nil {
			e.close()
			return nil, err
		}
	}
	return e, nil
}

func (e *ear) listen() {
	for _, st := range e.streams {
		e.copies.Go(func() { _, _ = io.Copy(&e.said, struct{ io.Reader }{st}) }) // what came is kept
	}
}

func (e *ear) close() {
	for _, st := range e.streams {
		if st != nil {
			_ = st.Close() // all that matters was read
		}
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b.Write(p)
	if n := t.b.Len() - maxSaid; n > 0 {
		t.b.Next(n)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}
