//go:build linux

package guest

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// A server that listens at one of the addresses is found there.
func TestDialPort(t *testing.T) {
	both := func() []netip.Addr {
		return []netip.Addr{netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("127.0.0.2")}
	}
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := net.ListenPacket("udp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	port := l.Addr().(*net.TCPAddr).Port
	for protocol, port := range map[string]int{"tcp": port, "udp": p.LocalAddr().(*net.UDPAddr).Port} {
		c, err := dialPort(t.Context(), protocol, port, both)
		if err != nil {
			t.Fatalf("%s: %v", protocol, err)
		}
		if host, _, _ := net.SplitHostPort(c.RemoteAddr().String()); host != "127.0.0.2" {
			t.Errorf("%s: %s", protocol, host)
		}
		_ = c.Close()
	}
	_ = l.Close()
	_, err = dialPort(t.Context(), "tcp", port, both)
	wantClass(t, err, errs.Unavailable, "connection refused")
	_, err = dialPort(t.Context(), "udp", port, both)
	wantClass(t, err, errs.Unavailable, "nobody listens")
}

func TestReachableEndsWithLo(t *testing.T) {
	all := reachable()
	if len(all) == 0 || !all[len(all)-1].IsLoopback() {
		t.Errorf("%v", all)
	}
}
