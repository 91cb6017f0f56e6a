package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/ui"
)

// asked makes a command that asks the shim of every instance that is named.
func (a *app) asked(name, usage string, do func(context.Context, *shimproto.Client) error) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "[NAME…]",
		Action: func(c *cli.Context) error {
			return a.each(c, func(ctx context.Context, w *stack.Stack, i state.Instance) error {
				shim, err := w.Dial(ctx, i.Name)
				if err != nil {
					return err
				}
				defer shim.Close()
				return do(ctx, shim)
			})
		},
	}
}

func (a *app) pauseCommand() *cli.Command {
	return a.asked("pause", "hold the processors of machines", func(ctx context.Context, s *shimproto.Client) error {
		_, err := s.Pause(ctx)
		return err
	})
}

func (a *app) unpauseCommand() *cli.Command {
	return a.asked("unpause", "let paused machines go on", func(ctx context.Context, s *shimproto.Client) error {
		_, err := s.Resume(ctx)
		return err
	})
}

// measured is what somebody asked of every running instance came to, in order.
func measured[T any](a *app, c *cli.Context, ask func(context.Context, *shimproto.Client) (T, error)) ([]state.Instance, map[string]T, error) {
	var mu sync.Mutex // guards the following
	var who []state.Instance
	all := map[string]T{}
	err := a.each(c, func(ctx context.Context, w *stack.Stack, i state.Instance) error {
		if !c.Args().Present() && i.State != lifecycle.Started {
			return nil // what runs of all
		}
		shim, err := w.Dial(ctx, i.Name)
		if err != nil {
			return err
		}
		defer shim.Close()
		v, err := ask(ctx, shim)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		who = append(who, i)
		all[i.Name] = v
		return nil
	})
	slices.SortFunc(who, func(a, b state.Instance) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return who, all, err
}

func (a *app) topCommand() *cli.Command {
	return &cli.Command{
		Name: "top", Usage: "the processes of instances", ArgsUsage: "[NAME…]",
		Flags: []cli.Flag{formatFlag()},
		Action: func(c *cli.Context) error {
			who, all, err := measured(a, c, func(ctx context.Context, s *shimproto.Client) (agentproto.Top, error) { return s.Top(ctx) })
			t := table{header: []string{"NAME", "PID", "PPID", "UID", "STATE", "STARTED", "TIME", "MEMORY", "COMMAND"}}
			for _, i := range who {
				for _, p := range all[i.Name].Processes {
					t.add(instanceProcess{i.Name, p}, fmt.Sprint(p.PID), i.Name, fmt.Sprint(p.PID), fmt.Sprint(p.PPID), fmt.Sprint(p.UID), p.State,
						p.Started.Local().Format(time.TimeOnly), p.CPU.Round(10*time.Millisecond).String(), ui.Bytes(int64(p.RSS)), p.Command)
				}
			}
			return errors.Join(a.show(c, t), err)
		},
	}
}

type instanceProcess struct {
	Instance string `json:"instance"`
	agentproto.TopProcess
}

func (a *app) statsCommand() *cli.Command {
	return &cli.Command{
		Name: "stats", Usage: "what instances use: processors, memory, disks", ArgsUsage: "[NAME…]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "no-stream", Usage: "once"},
			&cli.Float64Flag{Name: "interval", Value: 2, Usage: "every `SECONDS`"},
			formatFlag(),
		},
		Action: a.stats,
	}
}

// instanceStats is what stats shows of an instance.
type instanceStats struct {
	Instance string `json:"instance"`
	// CPUs is how many processors it kept busy since the last look.
	CPUs float64 `json:"cpus"`
	agentproto.Stats
}

// firstLook is how long the first of two looks lasts that the use of processors
// is measured by.
const firstLook = 500 * time.Millisecond

func (a *app) stats(c *cli.Context) error {
	every := time.Duration(c.Float64("interval") * float64(time.Second))
	if every <= 0 {
		return usage("--interval %v: it is more than 0", c.Float64("interval"))
	}
	stop := newInterrupt(c.Context)
	defer stop.release()
	ask := func(ctx context.Context, s *shimproto.Client) (agentproto.Stats, error) { return s.Stats(ctx) }
	board := a.view.Board()
	_, before, err := measured(a, c, ask)
	if err != nil {
		return err
	}
	for wait := firstLook; ; wait = every {
		select {
		case <-time.After(wait):
		case <-stop.drain.Done():
			return nil
		}
		who, now, err := measured(a, c, ask)
		if err != nil {
			return err
		}
		t := table{header: []string{"NAME", "CPUS", "MEMORY", "LIMIT", "PROCESSES", "READ", "WRITTEN", "RECEIVED", "SENT", "LAYER", "OOM"}}
		for _, i := range who {
			s := instanceStats{Instance: i.Name, Stats: now[i.Name]}
			if was, ok := before[i.Name]; ok && s.At.After(was.At) {
				s.CPUs = float64(s.CPU-was.CPU) / float64(s.At.Sub(was.At))
			}
			var received, sent uint64
			for _, n := range s.Networks {
				received, sent = received+n.Received, sent+n.Sent
			}
			t.add(s, i.Name, i.Name, fmt.Sprintf("%.2f", s.CPUs), ui.Bytes(int64(s.Memory)), ui.Bytes(int64(s.MemoryLimit)), fmt.Sprint(s.Processes),
				ui.Bytes(int64(s.BlockRead)), ui.Bytes(int64(s.BlockWritten)), ui.Bytes(int64(received)), ui.Bytes(int64(sent)), ui.Bytes(int64(s.WritableUsed)), fmt.Sprint(s.OOMKills))
		}
		if err := board.Show(ui.Table{Header: t.header, Rows: t.rows}, c.String("format")); err != nil || c.Bool("no-stream") {
			return err
		}
		before = now
	}
}

func (a *app) attachCommand() *cli.Command {
	return &cli.Command{
		Name: "attach", Usage: "be at the input and output of a container's process", ArgsUsage: "NAME",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "index", Usage: "of the `N`th replica; the first by default"},
			&cli.BoolFlag{Name: "no-stdin", Usage: "only look"},
			&cli.BoolFlag{Name: "sig-proxy", Value: true, Usage: "pass signals on to the process"},
			detachKeysFlag(),
		},
		Action: a.attachTo,
	}
}

func (a *app) attachTo(c *cli.Context) error {
	keys, err := parseKeys(c.String("detach-keys"))
	if err != nil {
		return err
	}
	w, err := a.withName(c)
	if err != nil {
		return err
	}
	at, err := w.Attach(c.Context, c.Args().First(), c.Int("index"), stack.AttachTo{Stdin: !c.Bool("no-stdin")})
	if err != nil {
		return err
	}
	defer at.Close()
	err = a.stay(c.Context, at, c.Bool("sig-proxy"), keys)
	if errors.Is(err, errDetached) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("attach to %s: %w", at.Instance, err)
	}
	return a.statusOf(c.Context, w, at.Instance)
}

// statusOf waits until an instance has ended, and answers its status as ours.
func (a *app) statusOf(ctx context.Context, w *stack.Stack, name string) error {
	st, err := w.AwaitEnd(ctx, name)
	switch {
	case err != nil:
		return err
	case st.Exit == nil:
		return errs.New(errs.Unavailable, "%s: %s", name, st.Cause)
	case st.Exit.Code != 0:
		return status(st.Exit.Code)
	}
	return nil
}

// stay connects this process's streams with those of an attachment, until they end or the
// user detaches (errDetached).
func (a *app) stay(ctx context.Context, s *stack.Attachment, signals bool, keys []byte) error {
	if s.Process.TTY && s.Stdin != nil {
		t := newRawTerminal(a.deps)
		if rows, cols := t.size(); rows > 0 {
			_ = s.Shim.Resize(ctx, shimproto.Resize{Rows: rows, Cols: cols}) // it may not run yet
		}
		return t.talk(ctx, s.Shim, "", s.Stdin, s.Stdout, keys)
	}
	if signals {
		defer passSignals(ctx, s.Shim)()
	}
	detached := make(chan struct{})
	if s.Stdin != nil && s.Process.Stdin {
		go func() { // ends with this process: a read of a terminal cannot be taken back
			if errors.Is(copyKeys(s.Stdin, a.deps.Stdin, keys), errDetached) {
				close(detached)
				return
			}
			_ = s.Stdin.CloseWrite()
		}()
	}
	shown := make(chan error, 2)
	go func() { shown <- stack.CopyOut(a.deps.Stdout, s.Stdout) }()
	go func() { shown <- stack.CopyOut(a.deps.Stderr, s.Stderr) }()
	for range 2 {
		select {
		case err := <-shown:
			if err != nil { // the other may have nothing to say for long
				return err
			}
		case <-detached:
			return errDetached
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// passSignals sends the signals that this process gets to the container's. The
// answer ends it.
func passSignals(ctx context.Context, shim *shimproto.Client) func() {
	got := make(chan os.Signal, 8)
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case s := <-got:
				if n, err := agentproto.ParseSignal(signalName(s)); err == nil {
					_ = shim.Signal(ctx, n) // it may have ended
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		signal.Stop(got)
		cancel()
		done.Wait()
	}
}

// signalName is Linux's name of a signal of this host.
func signalName(s os.Signal) string {
	switch s {
	case syscall.SIGINT:
		return "SIGINT"
	case syscall.SIGHUP:
		return "SIGHUP"
	case syscall.SIGQUIT:
		return "SIGQUIT"
	case syscall.SIGUSR1:
		return "SIGUSR1"
	case syscall.SIGUSR2:
		return "SIGUSR2"
	}
	return "SIGTERM"
}
