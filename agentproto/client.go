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

// Notices are told what the agent says unasked. Each may be nil; none may block.
type Notices struct {
	Exit     func(Exit) // of every process's end, in order
	OOM      func(OOM)
	Accepted func(Accepted)
}

func (n Notices) dispatch(w wire.Notice) {
	switch w.Topic {
	case NoticeExit:
		tell(w, n.Exit)
	case NoticeOOM:
		tell(w, n.OOM)
	case NoticeAccepted:
		tell(w, n.Accepted)
	}
}

// tell drops what cannot be read: the guest is hostile.
func tell[T any](w wire.Notice, fn func(T)) {
	var v T
	if fn != nil && json.Unmarshal(w.Body, &v) == nil {
		fn(v)
	}
}

// NewClient greets on conn, which it owns from here on. ctx bounds the greeting.
func NewClient(ctx context.Context, conn net.Conn, hear Notices) (*Client, error) {
	c, err := wire.NewClient(ctx, conn, hello(), hear.dispatch)
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
		p.Time, p.Clock = c.clock()
	}
	err = c.c.Call(ctx, MethodSetup, p, &r)
	return r, err
}

// clock answers a time, and what the agent's clock showed then; 0: it is now.
func (c *Client) clock() (time.Time, time.Duration) {
	if shown := c.c.Welcome().Clock; shown != 0 {
		return c.c.Welcomed(), shown
	}
	return time.Now(), 0
}

// Go lets a held container's process go. The time is told as by Setup, and the
// errors are those of Start.
func (c *Client) Go(ctx context.Context, p Go) (r Started, err error) {
	if p.Time.IsZero() {
		p.Time, p.Clock = c.clock()
	}
	err = c.c.Call(ctx, MethodGo, p, &r)
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

// Resize sets the size of a process's terminal; errs.FailedPrecondition where it has
// none.
func (c *Client) Resize(ctx context.Context, p Resize) error {
	return c.c.Call(ctx, MethodResize, p, nil)
}

// Clock sets the machine's clock to the host's.
func (c *Client) Clock(ctx context.Context) error {
	return c.c.Call(ctx, MethodClock, Clock{Time: time.Now()}, nil)
}

// Stats asks what the container uses.
func (c *Client) Stats(ctx context.Context) (r Stats, err error) {
	err = c.c.Call(ctx, MethodStats, Empty{}, &r)
	return r, err
}

// Top lists the container's processes.
func (c *Client) Top(ctx context.Context) (r Top, err error) {
	err = c.c.Call(ctx, MethodTop, Empty{}, &r)
	return r, err
}

// Stat describes a file of the container; errs.NotFound.
func (c *Client) Stat(ctx context.Context, p Stat) (r FileInfo, err error) {
	err = c.c.Call(ctx, MethodStat, p, &r)
	return r, err
}

// Read has a tar written to a stream.
func (c *Client) Read(ctx context.Context, p Read) error {
	return c.c.Call(ctx, MethodRead, p, nil)
}

// Write has a tar read from a stream and unpacked.
func (c *Client) Write(ctx context.Context, p Write) error {
	return c.c.Call(ctx, MethodWrite, p, nil)
}

// Relay opens a socket in the container.
func (c *Client) Relay(ctx context.Context, p Relay) error {
	return c.c.Call(ctx, MethodRelay, p, nil)
}

// Unrelay ends a relay.
func (c *Client) Unrelay(ctx context.Context, id string) error {
	return c.c.Call(ctx, MethodUnrelay, Unrelay{ID: id}, nil)
}
