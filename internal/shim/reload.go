package shim

import (
	"context"

	"github.com/vzcompose/vzcompose/internal/shimproto"
)

// Reload reads the instance's record again. What a start reads, the next start
// reads; the restart policy and the grace period are followed from now on.
func (h handler) Reload(ctx context.Context, _ shimproto.Empty) (shimproto.Empty, error) {
	s := h.s
	return shimproto.Empty{}, h.ask(ctx, func() error {
		rec, err := s.launch.Home.ReadInstance(s.inst.Stack, s.inst.Name)
		if err != nil {
			return err
		}
		s.inst.Restart, s.inst.StopTimeout = rec.Restart, rec.StopTimeout
		return nil
	})
}
