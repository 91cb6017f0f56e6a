package stack

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/spec"
)

// Bounds of the removal of a one-off: of its order in bytes, and of how long it waits
// for the instance's shim and for other commands.
const (
	maxRemoveOrder = 4 << 10
	removeLimit    = 10 * time.Minute
)

// RemoveEnded removes the one-off that order names, a shimproto.RemoveOrder, once it has
// ended: its command is gone.
func (h *Home) RemoveEnded(ctx context.Context, order io.Reader) error {
	var o shimproto.RemoveOrder
	if err := json.NewDecoder(io.LimitReader(order, maxRemoveOrder)).Decode(&o); err != nil {
		return errs.New(errs.InvalidArgument, "read what is to be removed: %w", err)
	}
	s, err := h.Named(spec.Options{Name: o.Stack})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, removeLimit, errs.New(errs.DeadlineExceeded, "remove %s: not done within %s", o.Instance, removeLimit))
	defer cancel()
	return s.RemoveOneOff(ctx, Control{}, o.Instance)
}
