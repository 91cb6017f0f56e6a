package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/wire"
)

func (a *app) execCommand() *cli.Command {
	return &cli.Command{
		Name: "exec", Usage: "run a process in a container", ArgsUsage: "NAME COMMAND [ARG…]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "do not wait for it"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "`KEY=VALUE` for it; KEY alone: with this environment's value"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "run as `USER`"},
			&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "in `FOLDER`"},
			&cli.IntFlag{Name: "index", Usage: "in the `N`th replica; the first by default"},
			&cli.BoolFlag{Name: "no-tty", Aliases: []string{"T"}, Usage: "without a terminal, even where this is one"},
			&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "accepted: standard input is passed on unless -d"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "with a terminal, even where this is none; the default is what this is"},
			&cli.BoolFlag{Name: "privileged", Usage: "with every capability and system call"},
			detachKeysFlag(),
		},
		Action: forProcess(a.exec),
	}
}

func (a *app) exec(c *cli.Context) error {
	args := c.Args().Slice()
	keys, err := parseKeys(c.String("detach-keys"))
	if err != nil {
		return err
	}
	env, err := variables(c.StringSlice("env"), a.deps.LookupEnv)
	if err != nil {
		return err
	}
	w, err := a.withName(c)
	if err != nil {
		return err
	}
	world, err := w.Observe(c.Context, nil)
	if err != nil {
		return err
	}
	inst, err := one(world, args[0], c.Int("index"))
	if err != nil {
		return err
	}
	shim, err := w.Dial(c.Context, inst.Name)
	if err != nil {
		return fmt.Errorf("exec in %s: %w", inst.Name, err)
	}
	defer shim.Close()
	p := shimproto.Exec{Args: args[1:], Env: env, User: c.String("user"), Cwd: c.String("workdir"),
		Privileged: c.Bool("privileged"), Detach: c.Bool("detach")}
	if p.Detach {
		_, err := startExec(c.Context, shim, p)
		return err
	}
	var code int
	if a.wantsTerminal(c) {
		code, err = a.runTerminal(c.Context, shim, p, keys)
	} else {
		code, err = a.runExec(c.Context, shim, p)
	}
	if err != nil {
		return fmt.Errorf("exec in %s: %w", inst.Name, err)
	}
	if code != 0 {
		return status(code)
	}
	return nil
}

// runExec runs a process with this one's standard streams, and answers its
// status. Output is complete when it returns.
func (a *app) runExec(ctx context.Context, shim *shimproto.Client, p shimproto.Exec) (int, error) {
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
	started, err := startExec(ctx, shim, p)
	if err != nil {
		return 0, err
	}
	go func() { // ends with this process: a read of a terminal cannot be taken back
		_, _ = io.Copy(struct{ io.Writer }{streams[0]}, a.deps.Stdin)
		_ = streams[0].CloseWrite()
	}()
	var out errgroup.Group
	for i, to := range []io.Writer{1: a.deps.Stdout, 2: a.deps.Stderr} {
		if to != nil {
			out.Go(func() error { return pour(to, streams[i]) })
		}
	}
	exit, err := shim.Wait(ctx, started.ID)
	oerr := a.unsaid(out.Wait())
	if err == nil && oerr != nil {
		oerr = fmt.Errorf("its output: %w (the process has ended with %d)", oerr, exit.Code)
	}
	return exit.Code, errors.Join(err, oerr)
}

// startExec starts a process; an error says that it does not run.
func startExec(ctx context.Context, shim *shimproto.Client, p shimproto.Exec) (shimproto.ExecStarted, error) {
	started, err := shim.Exec(ctx, p)
	if err != nil {
		return started, &engine.StartError{Class: errs.ClassOf(err), Err: err}
	}
	return started, nil
}

// pour is copyOut, and closes the stream where nobody takes what comes: the process
// is to know.
func pour(to io.Writer, from *wire.Stream) error {
	err := copyOut(to, from)
	if err != nil {
		_ = from.Close()
	}
	return err
}

func copyOut(to io.Writer, from *wire.Stream) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 64<<10))
	return err
}

// variables reads words of the form KEY=VALUE. One that is a KEY alone has lookup's
// value, and is none where that has none.
func variables(words []string, lookup func(string) (string, bool)) (env []string, err error) {
	for _, w := range words {
		k, _, ok := strings.Cut(w, "=")
		if k == "" {
			return nil, usage("--env %s: it is KEY=VALUE or KEY", w)
		}
		if !ok {
			v, there := lookup(k)
			if !there {
				continue
			}
			w = k + "=" + v
		}
		env = append(env, w)
	}
	return env, nil
}
