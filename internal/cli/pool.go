package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/childenv"
	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/filelock"
)

// fillCommand is the hidden command that fills the pool after an up, which does
// not wait for it.
const fillCommand = "fill-pool"

// fillOrder is what it is told on its standard input.
type fillOrder struct {
	Kinds    []engine.Kind `json:"kinds"`
	Machines int           `json:"machines"`
	Memory   uint64        `json:"memory"` // bytes
}

// maxFillOrder bounds one, in bytes. It has a record, of 8 MiB at most, for each
// container that is to be held.
const maxFillOrder = 256 << 20

// refill has the pool filled for the machines of w, where there is to be one.
func (a *app) refill(ctx context.Context, w *work) error {
	s := w.house.settings.Pool
	if s.Machines == 0 || w.house.cold != "" {
		return nil
	}
	kinds := engine.KindsOf(w.engine.Makes(w.desired))
	if s.Prepared {
		var err error
		if kinds, _, err = w.Kinds(ctx, w.desired, func(string, event.Progress) {}); err != nil {
			return err
		}
	}
	order, err := json.Marshal(fillOrder{kinds, s.Machines, s.Memory})
	if err != nil {
		return errs.New(errs.Internal, "encode what the pool needs: %w", err)
	}
	if err := os.MkdirAll(w.house.home.Pool().Dir, 0o700); err != nil {
		return err
	}
	said, err := os.OpenFile(filepath.Join(w.house.home.Pool().Dir, "fill.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = said.Close() }() // the child has its own
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find vzcompose itself: %w", err)
	}
	stdin, err := orderFile(w.house.home.Pool().Dir, order)
	if err != nil {
		return fmt.Errorf("write what the pool needs: %w", err)
	}
	defer func() { _ = stdin.Close() }() // the child has its own
	cmd := exec.Command(self, fillCommand)
	cmd.Stdin, cmd.Stderr, cmd.Dir, cmd.Env = stdin, said, "/", childenv.List()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("fill the pool: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reaped where we outlive it; what it says is in the file
	return nil
}

// orderFile answers an open file without a name that has the order: the child
// may read it when we are gone, which of a pipe it could not.
func orderFile(dir string, order []byte) (_ *os.File, err error) {
	f, err := os.CreateTemp(dir, ".order-*")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // the first error is the one to tell
		}
	}()
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	if _, err := f.Write(order); err != nil {
		return nil, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}

// runFill is that command.
func runFill(d Deps) int {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := fill(ctx, d); err != nil {
		fmt.Fprintln(d.Stderr, err)
		return exitFailed
	}
	return exitDone
}

func fill(ctx context.Context, d Deps) error {
	var o fillOrder
	if err := json.NewDecoder(io.LimitReader(d.Stdin, maxFillOrder)).Decode(&o); err != nil {
		return errs.New(errs.InvalidArgument, "read what the pool needs: %w", err)
	}
	h, err := (&app{deps: d}).open()
	if err != nil {
		return err
	}
	lock, err := filelock.Wait(ctx, filepath.Join(h.home.Pool().Dir, "lock")) // two would fill it twice
	if err != nil {
		return err
	}
	defer lock.Release()
	if err := h.engine.FillPool(ctx, o.Kinds, o.Machines, o.Memory); err != nil {
		return err
	}
	return emptyWithLast(ctx, h) // a down may have come meanwhile
}

// emptyWithLast ends the machines that wait where there is no stack any more.
func emptyWithLast(ctx context.Context, h *house) error {
	stacks, err := h.home.ListStacks()
	if err != nil {
		return err
	}
	for _, s := range stacks { // one may have volumes only
		if left, err := h.home.ListInstances(s); err != nil || len(left) > 0 {
			return err
		}
	}
	return h.engine.EmptyPool(ctx)
}
