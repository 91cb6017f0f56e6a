package executor

import (
	"math"

	"github.com/vzcompose/vzcompose/planner"
)

// gate is a semaphore with three weights: slots, processors and memory. A step
// takes all of what it needs or nothing, so none holds one and waits for
// another. It belongs to one goroutine, and never waits: walk keeps the queue.
type gate struct{ all, free need }

// need is an amount of each weight. A weight that is not counted is 0.
type need struct {
	slots  int64
	cpus   int64  // thousandths
	memory uint64 // bytes
}

func newGate(o Options) gate {
	all := need{slots: int64(max(o.Parallel, 0)), cpus: thousandths(o.CPUs), memory: o.Memory}
	return gate{all: all, free: all}
}

// needs answers what a step takes, at most all there is. A step that only waits
// takes nothing, for as long as it may be.
func (g *gate) needs(s planner.Step, cost Cost) need {
	if _, waits := s.Op.(planner.Await); waits {
		return need{}
	}
	cpus, memory := cost(s)
	return need{
		slots:  min(1, g.all.slots),
		cpus:   min(thousandths(cpus), g.all.cpus),
		memory: min(memory, g.all.memory),
	}
}

func (g *gate) take(n need) bool {
	if n.slots > g.free.slots || n.cpus > g.free.cpus || n.memory > g.free.memory {
		return false
	}
	g.free.slots -= n.slots
	g.free.cpus -= n.cpus
	g.free.memory -= n.memory
	return true
}

func (g *gate) give(n need) {
	g.free.slots += n.slots
	g.free.cpus += n.cpus
	g.free.memory += n.memory
}

// overlaps reports whether n wants processors or memory that held waits for.
// Slots are given to whoever comes first of those that can use them.
func (n need) overlaps(held need) bool {
	return n.cpus > 0 && held.cpus > 0 || n.memory > 0 && held.memory > 0
}

// plus marks what is waited for; the amounts do not matter.
func (n need) plus(m need) need {
	return need{max(n.slots, m.slots), max(n.cpus, m.cpus), max(n.memory, m.memory)}
}

// thousandths rounds up, and takes what is no amount for none.
func thousandths(cpus float64) int64 {
	if !(cpus > 0) {
		return 0
	}
	return int64(math.Ceil(min(cpus, 1<<40) * 1000))
}
