package shimproto

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
)

// A shim goes on when vzcompose is replaced, and a later command must be able to see
// and end it. The transcript in testdata is what both sides of Version write; each is
// played against the other. Where a test of it fails, a shim or a command of a
// release cannot be spoken with any more, and Version must be another.

// line is one frame of the transcript: of the command (">") or the shim ("<").
type line struct {
	command bool
	kind    byte
	payload string
}

// Kinds of frames, as internal/wire has them.
const (
	kindRequest  = 3
	kindResponse = 4
)

func transcript(t *testing.T) (all []line) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("testdata/calls-%d.txt", Version))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(text)) {
		if strings.HasPrefix(l, "#") {
			continue
		}
		f := strings.SplitN(strings.TrimSuffix(l, "\n"), " ", 3)
		if len(f) != 3 || f[0] != ">" && f[0] != "<" || len(f[1]) != 1 {
			t.Fatalf("not a line of a transcript: %q", l)
		}
		all = append(all, line{f[0] == ">", f[1][0] - '0', f[2]})
	}
	return all
}

func (l line) writeTo(w io.Writer) error {
	b := binary.BigEndian.AppendUint32(nil, uint32(l.kind)<<24|uint32(len(l.payload)))
	_, err := w.Write(append(b, l.payload...))
	return err
}

// expect reads a frame, which is to be l.
func (l line) expect(r io.Reader) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("await %q: %w", l.payload, err)
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:])&0xffffff)
	if _, err := io.ReadFull(r, b); err != nil {
		return fmt.Errorf("await %q: %w", l.payload, err)
	}
	if head[0] != l.kind || string(b) != l.payload {
		return fmt.Errorf("a frame of kind %d\n got %s\nwant %s", head[0], b, l.payload)
	}
	return nil
}

// results are what the shim returns, in the order of the calls.
func results(t *testing.T, all []line) (r []string) {
	t.Helper()
	for _, l := range all {
		var a struct {
			Result json.RawMessage `json:"result"`
		}
		if !l.command && l.kind == kindResponse {
			if err := json.Unmarshal([]byte(l.payload), &a); err != nil {
				t.Fatal(err)
			}
			r = append(r, string(a.Result))
		}
	}
	return r
}

// calls are those of the transcript, with every field set at least once.
var calls = []func(ctx context.Context, c *Client) (any, error){
	func(ctx context.Context, c *Client) (any, error) { return c.Status(ctx) },
	func(ctx context.Context, c *Client) (any, error) { return Empty{}, c.Signal(ctx, 10) },
	func(ctx context.Context, c *Client) (any, error) {
		return c.Exec(ctx, Exec{Args: []string{"sh", "-c", "id"}, Env: []string{"A=1"}, Cwd: "/tmp", User: "1000:1000", TTY: true, Rows: 24, Cols: 80,
			Privileged: true, Detach: true, Stdin: "in", Stdout: "out", Stderr: "err"})
	},
	func(ctx context.Context, c *Client) (any, error) { return c.Wait(ctx, "exec-1") },
	func(ctx context.Context, c *Client) (any, error) { return Empty{}, c.Detach(ctx, "exec-1") },
	func(ctx context.Context, c *Client) (any, error) {
		return Empty{}, c.Resize(ctx, Resize{ID: "exec-1", Rows: 50, Cols: 132})
	},
	func(ctx context.Context, c *Client) (any, error) {
		return c.Attach(ctx, Attach{Stdin: "attach:in", Stdout: "attach:out", Stderr: "attach:err", EndStdin: true})
	},
	func(ctx context.Context, c *Client) (any, error) { return c.Stats(ctx) },
	func(ctx context.Context, c *Client) (any, error) { return c.Top(ctx) },
	func(ctx context.Context, c *Client) (any, error) { return c.Stat(ctx, "/etc/passwd") },
	func(ctx context.Context, c *Client) (any, error) {
		return Empty{}, c.Relay(ctx, state.Relay{Direction: "out_of", Source: "/run/a.sock", Destination: "/tmp/a.sock", Mode: 0o600, UID: 1, GID: 2})
	},
	func(ctx context.Context, c *Client) (any, error) { return Empty{}, c.Unrelay(ctx, "/tmp/a.sock") },
	func(ctx context.Context, c *Client) (any, error) { return Empty{}, c.Reload(ctx) },
	func(ctx context.Context, c *Client) (any, error) { return c.Pause(ctx) },
	func(ctx context.Context, c *Client) (any, error) { return c.Resume(ctx) },
	func(ctx context.Context, c *Client) (any, error) {
		grace := 3 * time.Second
		return c.Stop(ctx, Stop{Grace: &grace, Discard: true})
	},
}

// A command of now speaks with a shim of Version.
func TestCommandAgainstTheTranscript(t *testing.T) {
	all := transcript(t)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	played := make(chan error, 1)
	go func() {
		played <- func() error {
			conn, err := l.Accept()
			if err != nil {
				return err
			}
			defer conn.Close()
			r := bufio.NewReader(conn)
			for _, l := range all {
				if l.command {
					err = l.expect(r)
				} else {
					err = l.writeTo(conn)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	noticed := make(chan Status, 1)
	c, err := Dial(t.Context(), socket, func(s Status) { noticed <- s })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s := <-noticed; s.State != lifecycle.Started || s.PID != 4711 {
		t.Errorf("the notice is %+v", s)
	}
	want := results(t, all)
	if len(want) != len(calls) {
		t.Fatalf("%d answers to %d calls", len(want), len(calls))
	}
	for i, call := range calls {
		got, err := call(t.Context(), c)
		if err != nil {
			t.Error(err)
			break
		}
		if b, err := json.Marshal(got); err != nil || string(b) != want[i] {
			t.Errorf("%v\n got %s\nwant %s", err, b, want[i])
		}
	}
	_ = c.Close()
	if err := <-played; err != nil {
		t.Error(err)
	}
}

// A shim of now speaks with a command of Version.
func TestShimAgainstTheTranscript(t *testing.T) {
	all := transcript(t)
	conn, shims := net.Pipe()
	defer conn.Close()
	p := &player{t: t}
	served := make(chan error, 1)
	srv := NewServer(p, nil, func(_ context.Context, notify func(string, any) error) {
		if err := notify(NoticeStatus, Status{State: lifecycle.Started, Health: "healthy", Boots: 1, PID: 4711}); err != nil {
			t.Error(err)
		}
	})
	go func() { served <- srv.ServeConn(t.Context(), shims) }()
	r, left := bufio.NewReader(conn), results(t, all)
	for _, l := range all {
		var err error
		if l.command {
			if l.kind == kindRequest {
				var q struct {
					Params json.RawMessage `json:"params"`
				}
				err = json.Unmarshal([]byte(l.payload), &q)
				p.params, p.result, left = string(q.Params), left[0], left[1:]
			}
			if err == nil {
				err = l.writeTo(conn)
			}
		} else {
			err = l.expect(r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	_ = conn.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// player is a shim that replies as the transcript does.
type player struct {
	t              *testing.T
	params, result string // of the call that comes next
}

// play checks what came, and returns the reply of the transcript.
func play[R any](p *player, params any) (r R, err error) {
	if b, err := json.Marshal(params); err != nil || string(b) != p.params {
		p.t.Errorf("%v\n got %s\nwant %s", err, b, p.params)
	}
	err = json.Unmarshal([]byte(p.result), &r)
	return r, err
}

func (p *player) Status(_ context.Context, q Empty) (Status, error)        { return play[Status](p, q) }
func (p *player) Stop(_ context.Context, q Stop) (Status, error)           { return play[Status](p, q) }
func (p *player) Signal(_ context.Context, q Signal) (Empty, error)        { return play[Empty](p, q) }
func (p *player) Exec(_ context.Context, q Exec) (ExecStarted, error)      { return play[ExecStarted](p, q) }
func (p *player) Detach(_ context.Context, q Detach) (Empty, error)        { return play[Empty](p, q) }
func (p *player) Pause(_ context.Context, q Empty) (Status, error)         { return play[Status](p, q) }
func (p *player) Resume(_ context.Context, q Empty) (Status, error)        { return play[Status](p, q) }
func (p *player) Resize(_ context.Context, q Resize) (Empty, error)        { return play[Empty](p, q) }
func (p *player) Attach(_ context.Context, q Attach) (Attached, error)     { return play[Attached](p, q) }
func (p *player) Relay(_ context.Context, q state.Relay) (Empty, error)    { return play[Empty](p, q) }
func (p *player) Unrelay(_ context.Context, q Unrelay) (Empty, error)      { return play[Empty](p, q) }
func (p *player) Vsock(_ context.Context, q Vsock) (Connected, error)      { return play[Connected](p, q) }
func (p *player) Reload(_ context.Context, q Empty) (Empty, error)         { return play[Empty](p, q) }
func (p *player) Read(_ context.Context, q agentproto.Read) (Empty, error) { return play[Empty](p, q) }
func (p *player) Write(_ context.Context, q agentproto.Write) (Empty, error) {
	return play[Empty](p, q)
}
func (p *player) Wait(_ context.Context, q Wait) (agentproto.Exit, error) {
	return play[agentproto.Exit](p, q)
}
func (p *player) Stats(_ context.Context, q Empty) (agentproto.Stats, error) {
	return play[agentproto.Stats](p, q)
}
func (p *player) Top(_ context.Context, q Empty) (agentproto.Top, error) {
	return play[agentproto.Top](p, q)
}
func (p *player) Stat(_ context.Context, q agentproto.Stat) (agentproto.FileInfo, error) {
	return play[agentproto.FileInfo](p, q)
}
