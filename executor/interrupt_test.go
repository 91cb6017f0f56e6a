package executor

import (
	"context"
	"errors"
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
		if !errors.Is(err, errInterrupt) || !errs.Is(err, errs.Canceled) || err.Error() != "interrupted: 2 of 4 steps were not begun" {
			t.Errorf("got %v", err)
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
		{500 * time.Millisecond, []string{"interrupted: 1 of 3 steps were not begun", "start container/c-1: boom 1: boom"}},
		{1500 * time.Millisecond, []string{"start container/c-1: boom 1: boom", "interrupted: 1 of 3 steps were not begun"}},
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
		stuck         string
	}{
		{0, 10 * time.Second, "start container/c-2: interrupted"},
		{5 * time.Second, 6 * time.Second, "start container/c-2: did not end within 5s of being cancelled"},
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
			if took := time.Since(began); took != c.took || statuses(report) != "failed failed skipped(0)" {
				t.Errorf("took %s, %s", took, statuses(report))
			}
			want := []string{"interrupted: 1 of 3 steps were not begun", "start container/c-1: interrupted", c.stuck}
			if got := strings.Split(err.Error(), "\n"); !slices.Equal(got, want) {
				t.Errorf("got %q", got)
			}
			(<-kept)(event.Progress{Phase: "too late"})
			time.Sleep(time.Minute) // synctest fails on goroutines that are left
		})
	}
}
