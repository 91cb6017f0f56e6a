package engine

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/spec"
)

func tcpPort(host string, low, high int) state.Port {
	return state.Port{Target: 80, Published: [2]int{low, high}, HostIP: host, Protocol: "tcp"}
}

// taken is a port of the loopback that somebody has, below the highest one.
func taken(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

func TestTryPort(t *testing.T) {
	p := taken(t)
	for _, host := range []string{"127.0.0.1", "0.0.0.0", "*"} {
		if err := tryPort(tcpPort(host, p, p), nil); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("at %s: %v", host, err)
		}
	}
	if err := tryPort(tcpPort("127.0.0.1", p, p), []state.Port{tcpPort("*", p, p)}); err != nil {
		t.Errorf("one that will be free: %v", err)
	}
	if err := tryPort(tcpPort("192.0.2.1", p, p), nil); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("at an address that is not the host's: %v", err)
	}
	if err := tryPort(tcpPort("127.0.0.1", 0, 0), nil); err != nil {
		t.Errorf("any port: %v", err)
	}
}

func TestPortsOfTwoFamilies(t *testing.T) {
	open := func(host string, at int) net.Listener {
		l, err := net.Listen(tcpPort(host, at, at).Listen(at))
		if err != nil {
			t.Fatalf("at %s: %v", host, err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	reach := func(host string, l net.Listener, want bool) {
		c, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(l.Addr().(*net.TCPAddr).Port)))
		if err == nil {
			_ = c.Close()
		}
		if (err == nil) != want {
			t.Errorf("%s: %v", host, err)
		}
	}
	all := open("*", 0)
	reach("127.0.0.1", all, true)
	six, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("this host has no IPv6: %v", err)
	}
	_ = six.Close()
	reach("::1", all, true)
	four := open("0.0.0.0", 0)
	reach("127.0.0.1", four, true)
	reach("::1", four, false)
}

func TestRefusedPorts(t *testing.T) {
	s := &Stack{Engine: New(Options{Shim: []string{"/usr/bin/vzcompose", "shim"}, Home: store.Home{Dir: t.TempDir()}}), Name: "s",
		Ports: map[string][]spec.Place{"web": {{Position: diag.Position{File: "f.yaml", Line: 4, Column: 14}, Path: "containers.web.ports[0]"}}}}
	err := s.refused(t.Context(), []refusal{
		{"web-1", s.placeOfPort("web", 0), tcpPort("127.0.0.1", 443, 443), syscall.EACCES},
		{"web-1", s.placeOfPort("web", 1), tcpPort("*", 80, 90), syscall.EACCES},
		{"db-1", s.placeOfPort("db", 0), tcpPort("::1", 5432, 5432), syscall.EADDRINUSE},
		{"db-1", "", tcpPort("192.0.2.1", 5432, 5432), syscall.EADDRNOTAVAIL},
	})
	want := `f.yaml:4:14: containers.web.ports[0]: port 443/tcp of 127.0.0.1, which web-1 asks for, is refused to this user
port 80-90/tcp of *, which web-1 asks for, is refused to this user
port 5432/tcp of ::1, which db-1 asks for, is taken by another program of this host
port 5432/tcp of 192.0.2.1, which db-1 asks for, cannot be opened: cannot assign requested address`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	all := err.(interface{ Unwrap() []error }).Unwrap()
	for i, class := range []errs.Class{errs.PermissionDenied, errs.PermissionDenied, errs.AlreadyExists, errs.FailedPrecondition} {
		if !errs.Is(all[i], class) {
			t.Errorf("class of %v: %v", all[i], errs.ClassOf(all[i]))
		}
	}
	if hint := errs.HintOf(all[0]); !strings.Contains(hint, "8443") || !strings.Contains(hint, "--publish-offset") {
		t.Errorf("hint %q", hint)
	}
	if s.refused(t.Context(), nil) != nil {
		t.Error("nothing refused is an error")
	}
}
