package executor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/planner"
)

var errInterrupt = errors.New("interrupted")

// The first interrupt lets what runs come to its end and begins nothing more.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drain, end := context.WithCancelCause(t.Context())
		time.AfterFunc(500*time.Millisecond, func() { end(errInterrupt) })
		report, err := Execute(t.Context(), plan(nil, []int{1}, nil, []int{-3}), lasting(), nil, Options{Drain: drain})
		if got := statuses(report); got != "done skipped(0) done skipped(0)" {
			t.Errorf("got %s", got)
		}
		if !errors.Is(err, errInterrupt) || !errs.Is(err, errs.Canceled) || err.Error() != "interrupted: 2 of 4 steps were not done" {
			t.Errorf("got %v", err)
		}
	})
}

// A pull, a start and a wait end at the first interrupt; what cannot be taken
// back comes to its end, and what went wrong with the taking back is a failure.
func TestWhatYieldsEndsAtTheFirstInterrupt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drain, end := context.WithCancelCause(t.Context())
		time.AfterFunc(500*time.Millisecond, func() { end(errInterrupt) })
		p := &planner.Plan{Stack: "s", Steps: []planner.Step{
			{ID: 1, Op: planner.Pull{Ref: "a"}}, {ID: 2, Op: planner.Start{Target: planner.Target{Instance: "b-1"}}},
			{ID: 3, Op: planner.Await{Target: planner.Target{Instance: "c-1"}}}, {ID: 4, Op: planner.Stop{Target: planner.Target{Instance: "d-1"}}},
			{ID: 5, Op: planner.Start{Target: planner.Target{Instance: "e-1"}}},
		}}
		began := time.Now()
		report, err := Execute(t.Context(), p, runner(func(ctx context.Context, s planner.Step, _ func(event.Progress)) error {
			select {
			case <-ctx.Done():
				switch s.ID {
				case 1:
					return fmt.Errorf("pull: %w", context.Canceled)
				case 5:
					return errors.Join(context.Cause(ctx), errors.New("its disk is left"))
				}
				return fmt.Errorf("take back: %w", context.Cause(ctx))
			case <-time.After(10 * time.Second):
				return nil
			}
		}), nil, Options{Drain: drain})
		if got := statuses(report); got != "interrupted interrupted interrupted done failed" || time.Since(began) != 10*time.Second {
			t.Errorf("got %s after %s", got, time.Since(began))
		}
		want := "interrupted: 3 of 5 steps were not done\nstart container/e-1: interrupted\nits disk is left"
		if err.Error() != want {
			t.Errorf("got %q", err)
		}
	})
}

// An interrupt that comes when all has begun changes nothing.
func TestDrainTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drain, end := context.WithCancelCause(t.Context())
		time.AfterFunc(500*time.Millisecond, func() { end(errInterrupt) })
		if report, err := Execute(t.Context(), alone(2), lasting(), nil, Options{Drain: drain}); err != nil {
			t.Errorf("%s, %v", statuses(report), err)
		}
	})
}

// Nothing begins in a context that has ended, not even by luck.
func TestEndedBefore(t *testing.T) {
	gone, end := context.WithCancelCause(t.Context())
	end(errInterrupt)
	for range 200 {
		a, err := Execute(gone, alone(2), failing(), nil, Options{})
		b, err2 := Execute(t.Context(), alone(2), failing(), nil, Options{Drain: gone})
		if statuses(a) != "skipped(0) skipped(0)" || statuses(b) != statuses(a) || !errors.Is(err, errInterrupt) || !errors.Is(err2, errInterrupt) {
			t.Fatalf("%s, %v; %s, %v", statuses(a), err, statuses(b), err2)
		}
	}
}

// The first to go wrong leads, an interrupt or a failure.
func TestFailuresAroundAnInterrupt(t *testing.T) {
	for _, c := range []struct {
		at   time.Duration
		want []string
	}{
		{500 * time.Millisecond, []string{"interrupted: 1 of 3 steps were not done", "start container/c-1: boom 1: boom"}},
		{1500 * time.Millisecond, []string{"start container/c-1: boom 1: boom", "interrupted: 1 of 3 steps were not done"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			drain, end := context.WithCancelCause(t.Context())
			time.AfterFunc(c.at, func() { end(errInterrupt) })
			p := plan(nil, nil, []int{2})
			_, err := Execute(t.Context(), p, runner(func(ctx context.Context, s planner.Step, r func(event.Progress)) error {
				time.Sleep(time.Duration(s.ID) * time.Second)
				return failing(1)(ctx, s, r)
			}), nil, Options{Drain: drain})
			if got := strings.Split(err.Error(), "\n"); !slices.Equal(got, c.want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// The second interrupt ends the steps' own context; they have their time to
// undo, and what does not return in time is left behind.
func TestKill(t *testing.T) {
	for _, c := range []struct {
		cleanUp, took time.Duration
		want          string
		errs          []string
	}{
		{0, 10 * time.Second, "interrupted interrupted skipped(0)", []string{"interrupted: 3 of 3 steps were not done"}},
		{5 * time.Second, 6 * time.Second, "interrupted failed skipped(0)",
			[]string{"interrupted: 2 of 3 steps were not done", "start container/c-2: did not end within 5s of being cancelled"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, kill := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { kill(errInterrupt) })
			began := time.Now()
			kept := make(chan func(event.Progress), 1)
			returned, events := false, 0
			report, err := Execute(ctx, plan(nil, nil, []int{1}), runner(func(ctx context.Context, s planner.Step, report func(event.Progress)) error {
				<-ctx.Done()
				if s.ID == 2 {
					kept <- report
					time.Sleep(9 * time.Second)
				}
				return context.Cause(ctx)
			}), func(event.Event) {
				if events++; returned {
					t.Error("an event after the end")
				}
			}, Options{CleanUp: c.cleanUp})
			returned = true
			if took := time.Since(began); took != c.took || statuses(report) != c.want {
				t.Errorf("took %s, %s", took, statuses(report))
			}
			if got := strings.Split(err.Error(), "\n"); !slices.Equal(got, c.errs) {
				t.Errorf("got %q", got)
			}
			(<-kept)(event.Progress{Phase: "too late"})
			time.Sleep(time.Minute) // synctest fails on goroutines that are left
		})
	}
}
