//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// idleFor is how long idle machines are watched, and idleAfter how long they are
// left alone before.
const (
	idleFor   = time.Minute
	idleAfter = 10 * time.Second
)

// density is what machines that do nothing take.
type density struct {
	name            string
	machines, shims int
	machine, shim   usage         // of all of them; cpu within over
	over            time.Duration // how long they were watched
}

// measureDensity brings n up, watches them, and takes them down.
func measureDensity(ctx context.Context, name string, v *vzcompose, n int) (d density, err error) {
	_, err = brought(ctx, v, n, func() error {
		if err := wait(ctx, idleAfter); err != nil {
			return err
		}
		d, err = watch(ctx, v)
		d.name = name
		return err
	})
	return d, err
}

// watch reads what shims and machines take, and once more after idleFor.
func watch(ctx context.Context, v *vzcompose) (density, error) {
	shims, err := v.shims(ctx)
	if err != nil {
		return density{}, err
	}
	machines, err := machinesOf(shims)
	if err != nil {
		return density{}, err
	}
	began := time.Now()
	d := density{machines: len(machines), shims: len(shims)}
	before, err := both(machines, shims)
	if err != nil {
		return density{}, err
	}
	if err := wait(ctx, idleFor); err != nil {
		return density{}, err
	}
	d.over = time.Since(began)
	after, err := both(machines, shims)
	d.machine, d.shim = after[0], after[1]
	d.machine.cpu -= before[0].cpu
	d.shim.cpu -= before[1].cpu
	return d, err
}

// both answers what machines and shims take.
func both(machines, shims []int) (u [2]usage, err error) {
	if u[0], err = sum(machines); err != nil {
		return u, err
	}
	u[1], err = sum(shims)
	return u, err
}

func densityTable(all []density) string {
	var t markdown
	t.row("with", "idle machines", "PSS of a machine", "PSS of its shim", "RSS of its shim", "processor time of all machines", "of all shims")
	for _, d := range all {
		t.row(d.name, fmt.Sprint(d.machines), each(d.machine.pss, d.machines), each(d.shim.pss, d.shims), each(d.shim.rss, d.shims),
			share(d.machine.cpu, d.over), share(d.shim.cpu, d.over))
	}
	return t.String()
}

// each is one part of n of total, in MiB.
func each(total uint64, n int) string {
	if n == 0 {
		return none
	}
	return fmt.Sprintf("%.1f MiB", float64(total)/float64(n)/(1<<20))
}

// share is processor time within a while, and how much of one processor that is.
func share(cpu, over time.Duration) string {
	if over <= 0 {
		return none
	}
	return fmt.Sprintf("%.2f s in %.0f s (%.1f %% of one)", cpu.Seconds(), over.Seconds(), 100*cpu.Seconds()/over.Seconds())
}

// crowd is many machines at once.
type crowd struct {
	name     string
	machines int
	up       time.Duration // until up -d returned
	answered time.Duration // from then until each had answered an exec
	pss      uint64        // bytes: machines and shims
	taken    int64         // bytes: what the host has less of
}

// measureCrowd brings n up, asks each to run a process, and takes them down.
func measureCrowd(ctx context.Context, name string, v *vzcompose, n int) (crowd, error) {
	c := crowd{name: name, machines: n}
	free, err := memInfo("MemAvailable")
	if err != nil {
		return crowd{}, err
	}
	c.up, err = brought(ctx, v, n, func() (err error) {
		if c.answered, err = timed(ctx, func(ctx context.Context) error { return askAll(ctx, v, n) }); err != nil {
			return err
		}
		c.pss, err = pssOf(ctx, v)
		if err != nil {
			return err
		}
		left, err := memInfo("MemAvailable")
		c.taken = int64(free) - int64(left)
		return err
	})
	return c, err
}

// askAll runs a process in each of n containers, some at a time.
func askAll(ctx context.Context, v *vzcompose, n int) error {
	limit := make(chan struct{}, 2*runtime.NumCPU())
	errs := make([]error, n)
	var asked sync.WaitGroup
	for i := range n {
		asked.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			_, errs[i] = v.run(ctx, "exec", "--index", fmt.Sprint(i+1), "box", "true")
		})
	}
	asked.Wait()
	return errors.Join(errs...)
}

// pssOf is what all machines and shims take, in bytes.
func pssOf(ctx context.Context, v *vzcompose) (uint64, error) {
	shims, err := v.shims(ctx)
	if err != nil {
		return 0, err
	}
	machines, err := machinesOf(shims)
	if err != nil {
		return 0, err
	}
	u, err := both(machines, shims)
	return u[0].pss + u[1].pss, err
}

func crowdTable(all []crowd) string {
	var t markdown
	t.row("with", "machines", "`up -d`", "then all answered `exec`", "PSS of machines and shims", "each", "less memory available")
	for _, c := range all {
		t.row(c.name, fmt.Sprint(c.machines), ms(c.up), ms(c.answered), each(c.pss, 1), each(c.pss, c.machines),
			fmt.Sprintf("%d MiB", c.taken>>20))
	}
	return t.String()
}

// brought calls fn while n containers are up, and answers how long up took.
func brought(ctx context.Context, v *vzcompose, n int, fn func() error) (up time.Duration, err error) {
	defer func() {
		clear, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		err = errors.Join(err, v.down(clear))
	}()
	if err := v.prepare(n); err != nil {
		return 0, err
	}
	if up, err = timed(ctx, v.up); err != nil {
		return 0, err
	}
	if err := allRun(ctx, v, n); err != nil {
		return 0, err
	}
	return up, fn()
}

// wait waits for d or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
