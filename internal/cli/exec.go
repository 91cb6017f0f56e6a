package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/stack"
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
	inst, shim, err := w.Connect(c.Context, args[0], c.Int("index"), "exec in")
	if err != nil {
		return err
	}
	defer shim.Close()
	p := shimproto.Exec{Args: args[1:], Env: env, User: c.String("user"), Cwd: c.String("workdir"),
		Privileged: c.Bool("privileged"), Detach: c.Bool("detach")}
	if p.Detach {
		_, err := stack.StartExec(c.Context, shim, p)
		return err
	}
	var code int
	if a.wantsTerminal(c) {
		code, err = a.runTerminal(c.Context, shim, p, keys)
	} else {
		code, err = stack.Exec(c.Context, shim, p, stack.Streams{Stdin: a.deps.Stdin, Stdout: a.deps.Stdout, Stderr: a.deps.Stderr})
	}
	if err = a.unsaid(err); err != nil {
		return fmt.Errorf("exec in %s: %w", inst.Name, err)
	}
	return exitWith(code, nil)
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
