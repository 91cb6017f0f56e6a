package shim

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/vmm"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// handler answers commands.
type handler struct{ s *shim }

var _ shimproto.Handler = handler{}

// Status is what was last posted.
func (h handler) Status(context.Context, shimproto.Empty) (shimproto.Status, error) {
	st, _ := h.s.status.read()
	return st, nil
}

// Stop ends the instance and answers its last word.
func (h handler) Stop(ctx context.Context, p shimproto.Stop) (shimproto.Status, error) {
	if p.Discard {
		h.s.discard.Store(true)
	}
	h.s.send(func() { h.s.stop(p.Grace) })
	select {
	case <-h.s.final:
	case <-ctx.Done():
		select { // both may be: then the answer is known
		case <-h.s.final:
		default:
			return shimproto.Status{}, context.Cause(ctx)
		}
	}
	st, _ := h.s.status.read()
	if h.s.stopErr != nil {
		return st, fmt.Errorf("stop %s: %w", h.s.inst.Name, h.s.stopErr)
	}
	return st, nil
}

// Signal signals the container's process.
func (h handler) Signal(ctx context.Context, p shimproto.Signal) (shimproto.Empty, error) {
	_, agent, err := h.s.running.get()
	if err != nil {
		return shimproto.Empty{}, err
	}
	sctx, cancel := limit(ctx, callLimit, "signal the process")
	defer cancel()
	before, _ := h.s.status.read()
	err = agent.Signal(sctx, agentproto.Signal{ID: agentproto.InitID, Signal: p.Signal})
	if errs.Is(err, errs.Unavailable) && h.ended(sctx, before) {
		err = nil
	}
	if err != nil {
		return shimproto.Empty{}, err
	}
	h.s.send(func() { h.s.enter("kill", map[string]string{"signal": agentproto.SignalName(p.Signal)}) })
	return shimproto.Empty{}, nil
}

// ended waits until the status is another than before, and reports whether the
// process has ended by then. The end that a signal brings about takes the machine
// along, and its connection, which may come before the agent's reply.
func (h handler) ended(ctx context.Context, before shimproto.Status) bool {
	for {
		st, changed := h.s.status.read()
		if st.State != lifecycle.Started || st.Boots != before.Boots {
			return st.Exit != nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// Exec starts another process in the container. It is the connection's that asked
// for it, unless it is detached.
func (h handler) Exec(ctx context.Context, p shimproto.Exec) (shimproto.ExecStarted, error) {
	if st, _ := h.s.status.read(); st.State != lifecycle.Started {
		return shimproto.ExecStarted{}, errs.New(errs.FailedPrecondition, "cannot run a process in what is %s", st.State)
	}
	_, agent, err := h.s.running.get()
	if err != nil {
		return shimproto.ExecStarted{}, err
	}
	id := h.s.running.nextExec()
	start := agentproto.Start{ID: id, Process: h.process(p), Unfiltered: p.Privileged, User: p.User, Groups: h.s.inst.Groups, Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr}
	if start.User == "" {
		start.User = h.s.inst.User
	}
	owner := wire.Connection(ctx)
	if p.Detach {
		owner = context.Background()
	}
	e, err := h.s.startExec(ctx, owner, agent, start, hangUpLimit)
	if err != nil {
		return shimproto.ExecStarted{}, err
	}
	// Of what it runs the name alone: arguments may hold what nobody is to read.
	h.s.send(func() { h.s.enter("exec_start", map[string]string{"id": id, "command": name(p.Args)}) })
	h.s.noteEnd(e)
	return shimproto.ExecStarted{ID: id}, nil
}

// name is the first word of a command.
func name(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// process is the container's own with what p says.
func (h handler) process(p shimproto.Exec) *specs.Process {
	proc := *h.s.inst.Runtime.Process
	proc.Args = p.Args
	proc.Env = mergeEnv(proc.Env, p.Env)
	proc.Terminal, proc.ConsoleSize = p.TTY, nil
	if p.TTY {
		proc.ConsoleSize = &specs.Box{Height: uint(cmp.Or(p.Rows, 24)), Width: uint(cmp.Or(p.Cols, 80))}
	}
	if p.Privileged {
		all := agentproto.Capabilities()
		proc.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	}
	if p.Cwd != "" {
		proc.Cwd = p.Cwd
	}
	return &proc
}

// mergeEnv answers base with the variables of more, which win.
func mergeEnv(base, more []string) []string {
	out := slices.Clone(base)
	for _, kv := range more {
		name, _, _ := strings.Cut(kv, "=")
		out = slices.DeleteFunc(out, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		out = append(out, kv)
	}
	return out
}

func (l *live) nextExec() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.execs++
	return fmt.Sprintf("exec-%d", l.execs)
}

// pass connects a command's stream with the agent's of the same token, until
// the agent ends it. At the shim's end what was read may still reach a command that
// reads.
//
// A command that goes away has the stream aborted: the process's input ends, and
// what it writes fails as to a pipe that nobody reads. One that has let go of the
// stream, by an abort of its own with errs.Canceled, leaves the process as it is:
// its input is silent, and its output is read on, for a process must not stand
// still because nobody looks.
func (s *shim) pass(m vmm.Machine, token string, cmd *wire.Stream) {
	defer cmd.Close()
	ctx, cancel := limit(s.ctx, startLimit, "open a stream to the agent")
	agent, err := openStream(ctx, m, token)
	cancel()
	if err != nil {
		_ = cmd.Abort(err) // it may be gone
		return
	}
	defer agent.Close()
	stop := context.AfterFunc(s.ctx, func() {
		end := time.Now().Add(farewellLimit)
		_ = cmd.Conn().SetDeadline(end) // or it is closed
		_ = agent.Conn().SetDeadline(end)
	})
	defer stop()
	gone := make(chan struct{}) // closed with the command's direction
	var letGo bool              // valid then
	s.tasks.Go(func() {
		defer close(gone)
		werr, err := copyStream(agent, cmd)
		switch {
		case werr != nil: // the process reads no more, which the other direction tells
		case err == nil:
			_ = agent.CloseWrite()
		case wire.Aborted(err) && errs.Is(err, errs.Canceled):
			letGo = true
		default:
			_ = agent.Abort(errs.New(errs.Canceled, "the command is gone"))
		}
	})
	werr, rerr := copyStream(cmd, agent)
	if werr != nil {
		<-gone // the command's end is on its way, and says which of the two it is
		if letGo {
			_, rerr = copyStream(io.Discard, agent)
		} else {
			_ = agent.Abort(errs.New(errs.Canceled, "nobody reads it"))
		}
	}
	if rerr != nil {
		_ = cmd.Abort(errs.New(errs.Unavailable, "the process's stream broke: %w", rerr))
		return
	}
	_ = cmd.CloseWrite()
}

// copyStream copies until from ends, and returns which of the two broke.
func copyStream(to io.Writer, from io.Reader) (werr, rerr error) {
	b := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(b)
	for {
		n, err := from.Read(b[:])
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return err, nil
			}
		}
		switch err {
		case nil:
		case io.EOF:
			return nil, nil
		default:
			return nil, err
		}
	}
}

// copySize is a buffer's of copyStream, in bytes.
const copySize = 32 << 10

// copyBuffers are kept between streams: each process has up to six of them.
var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}
