package mux

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Dial opens a stream to a port of the peer. It waits for the peer's answer,
// however long the peer takes to come up or the channel to take the request;
// when ctx ends first the peer is told, and ctx's cause comes back. A port on
// which nobody listens is errs.Unavailable at once, a full backlog
// errs.ResourceExhausted. The answer is a *Conn, which the caller owns.
func (s *Session) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := s.open(ctx, port)
	if err == nil {
		err = c.established(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("dial port %d of the %s: %w", port, s.side.peer(), err)
	}
	return c, nil
}

// open owes the peer a request.
func (s *Session) open(ctx context.Context, port uint32) (*Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return nil, s.err
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case s.held >= s.o.Streams:
		return nil, errs.New(errs.ResourceExhausted, "%d streams are in use", s.held)
	case s.nextID > 1<<32-1:
		return nil, errs.New(errs.ResourceExhausted, "the channel has used up its ids")
	}
	c := s.newConn(uint32(s.nextID), port, dialing)
	s.nextID += 2
	c.answered = make(chan struct{})
	s.add(c)
	s.hold(c)
	s.greet()
	s.owe(c, owesOpen)
	s.flush()
	return c, nil
}

// established waits for the peer's answer. A stream that is there is answered
// even if ctx has ended too.
func (c *Conn) established(ctx context.Context) error {
	select {
	case <-c.answered:
	case <-ctx.Done():
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	switch {
	case c.state == open:
		return nil
	case c.err != nil:
		return c.err
	}
	c.abandon()
	c.s.flush()
	return context.Cause(ctx)
}

// greet owes the host's hello, where nothing has been said yet.
func (s *Session) greet() {
	s.greeting = s.greeting || s.side == Host && !s.spoken
}

// listener takes the peer's dials to one port.
type listener struct {
	s       *Session
	port    uint32
	ready   sync.Cond
	backlog []*Conn
	err     error // once it is closed
}

// Listen takes the peer's dials to port from now on; the peer need not run yet.
// Those that find the backlog full are refused. Closing the listener resets
// what nobody has accepted. The caller owns the listener.
func (s *Session) Listen(port uint32) (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return nil, fmt.Errorf("listen on port %d: %w", port, s.err)
	case s.listeners[port] != nil:
		return nil, errs.New(errs.AlreadyExists, "listener on port %d", port)
	}
	l := &listener{s: s, port: port}
	l.ready.L = &s.mu
	s.listeners[port] = l
	s.greet()
	s.flush()
	return l, nil
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	for len(l.backlog) == 0 {
		if l.err != nil {
			return nil, fmt.Errorf("accept on port %d: %w", l.port, l.err)
		}
		l.ready.Wait()
	}
	c := l.backlog[0]
	l.backlog[0] = nil
	l.backlog = l.backlog[1:]
	c.waitsAt = nil
	return c, nil
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.err == nil {
		l.end(net.ErrClosed)
		l.s.flush()
	}
	return nil
}

// end resets what waits; what comes is refused.
func (l *listener) end(err error) {
	delete(l.s.listeners, l.port)
	l.err = err
	for _, c := range l.backlog {
		c.abandon()
	}
	l.backlog = nil
	l.ready.Broadcast()
}

// remove takes a stream that the peer has taken back out of the backlog.
func (l *listener) remove(c *Conn) {
	l.backlog = slices.DeleteFunc(l.backlog, func(x *Conn) bool { return x == c })
	c.abandon()
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return Addr{l.s.side, l.port} }
