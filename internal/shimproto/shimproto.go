// Package shimproto is the wire between a command and a shim, on a unix socket:
// calls and notices in the frames of internal/wire, and streams that the shim
// passes on to the agent. Like the agent's it is versioned; a shim of another
// version answers so, and can still be ended through its lock's owner.
package shimproto

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/wire"
)

// Protocol and Version are said in the greeting.
const (
	Protocol = "vzcompose-shim"
	Version  = 1
)

// Methods.
const (
	MethodStatus = "status" // Empty → Status
	MethodStop   = "stop"   // Stop → Status; answers when all is put away
	MethodSignal = "signal" // Signal → Empty; to the container's process
	MethodExec   = "exec"   // Exec → ExecStarted
	MethodWait   = "wait"   // Wait → agentproto.Exit; of an exec
)

// NoticeStatus carries a Status on each change. The last one of a shim's life
// has a State that is not Live.
const NoticeStatus = "status"

// Ready is the word, a line of its own, with which a shim says that it can be
// dialled: on its descriptor, or where it was a machine that waited, to whoever
// gave it its Launch. Any other is why it cannot.
const Ready = "ready"

// Empty is no parameters, or no result.
type Empty struct{}

// Status is what an instance is at the moment.
type Status struct {
	State    lifecycle.State `json:"state"`
	Phase    string          `json:"phase,omitempty"` // within booting and stopping
	Cause    string          `json:"cause,omitempty"`
	Exit     *state.Exit     `json:"exit,omitempty"`
	Started  time.Time       `json:"started,omitzero"`
	Finished time.Time       `json:"finished,omitzero"`
	Boots    int             `json:"boots"`
	PID      int             `json:"pid"` // of the shim
	// Notes say what of this start went otherwise than it should have, and was
	// mended. There may come more.
	Notes []string `json:"notes,omitempty"`
}

// Stop ends the instance: the stop signal, SIGKILL after Grace, then the
// machine.
type Stop struct {
	// Grace replaces the declared one; nil: as declared.
	Grace *time.Duration `json:"grace,omitempty"`
	// Discard says that the instance is removed next: its writable layer need not
	// be put in order.
	Discard bool `json:"discard,omitempty"`
}

// Signal is sent to the container's process.
type Signal struct {
	Signal int `json:"signal"` // Linux number
}

// Exec starts another process in the container. The streams are opened on this
// socket by the same tokens, before or after.
type Exec struct {
	Args   []string `json:"args"`
	Env    []string `json:"env,omitempty"` // added to the container's
	Cwd    string   `json:"cwd,omitempty"` // "": the container's
	User   string   `json:"user,omitempty"`
	Stdin  string   `json:"stdin,omitempty"`
	Stdout string   `json:"stdout,omitempty"`
	Stderr string   `json:"stderr,omitempty"`
}

// ExecStarted names the new process.
type ExecStarted struct {
	ID string `json:"id"`
}

// Wait names an exec to wait for.
type Wait struct {
	ID string `json:"id"`
}

// Client is a command's side.
type Client struct {
	c      *wire.Client
	socket string
}

// Dial greets the shim behind socket. onStatus (may be nil) is told of every
// change; it must not block. An errs.Unavailable means that no shim is there.
func Dial(ctx context.Context, socket string, onStatus func(Status)) (*Client, error) {
	conn, err := dialSocket(ctx, socket)
	if err != nil {
		return nil, err
	}
	c, err := wire.NewClient(ctx, conn, hello(), func(n wire.Notice) {
		var s Status
		if n.Topic == NoticeStatus && onStatus != nil && json.Unmarshal(n.Body, &s) == nil {
			onStatus(s)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("greet shim: %w", err)
	}
	return &Client{c: c, socket: socket}, nil
}

func hello() wire.Hello { return wire.Hello{Protocol: Protocol, Version: Version} }

// OpenStream opens a stream to a process's stdio, by token.
func (c *Client) OpenStream(ctx context.Context, token string) (*wire.Stream, error) {
	conn, err := dialSocket(ctx, c.socket)
	if err != nil {
		return nil, err
	}
	return wire.DialStream(ctx, conn, hello(), token)
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.c.Done() }

// Close ends the connection; the shim goes on.
func (c *Client) Close() error { return c.c.Close() }

// Status asks what the instance is.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.c.Call(ctx, MethodStatus, Empty{}, &s)
	return s, err
}

// Stop ends the instance and answers its last status. The error has what went
// wrong on the way, the first leading; the instance is gone all the same.
func (c *Client) Stop(ctx context.Context, p Stop) (s Status, err error) {
	err = c.c.Call(ctx, MethodStop, p, &s)
	return s, err
}

// Signal signals the container's process.
func (c *Client) Signal(ctx context.Context, sig int) error {
	return c.c.Call(ctx, MethodSignal, Signal{Signal: sig}, nil)
}

// Exec starts a process in the container.
func (c *Client) Exec(ctx context.Context, p Exec) (r ExecStarted, err error) {
	err = c.c.Call(ctx, MethodExec, p, &r)
	return r, err
}

// Wait answers when an exec has ended.
func (c *Client) Wait(ctx context.Context, id string) (e agentproto.Exit, err error) {
	err = c.c.Call(ctx, MethodWait, Wait{ID: id}, &e)
	return e, err
}

// Handler answers a command: the shim.
type Handler interface {
	Status(context.Context, Empty) (Status, error)
	Stop(context.Context, Stop) (Status, error)
	Signal(context.Context, Signal) (Empty, error)
	Exec(context.Context, Exec) (ExecStarted, error)
	Wait(context.Context, Wait) (agentproto.Exit, error)
}

// NewServer is the skeleton of the shim's side.
func NewServer(h Handler, open func(token string, s *wire.Stream) error,
	greet func(ctx context.Context, notify func(topic string, body any) error)) *wire.Server {
	return &wire.Server{
		Protocol: Protocol,
		Version:  Version,
		Open:     open,
		Greet:    greet,
		Methods: map[string]wire.Method{
			MethodStatus: wire.Handle(h.Status),
			MethodStop:   wire.Handle(h.Stop),
			MethodSignal: wire.Handle(h.Signal),
			MethodExec:   wire.Handle(h.Exec),
			MethodWait:   wire.Handle(h.Wait),
		},
	}
}

func dialSocket(ctx context.Context, socket string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, unavailable(err)
	}
	return conn, nil
}

func unavailable(err error) error { return errs.New(errs.Unavailable, "dial shim: %w", err) }
