//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// contender brings one stack up and down in its own way. A stack has no more
// than one size at a time: prepare, then up, then down. It is used by one
// goroutine.
type contender interface {
	// prepare makes n containers what up brings up. It is not timed.
	prepare(n int) error
	// up returns when all of them run.
	up(context.Context) error
	// running is how many of them run. It is not timed.
	running(context.Context) (int, error)
	// down returns when nothing of the stack is left. It is fine with nothing
	// being there.
	down(context.Context) error
}

// converging is a contender for which up is also a question: it does nothing
// where all is as declared.
type converging interface{ converges() }

// entrant is a contender in a comparison, or the reason why there is none.
type entrant struct {
	name    string
	version string
	contender
	missing string // why it cannot take part; "" if it can
}

// patience is how long one command may take: machines may be emulated, on busy
// hosts.
const patience = 15 * time.Minute

// commands is a contender with the commands of compose: up -d, ps, down.
type commands struct {
	program []string // with what stands before the command
	env     []string // all of it
	write   func(n int) error
	flags   []string // of up, besides -d
}

var _ converging = (*commands)(nil)

func (c *commands) converges() {}

func (c *commands) prepare(n int) error { return c.write(n) }

func (c *commands) up(ctx context.Context) error {
	_, err := c.run(ctx, append([]string{"up", "-d"}, c.flags...)...)
	return err
}

func (c *commands) running(ctx context.Context) (int, error) {
	out, err := c.run(ctx, "ps", "-q", "--status", "running")
	return len(strings.Fields(out)), err
}

func (c *commands) down(ctx context.Context) error {
	_, err := c.run(ctx, "down")
	return err
}

// run answers the standard output of one command.
func (c *commands) run(ctx context.Context, words ...string) (string, error) {
	return run(ctx, c.env, append(c.program[:len(c.program):len(c.program)], words...)...)
}

// run runs a program to its end and answers its standard output. The error has
// the end of what it said. A nil env is the bench's own.
func run(ctx context.Context, env []string, words ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	var out, said bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &out, &said
	cmd.WaitDelay = 5 * time.Second // what it left behind may hold its streams
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, tail(said.String(), 400))
	}
	return out.String(), nil
}

// tail is the end of what a program said, in one line of at most limit bytes and
// a mark.
func tail(s string, limit int) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > limit {
		s = "…" + strings.ToValidUTF8(s[len(s)-limit:], "")
	}
	return s
}
