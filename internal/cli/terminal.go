package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/internal/wire"
)

func detachKeysFlag() cli.Flag {
	return &cli.StringFlag{Name: "detach-keys", Value: "ctrl-p,ctrl-q", Usage: "`KEYS` that leave the process running; \"\" for none"}
}

// parseKeys reads "ctrl-p,ctrl-q" or "a,b" to the bytes that the keys send.
func parseKeys(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	var keys []byte
	for _, k := range strings.Split(s, ",") {
		name, ctrl := strings.CutPrefix(strings.ToLower(k), "ctrl-")
		switch {
		case ctrl && len(name) == 1 && (name[0] >= 'a' && name[0] <= 'z' || strings.Contains("@[\\]^_", name)):
			keys = append(keys, name[0]&0x1f)
		case !ctrl && len(k) == 1 && k[0] < 0x80:
			keys = append(keys, k[0])
		default:
			return nil, usage("--detach-keys %s: %q is neither a character nor ctrl- and one", s, k)
		}
	}
	return keys, nil
}

// wantsTerminal says whether a process gets a terminal: as asked, or where this
// is one.
func (a *app) wantsTerminal(c *cli.Context) bool {
	switch {
	case c.Bool("no-tty"):
		return false
	case c.Bool("tty"):
		return true
	}
	return term.IsTerminal(int(a.deps.Stdin.Fd())) && term.IsTerminal(int(a.deps.Stdout.Fd()))
}

// errDetached says that the user left with the detach keys. A stream that is
// aborted with it was let go of.
var errDetached = errs.New(errs.Canceled, "detached")

// detachLimit is how long the shim may take to hear of it.
const detachLimit = 10 * time.Second

// runTerminal runs a process with a terminal that is shown on this one, and
// answers its status; 0 where the user detached.
func (a *app) runTerminal(ctx context.Context, shim *shimproto.Client, p shimproto.Exec, keys []byte) (int, error) {
	t := newRawTerminal(a.deps)
	p.TTY, p.Stdin, p.Stdout = true, rand.Text(), rand.Text()
	p.Rows, p.Cols = t.size()
	if name, ok := a.deps.LookupEnv("TERM"); ok && name != "" {
		p.Env = append([]string{"TERM=" + name}, p.Env...)
	} else {
		p.Env = append([]string{"TERM=xterm"}, p.Env...)
	}
	in, err := shim.OpenStream(ctx, p.Stdin)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := shim.OpenStream(ctx, p.Stdout)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	started, err := stack.StartExec(ctx, shim, p)
	if err != nil {
		return 0, err
	}
	err = t.talk(ctx, shim, started.ID, in, out, keys)
	if errors.Is(err, errDetached) {
		ctx, cancel := context.WithTimeoutCause(ctx, detachLimit, errs.New(errs.DeadlineExceeded, "detach: not done within %s", detachLimit))
		defer cancel()
		return 0, errors.Join(shim.Detach(ctx, started.ID), out.Abort(errDetached))
	}
	if err != nil {
		return 0, err
	}
	exit, err := shim.Wait(ctx, started.ID)
	return exit.Code, err
}

// rawTerminal is this process's terminal, which may be none.
type rawTerminal struct {
	stdin, stdout *os.File
}

func newRawTerminal(d Deps) *rawTerminal { return &rawTerminal{d.Stdin, d.Stdout} }

// size answers that of the terminal in characters; 0 by 0 where there is none.
func (t *rawTerminal) size() (rows, cols uint16) {
	for _, f := range []*os.File{t.stdout, t.stdin} {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
			return uint16(min(h, 1<<16-1)), uint16(min(w, 1<<16-1))
		}
	}
	return 0, 0
}

// raw gives every key to the process; restore is for every path out.
func (t *rawTerminal) raw() (restore func(), err error) {
	fd := int(t.stdin.Fd())
	if !term.IsTerminal(fd) {
		return func() {}, nil
	}
	was, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("set the terminal: %w", err)
	}
	return sync.OnceFunc(func() { _ = term.Restore(fd, was) }), nil // a terminal that is gone needs none
}

// talk shows the process's terminal until its output ends, the shim is gone, or
// the user detaches (errDetached). The terminal is restored whatever happens.
func (t *rawTerminal) talk(ctx context.Context, shim *shimproto.Client, id string, in, out *wire.Stream, keys []byte) error {
	restore, err := t.raw()
	if err != nil {
		return err
	}
	defer restore()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer t.followSize(ctx, shim, id)()
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(ends)
	go func() { // ends with this process: a read of a terminal cannot be taken back
		err := copyKeys(in, t.stdin, keys)
		if errors.Is(err, errDetached) {
			_ = in.Abort(errDetached) // its end would be the process's
			cancel(err)
			return
		}
		_ = in.CloseWrite() // what is wrong with it the output tells
	}()
	shown := make(chan error, 1)
	go func() { shown <- stack.CopyOut(t.stdout, out) }()
	select {
	case err := <-shown:
		if failed := (*fs.PathError)(nil); err != nil && !errors.As(err, &failed) { // not our end of it
			err = errs.New(errs.Unavailable, "the connection to the instance is lost: %w", err)
		}
		return err
	case <-shim.Done():
		select { // the last words may be on their way
		case <-shown:
		case <-time.After(time.Second):
		}
		return errs.New(errs.Unavailable, "the connection to the instance is lost")
	case <-ends:
		return errs.New(errs.Canceled, "ended by a signal")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// followSize tells the process of every change of the size. The answer ends it.
func (t *rawTerminal) followSize(ctx context.Context, shim *shimproto.Client, id string) func() {
	news := make(chan os.Signal, 1)
	signal.Notify(news, syscall.SIGWINCH)
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-news:
				if rows, cols := t.size(); rows > 0 {
					// A process that has ended has no size.
					_ = shim.Resize(ctx, shimproto.Resize{ID: id, Rows: rows, Cols: cols})
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		signal.Stop(news)
		cancel()
		done.Wait()
	}
}

// copyKeys passes what is typed on until its end, or until the detach keys were
// typed one after the other: errDetached. Keys that only begin them are passed
// on with what follows.
func copyKeys(to io.Writer, from io.Reader, keys []byte) error {
	buf := make([]byte, 4<<10)
	held := 0 // of keys, typed and not passed on
	for {
		n, err := from.Read(buf)
		var pass []byte
		for _, b := range buf[:n] {
			if len(keys) == 0 {
				pass = append(pass, b)
				continue
			}
			if b != keys[held] {
				pass = append(pass, keys[:held]...)
				held = 0
			}
			if b != keys[held] {
				pass = append(pass, b)
				continue
			}
			if held++; held == len(keys) {
				_, _ = to.Write(pass)
				return errDetached
			}
		}
		if len(pass) > 0 {
			if _, err := to.Write(pass); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}
