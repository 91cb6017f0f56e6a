package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/store"
)

// shim dials the shim of an instance.
func (s *stack) shim(t *testing.T, instance string) *shimproto.Client {
	t.Helper()
	c, err := shimproto.Dial(t.Context(), must(store.Locate(os.LookupEnv)).Socket(s.name, instance), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// echoServer answers what it is told, and ends when its peer has.
func echoServer(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
}

// echoes talks to an echo server: what it says, its end, and then all comes back.
func echoes(path string, b []byte) error {
	c, err := net.DialTimeout("unix", path, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(b)
		sent <- errors.Join(err, c.(*net.UnixConn).CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if !bytes.Equal(got, b) {
		return fmt.Errorf("%d bytes came back as %d others", len(b), len(got))
	}
	return nil
}

// endsFirst serves one connection: it says all that it has to say, which is
// nothing but its end, and then hears the other out.
func endsFirst(t *testing.T, path string, want []byte) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		err = c.(*net.UnixConn).CloseWrite()
		got, rerr := io.ReadAll(c)
		if !bytes.Equal(got, want) {
			rerr = errors.Join(rerr, fmt.Errorf("it heard %d bytes of %d, or others", len(got), len(want)))
		}
		served <- errors.Join(err, rerr)
	}()
	t.Cleanup(func() {
		_ = l.Close()
		if err := <-served; err != nil {
			t.Errorf("the server that ends first: %v", err)
		}
	})
}

// outlives waits for the server's end, and only then speaks.
func outlives(path string, b []byte) error {
	c, err := net.DialTimeout("unix", path, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
		return fmt.Errorf("before it is spoken to it says %d bytes: %w", len(got), err)
	}
	_, err = c.Write(b)
	return errors.Join(err, c.(*net.UnixConn).CloseWrite())
}

// Relays between the host and a container: lines 38 to 41. The server behind the
// socket in the container is the host's again, so that one connection goes
// through both kinds.
func TestConformSockets(t *testing.T) {
	s := scenario(t, sleeper)
	s.must("up", "-d")
	c := s.shim(t, "box-1")
	dir, err := os.MkdirTemp("", "vz-e2e") // a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	at := func(name string) string { return filepath.Join(dir, name) }
	echoServer(t, at("host"))
	add := func(t *testing.T, r state.Relay) {
		t.Helper()
		if err := c.Relay(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	text := []byte(rand.Text())

	s.must("exec", "box", "ln", "-s", "/var/deep", "/link")
	long := "/run/" + strings.Repeat("n", 64)
	behave(t, 39, "into: a server of the host, at a long name and through a symbolic link", func(t *testing.T) {
		for _, path := range []string{"/run/plain.sock", long, "/link/er/s.sock"} {
			add(t, state.Relay{Direction: "into", Source: at("host"), Destination: path, Mode: 0o640, UID: 12, GID: 34})
			if got := s.says(t, "box", "stat -c '%F %a %u:%g' "+path); got != "socket 640 12:34" {
				t.Errorf("%s is %q", path, got)
			}
		}
		s.must("exec", "box", "test", "-S", "/var/deep/er/s.sock")
	})
	behave(t, 38, "out_of: a server in the container answers at a path of the host, with its mode", func(t *testing.T) {
		for i, path := range []string{"/run/plain.sock", long, "/link/er/s.sock"} {
			out := at(fmt.Sprint("out", i))
			add(t, state.Relay{Direction: "out_of", Source: path, Destination: out, Mode: 0o660})
			if fi, err := os.Stat(out); err != nil || fi.Mode() != os.ModeSocket|0o660 {
				t.Errorf("%s: %v, %v", out, fi, err)
			}
			if err := echoes(out, text); err != nil {
				t.Errorf("through %s: %v", path, err)
			}
		}
		if err := c.Relay(t.Context(), state.Relay{Direction: "out_of", Source: "/run/plain.sock", Destination: at("host")}); err == nil {
			t.Error("a socket at which somebody answers was taken")
		}
	})
	behave(t, 40, "half-close both ways, failed connections, many in turn and at once, nothing left", func(t *testing.T) {
		add(t, state.Relay{Direction: "out_of", Source: "/run/nobody", Destination: at("vain")})
		for range 3 {
			if err := echoes(at("vain"), text); err == nil {
				t.Error("nobody answered, and it went well")
			}
		}
		s.must("exec", "box", "ln", "-s", "/run/plain.sock", "/run/nobody")
		if err := echoes(at("vain"), text); err != nil {
			t.Errorf("after the failed ones: %v", err)
		}
		big := make([]byte, 8<<20)
		_, _ = rand.Read(big)
		if err := echoes(at("out0"), big); err != nil {
			t.Errorf("much: %v", err)
		}
		endsFirst(t, at("early"), big)
		add(t, state.Relay{Direction: "into", Source: at("early"), Destination: "/run/early.sock"})
		add(t, state.Relay{Direction: "out_of", Source: "/run/early.sock", Destination: at("late"), Mode: 0o600})
		if err := outlives(at("late"), big); err != nil {
			t.Errorf("the server ends first: %v", err)
		}
		shim := s.instances()["box-1"].PID
		before, guest := descriptors(t, shim), s.number(t, "cut -f1 /proc/sys/fs/file-nr")
		for i := range 1000 {
			if err := echoes(at("out0"), text); err != nil {
				t.Fatalf("number %d: %v", i, err)
			}
		}
		var all sync.WaitGroup
		failed := make(chan error, 200)
		for range 200 {
			all.Go(func() { failed <- echoes(at("out0"), text) })
		}
		all.Wait()
		close(failed)
		for err := range failed {
			if err != nil {
				t.Errorf("of 200 at once: %v", err)
			}
		}
		s.eventually("the shim has closed them", func() bool { return descriptors(t, shim) <= before })
		// The kernel counts in batches; a connection left behind would be four.
		s.eventually("the machine has closed them", func() bool { return s.number(t, "cut -f1 /proc/sys/fs/file-nr") < guest+256 })
	})
	behave(t, 41, "a relay is added to and taken from a running container, without a restart", func(t *testing.T) {
		for _, path := range []string{at("out0"), "/run/plain.sock"} {
			for range 2 {
				if err := c.Unrelay(t.Context(), path); err != nil {
					t.Error(err)
				}
			}
		}
		if _, err := os.Lstat(at("out0")); !os.IsNotExist(err) {
			t.Errorf("the host's socket is there: %v", err)
		}
		s.sh("box", "test -e /run/plain.sock").want(t, 1, "")
		if err := echoes(at("out2"), text); err != nil {
			t.Errorf("another: %v", err)
		}
		add(t, state.Relay{Direction: "out_of", Source: long, Destination: at("out0"), Mode: 0o600})
		if err := echoes(at("out0"), text); err != nil {
			t.Errorf("one that was taken and added again: %v", err)
		}
		if i := s.instances()["box-1"]; i.Boots != 1 || i.Restarts != 0 {
			t.Errorf("%d boots, %d restarts", i.Boots, i.Restarts)
		}
	})
	t.Run("they go with the container", func(t *testing.T) {
		s.must("stop")
		if _, err := os.Lstat(at("out2")); !os.IsNotExist(err) {
			t.Errorf("a socket of the host is there: %v", err)
		}
	})
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// What is asked of a running container: lines 45 and 46.
func TestConformRunning(t *testing.T) {
	s := scenario(t, `
containers:
  box: {image: busybox, cpus: 1, memory: 128MiB, stop_grace_period: 0s,
        command: [sh, -c, "i=0; while :; do i=$$((i+1)); echo $$i >/tick; sleep 0.01; done"]}
`)
	s.must("up", "-d")
	c := s.shim(t, "box-1")
	behave(t, 46, "statistics: processes, memory, cpu, block, out of memory", func(t *testing.T) {
		s.must("exec", "box", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null; sync")
		st, err := c.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if st.Processes < 1 || st.Memory == 0 || st.MemoryLimit != 128<<20 || st.CPU <= 0 || st.WritableUsed < 8<<20 || st.OOMKills != 0 ||
			st.BlockWritten < 8<<20 {
			t.Errorf("%+v", st)
		}
		top, err := c.Top(t.Context())
		if err != nil || len(top.Processes) == 0 || top.Processes[0].PID != 1 || !strings.Contains(top.Processes[0].Command, "while") ||
			time.Since(top.Processes[0].Started).Abs() > time.Hour {
			t.Errorf("%+v, %v", top, err)
		}
	})
	behave(t, 45, "pause: no progress; after it clock and connections are right", func(t *testing.T) {
		for range 2 {
			if st, err := c.Pause(t.Context()); err != nil && st.State.String() != "paused" {
				break // a second one is illegal, and says so
			}
		}
		if got := s.states(); got != "box-1=paused" {
			t.Fatalf("it is %s", got)
		}
		if r := s.vz("exec", "box", "true"); r.code == 0 || !strings.Contains(r.err, "paused") {
			t.Errorf("exec: %s", r)
		}
		held := make(chan struct{})
		time.AfterFunc(3*time.Second, func() { close(held) })
		<-held
		if _, err := c.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := time.Now().Unix()
		if got := s.number(t, "date +%s"); got < before || got > time.Now().Unix() {
			t.Errorf("the clock says %d, the host said %d before", got, before)
		}
		first := s.number(t, "cat /tick")
		s.eventually("it goes on", func() bool { return s.number(t, "cat /tick") > first })
	})
	t.Run("stopped while it is paused", func(t *testing.T) {
		if _, err := c.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.must("stop")
		if got := s.states(); got != "box-1=exited" {
			t.Errorf("it is %s", got)
		}
	})
}
