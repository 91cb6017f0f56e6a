package switchproto

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/internal/accept"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network"
	"github.com/vzcompose/vzcompose/internal/network/segment"
)

// Serve lets shims join s on what socket accepts, until ctx ends, or no machine has
// been a member for idle: nil then. It owns socket, and is gone when it returns.
func Serve(ctx context.Context, socket *net.UnixListener, s *network.Switch, idle time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	v := &server{s: s, idle: idle, lonely: func() { cancel(nil) }}
	l := accept.Through(socket, nil) // a shim that waits for an answer has a limit of its own
	defer v.conns.Wait()
	defer cancel(nil)
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	v.leave(0)
	defer v.stop()
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			v.conns.Go(func() { v.serve(ctx, c.(*net.UnixConn)) })
		case ctx.Err() != nil && v.ended():
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		default:
			return fmt.Errorf("accept shims: %w", err)
		}
	}
}

type server struct {
	s      *network.Switch
	idle   time.Duration
	lonely func()
	conns  sync.WaitGroup

	mu      sync.Mutex // guards the following
	members int
	timer   *time.Timer
	over    bool // nobody was there for too long
}

// leave counts n members less, and waits for another where none is left.
func (v *server) leave(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.members -= n; v.members > 0 {
		return
	}
	v.timer = time.AfterFunc(v.idle, func() { v.end() })
}

// end ends the switch where it has no members, and reports whether it is ending.
func (v *server) end() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.members == 0 {
		v.over = true
		v.lonely()
	}
	return v.over
}

// enter counts a member, unless it is too late for one.
func (v *server) enter() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.over {
		return errEnding()
	}
	v.members++
	v.timer.Stop()
	return nil
}

func (v *server) ended() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.over
}

func (v *server) stop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.timer.Stop()
}

func errEnding() error { return errs.New(errs.Unavailable, "the switch is ending") }

// client is one connection.
type client struct {
	v      *server
	c      *net.UnixConn
	member *network.Member
	watch  sync.WaitGroup
}

func (v *server) serve(ctx context.Context, c *net.UnixConn) {
	ctx, cancel := context.WithCancel(ctx)
	k := &client{v: v, c: c}
	defer k.watch.Wait()
	defer func() {
		if k.member != nil {
			k.member.Leave()
			v.leave(1)
		}
	}()
	defer c.Close()
	defer cancel()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	for {
		var r request
		files, err := receive(c, &r)
		if err != nil {
			return // the shim's end is the machine's leave
		}
		answer := k.answer(ctx, r, files)
		closeAll(files) // the switch has its own
		if send(c, answer, nil) != nil {
			return
		}
	}
}

func (k *client) answer(ctx context.Context, r request, files []*os.File) reply {
	var err error
	switch {
	case r.Version != Version && k.v.end(): // whoever asked starts one of its own version
		err = errEnding()
	case r.Version != Version:
		err = errs.New(errs.Unsupported, "version %d of the switch's wire, this switch speaks %d", r.Version, Version)
	case r.Join != nil:
		err = k.join(ctx, *r.Join, files)
	case r.Ready != nil && k.member != nil:
		k.member.SetReady(*r.Ready)
	case r.Inspect:
		return reply{Networks: k.v.s.Networks()}
	default:
		err = errs.New(errs.InvalidArgument, "a request that means nothing here")
	}
	return reply{Error: errs.ToWire(err)}
}

func (k *client) join(ctx context.Context, j Join, files []*os.File) (err error) {
	if k.member != nil {
		return errs.New(errs.FailedPrecondition, "%s has joined on this connection", k.member.Instance)
	}
	for _, n := range j.Networks {
		if err := k.v.s.Define(n); err != nil {
			return err
		}
	}
	conns, err := connect(files)
	if err != nil {
		return err
	}
	if err := k.v.enter(); err != nil {
		for _, c := range conns {
			c.Close()
		}
		return err
	}
	m, err := k.v.s.Join(j.Machine, conns)
	if err != nil {
		k.v.leave(1)
		return err
	}
	k.member = m
	k.watch.Go(func() {
		// Where another connection has the machine now, or its socket broke, the
		// shim is to notice.
		if err := m.Wait(ctx); err == nil || ctx.Err() == nil {
			k.c.Close()
		}
	})
	return nil
}

// connect makes connections of frame sockets; both are to be closed.
func connect(files []*os.File) (conns []segment.Conn, err error) {
	defer func() {
		if err != nil {
			for _, c := range conns {
				c.Close()
			}
		}
	}()
	for _, f := range files {
		c, err := net.FileConn(f)
		if err != nil {
			return conns, errs.New(errs.InvalidArgument, "a frame socket that is none: %w", err)
		}
		conns = append(conns, c)
		if u, ok := c.(*net.UnixConn); !ok || u.LocalAddr().Network() != "unixgram" {
			return conns, errors.Join(errs.New(errs.InvalidArgument, "a frame socket must be of Unix datagrams"))
		}
	}
	return conns, nil
}
