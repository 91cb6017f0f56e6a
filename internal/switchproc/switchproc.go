// Package switchproc is the process of a stack's switch: one that runs, and how
// it is started. It holds a lock for as long as it lives, so that there is one a
// stack; it ends by itself when nobody has been on its networks for a while.
package switchproc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/vzcompose/vzcompose/internal/childenv"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/filelock"
	"github.com/vzcompose/vzcompose/internal/network"
	"github.com/vzcompose/vzcompose/internal/switchproto"
)

// Orders are what a switch is told at its start, on its standard input.
type Orders struct {
	Socket     string        `json:"socket"`      // where shims find it
	Lock       string        `json:"lock"`        // held while it lives
	Log        string        `json:"log"`         // gets its last words
	ResolvConf string        `json:"resolv_conf"` // names the host's resolvers
	Idle       time.Duration `json:"idle"`        // until it ends where nobody is
}

// ReadOrders reads Orders from r.
func ReadOrders(r io.Reader) (o Orders, err error) {
	if err := json.NewDecoder(r).Decode(&o); err != nil {
		return o, errs.New(errs.InvalidArgument, "read the switch's orders: %w", err)
	}
	return o, nil
}

// Run is a switch, until ctx ends or nobody needs it any more. ready is called
// once it can be dialled, or where another is there already, which is as good.
func Run(ctx context.Context, o Orders, ready func()) error {
	lock, err := takeLock(ctx, o)
	if err != nil || lock == nil {
		if err == nil {
			ready()
		}
		return err
	}
	defer lock.Release()
	if err := lock.Sign(); err != nil {
		return fmt.Errorf("sign the switch's lock: %w", err)
	}
	l, err := listen(o.Socket)
	if err != nil {
		return err
	}
	ours, err := os.Lstat(o.Socket)
	if err != nil {
		return errors.Join(fmt.Errorf("open the switch's socket: %w", err), l.Close())
	}
	// Who removed the stack's folder removed the lock too, and the socket there
	// may be another's by now.
	defer func() {
		if now, err := os.Lstat(o.Socket); err == nil && os.SameFile(now, ours) {
			_ = os.Remove(o.Socket)
		}
	}()
	s := network.New(network.Options{ResolvConf: o.ResolvConf})
	defer s.Close()
	ready()
	err = switchproto.Serve(ctx, l, s, o.Idle)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// lookPause is how long one waits for another that is about to open its socket, or
// about to end, between two looks.
const (
	lookPause = 2 * time.Millisecond
	lookLimit = 30 * time.Second // who started this one may not live to end it
)

// takeLock answers the lock, or none where another has it who can be dialled. One
// who has it and cannot is coming up or going down: to say that it is there would
// have a machine fail that starts at the wrong moment.
func takeLock(ctx context.Context, o Orders) (*filelock.Lock, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookLimit, errs.New(errs.DeadlineExceeded, "it has the lock and cannot be dialled for %s", lookLimit))
	defer cancel()
	for {
		lock, err := filelock.Try(o.Lock)
		if err == nil {
			return lock, nil
		}
		if !errs.Is(err, errs.FailedPrecondition) {
			return nil, fmt.Errorf("take the switch's lock: %w", err)
		}
		if c, err := net.Dial("unix", o.Socket); err == nil {
			return nil, c.Close()
		}
		select {
		case <-time.After(lookPause):
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the switch that is there: %w", context.Cause(ctx))
		}
	}
}

// listen opens the socket. What lies at its path is a dead switch's: we have the
// lock.
func listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("remove the old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("open the switch's socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("open the switch's socket: %w", err), l.Close())
	}
	return l, nil
}

// ReadyFD is where a switch says that it can be dialled.
const ReadyFD = 3

// Start starts program as a switch, in a session of its own, and waits until it
// can be dialled.
func Start(ctx context.Context, program []string, o Orders) error {
	orders, err := json.Marshal(o)
	if err != nil {
		return errs.New(errs.Internal, "encode the switch's orders: %w", err)
	}
	// Several may start one at once: all but the first have nothing to say.
	said, err := os.OpenFile(o.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start the switch: %w", err)
	}
	defer said.Close()
	ready, tell, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the switch: %w", err)
	}
	defer ready.Close()
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Stdin = bytes.NewReader(orders)
	cmd.Stderr = said
	cmd.ExtraFiles = []*os.File{tell}
	cmd.Dir, cmd.Env = "/", childenv.List()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = tell.Close() // the switch has its own
	if err != nil {
		return errs.New(errs.Unavailable, "start the switch: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // it is reaped where we outlive it
	defer context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })()
	_, err = bufio.NewReader(ready).ReadString('\n')
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		_ = cmd.Process.Kill()
		return fmt.Errorf("start the switch: %w", context.Cause(ctx))
	}
	select {
	case err = <-ended:
	case <-ctx.Done(): // it has closed its end and goes on
		_ = cmd.Process.Kill()
		err = context.Cause(ctx)
	}
	return errs.New(errs.Unavailable, "the switch ended at once (%v); see %s", err, o.Log)
}
