package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

// answering serves a listener: it answers what it is told.
func answering(t *testing.T, l net.Listener, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// heard tells c something, and wants it back.
func heard(c net.Conn) error {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		return fmt.Errorf("got %q: %w", got, err)
	}
	return nil
}

func vsockRig(t *testing.T, relays ...state.Relay) *rig {
	t.Helper()
	r := newRig(t, vmmfake.Options{}, "sleep", "1000")
	r.launch.Instance.Vsock, r.launch.Instance.Relays = true, relays
	return r
}

func TestDialVsock(t *testing.T) {
	r := vsockRig(t)
	c, _, m := r.started()
	l, err := m.GuestListen(5000)
	answering(t, l, err)
	dial := func(port uint32) (net.Conn, error) {
		s, err := c.DialVsock(t.Context(), port)
		if err != nil {
			return nil, err
		}
		return wire.AsConn(s), nil
	}
	for range 3 {
		conn, err := dial(5000)
		if err != nil {
			t.Fatal(err)
		}
		if err := heard(conn); err != nil {
			t.Error(err)
		}
	}
	for port, want := range map[uint32]errs.Class{7: errs.Unavailable, 1024: errs.InvalidArgument, 0: errs.InvalidArgument} {
		if _, err := dial(port); !errs.Is(err, want) {
			t.Errorf("port %d: %v", port, err)
		}
	}
	if s, err := c.OpenStream(t.Context(), shimproto.VsockPrefix+"made up"); err == nil {
		if _, err := s.Read(make([]byte, 1)); !errs.Is(err, errs.NotFound) {
			t.Errorf("a token that nobody has given: %v", err)
		}
		_ = s.Close()
	}
	if rec := r.record(); rec.VsockCID != 3 {
		t.Errorf("context ID %d", rec.VsockCID)
	}
}

func TestNoVsock(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "1000")
	c, _, _ := r.started()
	_, err := c.DialVsock(t.Context(), 5000)
	if !errs.Is(err, errs.FailedPrecondition) || errs.HintOf(err) == "" {
		t.Errorf("dial: %v", err)
	}
	err = c.Relay(t.Context(), state.Relay{Direction: "into", Source: "/s", Destination: "vsock:7000"})
	if !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("relay: %v", err)
	}
}

// Ports of the record are open when the process starts, others come and go while it
// runs.
func TestVsockRelays(t *testing.T) {
	dir, err := os.MkdirTemp("", "vz") // a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	at := func(name string) string { return filepath.Join(dir, name) }
	l, err := net.Listen("unix", at("host"))
	answering(t, l, err)
	out := state.Relay{Direction: "out_of", Source: "vsock:5000", Destination: at("out"), Mode: 0o600}
	in := state.Relay{Direction: "into", Source: at("host"), Destination: "vsock:7000"}

	r := newRig(t, vmmfake.Options{Programs: map[string]vmmfake.Program{"client": func(ctx context.Context, p *vmmfake.Process) int {
		conn, err := p.Machine.GuestDial(7000)
		if err == nil {
			err = heard(conn)
		}
		if err != nil {
			_, _ = fmt.Fprintln(p.Stdout, err)
			return 1
		}
		_, _ = fmt.Fprintln(p.Stdout, "at once")
		<-ctx.Done()
		return 0
	}}}, "client")
	r.launch.Instance.Vsock, r.launch.Instance.Relays = true, []state.Relay{out, in}
	c, _, m := r.started()
	for r.output("stdout") == "" {
		<-time.After(time.Millisecond)
	}
	if got := r.output("stdout"); got != "at once\n" {
		t.Fatalf("the process says %q", got)
	}
	gl, err := m.GuestListen(5000)
	answering(t, gl, err)
	unix := func(path string) error {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return err
		}
		return heard(conn)
	}
	if err := unix(at("out")); err != nil {
		t.Error(err)
	}
	for _, bad := range []state.Relay{in, {Direction: "into", Source: at("host"), Destination: "vsock:1024"},
		{Direction: "into", Source: at("host"), Destination: "vsock:x"}, {Direction: "out_of", Source: "vsock:0", Destination: at("x")},
		{Direction: "out_of", Source: "vsock:5", Destination: "x"}, {Direction: "into", Source: "vsock:5", Destination: "vsock:6"}} {
		if err := c.Relay(t.Context(), bad); !errs.Is(err, errs.InvalidArgument) && !errs.Is(err, errs.AlreadyExists) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	for range 20 { // what was taken away can be had again at once
		for _, one := range []state.Relay{in, out} {
			if err := c.Unrelay(t.Context(), one.Destination); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := m.GuestDial(7000); err == nil {
			t.Fatal("the port is open")
		}
		for _, one := range []state.Relay{in, out} {
			if err := c.Relay(t.Context(), one); err != nil {
				t.Fatal(err)
			}
		}
	}
	conn, err := m.GuestDial(7000)
	if err == nil {
		err = errors.Join(heard(conn), unix(at("out")))
	}
	if err != nil {
		t.Error(err)
	}
	if _, err := c.Stop(t.Context(), shimproto.Stop{Grace: new(time.Duration)}); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(at("out")); !os.IsNotExist(err) {
		t.Errorf("the host's socket is there: %v", err)
	}
}

// A port that cannot be had fails the start, and the machine is gone.
func TestStartWithAPortThatCannotBeHad(t *testing.T) {
	r := vsockRig(t, state.Relay{Direction: "into", Source: "/s", Destination: "vsock:1024"})
	r.run() // it may have ended before anybody could ask it
	r.end()
	if st := r.record(); st.State != lifecycle.Errored || st.Cause == "" {
		t.Errorf("%+v", st)
	}
}

// A connection whose stream never comes is closed, and there are not too many.
func TestConnectedExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all connected
		near, far := net.Pipe()
		if _, err := all.add(near); err != nil {
			t.Fatal(err)
		}
		for range maxConnected - 1 {
			other, _ := net.Pipe()
			if _, err := all.add(other); err != nil {
				t.Fatal(err)
			}
		}
		many, _ := net.Pipe()
		if _, err := all.add(many); !errs.Is(err, errs.ResourceExhausted) {
			t.Errorf("one more: %v", err)
		}
		time.Sleep(connectedExpiry)
		synctest.Wait()
		if _, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("an old one: %v", err)
		}
		if _, err := all.add(far); err != nil {
			t.Error(err)
		}
		all.close()
		if _, err := all.add(near); !errs.Is(err, errs.FailedPrecondition) {
			t.Errorf("after the end: %v", err)
		}
	})
}
