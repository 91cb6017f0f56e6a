package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shim"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

// A start that is given up when a machine that waits has its order is taken back:
// whether the machine gives the instance back, or says too late that it is the
// instance's.
func TestStartThatIsTakenBackFromThePool(t *testing.T) {
	for name, becomes := range map[string]bool{"gives it back": false, "has become it": true} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t, orderly, Options{}, "sleep", "infinity")
			l := listenAsSpare(t, s)
			ctx, cancel := context.WithCancelCause(t.Context())
			enough := errors.New("enough")
			served := make(chan error, 1)
			go func() {
				c, err := l.Accept()
				if err != nil {
					served <- err
					return
				}
				defer c.Close()
				order, err := shimproto.ReadLaunch(c)
				if err != nil {
					served <- err
					return
				}
				cancel(enough)
				_, _ = io.Copy(io.Discard, c) // until it is taken back
				if !becomes {
					served <- nil
					return
				}
				served <- shim.Run(context.Background(), vmmfake.New(vmmfake.Options{}), order, func() {
					_, _ = io.WriteString(c, shimproto.Ready+"\n")
				})
			}()
			err := s.Run(ctx, planner.Step{Op: planner.Start{Target: web}}, func(event.Progress) {})
			if !errors.Is(err, enough) {
				t.Errorf("got %v", err)
			}
			if err := <-served; err != nil {
				t.Errorf("the machine that waited: %v", err)
			}
			if alive, err := s.o.Home.Alive(s.Name, "web-1"); alive || err != nil {
				t.Errorf("it has a shim: %v, %v", alive, err)
			}
			if i := observed(t, s, "web-1"); i.State != lifecycle.Initialized && i.State != lifecycle.Stopped {
				t.Errorf("it is %+v", i)
			}
		})
	}
}

// listenAsSpare has the pool hold one for web-1.
func listenAsSpare(t *testing.T, s *Stack) net.Listener {
	t.Helper()
	pool := s.spares()
	name := Make{1, 64 << 20}.prefix(s.from[""]) + "one"
	if err := os.MkdirAll(pool.o.Home.Instance(spareStack, name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := pool.o.Home.MakeRuntime(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", pool.o.Home.Socket(spareStack, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// An instance whose launch a spare refuses, for it is of another build, has a shim
// of its own.
func TestSpareThatRefuses(t *testing.T) {
	s := newShop(t, orderly, Options{}, "sleep", "infinity")
	l := listenAsSpare(t, s)
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = shimproto.ReadLaunch(c)
			_ = c.Close()
		}
		served <- err
	}()
	if err := s.Run(t.Context(), planner.Step{Op: planner.Start{Target: web}}, func(event.Progress) {}); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Errorf("the spare: %v", err)
	}
	if i := observed(t, s, "web-1"); i.State != lifecycle.Started || i.PID == os.Getpid() {
		t.Errorf("it is %+v", i)
	}
}
