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

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/wire"
)

// vsockEchoes talks to a port of a container on which an echo server listens.
func vsockEchoes(t *testing.T, c *shimproto.Client, port uint32, b []byte) error {
	s, err := c.DialVsock(t.Context(), port)
	if err != nil {
		return err
	}
	return converse(wire.AsConn(s), b)
}

// converse says b and its end, and wants it back.
func converse(c net.Conn, b []byte) error {
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(b)
		sent <- errors.Join(err, c.(interface{ CloseWrite() error }).CloseWrite())
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

// The container's own virtual sockets: line 53.
func TestConformVsock(t *testing.T) {
	dir, err := os.MkdirTemp("", "vz-e2e") // a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	at := func(name string) string { return filepath.Join(dir, name) }
	echoServer(t, at("host"))
	s := scenario(t, fmt.Sprintf(`
defaults: {image: busybox, cpus: 1, memory: 128MiB, stop_grace_period: 0s, command: [sleep, "36000"], interfaces: []}
containers:
  box:
    sockets:
      - {direction: out_of, source: "vsock:5000", destination: %s, mode: "0660"}
      - {direction: into, source: %s, destination: "vsock:7000"}
  plain: {}
`, at("out"), at("host")))
	s.must("up", "-d")
	program := buildProgram(t, "sockets")
	for _, c := range []string{"box", "plain"} {
		s.must("cp", program, c+":/sockets")
	}
	s.must("exec", "-d", "box", "/sockets", "serve", "5000")
	c := s.shim(t, "box-1")
	s.eventually("it serves", func() bool { return vsockEchoes(t, c, 5000, nil) == nil })
	big := make([]byte, 1<<20)
	_, _ = rand.Read(big)
	text := []byte(rand.Text())

	behave(t, 53, "a server in the container is dialled from the host; a port on which nobody listens is refused at once", func(t *testing.T) {
		if err := vsockEchoes(t, c, 5000, big); err != nil {
			t.Errorf("1 MiB over the API: %v", err)
		}
		if r := s.feed(string(text), "vsock", "dial", "box", "5000"); r.code != 0 || r.out != string(text) {
			t.Errorf("by command: %s", r)
		}
		began := time.Now()
		if err := vsockEchoes(t, c, 5001, text); !errs.Is(err, errs.Unavailable) || time.Since(began) > 5*time.Second {
			t.Errorf("nobody listens: %v after %v", err, time.Since(began))
		}
		for port, want := range map[string]string{"5001": "refused", "1024": "the agent's", "0": "not a port", "x": "not a port"} {
			if r := s.vz("vsock", "dial", "box", port); r.code == 0 || !strings.Contains(r.err, want) {
				t.Errorf("port %s: %s", port, r)
			}
		}
	})
	behave(t, 53, "out_of: relayed to a socket of the host, 1,000 in turn, 200 at once, 1 MiB to the byte, half-close, nothing left", func(t *testing.T) {
		if fi, err := os.Stat(at("out")); err != nil || fi.Mode() != os.ModeSocket|0o660 {
			t.Errorf("%v, %v", fi, err)
		}
		if err := echoes(at("out"), big); err != nil {
			t.Errorf("1 MiB: %v", err)
		}
		shim := s.instances()["box-1"].PID
		before, guest := descriptors(t, shim), s.number(t, "cut -f1 /proc/sys/fs/file-nr")
		for i := range 1000 {
			if err := echoes(at("out"), text); err != nil {
				t.Fatalf("number %d: %v", i, err)
			}
		}
		var all sync.WaitGroup
		failed := make(chan error, 400)
		for range 200 {
			all.Go(func() { failed <- echoes(at("out"), text) })
			all.Go(func() { failed <- vsockEchoes(t, c, 5000, text) })
		}
		all.Wait()
		close(failed)
		for err := range failed {
			if err != nil {
				t.Errorf("of 200 at once, and 200 over the API: %v", err)
			}
		}
		s.eventually("the shim has closed them", func() bool { return descriptors(t, shim) <= before })
		// The kernel counts in batches.
		s.eventually("the machine has closed them", func() bool { return s.number(t, "cut -f1 /proc/sys/fs/file-nr") < guest+256 })
	})
	behave(t, 53, "into: a program in the container reaches a server of the host, live ones too, and no other port", func(t *testing.T) {
		s.vz("exec", "box", "/sockets", "dial", "7000", string(text)).want(t, 0, string(text))
		if r := s.vz("exec", "box", "/sockets", "dial", "7001", "x"); r.code == 0 {
			t.Errorf("nobody listens: %s", r)
		}
		one := state.Relay{Direction: "into", Source: at("host"), Destination: "vsock:7001"}
		for range 2 {
			if err := c.Relay(t.Context(), one); err != nil {
				t.Fatal(err)
			}
			s.vz("exec", "box", "/sockets", "dial", "7001", string(text)).want(t, 0, string(text))
			if err := c.Unrelay(t.Context(), one.Destination); err != nil {
				t.Fatal(err)
			}
			if r := s.vz("exec", "box", "/sockets", "dial", "7001", "x"); r.code == 0 {
				t.Errorf("it was taken away: %s", r)
			}
		}
	})
	behave(t, 53, "a container that did not ask is refused the family, and has no port to dial", func(t *testing.T) {
		if r := s.vz("exec", "plain", "/sockets", "echo", "5000"); r.code == 0 || !strings.Contains(r.err, "operation not permitted") {
			t.Errorf("%s", r)
		}
		if r := s.vz("vsock", "dial", "plain", "5000"); r.code == 0 || !strings.Contains(r.err, "vsock: true") {
			t.Errorf("%s", r)
		}
	})
	behave(t, 53, "the device is shown with its context ID; a pause keeps connections, a restart brings the relays again", func(t *testing.T) {
		id := s.says(t, "box", "/sockets id")
		if r := s.must("inspect", "--format", "{{.Machine.Vsock.CID}}", "box"); strings.TrimSpace(r.out) != id {
			t.Errorf("inspect says %q, the machine %q", r.out, id)
		}
		if r := s.must("inspect", "plain"); strings.Contains(r.out, `"vsock"`) {
			t.Errorf("inspect shows a device that is not there: %s", r.out)
		}
		conn, err := c.DialVsock(t.Context(), 5000)
		if err != nil {
			t.Fatal(err)
		}
		s.must("pause", "box")
		s.must("unpause", "box")
		if err := converse(wire.AsConn(conn), text); err != nil {
			t.Errorf("after a pause: %v", err)
		}
		s.must("restart", "box")
		s.vz("exec", "box", "/sockets", "dial", "7000", string(text)).want(t, 0, string(text))
		s.must("exec", "-d", "box", "/sockets", "serve", "5000")
		s.eventually("it serves again", func() bool { return echoes(at("out"), text) == nil })
	})
}
