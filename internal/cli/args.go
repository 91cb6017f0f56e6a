package cli

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// onUsageError says what is wrong with a call once, in our words.
func onUsageError(c *cli.Context, err error, _ bool) error {
	return errs.WithHint(usage("%w", err), "%s --help says how it is called", strings.TrimSpace(c.App.Name+" "+c.Command.Name))
}

// forUsage gives every command onUsageError, which the library does not pass on.
func forUsage(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = onUsageError
		forUsage(c.Subcommands)
	}
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
