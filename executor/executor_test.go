package executor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

var errBoom = errors.New("boom")

func target(i int) planner.Target {
	return planner.Target{Container: "c", Instance: fmt.Sprintf("c-%d", i), Index: i}
}

// plan makes starts that wait for others; an id below zero is waited for only
// until it ended.
func plan(after ...[]int) *planner.Plan {
	p := &planner.Plan{Stack: "test"}
	for i, ids := range after {
		s := planner.Step{ID: i + 1, Op: planner.Start{Target: target(i + 1), CPUs: 1, Memory: 1 << 30}, Cause: "new"}
		for _, id := range ids {
			if id < 0 {
				s.AfterEnd = append(s.AfterEnd, -id)
			} else {
				s.After = append(s.After, id)
			}
		}
		p.Steps = append(p.Steps, s)
	}
	return p
}

func alone(n int) *planner.Plan { return plan(make([][]int, n)...) }

// runner calls a function for each step.
type runner func(ctx context.Context, s planner.Step, report func(event.Progress)) error

func (r runner) Run(ctx context.Context, s planner.Step, report func(event.Progress)) error {
	return r(ctx, s, report)
}

// failing fails the steps of the given ids.
func failing(ids ...int) runner {
	return func(_ context.Context, s planner.Step, _ func(event.Progress)) error {
		if slices.Contains(ids, s.ID) {
			return fmt.Errorf("boom %d: %w", s.ID, errBoom)
		}
		return nil
	}
}

// lasting takes a second for each step, and fails the steps of the given ids
// after.
func lasting(ids ...int) runner {
	return func(ctx context.Context, s planner.Step, report func(event.Progress)) error {
		time.Sleep(time.Second)
		return failing(ids...)(ctx, s, report)
	}
}

// statuses says a report in short: "done failed skipped(2)".
func statuses(r Report) string {
	words := make([]string, len(r.Outcomes))
	for i, o := range r.Outcomes {
		if words[i] = string(o.Status); o.Status == event.Skipped {
			words[i] += fmt.Sprintf("(%d)", o.Because)
		}
	}
	return strings.Join(words, " ")
}

func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		name  string
		plan  *planner.Plan
		fail  []int
		o     Options
		want  string
		error string
	}{
		{name: "empty", plan: &planner.Plan{}},
		{name: "chain", plan: plan(nil, []int{1}, []int{2}), want: "done done done"},
		{name: "a failure skips what depends on it, and no more", plan: plan(nil, []int{1}, []int{2}, nil, []int{4}, []int{3, 5}),
			fail: []int{1}, want: "failed skipped(1) skipped(1) done done skipped(1)", error: "start container/c-1: boom 1: boom"},
		{name: "in the middle", plan: plan(nil, []int{1}, []int{2}, []int{1}), fail: []int{2},
			want: "done failed skipped(2) done", error: "start container/c-2: boom 2: boom"},
		{name: "soft edges", plan: plan(nil, []int{-1}, []int{2}, []int{1}, []int{-4}), fail: []int{1},
			want: "failed done done skipped(1) done", error: "start container/c-1: boom 1: boom"},
		{name: "hard and soft", plan: plan(nil, nil, []int{1, -2}, []int{-1, 2}), fail: []int{1},
			want: "failed done skipped(1) done", error: "start container/c-1: boom 1: boom"},
		{name: "one at a time", plan: plan(nil, nil, nil), fail: []int{2}, o: Options{Parallel: 1},
			want: "done failed done", error: "start container/c-2: boom 2: boom"},
		{name: "fail fast", plan: plan(nil, nil, []int{1}, nil), fail: []int{1}, o: Options{Parallel: 1, FailFast: true},
			want: "failed skipped(1) skipped(1) skipped(1)", error: "start container/c-1: boom 1: boom"},
	} {
		t.Run(c.name, func(t *testing.T) {
			report, err := Execute(t.Context(), c.plan, failing(c.fail...), nil, c.o)
			if got := statuses(report); got != c.want {
				t.Errorf("got %s", got)
			}
			if fmt.Sprint(err) != c.error && (err != nil || c.error != "") {
				t.Errorf("got %v", err)
			}
			if err != nil && !errors.Is(err, errBoom) {
				t.Errorf("the cause is lost in %v", err)
			}
		})
	}
}

// A dependent never runs after a failure, however the scheduler orders who
// wakes up.
func TestFailureNeverWakesADependent(t *testing.T) {
	p := plan(nil, []int{1}, nil, []int{3}, []int{2, 4})
	for range 20000 {
		var mu sync.Mutex
		var ran []int
		report, err := Execute(t.Context(), p, runner(func(ctx context.Context, s planner.Step, r func(event.Progress)) error {
			mu.Lock()
			ran = append(ran, s.ID)
			mu.Unlock()
			return failing(1)(ctx, s, r)
		}), nil, Options{Parallel: 4})
		slices.Sort(ran)
		if !slices.Equal(ran, []int{1, 3, 4}) || statuses(report) != "failed skipped(1) done done skipped(1)" || err == nil {
			t.Fatalf("ran %v, %s, %v", ran, statuses(report), err)
		}
	}
}

func TestFirstFailureInTimeLeadsAndNoneIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := alone(4)
		p.Steps[1].Optional = true
		_, err := Execute(t.Context(), p, runner(func(_ context.Context, s planner.Step, _ func(event.Progress)) error {
			time.Sleep(time.Duration(10-2*s.ID) * time.Second) // 4 is first
			if s.ID == 3 {
				return nil
			}
			return errs.New(errs.NotFound, "boom %d", s.ID)
		}), nil, Options{})
		var all *multierror.Error
		if !errors.As(err, &all) || err.Error() != "start container/c-4: boom 4\nstart container/c-1: boom 1" {
			t.Errorf("got %v", err)
		}
		if errs.ClassOf(err) != errs.NotFound {
			t.Errorf("class %q", errs.ClassOf(err))
		}
	})
}

func TestOptionalFailureIsInTheReportOnly(t *testing.T) {
	p := plan(nil, []int{-1})
	p.Steps[0].Optional = true
	report, err := Execute(t.Context(), p, failing(1), nil, Options{FailFast: true})
	if err != nil || statuses(report) != "failed done" || !errors.Is(report.Outcomes[0].Err, errBoom) {
		t.Errorf("got %s, %v", statuses(report), err)
	}
}

func TestParallelLimitAndDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		p := alone(5)
		p.Steps[4].Op = planner.Await{Target: target(5), Condition: spec.ConditionHealthy} // takes no slot
		report, err := Execute(t.Context(), p, lasting(), nil, Options{Parallel: 2})
		if took := time.Since(began); took != 2*time.Second || err != nil {
			t.Errorf("took %s, %v", took, err)
		}
		for _, o := range report.Outcomes {
			if o.Duration != time.Second {
				t.Errorf("step %d took %s", o.Step.ID, o.Duration)
			}
		}
	})
}

func TestBrokenRunners(t *testing.T) {
	for name, run := range map[string]runner{
		"panic: nil map": func(context.Context, planner.Step, func(event.Progress)) error { panic("nil map") },
		"ended without an answer": func(context.Context, planner.Step, func(event.Progress)) error {
			runtime.Goexit()
			return nil
		},
	} {
		report, err := Execute(t.Context(), plan(nil, []int{1}, nil), runner(func(ctx context.Context, s planner.Step, r func(event.Progress)) error {
			if s.ID == 1 {
				return run(ctx, s, r)
			}
			return nil
		}), nil, Options{})
		if statuses(report) != "failed skipped(1) done" || !errs.Is(err, errs.Internal) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %s, %v", name, statuses(report), err)
		}
	}
}

func TestMalformedPlans(t *testing.T) {
	for name, p := range map[string]*planner.Plan{
		"itself":  plan([]int{1}),
		"later":   plan([]int{2}, nil),
		"nothing": plan([]int{-7}),
		"id":      {Steps: []planner.Step{{ID: 2, Op: planner.Stop{}}}},
		"no op":   {Steps: []planner.Step{{ID: 1}}},
	} {
		ran := false
		_, err := Execute(t.Context(), p, runner(func(context.Context, planner.Step, func(event.Progress)) error {
			ran = true
			return nil
		}), nil, Options{})
		if !errs.Is(err, errs.Internal) || ran {
			t.Errorf("%s: %v, ran %v", name, err, ran)
		}
	}
}

// randomPlan has edges of both kinds to steps before.
func randomPlan(d *rand.Rand, n int) *planner.Plan {
	after := make([][]int, n)
	for i := range after {
		for id := 1; id <= i; id++ {
			switch d.IntN(6) {
			case 0:
				after[i] = append(after[i], id)
			case 1:
				after[i] = append(after[i], -id)
			}
		}
	}
	return plan(after...)
}

// On random plans with random failures: what ran had what it needs, and what
// did not has a reason.
func TestRandomPlans(t *testing.T) {
	for seed := range uint64(500) {
		d := rand.New(rand.NewPCG(seed, 1))
		p := randomPlan(d, 1+d.IntN(12))
		fail := []int{1 + d.IntN(12), 1 + d.IntN(12)}
		o := Options{Parallel: d.IntN(3), CPUs: float64(d.IntN(3))}
		report, err := Execute(t.Context(), p, failing(fail...), nil, o)
		for i, out := range report.Outcomes {
			blocked := slices.ContainsFunc(out.Step.After, func(id int) bool { return report.Outcomes[id-1].Status != event.Done })
			want := event.Done
			if blocked {
				want = event.Skipped
			} else if slices.Contains(fail, i+1) {
				want = event.Failed
			}
			if out.Status != want || blocked && !slices.Contains(fail, out.Because) {
				t.Fatalf("seed %d: step %d is %s because of %d\n%s", seed, i+1, out.Status, out.Because, p)
			}
		}
		if failed := strings.Contains(statuses(report), "failed"); failed != (err != nil) {
			t.Fatalf("seed %d: %s, %v", seed, statuses(report), err)
		}
	}
}
