// Package networktest is the machines' side of a network, for tests: frame
// sockets as a machine has them, frames that a machine may send or must not, and
// stations, which are IP stacks behind such a socket.
package networktest

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Pair answers two ends of a datagram socket, as the shim makes them for a
// machine: real sockets, on which a reader that does not read stalls its writer.
// They are closed with the test.
func Pair(t testing.TB) (ours, machine net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "frames")
		conns[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conns[i].Close() })
	}
	return conns[0], conns[1]
}
