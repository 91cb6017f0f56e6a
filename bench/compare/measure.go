//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// largeStack is from where fewer rounds have to do.
const (
	largeStack  = 30
	largeRounds = 3
)

// comparison measures contenders in turns.
type comparison struct {
	entrants []entrant
	rounds   int
	progress io.Writer // a line for each thing done
	notes    []string  // what went wrong, for the report
}

// series is what one contender took for stacks of one size, a duration a round.
type series struct {
	name            string
	size            int
	up, again, down []time.Duration
}

// run measures every size and answers a series for each size and contender, in
// that order. A contender that fails is left out from there on, with a note: the
// others go on. The error is the context's.
func (c *comparison) run(ctx context.Context, sizes []int) ([]series, error) {
	if err := c.warmUp(ctx); err != nil {
		return nil, err
	}
	var all []series
	for _, size := range sizes {
		of, err := c.size(ctx, size)
		if err != nil {
			return nil, err
		}
		all = append(all, of...)
	}
	return all, nil
}

// warmUp brings one container up with each contender, so that what is made once
// is there: root filesystems, templates, caches of files.
func (c *comparison) warmUp(ctx context.Context) error {
	return c.each(ctx, func(e entrant) error {
		_, err := c.turn(ctx, e, 1, "once before")
		return err
	})
}

// size measures stacks of one size.
func (c *comparison) size(ctx context.Context, size int) ([]series, error) {
	rounds := c.rounds
	if size >= largeStack {
		rounds = min(rounds, largeRounds)
	}
	all := make(map[string]*series)
	for round := range rounds {
		err := c.each(ctx, func(e entrant) error {
			t, err := c.turn(ctx, e, size, fmt.Sprintf("round %d of %d", round+1, rounds))
			if err != nil {
				return err
			}
			if all[e.name] == nil {
				all[e.name] = &series{name: e.name, size: size}
			}
			all[e.name].add(t)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	var ordered []series
	for _, e := range c.entrants {
		if s := all[e.name]; s != nil {
			ordered = append(ordered, *s)
		}
	}
	return ordered, nil
}

// each calls fn for every contender that takes part; one for which it fails does
// so no longer. The error is the context's.
func (c *comparison) each(ctx context.Context, fn func(entrant) error) error {
	for i, e := range c.entrants {
		if e.missing != "" {
			continue
		}
		err := fn(e)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			c.entrants[i].missing = "it failed"
			c.notes = append(c.notes, fmt.Sprintf("%s: %v", e.name, err))
			fmt.Fprintf(c.progress, "%s is out: %v\n", e.name, err)
		}
	}
	return nil
}

// turn is what one contender took once.
type turn struct {
	up, down time.Duration
	again    time.Duration // 0: it is no question
}

func (t turn) String() string {
	again := none
	if t.again > 0 {
		again = ms(t.again)
	}
	return fmt.Sprintf("up %s, again %s, down %s", ms(t.up), again, ms(t.down))
}

func (s *series) add(t turn) {
	s.up = append(s.up, t.up)
	s.down = append(s.down, t.down)
	if t.again > 0 {
		s.again = append(s.again, t.again)
	}
}

// turn brings n containers up, once more where that is a question, and down.
// Nothing else of the bench runs meanwhile. After a failure they are down too, as
// far as that can be had.
func (c *comparison) turn(ctx context.Context, e entrant, n int, when string) (t turn, err error) {
	if err := e.prepare(n); err != nil {
		return turn{}, err
	}
	defer func() {
		if err != nil {
			clear, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
			defer cancel()
			err = errors.Join(err, e.down(clear))
		}
	}()
	if t.up, err = timed(ctx, e.up); err != nil {
		return turn{}, fmt.Errorf("up of %d: %w", n, err)
	}
	if err := allRun(ctx, e, n); err != nil {
		return turn{}, err
	}
	if _, ok := e.contender.(converging); ok {
		if t.again, err = timed(ctx, e.up); err != nil {
			return turn{}, fmt.Errorf("up of %d again: %w", n, err)
		}
	}
	if t.down, err = timed(ctx, e.down); err != nil {
		return turn{}, fmt.Errorf("down of %d: %w", n, err)
	}
	fmt.Fprintf(c.progress, "%s, %d: %s: %s\n", when, n, e.name, t)
	return t, nil
}

// allRun fails unless n containers run.
func allRun(ctx context.Context, e contender, n int) error {
	got, err := e.running(ctx)
	if err != nil {
		return fmt.Errorf("count what runs: %w", err)
	}
	if got != n {
		return fmt.Errorf("%d of %d run after up", got, n)
	}
	return nil
}

func timed(ctx context.Context, fn func(context.Context) error) (time.Duration, error) {
	began := time.Now()
	err := fn(ctx)
	return time.Since(began), err
}
