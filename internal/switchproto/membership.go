package switchproto

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Limits of a membership.
const (
	joinLimit  = 10 * time.Second // of one try
	firstTries = 5                // of the first join: a switch may be just ending
	minBackoff = 10 * time.Millisecond
	maxBackoff = 10 * time.Second // a try may start a process
)

// MemberOptions say who is a member, and where.
type MemberOptions struct {
	Path   string                      // the switch's socket
	Start  func(context.Context) error // starts a switch there; one that another started is fine
	Join   Join
	Frames []*os.File // stay the caller's, and open until Leave
	// Lost is called when the switch is lost and the first try to join again has
	// failed, with why; Back when the machine is on its networks again. Neither may
	// block. They may be nil.
	Lost func(error)
	Back func()
}

// Membership keeps a machine on its networks, whatever becomes of the switch: where
// it dies another is started, by whoever comes first.
type Membership struct {
	o      MemberOptions
	ready  chan bool // has the last readiness that was not passed on yet
	cancel context.CancelFunc
	done   chan struct{}
}

// Become joins, and keeps the machine a member until Leave. ctx bounds the first
// join, which fails where a few tries have.
func Become(ctx context.Context, o MemberOptions) (*Membership, error) {
	m := &Membership{o: o, ready: make(chan bool, 1), done: make(chan struct{})}
	tries := 0
	c, err := m.join(ctx, func(err error) bool {
		tries++
		return tries < firstTries && errs.Is(err, errs.Unavailable)
	})
	if err != nil {
		return nil, err
	}
	var life context.Context
	life, m.cancel = context.WithCancel(context.Background())
	go m.keep(life, c)
	return m, nil
}

// SetReady says whether names lead to the machine. It does not wait.
func (m *Membership) SetReady(ready bool) {
	for {
		select {
		case m.ready <- ready:
			return
		default:
		}
		select { // it was not passed on yet, and need not be
		case <-m.ready:
		default:
		}
	}
}

// Leave takes the machine off its networks.
func (m *Membership) Leave() {
	m.cancel()
	<-m.done
}

func (m *Membership) keep(ctx context.Context, c *Client) {
	defer close(m.done)
	for {
		select {
		case ready := <-m.ready:
			if ready == m.o.Join.Machine.Ready { // the switch knows
				continue
			}
			m.o.Join.Machine.Ready = ready // and so to the next switch
			if err := m.pass(ctx, c, ready); err != nil {
				c.Close() // it is lost, or not worth keeping
			}
		case <-c.Done():
			if c = m.again(ctx); c == nil {
				return
			}
		case <-ctx.Done():
			c.Close()
			return
		}
	}
}

func (m *Membership) pass(ctx context.Context, c *Client, ready bool) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	return c.SetReady(ctx, ready)
}

// again joins until it succeeds; nil: ctx has ended. Nothing is given up: what is
// wrong, a switch of another version say, may go.
func (m *Membership) again(ctx context.Context) *Client {
	lost := false
	c, err := m.join(ctx, func(err error) bool {
		if !lost && m.o.Lost != nil {
			m.o.Lost(err)
		}
		lost = true
		return true
	})
	if err != nil {
		return nil
	}
	if lost && m.o.Back != nil {
		m.o.Back()
	}
	return c
}

// join tries until it has joined, ctx ends, or goOn is false of how a try has
// failed.
func (m *Membership) join(ctx context.Context, goOn func(error) bool) (*Client, error) {
	for pause := minBackoff; ; pause = min(2*pause, maxBackoff) {
		c, err := m.try(ctx)
		switch {
		case err == nil:
			return c, nil
		case ctx.Err() != nil, !goOn(err):
			return nil, err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

func (m *Membership) try(ctx context.Context) (*Client, error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	c, err := Dial(ctx, m.o.Path)
	if err != nil {
		if serr := m.o.Start(ctx); serr != nil {
			return nil, serr
		}
		if c, err = Dial(ctx, m.o.Path); err != nil {
			return nil, err
		}
	}
	if err := c.Join(ctx, m.o.Join, m.o.Frames); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, joinLimit, errs.New(errs.DeadlineExceeded, "join the switch: not done within %s", joinLimit))
}
