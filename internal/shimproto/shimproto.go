// Package shimproto is the wire between a command and a shim, on a unix socket:
// calls and notices in the frames of internal/wire, and streams that the shim
// passes on to the agent. Like the agent's it is versioned; a shim of another
// version answers so, and can still be ended through its lock's owner. The order by
// which a shim starts, a Launch, has a version of its own.
package shimproto

import (
	"context"
	"crypto/rand"
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
	MethodStatus  = "status"  // Empty → Status
	MethodStop    = "stop"    // Stop → Status; answers when all is put away
	MethodSignal  = "signal"  // Signal → Empty; to the container's process
	MethodExec    = "exec"    // Exec → ExecStarted
	MethodWait    = "wait"    // Wait → agentproto.Exit; of an exec
	MethodDetach  = "detach"  // Detach → Empty; an exec goes on without the connection
	MethodPause   = "pause"   // Empty → Status; holds the machine's processors
	MethodResume  = "resume"  // Empty → Status
	MethodResize  = "resize"  // Resize → Empty; the size of a terminal
	MethodAttach  = "attach"  // Attach → Attached; to the container's process
	MethodStats   = "stats"   // Empty → agentproto.Stats
	MethodTop     = "top"     // Empty → agentproto.Top
	MethodStat    = "stat"    // agentproto.Stat → agentproto.FileInfo
	MethodRead    = "read"    // agentproto.Read → Empty
	MethodWrite   = "write"   // agentproto.Write → Empty
	MethodRelay   = "relay"   // state.Relay → Empty; one more on a running instance
	MethodUnrelay = "unrelay" // Unrelay → Empty
	MethodReload  = "reload"  // Empty → Empty; the record has changed in what takes effect as it runs
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
	Refused  errs.Class      `json:"refused,omitempty"` // class of why the process could not be executed
	Exit     *state.Exit     `json:"exit,omitempty"`
	Health   string          `json:"health,omitempty"`   // "", "starting", "healthy", "unhealthy"
	Stall    string          `json:"stall,omitempty"`    // why its machine stands still: "host disk full: PATH"
	Restarts int             `json:"restarts,omitempty"` // by the restart policy, since it was started last
	Started  time.Time       `json:"started,omitzero"`
	Finished time.Time       `json:"finished,omitzero"`
	Boots    int             `json:"boots"`
	PID      int             `json:"pid"`             // of the shim
	Ports    []state.Port    `json:"ports,omitempty"` // of the host that lead to it
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
// socket by the same tokens, before or after. The process is the connection's that
// asks for it: when that ends, so does the process, by SIGHUP, and by SIGKILL 10
// seconds later.
type Exec struct {
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"` // added to the container's
	Cwd  string   `json:"cwd,omitempty"` // "": the container's
	User string   `json:"user,omitempty"`
	// TTY gives it a terminal of Rows by Cols (0: 24 by 80): Stderr is "" then.
	TTY  bool   `json:"tty,omitempty"`
	Rows uint16 `json:"rows,omitempty"`
	Cols uint16 `json:"cols,omitempty"`
	// Privileged gives it every capability and system call.
	Privileged bool `json:"privileged,omitempty"`
	// Detach has it go on whatever becomes of the connection. Nobody can wait for
	// it once it has ended.
	Detach bool   `json:"detach,omitempty"`
	Stdin  string `json:"stdin,omitempty"`
	Stdout string `json:"stdout,omitempty"`
	Stderr string `json:"stderr,omitempty"`
}

// ExecStarted names the new process.
type ExecStarted struct {
	ID string `json:"id"`
}

// Wait names an exec to wait for.
type Wait struct {
	ID string `json:"id"`
}

// Detach names an exec that goes on when the connection ends that asked for it; ""
// is the container's own process, where the instance is removed at its end.
type Detach struct {
	ID string `json:"id"`
}

// Resize sets the size of a process's terminal, in characters. ID is an exec's;
// "" is the container's own process.
type Resize struct {
	ID   string `json:"id,omitempty"`
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Attach connects streams, opened on this socket by their tokens (each an
// AttachToken) before the call, with the container's process: what it says from now on comes on Stdout
// and Stderr, as it goes to the log. It may be called while the machine starts,
// and misses nothing then. Of a process with a terminal all comes on Stdout.
type Attach struct {
	Stdin  string `json:"stdin,omitempty"`
	Stdout string `json:"stdout,omitempty"`
	Stderr string `json:"stderr,omitempty"`
	// EndStdin ends the process's standard input with that of Stdin. Otherwise
	// another attach may follow.
	EndStdin bool `json:"end_stdin,omitempty"`
}

// AttachToken answers a token for a stream of an Attach. Other tokens are the
// agent's.
func AttachToken() string { return AttachPrefix + rand.Text() }

// AttachPrefix begins the tokens of streams that the shim keeps for an Attach.
const AttachPrefix = "attach:"

// Attached says what was attached to.
type Attached struct {
	TTY   bool `json:"tty"`
	Stdin bool `json:"stdin"` // the process reads its standard input
}

// Unrelay ends a relay by the path of its destination.
type Unrelay struct {
	Destination string `json:"destination"`
}

// Client is a command's side.
type Client struct {
	c      *wire.Client
	socket string
}

// Dial greets the shim behind socket. onStatus (may be nil) is told of every
// change; it must not block. An errs.Unavailable means that no shim is there,
// errs.Unsupported that it is of another version.
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
	if errs.Is(err, errs.Unsupported) {
		err = errs.WithHint(err, "another version of vzcompose runs this instance: restart it")
	}
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

// Detach lets an exec, or with "" the container's own process, go on when this
// connection ends.
func (c *Client) Detach(ctx context.Context, id string) error {
	return c.c.Call(ctx, MethodDetach, Detach{ID: id}, nil)
}

// Pause holds the machine's processors.
func (c *Client) Pause(ctx context.Context) (s Status, err error) {
	err = c.c.Call(ctx, MethodPause, Empty{}, &s)
	return s, err
}

// Resume lets the machine's processors go on.
func (c *Client) Resume(ctx context.Context) (s Status, err error) {
	err = c.c.Call(ctx, MethodResume, Empty{}, &s)
	return s, err
}

// Resize sets the size of a process's terminal.
func (c *Client) Resize(ctx context.Context, p Resize) error {
	return c.c.Call(ctx, MethodResize, p, nil)
}

// Attach connects streams with the container's process. They end with it.
func (c *Client) Attach(ctx context.Context, p Attach) (a Attached, err error) {
	err = c.c.Call(ctx, MethodAttach, p, &a)
	return a, err
}

// Stats asks what the container uses.
func (c *Client) Stats(ctx context.Context) (s agentproto.Stats, err error) {
	err = c.c.Call(ctx, MethodStats, Empty{}, &s)
	return s, err
}

// Top lists the container's processes.
func (c *Client) Top(ctx context.Context) (t agentproto.Top, err error) {
	err = c.c.Call(ctx, MethodTop, Empty{}, &t)
	return t, err
}

// Stat describes a file of the container; errs.NotFound.
func (c *Client) Stat(ctx context.Context, path string) (i agentproto.FileInfo, err error) {
	err = c.c.Call(ctx, MethodStat, agentproto.Stat{Path: path}, &i)
	return i, err
}

// Read has a tar of a path written to a stream that OpenStream has opened. It
// answers when all of it is on its way.
func (c *Client) Read(ctx context.Context, p agentproto.Read) error {
	return c.c.Call(ctx, MethodRead, p, nil)
}

// Write has a tar read from a stream that OpenStream has opened, and unpacked.
func (c *Client) Write(ctx context.Context, p agentproto.Write) error {
	return c.c.Call(ctx, MethodWrite, p, nil)
}

// Relay adds a relay to the running instance; it goes with it.
func (c *Client) Relay(ctx context.Context, p state.Relay) error {
	return c.c.Call(ctx, MethodRelay, p, nil)
}

// Unrelay ends a relay, and the connections that it carries.
func (c *Client) Unrelay(ctx context.Context, destination string) error {
	return c.c.Call(ctx, MethodUnrelay, Unrelay{Destination: destination}, nil)
}

// Reload has the shim read the instance's record again.
func (c *Client) Reload(ctx context.Context) error {
	return c.c.Call(ctx, MethodReload, Empty{}, nil)
}

// Handler answers a command: the shim.
type Handler interface {
	Status(context.Context, Empty) (Status, error)
	Stop(context.Context, Stop) (Status, error)
	Signal(context.Context, Signal) (Empty, error)
	Exec(context.Context, Exec) (ExecStarted, error)
	Wait(context.Context, Wait) (agentproto.Exit, error)
	Detach(context.Context, Detach) (Empty, error)
	Pause(context.Context, Empty) (Status, error)
	Resume(context.Context, Empty) (Status, error)
	Resize(context.Context, Resize) (Empty, error)
	Attach(context.Context, Attach) (Attached, error)
	Stats(context.Context, Empty) (agentproto.Stats, error)
	Top(context.Context, Empty) (agentproto.Top, error)
	Stat(context.Context, agentproto.Stat) (agentproto.FileInfo, error)
	Read(context.Context, agentproto.Read) (Empty, error)
	Write(context.Context, agentproto.Write) (Empty, error)
	Relay(context.Context, state.Relay) (Empty, error)
	Unrelay(context.Context, Unrelay) (Empty, error)
	Vsock(context.Context, Vsock) (Connected, error)
	Reload(context.Context, Empty) (Empty, error)
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
			MethodStatus:  wire.Handle(h.Status),
			MethodStop:    wire.Handle(h.Stop),
			MethodSignal:  wire.Handle(h.Signal),
			MethodExec:    wire.Handle(h.Exec),
			MethodWait:    wire.Handle(h.Wait),
			MethodDetach:  wire.Handle(h.Detach),
			MethodPause:   wire.Handle(h.Pause),
			MethodResume:  wire.Handle(h.Resume),
			MethodResize:  wire.Handle(h.Resize),
			MethodAttach:  wire.Handle(h.Attach),
			MethodStats:   wire.Handle(h.Stats),
			MethodTop:     wire.Handle(h.Top),
			MethodStat:    wire.Handle(h.Stat),
			MethodRead:    wire.Handle(h.Read),
			MethodWrite:   wire.Handle(h.Write),
			MethodRelay:   wire.Handle(h.Relay),
			MethodUnrelay: wire.Handle(h.Unrelay),
			MethodVsock:   wire.Handle(h.Vsock),
			MethodReload:  wire.Handle(h.Reload),
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
