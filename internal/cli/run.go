package cli

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/internal/ui"
	"github.com/vzcompose/vzcompose/spec"
)

func (a *app) runCommand() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "make one more instance of a container, for one command", ArgsUsage: "NAME [COMMAND [ARG…]]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "rm", Usage: "remove the instance when it has ended"},
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "leave it running, and print its name"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "`KEY=VALUE` for it"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "run as `USER`"},
			&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "in `FOLDER`"},
			&cli.StringFlag{Name: "entrypoint", Usage: "`COMMAND` in place of the declared entrypoint"},
			&cli.StringSliceFlag{Name: "volume", Aliases: []string{"v"}, Usage: "one more mount, `SOURCE:DESTINATION[:OPTIONS]`"},
			&cli.StringSliceFlag{Name: "label", Aliases: []string{"l"}, Usage: "`KEY=VALUE` for people and tools"},
			&cli.StringSliceFlag{Name: "cap-add", Usage: "one more `CAPABILITY`"},
			&cli.StringSliceFlag{Name: "cap-drop", Usage: "one `CAPABILITY` less"},
			&cli.StringFlag{Name: "instance", Usage: "`NAME` of the instance"},
			&cli.StringFlag{Name: "pull", Usage: "`POLICY` of its image: missing, always or never"},
			&cli.BoolFlag{Name: "no-deps", Usage: "leave what it depends on alone"},
			&cli.BoolFlag{Name: "service-ports", Usage: "with the ports and sockets of the host that the container declares, which run leaves out"},
			&cli.BoolFlag{Name: "no-tty", Aliases: []string{"T"}, Usage: "without a terminal, even where this is one"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "with a terminal, even where this is none; the default is what this is"},
			&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "accepted: standard input is passed on unless -d"},
			&cli.BoolFlag{Name: "cold", Usage: "boot its machine, restore none"},
			publishOffsetFlag(),
			detachKeysFlag(),
		},
		Action: forProcess(a.run),
	}
}

func (a *app) run(c *cli.Context) error {
	args := c.Args().Slice()
	keys, err := parseKeys(c.String("detach-keys"))
	if err != nil {
		return err
	}
	name := c.String("instance")
	if name == "" {
		name = args[0] + "-run-" + strings.ToLower(rand.Text()[:8])
	}
	if c.IsSet("instance") && !spec.ValidInstanceName(name) {
		return usage("--instance %s: names have letters, digits, _, . and -, and are none of a file of the stack's folder", name)
	}
	a.cold = c.Bool("cold")
	w, err := a.withRun(c, args[0], args[1:])
	if err != nil {
		return err
	}
	stop := newInterrupt(c.Context)
	defer stop.release()
	o := stack.RunOptions{Container: args[0], Instance: name, NoDeps: c.Bool("no-deps"), Ports: c.Bool("service-ports"), Remove: c.Bool("rm")}
	if c.Bool("detach") {
		if err := w.Run(c.Context, a.control(c, stop), o); err != nil {
			return startStatus(err, name)
		}
		a.view.Printf("%s\n", name)
		return nil
	}
	err = a.runAttached(c, w, stop, o, keys)
	if c.Bool("rm") && !errors.Is(err, errDetached) {
		err = errors.Join(err, a.removeOneOff(c, w, name))
	}
	if errors.Is(err, errDetached) {
		return nil
	}
	return err
}

// withRun opens the stack, with the container as the command line has it.
func (a *app) withRun(c *cli.Context, container string, command []string) (*stack.Stack, error) {
	o, err := a.loadOptions(c, container)
	if err != nil {
		return nil, err
	}
	plain, err := spec.Load(o)
	if err != nil {
		return nil, err
	}
	if _, ok := plain.Stack.Containers[container]; !ok {
		return nil, errs.WithHint(errs.New(errs.InvalidArgument, "no container %q in stack %s", container, plain.Stack.Name),
			"there is %s", strings.Join(slices.Sorted(maps.Keys(plain.Stack.Containers)), ", "))
	}
	if o.Over, err = a.oneOff(c, container, command); err != nil {
		return nil, err
	}
	o.OverName = "the command line"
	return a.withOptions(o)
}

// startStatus returns the exit status of a run whose plan has failed: that which says
// why the process of an instance was not executed, if that is why.
func startStatus(err error, instance string) error {
	var plan *stack.PlanError
	switch why := stack.StartFailure(err, instance); {
	case errors.Is(err, stack.ErrInterrupted):
		return err
	case why != nil:
		return status(processStatus(why))
	case errors.As(err, &plan):
		return status(exitOurs)
	}
	return err
}

// runAttached runs an instance with this process's streams, until it has ended, whose
// status is ours, or the user detaches (errDetached).
func (a *app) runAttached(c *cli.Context, w *stack.Stack, stop *interrupt, o stack.RunOptions, keys []byte) error {
	at, err := w.RunAttached(c.Context, a.control(c, stop), o)
	if err != nil {
		return startStatus(err, o.Instance)
	}
	defer at.Close()
	stop.release() // from here signals are the process's
	err = a.stay(c.Context, at, true, keys)
	switch {
	case err == nil:
	case errors.Is(err, errDetached):
		return errors.Join(err, at.Shim.Detach(c.Context, ""))
	case a.unsaid(err) == nil: // nobody reads what it was made to say
		if err := w.Stop(c.Context, o.Instance, nil); err != nil {
			return err
		}
	default:
		return err
	}
	return a.statusOf(c.Context, w, o.Instance)
}

// removeOneOff removes the instance, whatever became of it. What it does is not what
// was asked for, and not shown; what goes wrong is.
func (a *app) removeOneOff(c *cli.Context, w *stack.Stack, name string) error {
	stop := newInterrupt(c.Context)
	defer stop.release()
	quiet := a.newView(ui.Quiet, true)
	defer quiet.Close()
	control := a.control(c, stop)
	sink := a.sink(quiet)
	control.Events = func(e stack.Event) {
		if _, nothing := e.(stack.Planned); !nothing { // it is gone already
			sink(e)
		}
	}
	return w.RemoveOneOff(c.Context, control, name)
}

// oneOff is the stack file that makes of a container what the command line says.
func (a *app) oneOff(c *cli.Context, container string, command []string) ([]byte, error) {
	tty := a.wantsTerminal(c) && !c.Bool("detach")
	set := map[string]any{"replicas": 1, "restart": "no", "tty": tty, "stdin_open": !c.Bool("detach")}
	for flag, key := range map[string]string{"user": "user", "workdir": "working_dir", "pull": "pull"} {
		if c.IsSet(flag) {
			set[key] = literal(c.String(flag))
		}
	}
	for flag, key := range map[string]string{"cap-add": "cap_add", "cap-drop": "cap_drop"} {
		if c.IsSet(flag) {
			set[key] = literals(c.StringSlice(flag))
		}
	}
	if c.IsSet("volume") {
		mounts, err := absolute(c.StringSlice("volume"))
		if err != nil {
			return nil, err
		}
		set["mounts"] = mounts
	}
	var err error
	if set["environment"], err = pairs("env", c.StringSlice("env"), a.deps.LookupEnv); err != nil {
		return nil, err
	}
	if set["labels"], err = pairs("label", c.StringSlice("label"), nil); err != nil {
		return nil, err
	}
	if tty {
		env, _ := set["environment"].(map[string]any)
		if _, ok := env["TERM"]; !ok {
			term, _ := a.deps.LookupEnv("TERM")
			env["TERM"] = literal(cmp.Or(term, "xterm"))
		}
	}
	var words []string // keys that replace what is declared, which JSON cannot say
	if c.IsSet("entrypoint") {
		words = append(words, `"entrypoint": !override `+encoded(literal(c.String("entrypoint"))))
	}
	switch {
	case len(command) > 0:
		words = append(words, `"command": !override `+encoded(literals(command)))
	case c.IsSet("entrypoint"):
		words = append(words, `"command": !reset null`)
	}
	for _, k := range []string{"cap_add", "cap_drop", "environment", "labels", "mounts", "pull", "replicas", "restart", "stdin_open", "tty", "user", "working_dir"} {
		if v, ok := set[k]; ok {
			words = append(words, encoded(k)+": "+encoded(v))
		}
	}
	return []byte(`{"containers": {` + encoded(container) + `: {` + strings.Join(words, ", ") + `}}}`), nil
}

func encoded(v any) string {
	b, _ := json.Marshal(v) // of strings, lists and maps of them
	return string(b)
}

// literal is text in which no variable is put.
func literal(s string) string { return strings.ReplaceAll(s, "$", "$$") }

func literals(all []string) []string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = literal(s)
	}
	return out
}

// absolute has the sources of short mounts that are paths begin where the
// command does, not at the stack file.
func absolute(mounts []string) ([]string, error) {
	var out []string
	for _, m := range mounts {
		source, rest, ok := strings.Cut(m, ":")
		if ok && (strings.HasPrefix(source, ".") || strings.HasPrefix(source, "~")) {
			if home, err := os.UserHomeDir(); err == nil && (source == "~" || strings.HasPrefix(source, "~/")) {
				source = home + source[1:]
			}
			abs, err := filepath.Abs(source)
			if err != nil {
				return nil, err
			}
			m = abs + ":" + rest
		}
		out = append(out, literal(m))
	}
	return out, nil
}

// pairs reads KEY=VALUE words; where lookup is given, one without a value has
// the caller's, and none where there is none.
func pairs(flag string, words []string, lookup func(string) (string, bool)) (map[string]any, error) {
	out := map[string]any{}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if k == "" {
			return nil, usage("--%s %s: it is KEY=VALUE", flag, w)
		}
		if !ok && lookup != nil {
			if v, ok = lookup(k); !ok {
				continue
			}
		}
		out[k] = literal(v)
	}
	return out, nil
}
