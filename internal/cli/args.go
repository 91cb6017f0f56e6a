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
// behind: `vzcompose logs web -f`; and the global flags before the command, unless the
// command has one of that name itself: `vzcompose up -f stack.yaml`. It goes as far as
// the command that exec runs, whose flags are not ours, and as "--".
func permute(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	global, own, rest := args[:1:1], []string{}, args[1:]
	flags, commands, name := app.Flags, app.Commands, ""
	flag := func() int { // moves the flag at the front of rest, if there is one
		among, to := flags, &own
		if name == "" || !has(flags, rest[0]) && has(app.Flags, rest[0]) {
			among, to = app.Flags, &global
		}
		n := flagWords(among, rest)
		*to, rest = append(*to, rest[:n]...), rest[n:]
		return n
	}
	for len(rest) > 0 { // the words up to the command, and those of subcommands
		if flag() > 0 {
			continue
		}
		c := find(commands, rest[0])
		if c == nil {
			break
		}
		name = c.Name
		own, rest = append(own, rest[0]), rest[1:]
		flags, commands = c.Flags, c.Subcommands
	}
	var words []string
	for len(rest) > 0 && name != "" {
		if rest[0] == "--" {
			break
		}
		if flag() > 0 {
			continue
		}
		if name == "exec" || name == "run" {
			break
		}
		words, rest = append(words, rest[0]), rest[1:]
	}
	return slices.Concat(global, own, words, rest)
}

// completing is what the library asks for suggestions with.
const completing = "--generate-bash-completion"

// toComplete returns the command line of which the last word is to be completed: its
// commands alone. The library breaks on a flag that is not written to its end, and
// carries the command out where there is a "--".
func toComplete(app *cli.App, args []string) []string {
	out, commands, flags := args[:1:1], app.Commands, app.Flags
	for rest := args[1 : len(args)-1]; len(rest) > 1; { // the last word is not at its end
		if n := flagWords(flags, rest); n > 0 {
			rest = rest[n:]
			continue
		}
		if c := find(commands, rest[0]); c != nil {
			out, commands, flags = append(out, rest[0]), c.Subcommands, c.Flags
		}
		rest = rest[1:]
	}
	return append(out, completing)
}

// has reports whether the flag that a word is, is one of flags.
func has(flags []cli.Flag, word string) bool {
	name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
	return slices.ContainsFunc(flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
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
