//go:build linux

package qemu

import (
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Why QEMU ended is the last that it says on its monitor, which may be read after
// the end of its process was seen.
func TestVerdictWaitsForTheMonitor(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	c, err := net.FileConn(ours)
	_ = ours.Close() // c has its own
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m := &machine{monitored: make(chan struct{})}
	m.hearOut() // nothing to hear from one without a monitor
	mayRead := make(chan struct{})
	m.qmp = &qmp{c: c.(*net.UnixConn), waiting: map[uint64]chan qmpMessage{}, done: make(chan struct{}), onEvent: func(e qmpEvent) {
		<-mayRead
		m.takeEvent(e)
	}}
	close(m.monitored)
	go m.qmp.read(nil)
	if _, err := theirs.WriteString(`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}` + "\n"); err != nil {
		t.Fatal(err)
	}
	if err := theirs.Close(); err != nil { // QEMU is gone
		t.Fatal(err)
	}
	verdict := make(chan error, 1)
	go func() {
		m.hearOut()
		verdict <- m.verdict(nil)
	}()
	close(mayRead)
	if err := <-verdict; err == nil || !strings.Contains(err.Error(), "its kernel panicked") {
		t.Errorf("verdict: %v", err)
	}
}
