package executor

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

func start(i int, cpus float64, memory uint64) planner.Step {
	return planner.Step{ID: i, Op: planner.Start{Target: target(i), CPUs: cpus, Memory: memory}, Cause: "new"}
}

// declared is a Cost that takes a start's CPUs as they are.
func declared(s planner.Step) (float64, uint64) {
	op, _ := s.Op.(planner.Start)
	return op.CPUs, op.Memory
}

// order runs steps of one second and answers when each began, in seconds.
func order(t *testing.T, p *planner.Plan, o Options) []int {
	t.Helper()
	at := make([]int, len(p.Steps))
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if _, err := Execute(t.Context(), p, runner(func(_ context.Context, s planner.Step, _ func(event.Progress)) error {
			at[s.ID-1] = int(time.Since(began) / time.Second)
			time.Sleep(time.Second)
			return nil
		}), nil, o); err != nil {
			t.Error(err)
		}
	})
	return at
}

func TestAdmission(t *testing.T) {
	pull := planner.Step{ID: 4, Op: planner.Pull{Ref: "x"}}
	for _, c := range []struct {
		name  string
		steps []planner.Step
		o     Options
		want  []int
	}{
		{"nothing is counted", []planner.Step{start(1, 8, 9), start(2, 8, 9)}, Options{Cost: declared}, []int{0, 0}},
		{"processors", []planner.Step{start(1, 1, 0), start(2, 1, 0), start(3, 1, 0)}, Options{CPUs: 2, Cost: declared}, []int{0, 0, 1}},
		{"memory", []planner.Step{start(1, 0, 6), start(2, 0, 5), start(3, 0, 4)}, Options{Memory: 10, Cost: declared}, []int{0, 1, 1}},
		{"too large runs alone", []planner.Step{start(1, 1, 1), start(2, 99, 99), start(3, 1, 1), pull}, Options{CPUs: 2, Memory: 8, Cost: declared}, []int{0, 1, 2, 0}},
		{"a small one does not overtake", []planner.Step{start(1, 2, 0), start(2, 3, 0), start(3, 1, 0), pull}, Options{CPUs: 3, Cost: declared}, []int{0, 1, 2, 0}},
		{"a kernel boots on one processor", []planner.Step{start(1, 4, 0), start(2, 4, 0), start(3, 0.5, 0)}, Options{CPUs: 2}, []int{0, 0, 1}},
		{"a limit is not what a start takes", []planner.Step{start(1, 1, 4<<30), start(2, 1, 4<<30), start(3, 1, 4<<30)}, Options{CPUs: 2, Memory: 1 << 30}, []int{0, 0, 1}},
		{"little memory", []planner.Step{start(1, 1, 4<<30), start(2, 1, 4<<30), start(3, 0.5, 64<<20)}, Options{CPUs: 4, Memory: 500 << 20}, []int{0, 1, 1}},
		{"no numbers", []planner.Step{start(1, math.NaN(), 1<<63), start(2, math.Inf(1), math.MaxUint64), start(3, -1, 0)}, Options{CPUs: 1, Memory: math.MaxUint64, Cost: declared}, []int{0, 1, 0}},
		{"slots beside processors", []planner.Step{start(1, 1, 0), start(2, 1, 0), start(3, 0, 0), pull}, Options{CPUs: 1, Parallel: 2, Cost: declared}, []int{0, 1, 0, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := order(t, &planner.Plan{Steps: c.steps}, c.o)
			for i := range got {
				if got[i] != c.want[i] {
					t.Fatalf("began at %v, want %v", got, c.want)
				}
			}
		})
	}
}

// A wait that lasts does not keep others from the only slot.
func TestAwaitTakesNoSlot(t *testing.T) {
	p := alone(3)
	p.Steps[0].Op = planner.Await{Target: target(1), Condition: spec.ConditionCompleted}
	if got := order(t, p, Options{Parallel: 1}); got[1] != 0 || got[2] != 1 {
		t.Errorf("began at %v", got)
	}
}

// The sum of what runs never exceeds the host's, and everything runs.
func TestAdmissionNeverExceedsCapacity(t *testing.T) {
	const cpus, memory, slots = 4.0, 100, 6
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			d := rand.New(rand.NewPCG(seed, 2))
			p := randomPlan(d, 40)
			for i := range p.Steps {
				p.Steps[i].Op = planner.Start{Target: target(i + 1), CPUs: d.Float64() * 5, Memory: uint64(d.IntN(130))}
			}
			var mu sync.Mutex
			var ran, usedSlots int
			var usedCPUs float64
			var usedMemory uint64
			take := func(s planner.Step, sign int) {
				mu.Lock()
				defer mu.Unlock()
				c, m := declared(s)
				usedSlots += sign
				usedCPUs += float64(sign) * min(c, cpus)
				usedMemory += uint64(sign) * min(m, memory)
				if usedSlots > slots || usedCPUs > cpus+1e-9 || usedMemory > memory {
					t.Errorf("seed %d: %d steps take %f cpus and %d bytes", seed, usedSlots, usedCPUs, usedMemory)
				}
				ran++
			}
			report, err := Execute(t.Context(), p, runner(func(_ context.Context, s planner.Step, _ func(event.Progress)) error {
				take(s, 1)
				time.Sleep(time.Duration(1+s.ID%7) * time.Second)
				take(s, -1)
				return nil
			}), nil, Options{CPUs: cpus, Memory: memory, Parallel: slots, Cost: declared})
			if err != nil || ran != 2*len(p.Steps) || usedSlots != 0 {
				t.Errorf("seed %d: %v, %s", seed, err, statuses(report))
			}
		})
	}
}

func BenchmarkExecute(b *testing.B) {
	after := make([][]int, 1000)
	for i := range after {
		for id := max(1, i-3); id <= i && i%10 != 0; id++ {
			after[i] = append(after[i], id)
		}
	}
	p := plan(after...)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Execute(b.Context(), p, failing(), nil, Options{CPUs: 8, Memory: 64 << 30}); err != nil {
			b.Fatal(err)
		}
	}
}
