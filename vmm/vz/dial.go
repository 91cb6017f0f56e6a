package vz

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Pacing of dials to a machine whose guest has not answered any yet.
const (
	firstPause   = 5 * time.Millisecond
	longestPause = 100 * time.Millisecond
	// attemptLimit bounds one attempt: the framework's may never come back when
	// it was made before the guest's driver was up.
	attemptLimit = 2 * time.Second
)

// dialer dials guest ports over a connect that knows neither contexts nor
// whether the guest is up.
//
// The framework answers a connection too early and one to a port that nobody
// listens on alike. So until a first connection has come about, a refusal is
// taken for too early, and waited out; from then on it is an answer. That is
// what vmm.Machine promises, since the agent's port is the first that anybody
// dials.
type dialer struct {
	name    string
	connect func(port uint32) (net.Conn, error)
	life    *life
	up      atomic.Bool
}

func (d *dialer) dial(ctx context.Context, port uint32) (net.Conn, error) {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		up := d.up.Load() // before: an attempt that was too early says nothing
		c, err := d.attempt(ctx, port, up)
		switch {
		case err == nil:
			d.up.Store(true)
			if k := newConn(c, d.life); k != nil {
				return k, nil
			}
			return nil, d.gone(port)
		case d.life.isOver():
			return nil, d.gone(port)
		case ctx.Err() != nil:
			return nil, fmt.Errorf("dial port %d of machine %s: %w", port, d.name, context.Cause(ctx))
		case up:
			return nil, errs.New(errs.Unavailable, "dial port %d of machine %s: %w", port, d.name, err)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
		case <-d.life.gone:
		}
		t.Stop()
	}
}

func (d *dialer) gone(port uint32) error {
	return errs.New(errs.Unavailable, "dial port %d of machine %s: the machine is gone", port, d.name)
}

// attempt connects once. The framework's connect takes no context and may
// block, so it has a goroutine of its own; a connection that comes too late is
// closed.
func (d *dialer) attempt(ctx context.Context, port uint32, up bool) (net.Conn, error) {
	if ctx.Err() != nil || d.life.isOver() {
		return nil, errs.New(errs.Canceled, "not tried")
	}
	type result struct {
		c   net.Conn
		err error
	}
	came := make(chan result, 1)
	go func() {
		c, err := d.connect(port)
		came <- result{c, err}
	}()
	var late <-chan time.Time
	if !up {
		t := time.NewTimer(attemptLimit)
		defer t.Stop()
		late = t.C
	}
	var err error
	select {
	case r := <-came:
		return r.c, r.err
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-d.life.gone:
		err = errs.New(errs.Unavailable, "the machine is gone")
	case <-late:
		err = errs.New(errs.DeadlineExceeded, "no answer within %s", attemptLimit)
	}
	go func() { // it lasts as long as the framework's connect does
		if r := <-came; r.err == nil {
			_ = r.c.Close()
		}
	}()
	return nil, err
}
