package switchproto

import (
	"context"
	"os"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Limits of a seat.
const (
	joinLimit  = 10 * time.Second // of one try
	minBackoff = 10 * time.Millisecond
	maxBackoff = 500 * time.Millisecond
)

// SeatOptions say who sits where.
type SeatOptions struct {
	Path   string                      // the switch's socket
	Start  func(context.Context) error // starts a switch there; one that another started is fine
	Join   Join
	Frames []*os.File // stay the caller's, and open until Leave
	// OnError is told of each try that failed, once the seat was taken. May be nil.
	OnError func(error)
}

// Seat keeps a machine on its networks, whatever becomes of the switch: where it
// dies another is started, by whoever comes first.
type Seat struct {
	o      SeatOptions
	ready  chan bool // has the last word that was not told yet
	cancel context.CancelFunc
	done   chan struct{}
}

// Take joins, with ctx as the limit of the first time, and keeps the seat until
// Leave.
func Take(ctx context.Context, o SeatOptions) (*Seat, error) {
	if o.OnError == nil {
		o.OnError = func(error) {}
	}
	s := &Seat{o: o, ready: make(chan bool, 1), done: make(chan struct{})}
	c, err := s.join(ctx, func(error) {})
	if err != nil {
		return nil, err
	}
	var life context.Context
	life, s.cancel = context.WithCancel(context.Background())
	go s.keep(life, c)
	return s, nil
}

// SetReady says whether names lead to the machine. It does not wait.
func (s *Seat) SetReady(ready bool) {
	for {
		select {
		case s.ready <- ready:
			return
		default:
		}
		select { // it was not told yet, and need not be
		case <-s.ready:
		default:
		}
	}
}

// Leave gives the seat up.
func (s *Seat) Leave() {
	s.cancel()
	<-s.done
}

func (s *Seat) keep(ctx context.Context, c *Client) {
	defer close(s.done)
	for {
		select {
		case ready := <-s.ready:
			s.o.Join.Machine.Ready = ready // and so to the next switch
			if err := s.tell(ctx, c, ready); err != nil {
				s.o.OnError(err)
				c.Close()
			}
		case <-c.Done():
			var err error
			if c, err = s.join(ctx, s.o.OnError); err != nil {
				return // ctx ended
			}
		case <-ctx.Done():
			c.Close()
			return
		}
	}
}

func (s *Seat) tell(ctx context.Context, c *Client, ready bool) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	return c.SetReady(ctx, ready)
}

// join tries until it has joined or ctx ends. What cannot get better is not
// tried again.
func (s *Seat) join(ctx context.Context, failed func(error)) (*Client, error) {
	backoff := minBackoff
	for {
		c, err := s.try(ctx)
		switch {
		case err == nil:
			return c, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errs.Is(err, errs.InvalidArgument), errs.Is(err, errs.Unsupported):
			return nil, err
		}
		failed(err)
		t := time.NewTimer(backoff)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, err
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func (s *Seat) try(ctx context.Context) (*Client, error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	c, err := Dial(ctx, s.o.Path)
	if err != nil {
		if serr := s.o.Start(ctx); serr != nil {
			return nil, serr
		}
		if c, err = Dial(ctx, s.o.Path); err != nil {
			return nil, err
		}
	}
	if err := c.Join(ctx, s.o.Join, s.o.Frames); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, joinLimit, errs.New(errs.DeadlineExceeded, "join the switch: not done within %s", joinLimit))
}
