package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/childenv"
	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/filelock"
)

// fillOrder is what FillCommand reads from its standard input.
type fillOrder struct {
	Kinds    []engine.Kind `json:"kinds"`
	Machines int           `json:"machines"`
	Memory   uint64        `json:"memory"` // bytes
}

// maxFillOrder bounds one, in bytes. It has a record, of 8 MiB at most, for each
// container that is to be held.
const maxFillOrder = 256 << 20

// Refill starts a process that fills the pool with machines for the stack, where there
// is to be a pool, and does not wait for it.
func (s *Stack) Refill(ctx context.Context) error {
	pool := s.Settings.Pool
	if pool.Machines == 0 || s.Cold != "" {
		return nil
	}
	kinds := engine.KindsOf(s.Home.Engine.Makes(s.Declared))
	if pool.Prepared {
		var err error
		if kinds, _, err = s.Kinds(ctx, s.Declared, func(string, event.Progress) {}); err != nil {
			return err
		}
	}
	order, err := json.Marshal(fillOrder{kinds, pool.Machines, pool.Memory})
	if err != nil {
		return errs.New(errs.Internal, "encode what the pool needs: %w", err)
	}
	if err := os.MkdirAll(s.Folder.Pool().Dir, 0o700); err != nil {
		return err
	}
	said, err := os.OpenFile(filepath.Join(s.Folder.Pool().Dir, "fill.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = said.Close() }() // the child has its own
	stdin, err := orderFile(s.Folder.Pool().Dir, order)
	if err != nil {
		return fmt.Errorf("write what the pool needs: %w", err)
	}
	defer func() { _ = stdin.Close() }() // the child has its own
	args := s.command(FillCommand)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stderr, cmd.Dir, cmd.Env = stdin, said, "/", append(childenv.List(), "VZCOMPOSE_HOME="+s.Folder.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("fill the pool: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reaped where we outlive it; what it says is in the file
	return nil
}

// orderFile returns an open file without a name that has the order: the child
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

// Fill fills the pool as the order on in says: it is what FillCommand does.
func (h *Home) Fill(ctx context.Context, in io.Reader) error {
	var o fillOrder
	if err := json.NewDecoder(io.LimitReader(in, maxFillOrder)).Decode(&o); err != nil {
		return errs.New(errs.InvalidArgument, "read what the pool needs: %w", err)
	}
	lock, err := filelock.Wait(ctx, filepath.Join(h.Folder.Pool().Dir, "lock")) // two would fill it twice
	if err != nil {
		return err
	}
	defer lock.Release()
	if err := h.Engine.FillPool(ctx, o.Kinds, o.Machines, o.Memory); err != nil {
		return err
	}
	return h.emptyPoolWithLast(ctx) // a down may have come meanwhile
}

// emptyPoolWithLast ends the machines that wait where there is no stack any more.
func (h *Home) emptyPoolWithLast(ctx context.Context) error {
	stacks, err := h.Folder.ListStacks()
	if err != nil {
		return err
	}
	for _, s := range stacks { // one may have volumes only
		if left, err := h.Folder.ListInstances(s); err != nil || len(left) > 0 {
			return err
		}
	}
	return h.Engine.EmptyPool(ctx)
}
