package cli

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// onUsageError says what is wrong with a call once, in our words.
func onUsageError(c *cli.Context, err error, _ bool) error {
	return errs.WithHint(usage("%w", err), "%s --help says how it is called", c.Command.HelpName)
}

// checked gives every command onUsageError, which the library does not pass on,
// and has it refuse arguments that its ArgsUsage does not name, before it does
// anything: an argument that is ignored is a wish that is not granted.
func checked(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = onUsageError
		checked(c.Subcommands)
		do := c.Action
		if do == nil { // a group of commands
			do = cli.ShowSubcommandHelp
		}
		least, most := arity(c.ArgsUsage)
		c.Action = func(ctx *cli.Context) error {
			switch n := ctx.NArg(); {
			case n < least:
				return onUsageError(ctx, fmt.Errorf("%s wants %s", ctx.Command.Name, c.ArgsUsage), false)
			case n > most:
				return onUsageError(ctx, fmt.Errorf("%s has no use for the argument %q", ctx.Command.Name, ctx.Args().Get(most)), false)
			}
			return do(ctx)
		}
	}
}

// arity returns how many arguments a usage such as "NAME [COMMAND [ARG…]]"
// means: a word in brackets may be left out, one with … may be repeated.
func arity(usage string) (least, most int) {
	depth := 0
	for _, word := range strings.Fields(usage) {
		depth += strings.Count(word, "[")
		if most++; depth == 0 {
			least++
		}
		if strings.Contains(word, "…") {
			most = math.MaxInt
			break
		}
		depth -= strings.Count(word, "]")
	}
	return least, most
}

// permute moves a command's flags before its arguments, as people type them
// behind: `vzcompose logs web -f`. It goes as far as the command that exec runs,
// whose flags are not ours, and as "--".
func permute(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	out := []string{args[0]}
	rest := args[1:]
	flags, commands, name := app.Flags, app.Commands, ""
	for len(rest) > 0 { // the words up to the command, and those of subcommands
		n := flagWords(flags, rest)
		if n > 0 {
			out, rest = append(out, rest[:n]...), rest[n:]
			continue
		}
		c := find(commands, rest[0])
		if c == nil {
			break
		}
		name = c.Name
		out, rest = append(out, rest[0]), rest[1:]
		flags, commands = c.Flags, c.Subcommands
	}
	if name == "" {
		return append(out, rest...)
	}
	var words []string
	for len(rest) > 0 {
		n := flagWords(flags, rest)
		switch {
		case rest[0] == "--", n == 0 && (name == "exec" || name == "run"):
			return slices.Concat(out, words, rest)
		case n > 0:
			out, rest = append(out, rest[:n]...), rest[n:]
		default:
			words, rest = append(words, rest[0]), rest[1:]
		}
	}
	return append(out, words...)
}

func find(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// flagWords answers how many words the flag at the front of args takes; 0 where
// there is none.
func flagWords(flags []cli.Flag, args []string) int {
	word := args[0]
	if len(word) < 2 || word[0] != '-' || word == "--" {
		return 0
	}
	name := strings.TrimLeft(word, "-")
	if strings.Contains(name, "=") || len(args) == 1 {
		return 1
	}
	if takesValue(flags, name) {
		return 2
	}
	// Short flags in one word, as -dt 3: the last may take a value.
	if !strings.HasPrefix(word, "--") && len(name) > 1 && takesValue(flags, name[len(name)-1:]) {
		return 2
	}
	return 1
}

func takesValue(flags []cli.Flag, name string) bool {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			d, ok := f.(cli.DocGenerationFlag)
			return ok && d.TakesValue()
		}
	}
	return false
}
