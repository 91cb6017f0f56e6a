// Package cli is vzcompose's commands and flags. It reads what the user asks,
// lets spec, planner, executor and engine do it, and gives internal/ui what
// there is to show.
package cli

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/process"
	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/internal/ui"
)

// Exit statuses.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130

	// Of commands whose status is a process's: what is not the process's own.
	exitOurs          = 125
	exitNotExecutable = 126
	exitNotFound      = 127
)

// Deps are what the commands have of the world around them.
type Deps struct {
	Args           []string
	Stdin          *os.File
	Stdout, Stderr *os.File
	LookupEnv      func(string) (string, bool)
	// Driver makes this system's driver.
	Driver process.NewDriver
	// Events is called with each event of a plan before it is shown; nil: nobody is.
	Events event.Sink
}

// status is an error that only sets the exit status: all has been said.
type status int

func (s status) Error() string { return "" }

// Main runs the command line and answers the exit status.
func Main(d Deps) int {
	if len(d.Args) > 1 {
		if status, ok := process.Run(d.Args[1], process.Deps{Stdin: d.Stdin, Stderr: d.Stderr, LookupEnv: d.LookupEnv, Driver: d.Driver}); ok {
			return status
		}
	}
	// A reader that went away is an error of a write: there may be more to do.
	signal.Ignore(syscall.SIGPIPE)
	app := &app{deps: d}
	cmd := app.command()
	checked(cmd.Commands)
	args := permute(cmd, d.Args)
	if len(d.Args) > 1 && d.Args[len(d.Args)-1] == completing {
		args = toComplete(cmd, d.Args)
	}
	err := cmd.RunContext(context.Background(), args)
	return app.exit(err)
}

// app is one invocation.
type app struct {
	deps Deps
	view *ui.UI // set once the global flags are read
	cold bool   // machines are to boot
	// preview: the plan is shown before it is carried out, on a terminal.
	preview bool
	// adopt: a stack of another project directory becomes that of this one.
	adopt bool
}

// exit prints what err has that was not printed yet, and returns the status.
func (a *app) exit(err error) int {
	view := a.view
	if view == nil {
		view = a.newView("plain", true)
	}
	defer view.Close()
	var st status
	var own *withStatus
	var running *stack.LeftRunning
	var plan *stack.PlanError
	left := a.unsaid(err)
	code := exitDone
	if left != nil {
		code = explain(view, left)
	}
	if errors.As(err, &running) {
		view.Notef("%s", leftWords(running))
	}
	switch {
	case errors.As(err, &st):
		return int(st)
	case errors.Is(err, stack.ErrInterrupted):
		return exitInterrupted
	case errors.As(err, &plan):
		return exitFailed
	case left != nil && errors.As(err, &own):
		return own.status
	}
	return code
}

// explain shows err, and returns the status that it has in most commands.
func explain(view *ui.UI, err error) int {
	if findings := (diag.Findings)(nil); errors.As(err, &findings) {
		view.Findings(findings)
	} else {
		view.Error(err)
	}
	return classStatus(err)
}

// classStatus is the status that an error has in most commands.
func classStatus(err error) int {
	if findings := (diag.Findings)(nil); errors.As(err, &findings) || errs.Is(err, errs.InvalidArgument) {
		return exitUsage
	}
	return exitFailed
}

// unsaid is err without what needs no words: a status, a plan whose summary was shown, that the user asked to stop,
// and a reader of our output that went away, as of `vzcompose logs | head`. Only our own streams count: any
// other pipe that breaks is a failure.
func (a *app) unsaid(err error) error {
	if err == stack.ErrInterrupted {
		return nil
	}
	switch e := err.(type) {
	case nil, status, *stack.PlanError:
		return nil
	case *fs.PathError:
		ours := e.Path == a.deps.Stdout.Name() || e.Path == a.deps.Stderr.Name()
		if ours && e.Op == "write" && errors.Is(e.Err, syscall.EPIPE) {
			return nil
		}
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil && a.unsaid(inner) == nil {
			return nil
		}
	case interface{ Unwrap() []error }:
		var left []error
		all := e.Unwrap()
		for _, one := range all {
			if one = a.unsaid(one); one != nil {
				left = append(left, one)
			}
		}
		if len(left) < len(all) {
			return errors.Join(left...)
		}
	}
	return err
}

// exitWith returns err, or the exit status of a process as an error.
func exitWith(code int, err error) error {
	if err == nil && code != 0 {
		return status(code)
	}
	return err
}

// withStatus is an error with an exit status of its own.
type withStatus struct {
	error
	status int
}

func (w *withStatus) Unwrap() error { return w.error }

// forProcess gives what goes wrong in an action whose status is that of a process
// in a container a status that tells it from the process's.
func forProcess(action cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := action(c); err != nil {
			return &withStatus{err, processStatus(err)}
		}
		return nil
	}
}

// processStatus is what docker returns where a process was not executed. A call that
// is wrong has the status that it has in every command.
func processStatus(err error) int {
	if start := (*engine.StartError)(nil); errors.As(err, &start) {
		switch start.Class {
		case errs.NotFound:
			return exitNotFound
		case errs.PermissionDenied:
			return exitNotExecutable
		}
		return exitOurs
	}
	if classStatus(err) == exitUsage {
		return exitUsage
	}
	return exitOurs
}

// usage makes an error of how a command was called.
func usage(format string, args ...any) error { return errs.New(errs.InvalidArgument, format, args...) }

func (a *app) command() *cli.App {
	return &cli.App{
		Name:                   "vzcompose",
		Usage:                  "stacks of containers, each in a virtual machine of its own",
		HideVersion:            true,
		UseShortOptionHandling: true,
		Suggest:                true,
		EnableBashCompletion:   true,
		Reader:                 a.deps.Stdin,
		Writer:                 a.deps.Stdout,
		ErrWriter:              a.deps.Stderr,
		ExitErrHandler:         func(*cli.Context, error) {}, // Main says it once
		OnUsageError:           onUsageError,
		Before:                 a.before,
		Flags:                  globalFlags(),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return errs.WithHint(usage("no command %q", c.Args().First()), "vzcompose help lists the commands")
			}
			return cli.ShowAppHelp(c)
		},
		Commands: []*cli.Command{
			a.upCommand(), a.downCommand(), a.createCommand(), a.startCommand(), a.stopCommand(), a.restartCommand(), a.rmCommand(),
			a.killCommand(), a.waitCommand(), a.pauseCommand(), a.unpauseCommand(), a.attachCommand(), a.topCommand(), a.portCommand(), a.statsCommand(), a.inspectCommand(), a.eventsCommand(), a.psCommand(), a.lsCommand(), a.logsCommand(), a.execCommand(), a.runCommand(), a.cpCommand(),
			a.scaleCommand(), a.imagesCommand(), a.pullCommand(), a.volumesCommand(), a.volumeCommand(),
			a.planCommand(), a.configCommand(), a.importCommand(), a.providerCommand(), a.schemaCommand(), a.imageCommand(), a.kernelCommand(), a.templateCommand(), a.networkCommand(), a.vsockCommand(),
			a.doctorCommand(), a.versionCommand(),
		},
	}
}

func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "file", Aliases: []string{"f"}, Usage: "stack `FILE`; repeatable, - is standard input", EnvVars: []string{"VZCOMPOSE_FILE"}},
		&cli.StringFlag{Name: "name", Aliases: []string{"n", "p", "project-name"}, Usage: "`NAME` of the stack", EnvVars: []string{"VZCOMPOSE_NAME"}},
		&cli.StringSliceFlag{Name: "profile", Usage: "with the containers of profile `NAME`; repeatable, * is all", EnvVars: []string{"VZCOMPOSE_PROFILES"}},
		&cli.StringSliceFlag{Name: "env-file", Usage: "variables for the stack file from `FILE`, in place of .env; repeatable"},
		&cli.StringFlag{Name: "project-directory", Usage: "`FOLDER` that relative paths start from"},
		&cli.BoolFlag{Name: "adopt", Usage: "make a stack of another project directory the stack of this one"},
		&cli.StringFlag{Name: "progress", Value: "auto", Usage: "auto, tty, plain, json or quiet"},
		&cli.BoolFlag{Name: "no-color", Usage: "no colours", EnvVars: []string{"NO_COLOR"}},
		&cli.IntFlag{Name: "parallel", Usage: "at most `N` steps at a time"},
	}
}

func (a *app) before(c *cli.Context) error {
	mode := c.String("progress")
	switch mode {
	case "auto", "tty", "plain", "json", "quiet":
	default:
		return usage("no progress %q: auto, tty, plain, json or quiet", mode)
	}
	a.view = a.newView(mode, c.Bool("no-color"))
	a.adopt = c.Bool("adopt")
	return nil
}

func (a *app) newView(mode string, noColor bool) *ui.UI {
	term, _ := a.deps.LookupEnv("TERM")
	return ui.New(ui.Options{Out: a.deps.Stdout, Err: a.deps.Stderr, Mode: mode, NoColor: noColor, Dumb: term == "dumb"})
}

var version = "unknown" // set by the linker

func (a *app) versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "what this is",
		Action: func(*cli.Context) error {
			a.view.Printf("vzcompose %s %s/%s %s\n", version, runtime.GOOS, runtime.GOARCH, runtime.Version())
			return nil
		},
	}
}
