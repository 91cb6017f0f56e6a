package executor

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/planner"
)

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		began := time.Now()
		sink := func(e event.Event) {
			fmt.Fprintf(&b, "%s #%d %s %s: %s", e.Time.Sub(began), e.Step, e.Operation, e.Subject, e.Status)
			if e.Phase != "" {
				fmt.Fprintf(&b, " %s", e.Phase)
			}
			if e.Total != 0 {
				fmt.Fprintf(&b, " %d/%d", e.Current, e.Total)
			}
			fmt.Fprintf(&b, " (%s)", e.Cause)
			if e.Status.Final() {
				fmt.Fprintf(&b, " %s %v", e.Duration, e.Err)
			}
			b.WriteByte('\n')
		}
		_, _ = Execute(t.Context(), plan(nil, nil, []int{1}, []int{2}, []int{4}), runner(func(ctx context.Context, s planner.Step, report func(event.Progress)) error {
			report(event.Progress{Phase: "booting", Current: 1, Total: 2})
			return lasting(2)(ctx, s, report)
		}), sink, Options{CPUs: 1})
		want := `
0s #1 start container/c-1: waiting for capacity (new)
0s #2 start container/c-2: waiting for capacity (new)
0s #3 start container/c-3: waiting for dependencies (new)
0s #4 start container/c-4: waiting for dependencies (new)
0s #5 start container/c-5: waiting for dependencies (new)
0s #1 start container/c-1: running (new)
0s #1 start container/c-1: running booting 1/2 (new)
1s #1 start container/c-1: done (new) 1s <nil>
1s #2 start container/c-2: running (new)
1s #3 start container/c-3: waiting for capacity (new)
1s #2 start container/c-2: running booting 1/2 (new)
2s #2 start container/c-2: failed (boom 2: boom) 1s start container/c-2: boom 2: boom
2s #4 start container/c-4: skipped (because container/c-2 failed) 0s <nil>
2s #5 start container/c-5: skipped (because container/c-2 failed) 0s <nil>
2s #3 start container/c-3: running (new)
2s #3 start container/c-3: running booting 1/2 (new)
3s #3 start container/c-3: done (new) 1s <nil>
`
		if got := "\n" + b.String(); got != want {
			t.Errorf("got%s", got)
		}
	})
}

// Reports from many goroutines, and reports that come too late, leave the
// order of a step's events and the sink's peace intact. The sink needs no lock.
func TestReportsFromEverywhere(t *testing.T) {
	last := map[int]event.Status{}
	count := 0
	sink := func(e event.Event) {
		count++
		if was := last[e.Step]; was.Final() || e.Status == event.Waiting && was == event.Running {
			t.Errorf("step %d: %s after %s", e.Step, e.Status, was)
		}
		last[e.Step] = e.Status
	}
	stray := make(chan struct{}, 300)
	_, err := Execute(t.Context(), alone(30), runner(func(_ context.Context, s planner.Step, report func(event.Progress)) error {
		for range 10 {
			go func() {
				report(event.Progress{Phase: "from elsewhere"})
				stray <- struct{}{}
			}()
		}
		report(event.Progress{Phase: "from the step"})
		return nil
	}), sink, Options{})
	for range 300 { // none is stuck
		<-stray
	}
	if err != nil || len(last) != 30 || count < 30*4 {
		t.Errorf("%v, %d steps, %d events", err, len(last), count)
	}
}
