// Package cli is vzcompose's commands and flags. It reads what the user asks,
// lets spec, planner, executor and engine do it, and gives internal/ui what
// there is to show.
package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/ui"
	"github.com/vzcompose/vzcompose/vmm"
)

// Exit statuses.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// Deps are what the commands have of the world around them.
type Deps struct {
	Args           []string
	Stdin          *os.File
	Stdout, Stderr *os.File
	LookupEnv      func(string) (string, bool)
	// Driver makes this system's driver.
	Driver func(lookup func(string) (string, bool), o DriverOptions) (vmm.Driver, error)
	// Events is called with each event of a plan before it is shown; nil: nobody is.
	Events event.Sink
}

// DriverOptions are what a driver is told besides the environment.
type DriverOptions struct {
	// Templates is the folder for what machines are restored from; "": they boot.
	Templates string
	// TemplatesLimit bounds it, in bytes; 0: as the driver likes.
	TemplatesLimit uint64
}

// status is an error that only sets the exit status: all has been said.
type status int

func (s status) Error() string { return "" }

// Main runs the command line and answers the exit status.
func Main(d Deps) int {
	if len(d.Args) > 1 {
		switch d.Args[1] {
		case shimCommand:
			return runShim(d)
		case switchCommand:
			return runSwitch(d)
		case fillCommand:
			return runFill(d)
		}
	}
	// A reader that went away, as of `vzcompose logs | head`, is the end of it.
	signal.Ignore(syscall.SIGPIPE)
	app := &app{deps: d}
	cmd := app.command()
	checked(cmd.Commands)
	err := cmd.RunContext(context.Background(), permute(cmd, d.Args))
	return app.exit(err)
}

// app is one invocation.
type app struct {
	deps Deps
	view *ui.UI // set once the global flags are read
	cold bool   // machines are to boot
	// adopt: a stack of another project directory becomes that of this one.
	adopt bool
}

// exit says what is left to say of err, and answers the status.
func (a *app) exit(err error) int {
	if err == nil {
		return exitDone
	}
	view := a.view
	if view == nil {
		view = a.newView("plain", true)
	}
	defer view.Close()
	code := explain(view, err)
	var left leftRunning
	if errors.As(err, &left) {
		view.Notef("%s", left.what)
	}
	return code
}

// explain shows err, where it has not been shown yet, and returns the status
// that it stands for.
func explain(view *ui.UI, err error) int {
	var st status
	var late interrupted
	var findings diag.Findings
	switch {
	case errors.As(err, &late):
		view.Error(late.error)
		return exitInterrupted
	case errors.As(err, &st):
		return int(st)
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case errors.Is(err, syscall.EPIPE):
		return exitDone
	case errors.As(err, &findings):
		view.Findings(findings)
		return exitUsage
	}
	view.Error(err)
	if errs.Is(err, errs.InvalidArgument) {
		return exitUsage
	}
	return exitFailed
}

// interrupted is what went wrong after the user asked to stop.
type interrupted struct{ error }

func (e interrupted) Unwrap() error { return e.error }

// afterInterrupt is the error of a command that the user has interrupted: err is
// what went wrong with its ending, or nil.
func afterInterrupt(err error) error {
	if err == nil {
		return status(exitInterrupted)
	}
	return interrupted{err}
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
			a.scaleCommand(), a.imagesCommand(), a.pullCommand(), a.volumesCommand(),
			a.planCommand(), a.configCommand(), a.schemaCommand(), a.imageCommand(), a.kernelCommand(), a.templateCommand(), a.networkCommand(), a.vsockCommand(),
			a.doctorCommand(), a.versionCommand(),
		},
	}
}

func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "file", Aliases: []string{"f"}, Usage: "stack `FILE`; repeatable, - is standard input", EnvVars: []string{"VZCOMPOSE_FILE"}},
		&cli.StringFlag{Name: "name", Aliases: []string{"n", "p", "project-name"}, Usage: "`NAME` of the stack", EnvVars: []string{"VZCOMPOSE_NAME"}},
		&cli.StringSliceFlag{Name: "profile", Usage: "with the containers of profile `NAME`; repeatable, * is all", EnvVars: []string{"VZCOMPOSE_PROFILES"}},
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
	return ui.New(ui.Options{Out: a.deps.Stdout, Err: a.deps.Stderr, Mode: mode, NoColor: noColor})
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
