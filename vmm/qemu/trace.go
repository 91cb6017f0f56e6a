//go:build linux

package qemu

import (
	"time"

	"github.com/vzcompose/vzcompose/vmm"
)

// tracer records the phases of one Boot.
type tracer struct {
	trace      vmm.Trace
	born, last time.Time
}

func newTracer() *tracer {
	now := time.Now()
	return &tracer{born: now, last: now}
}

// lap ends a phase that began with the end of the one before.
func (t *tracer) lap(name string) {
	now := time.Now()
	t.trace.Phases = append(t.trace.Phases, vmm.Phase{Name: name, Start: t.last.Sub(t.born), Duration: now.Sub(t.last)})
	t.last = now
}

func (t *tracer) note(text string) { t.trace.Notes = append(t.trace.Notes, text) }
