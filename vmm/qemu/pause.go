//go:build linux

package qemu

import (
	"context"
	"fmt"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// pauseLimit is how long QEMU may take to stop or start its processors.
const pauseLimit = 20 * time.Second

// Pause holds the machine's processors. A machine that is held stays so.
func (m *machine) Pause(ctx context.Context) error { return m.hold(ctx, "stop") }

// Resume lets them go on. A machine that is not held goes on.
func (m *machine) Resume(ctx context.Context) error { return m.hold(ctx, "cont") }

func (m *machine) hold(ctx context.Context, command string) error {
	ctx, cancel := within(ctx, pauseLimit, command+" the machine's processors")
	defer cancel()
	select {
	case <-m.monitored:
	case <-m.gone:
		return errs.New(errs.Unavailable, "the machine is gone")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := m.qmp.call(ctx, command, nil, nil); err != nil {
		return fmt.Errorf("%s the machine: %w", command, err)
	}
	return nil
}
