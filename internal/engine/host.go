package engine

import (
	"context"
	"fmt"
	"runtime"

	"github.com/vzcompose/vzcompose/internal/agents"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// checkHost returns what keeps the machines of a plan from running on this host: to
// learn it once, with what mends it, is better than after the images were pulled,
// from each instance.
func (s *Stack) checkHost(ctx context.Context, plan *planner.Plan) error {
	if s.o.Probe == nil {
		return nil
	}
	runs, usual := false, false // machines, with the kernel of all
	own := map[string]bool{}    // instances with a kernel of their own
	want := func(instance string, c spec.Container) {
		runs = true
		own[instance] = c.Kernel != nil && c.Kernel.Path != ""
		usual = usual || !own[instance]
	}
	for _, step := range plan.Steps {
		switch op := step.Op.(type) {
		case planner.Create:
			want(op.Instance, op.Spec)
		case planner.Update:
			want(op.Instance, op.Spec)
		case planner.Start:
			runs = true
			if _, known := own[op.Instance]; !known {
				rec, err := s.o.Home.ReadInstance(s.Name, op.Instance)
				usual = usual || err == nil && rec.Kernel == "" // the start says what is wrong with the record
			}
		}
	}
	if !runs {
		return nil
	}
	if err := s.o.Probe(); err != nil {
		return fmt.Errorf("run machines: %w", err)
	}
	if _, err := agents.Binary(runtime.GOARCH); err != nil {
		return err
	}
	if usual {
		_, err := s.kernel(ctx, "")
		return err
	}
	return nil
}
