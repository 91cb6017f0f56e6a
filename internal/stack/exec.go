package stack

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/wire"
)

// Attachment is a connection to the streams of a container's process.
type Attachment struct {
	Instance string
	Shim     *shimproto.Client
	Process  shimproto.Attached
	Stdin    *wire.Stream // nil: it only looks
	Stdout   *wire.Stream
	Stderr   *wire.Stream
}

// AttachTo says how to attach: with standard input or only to look, and whether the end
// of the attachment is that of standard input.
type AttachTo struct{ Stdin, EndStdin bool }

// Attach connects with the process of the instance that name and index mean.
func (s *Stack) Attach(ctx context.Context, name string, index int, to AttachTo) (*Attachment, error) {
	i, shim, err := s.Connect(ctx, name, index, "attach to")
	if err != nil {
		return nil, err
	}
	a := &Attachment{Instance: i.Name, Shim: shim}
	if err := a.open(ctx, to); err != nil {
		a.Close()
		return nil, fmt.Errorf("attach to %s: %w", i.Name, err)
	}
	return a, nil
}

func (a *Attachment) open(ctx context.Context, to AttachTo) (err error) {
	p := shimproto.Attach{Stdout: shimproto.AttachToken(), Stderr: shimproto.AttachToken(), EndStdin: to.EndStdin}
	if to.Stdin {
		p.Stdin = shimproto.AttachToken()
	}
	for token, to := range map[string]**wire.Stream{p.Stdin: &a.Stdin, p.Stdout: &a.Stdout, p.Stderr: &a.Stderr} {
		if token == "" {
			continue
		}
		if *to, err = a.Shim.OpenStream(ctx, token); err != nil {
			return err
		}
	}
	a.Process, err = a.Shim.Attach(ctx, p)
	return err
}

// Close ends the connection. What has not been read is lost.
func (a *Attachment) Close() {
	for _, st := range []*wire.Stream{a.Stdin, a.Stdout, a.Stderr} {
		if st != nil {
			_ = st.Close() // nothing is left in it, or nobody wants it
		}
	}
	_ = a.Shim.Close()
}

// Streams are those of a process that Exec runs.
type Streams struct {
	Stdin          io.Reader // nil: it has ended
	Stdout, Stderr io.Writer // nil: what is written is lost
}

// OutputError says that the output of a process could not be taken, which has ended
// with Code.
type OutputError struct {
	Code int
	Err  error
}

func (e *OutputError) Error() string {
	return fmt.Sprintf("its output: %v (the process has ended with %d)", e.Err, e.Code)
}
func (e *OutputError) Unwrap() error { return e.Err }

// Exec runs a process in the instance of a shim and returns its exit status. Output is
// complete when it returns. The copy of Stdin goes on until that ends.
func Exec(ctx context.Context, shim *shimproto.Client, p shimproto.Exec, std Streams) (int, error) {
	p.Stdin, p.Stdout, p.Stderr = rand.Text(), rand.Text(), rand.Text()
	var streams [3]*wire.Stream
	g, gctx := errgroup.WithContext(ctx)
	for i, token := range []string{p.Stdin, p.Stdout, p.Stderr} {
		g.Go(func() (err error) {
			streams[i], err = shim.OpenStream(gctx, token)
			return err
		})
	}
	defer func() {
		for _, s := range streams {
			if s != nil {
				_ = s.Close() // nothing is left in it, or nobody wants it
			}
		}
	}()
	if err := g.Wait(); err != nil {
		return 0, err
	}
	started, err := StartExec(ctx, shim, p)
	if err != nil {
		return 0, err
	}
	go func() { // ends with its source: a read of a terminal cannot be taken back
		if std.Stdin != nil {
			_, _ = io.Copy(struct{ io.Writer }{streams[0]}, std.Stdin)
		}
		_ = streams[0].CloseWrite()
	}()
	var out errgroup.Group
	for i, to := range []io.Writer{1: std.Stdout, 2: std.Stderr} {
		if i > 0 {
			out.Go(func() error { return pour(to, streams[i]) })
		}
	}
	exit, err := shim.Wait(ctx, started.ID)
	oerr := out.Wait()
	if err == nil && oerr != nil {
		return exit.Code, &OutputError{exit.Code, oerr}
	}
	return exit.Code, errors.Join(err, oerr)
}

// StartExec starts a process; an error says that it does not run.
func StartExec(ctx context.Context, shim *shimproto.Client, p shimproto.Exec) (shimproto.ExecStarted, error) {
	started, err := shim.Exec(ctx, p)
	if err != nil {
		return started, &engine.StartError{Class: errs.ClassOf(err), Err: err}
	}
	return started, nil
}

// pour copies the output of a process to a writer; nil: nowhere. Where the writer fails
// it closes the stream, so that the process notices.
func pour(to io.Writer, from *wire.Stream) error {
	if to == nil {
		to = io.Discard
	}
	err := CopyOut(to, from)
	if err != nil {
		_ = from.Close()
	}
	return err
}

// CopyOut copies the output of a process to a writer.
func CopyOut(to io.Writer, from *wire.Stream) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 64<<10))
	return err
}
