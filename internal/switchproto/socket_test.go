package switchproto

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func fds(t *testing.T, kind int) [2]*os.File {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, kind, 0)
	if err != nil {
		t.Fatal(err)
	}
	return [2]*os.File{os.NewFile(uintptr(p[0]), "one"), os.NewFile(uintptr(p[1]), "other")}
}

func socketpair(t *testing.T) (a, b *os.File) {
	p := fds(t, unix.SOCK_DGRAM)
	return p[0], p[1]
}

func streampair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	var conns [2]*net.UnixConn
	for i, f := range fds(t, unix.SOCK_STREAM) {
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1]
}
