package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/relay"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

// repeat serves at a place in m's container: what is said there comes back, after
// the name of the place. Datagrams stay datagrams.
func repeat(t *testing.T, m *vmmfake.Machine, at string) {
	t.Helper()
	l, err := m.Serve(at)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the machine
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, relay.MaxDatagram)
				for strings.HasPrefix(at, "udp:") {
					b, err := relay.ReadDatagram(c, buf)
					if err != nil || relay.WriteDatagram(c, append([]byte(at+" "), b...)) != nil {
						return
					}
				}
				_, _ = io.WriteString(c, at+" ")
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// says sends text to c and expects want of it.
func says(t *testing.T, c net.Conn, text, want string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Errorf("%q comes back, %v; want %q", b, err, want)
	}
}

func dial(t *testing.T, network, address string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A published port leads into the container: of a range the first that is free; a
// client that comes while the machine boots waits for it.
func TestPorts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	low := taken.Addr().(*net.TCPAddr).Port
	machine, comes := make(chan *vmmfake.Machine, 1), make(chan struct{})
	r := newRig(t, vmmfake.Options{Ready: func(ctx context.Context, m *vmmfake.Machine) error {
		machine <- m
		select {
		case <-comes:
		case <-ctx.Done():
		}
		return ctx.Err()
	}}, "sleep", "infinity")
	r.launch.Instance.Ports = []state.Port{
		{Target: 80, Published: [2]int{low, low + 20}, HostIP: "127.0.0.1", Protocol: "tcp"},
		{Target: 53, HostIP: "127.0.0.1", Protocol: "udp"},
	}
	r.run()
	c, news := r.client()
	st, err := c.Status(t.Context())
	if err != nil || len(st.Ports) != 2 {
		t.Fatalf("%+v, %v", st, err)
	}
	tcp, udp := st.Ports[0].Published[0], st.Ports[1].Published[0]
	if tcp <= low || tcp > low+20 || udp == 0 {
		t.Errorf("published at %d and %d, %d is taken", tcp, udp, low)
	}
	early := dial(t, "tcp", fmt.Sprintf("127.0.0.1:%d", tcp))
	m := <-machine
	repeat(t, m, "tcp:80")
	repeat(t, m, "udp:53")
	close(comes)
	r.until(c, news, lifecycle.Started)
	says(t, early, "early", "tcp:80 early")
	says(t, dial(t, "tcp", fmt.Sprintf("127.0.0.1:%d", tcp)), "late", "tcp:80 late")
	for _, client := range []string{"one", "two"} {
		says(t, dial(t, "udp", fmt.Sprintf("127.0.0.1:%d", udp)), client, "udp:53 "+client)
	}
	r.stop()
	r.end()
	if _, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", tcp)); err == nil {
		t.Error("the port outlives the instance")
	}
}

// A port that is taken ends the shim before it has a machine, and the port that it
// had opened is free again.
func TestPortThatIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	at := taken.Addr().(*net.TCPAddr).Port
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	r.launch.Instance.Ports = []state.Port{
		{Target: 53, HostIP: "127.0.0.1", Protocol: "udp"},
		{Target: 80, Published: [2]int{at, at}, HostIP: "127.0.0.1", Protocol: "tcp"},
	}
	err = Run(t.Context(), r.driver, r.launch, func() { t.Error("it is ready") })
	if !errs.Is(err, errs.AlreadyExists) || !strings.Contains(err.Error(), fmt.Sprint(at)) {
		t.Errorf("got %v", err)
	}
	if n := r.driver.Booted(); n != 0 {
		t.Errorf("%d machines were made", n)
	}
}

// A socket of the container is found on the host, and one of the host in the
// container, as long as the process runs.
func TestRelays(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	dir := r.launch.Home.Runtime + "-host" // a short path
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	out, in, old := filepath.Join(dir, "out"), filepath.Join(dir, "in"), filepath.Join(dir, "later")
	host, err := net.Listen("unix", in)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	go func() {
		for {
			c, err := host.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "host ")
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	// A shim that was killed leaves its socket.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: old, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	r.launch.Instance.Relays = []state.Relay{
		{Direction: "out_of", Source: "/run/app.sock", Destination: out, Mode: 0o660},
		{Direction: "into", Source: in, Destination: "/run/host.sock"},
		{Direction: "into", Source: filepath.Join(dir, "nobody"), Destination: "/run/nobody.sock"},
	}
	c, _, m := r.started()
	repeat(t, m, "/run/app.sock")
	says(t, dial(t, "unix", out), "hello", "/run/app.sock hello")
	if fi, err := os.Stat(out); err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v, %v", fi, err)
	}
	for at, want := range map[string]string{"/run/host.sock": "host hello", "/run/nobody.sock": ""} {
		c, err := m.Reach(at)
		if err != nil {
			t.Fatal(err)
		}
		if want != "" {
			says(t, c, "hello", want)
		} else if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: somebody answers", at)
		}
		_ = c.Close()
	}
	later := state.Relay{Direction: "out_of", Source: "/run/app.sock", Destination: old}
	if err := c.Relay(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	says(t, dial(t, "unix", old), "hello", "/run/app.sock hello")
	if err := c.Relay(t.Context(), later); !errs.Is(err, errs.AlreadyExists) {
		t.Errorf("a second time: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, why := range map[string]string{in: "somebody answers", filepath.Join(dir, "file"): "is no socket"} {
		if err := c.Relay(t.Context(), state.Relay{Direction: "out_of", Source: "/x", Destination: path}); !errs.Is(err, errs.AlreadyExists) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for range 2 { // one that is not there is fine
		if err := c.Unrelay(t.Context(), old); err != nil {
			t.Errorf("take it away: %v", err)
		}
	}
	r.stop()
	r.end()
	for _, path := range []string{out, old} {
		if _, err := net.Dial("unix", path); err == nil || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s outlives the instance: %v", path, err)
		}
	}
}

// A relay that cannot be opened is a start that failed.
func TestRelayThatIsInTheWay(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.launch.Instance.Relays = []state.Relay{{Direction: "out_of", Source: "/run/app.sock", Destination: file}}
	r.run()
	r.end()
	if st := r.record(); st.State != lifecycle.Errored || !strings.Contains(st.Cause, "is no socket") {
		t.Errorf("on record is %+v", st)
	}
}
