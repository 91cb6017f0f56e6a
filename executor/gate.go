package executor

import (
	"context"

	"golang.org/x/sync/semaphore"

	"github.com/vzcompose/vzcompose/planner"
)

// gate admits steps by what they take of the host. Its semaphores are entered
// in one order and are first come, first served: a large step is not starved by
// small ones, and nobody waits for who waits for him.
type gate struct {
	slots, cpus, memory *semaphore.Weighted // nil: not counted
	allCPUs, allMemory  int64
}

// Units in which the semaphores count.
const (
	cpuUnit    = 100     // hundredths of a processor
	memoryUnit = 1 << 20 // bytes
)

func newGate(o Options) *gate {
	g := &gate{}
	if o.Parallel > 0 {
		g.slots = semaphore.NewWeighted(int64(o.Parallel))
	}
	if g.allCPUs = int64(o.CPUs * cpuUnit); g.allCPUs > 0 {
		g.cpus = semaphore.NewWeighted(g.allCPUs)
	}
	if g.allMemory = int64(o.Memory / memoryUnit); g.allMemory > 0 {
		g.memory = semaphore.NewWeighted(g.allMemory)
	}
	return g
}

// cost is what a step takes while it runs. Only what boots a machine costs, and
// a kernel boots on one processor, however many it has.
func cost(s planner.Step) (cpus, memory int64) {
	if op, ok := s.Op.(planner.Start); ok {
		return int64(min(op.CPUs, 1) * cpuUnit), int64(op.Memory / memoryUnit)
	}
	return 0, 0
}

// enter waits for room until ctx ends. The step must call release.
func (g *gate) enter(ctx context.Context, s planner.Step) (release func(), err error) {
	if _, waits := s.Op.(planner.Await); waits { // it takes nothing, for as long as it may be
		return func() {}, nil
	}
	cpus, memory := cost(s)
	var held []func()
	release = func() {
		for _, r := range held {
			r()
		}
	}
	take := func(sem *semaphore.Weighted, n, all int64) error {
		if n = min(n, all); sem == nil || n == 0 {
			return nil
		}
		if err := sem.Acquire(ctx, n); err != nil {
			return err
		}
		held = append(held, func() { sem.Release(n) })
		return nil
	}
	if err := take(g.memory, memory, g.allMemory); err != nil {
		return nil, err
	}
	if err := take(g.cpus, cpus, g.allCPUs); err != nil {
		release()
		return nil, err
	}
	if err := take(g.slots, 1, 1); err != nil {
		release()
		return nil, err
	}
	return release, nil
}
