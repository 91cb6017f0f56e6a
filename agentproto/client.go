package agentproto

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"

	"github.com/vzcompose/vzcompose/internal/wire"
)

// Client is the host's side of the control connection. It is for many
// goroutines.
type Client struct{ c *wire.Client }

// NewClient greets on conn, which it owns from here on. onExit (may be nil) is
// told of every process's end, in order; it must not block. ctx bounds the
// greeting.
func NewClient(ctx context.Context, conn net.Conn, onExit func(Exit)) (*Client, error) {
	c, err := wire.NewClient(ctx, conn, hello(), func(n wire.Notice) {
		var e Exit
		if n.Topic == NoticeExit && onExit != nil && json.Unmarshal(n.Body, &e) == nil {
			onExit(e)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("greet agent: %w", err)
	}
	return &Client{c: c}, nil
}

// OpenStream greets on conn for the stream called token, and owns conn.
func OpenStream(ctx context.Context, conn net.Conn, token string) (*wire.Stream, error) {
	return wire.DialStream(ctx, conn, hello(), token)
}

func hello() wire.Hello { return wire.Hello{Protocol: Protocol, Version: Version} }

// Build is the build of the agent, for people.
func (c *Client) Build() string { return c.c.Welcome().Build }

// Done is closed when the connection has ended; Err says why.
func (c *Client) Done() <-chan struct{} { return c.c.Done() }

// Err answers why the connection ended, nil while it lasts.
func (c *Client) Err() error { return c.c.Err() }

// Close ends the connection; the machine goes on.
func (c *Client) Close() error { return c.c.Close() }

// Setup makes the machine that of one instance. The time, where p has none, is
// told by what the agent's clock showed in its greeting: how long that takes to
// come does matter, and how long Setup takes to go does not.
func (c *Client) Setup(ctx context.Context, p Setup) (r SetupResult, err error) {
	if p.Time.IsZero() {
		p.Time, p.Clock = c.c.Welcomed(), c.c.Welcome().Clock
		if p.Clock == 0 {
			p.Time = time.Now()
		}
	}
	err = c.c.Call(ctx, MethodSetup, p, &r)
	return r, err
}

// Start starts a process. It returns once the process has been executed, or
// with the reason why it could not be: errs.NotFound or errs.PermissionDenied
// for its executable, errs.InvalidArgument for its user.
func (c *Client) Start(ctx context.Context, p Start) (r Started, err error) {
	err = c.c.Call(ctx, MethodStart, p, &r)
	return r, err
}

// Signal sends a signal; errs.NotFound where the process is not known,
// errs.FailedPrecondition where it has ended.
func (c *Client) Signal(ctx context.Context, p Signal) error {
	return c.c.Call(ctx, MethodSignal, p, nil)
}

// Wait answers once the process has ended.
func (c *Client) Wait(ctx context.Context, id string) (e Exit, err error) {
	err = c.c.Call(ctx, MethodWait, Wait{ID: id}, &e)
	return e, err
}

// Release forgets an ended process. Twice is fine.
func (c *Client) Release(ctx context.Context, id string) error {
	return c.c.Call(ctx, MethodRelease, Release{ID: id}, nil)
}

// Reset undoes Setup.
func (c *Client) Reset(ctx context.Context) error {
	return c.c.Call(ctx, MethodReset, Reset{}, nil)
}

// PowerOff asks for an orderly end. The answer may be lost to it: an error of
// class errs.Unavailable means the machine is on its way.
func (c *Client) PowerOff(ctx context.Context) error {
	return c.c.Call(ctx, MethodPowerOff, PowerOff{}, nil)
}

// Log fetches the machine's own words.
func (c *Client) Log(ctx context.Context) (l Log, err error) {
	err = c.c.Call(ctx, MethodLog, Empty{}, &l)
	return l, err
}
