// Package undo holds the compensations of a start that has several steps: the
// line after an acquisition pushes its release, and a failure runs them all.
package undo

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/go-multierror"
)

// Stack collects compensations. The zero value is ready. It belongs to one
// goroutine.
type Stack struct{ steps []step }

type step struct {
	name string
	fn   func(context.Context) error
}

// Push registers fn, which undoes what name says.
func (s *Stack) Push(name string, fn func(context.Context) error) {
	s.steps = append(s.steps, step{name, fn})
}

// PushFunc is Push for what can neither fail nor wait.
func (s *Stack) PushFunc(name string, fn func()) {
	s.Push(name, func(context.Context) error { fn(); return nil })
}

// Release forgets the compensations: the start succeeded.
func (s *Stack) Release() { s.steps = nil }

// Run undoes everything, newest first, and forgets it. It works on a context
// of its own that lasts limit: the caller's being cancelled is the usual
// reason to be here. Every step is run; the errors come back together.
func (s *Stack) Run(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	var errs *multierror.Error
	for i := len(s.steps) - 1; i >= 0; i-- {
		if err := s.steps[i].fn(ctx); err != nil {
			errs = multierror.Append(errs, fmt.Errorf("undo %s: %w", s.steps[i].name, err))
		}
	}
	s.steps = nil
	return errs.ErrorOrNil()
}
