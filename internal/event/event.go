// Package event is the vocabulary of progress: what the executor and the engine
// report while a plan runs, and what internal/ui shows. It does no I/O.
package event

import "time"

// Status is where a subject stands.
type Status string

// The statuses. Waiting, Running are passed through; one of the others ends.
const (
	Waiting     Status = "waiting"
	Running     Status = "running"
	Done        Status = "done"
	Failed      Status = "failed"
	Skipped     Status = "skipped"     // it was not begun
	Interrupted Status = "interrupted" // it was begun, and taken back because the user asked to
)

// Final reports whether nothing follows for this step.
func (s Status) Final() bool { return s == Done || s == Failed || s == Skipped || s == Interrupted }

// Event is one piece of news about one step.
type Event struct {
	Time      time.Time     `json:"time"`
	Step      int           `json:"step"`               // its number in the plan
	Operation string        `json:"operation"`          // the step's verb: "start"
	Subject   string        `json:"subject"`            // "container/web-1", "image/busybox"
	Phase     string        `json:"phase,omitempty"`    // within the step: "booting kernel"
	Status    Status        `json:"status"`             //
	Cause     string        `json:"cause,omitempty"`    // why the step exists, was skipped or failed
	Current   int64         `json:"current,omitempty"`  // bytes so far, where the phase counts bytes
	Total     int64         `json:"total,omitempty"`    // bytes in all; 0: not known
	Duration  time.Duration `json:"duration,omitempty"` // since the step began; set on final events
	Err       error         `json:"-"`                  // set on Failed
}

// Progress is what an operation says of itself while it runs. The executor
// makes an Event of it.
type Progress struct {
	Phase          string
	Current, Total int64 // bytes; 0, 0 where there are none to count
}

// Sink takes events. It must not block: a renderer that is slow drops
// intermediate news, never final ones, and never holds up the work.
type Sink func(Event)
