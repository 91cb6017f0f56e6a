//go:build linux

package guest

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sendTo connects to a console and sends what a runtime would.
func sendTo(t *testing.T, path string, name string, fds ...int) {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := conn.WriteMsgUnix([]byte(name), oob, nil); err != nil {
		t.Fatal(err)
	}
}

func newConsole(t *testing.T) *console {
	t.Helper()
	c, err := listenConsole(filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestConsoleReceives(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals: %v", err)
	}
	defer func() { _ = master.Close() }()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	c := newConsole(t)
	sendTo(t, c.path, "/dev/pts/0", int(master.Fd()))
	got, err := c.receive(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = got.in.Close(), got.out.Close(); got.close() }()
	if _, err := got.slave.WriteString("shown"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if n, err := got.out.Read(b); err != nil || string(b[:n]) != "shown" {
		t.Errorf("%q, %v", b[:n], err)
	}
	if err := got.resize(7, 70); err != nil {
		t.Error(err)
	}
}

// What is no terminal is refused, and no descriptor of it stays.
func TestConsoleRefuses(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	fd := int(null.Fd())
	for name, fds := range map[string][]int{"none": nil, "no terminal": {fd}, "two": {fd, fd}, "many": {fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd}} {
		c := newConsole(t)
		before := openDescriptors(t)
		sendTo(t, c.path, "x", fds...)
		if _, err := c.receive(time.Second); err == nil {
			t.Errorf("%s: it is taken", name)
		}
		if now := openDescriptors(t); now != before {
			t.Errorf("%s: %d descriptors, then %d", name, before, now)
		}
	}
	c := newConsole(t)
	began := time.Now()
	if _, err := c.receive(20 * time.Millisecond); err == nil || time.Since(began) > 5*time.Second {
		t.Errorf("nobody came: %v after %s", err, time.Since(began))
	}
	if _, err := os.Stat(c.path); err != nil {
		t.Error(err)
	}
	c.close()
	if _, err := os.Stat(c.path); err == nil {
		t.Error("the socket stays")
	}
}
