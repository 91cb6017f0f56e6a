package switchproc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/filelock"
	"github.com/vzcompose/vzcompose/internal/network"
	"github.com/vzcompose/vzcompose/internal/network/frame"
	nt "github.com/vzcompose/vzcompose/internal/network/networktest"
	"github.com/vzcompose/vzcompose/internal/switchproto"
)

const patience = 20 * time.Second

// asSwitch as its first argument turns the test's own program into a switch.
const asSwitch = "as-switch"

func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != asSwitch {
		os.Exit(m.Run())
	}
	o, err := ReadOrders(os.Stdin)
	if err == nil {
		ready := os.NewFile(ReadyFD, "ready")
		err = Run(context.Background(), o, sync.OnceFunc(func() { fmt.Fprintln(ready, "ready"); ready.Close() }))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// place is where the switch of a test is.
type place struct {
	Orders
	program []string
}

func newPlace(t testing.TB) place {
	t.Helper()
	dir, err := os.MkdirTemp("", "vz") // short: it is a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := place{Orders{Socket: filepath.Join(dir, "socket"), Lock: filepath.Join(dir, "lock"), Log: filepath.Join(dir, "log"),
		ResolvConf: filepath.Join(dir, "resolv.conf"), Idle: 200 * time.Millisecond}, []string{os.Args[0], asSwitch}}
	if err := os.WriteFile(p.ResolvConf, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if pid, err := filelock.Signed(p.Lock); err == nil && t.Failed() {
			said, _ := os.ReadFile(p.Log)
			t.Logf("switch %d said: %s", pid, said)
		}
		p.awaitNone(t)
	})
	return p
}

// awaitNone waits until no switch is alive.
func (p place) awaitNone(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		held, err := filelock.Held(p.Lock)
		if err != nil || !held {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the switch does not end although nobody is there")
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (p place) start(ctx context.Context) error { return Start(ctx, p.program, p.Orders) }

// machine is a machine's side: its socket pair, of which the shim keeps ours,
// and a stack on the other.
type machine struct {
	ours net.Conn
	file *os.File
	*nt.Station
	join switchproto.Join
}

func newMachine(t testing.TB, name, v4 string) *machine {
	t.Helper()
	ours, theirs := nt.Pair(t)
	f, err := ours.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	a := netip.MustParseAddr(v4)
	b := a.As4()
	mac, gateway := frame.MAC{2, 0x56, b[0], b[1], b[2], b[3]}, netip.MustParsePrefix("10.40.0.1/24")
	n := network.Network{Name: "front", V4: gateway, MAC: frame.MAC{2, 0x56, 10, 40, 0, 1}, MTU: 1280}
	m := network.Machine{Instance: name, Container: name, Ready: true, Interfaces: []network.Interface{{Network: "front", MAC: mac, V4: a}}}
	s := nt.Start(t, theirs, nt.Config{MAC: mac, V4: netip.PrefixFrom(a, 24), Gateways: []netip.Addr{gateway.Addr()}, MTU: 1280})
	return &machine{ours, f, s, switchproto.Join{Networks: []network.Network{n}, Machine: m}}
}

func (p place) become(t testing.TB, m *machine) *switchproto.Membership {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := switchproto.Become(ctx, switchproto.MemberOptions{Path: p.Socket, Start: p.start, Join: m.join, Frames: []*os.File{m.file}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Leave)
	return s
}

// echo serves on port 80 of m.
func (m *machine) echo(t testing.TB) netip.AddrPort {
	t.Helper()
	at := netip.AddrPortFrom(m.join.Machine.Interfaces[0].V4, 80)
	l, err := m.Listen(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	return at
}

// ping sends a word over c and wants it back.
func ping(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || !bytes.Equal(b, []byte("hello")) {
		return errors.Join(err, fmt.Errorf("%q came back", b))
	}
	return nil
}

// kill -9 of the switch: the machines' connections go on within 2 s, by
// themselves, and there is one new switch although several started it.
func TestSwitchIsKilled(t *testing.T) {
	p := newPlace(t)
	web, db := newMachine(t, "web", "10.40.0.10"), newMachine(t, "db", "10.40.0.20")
	p.become(t, web)
	p.become(t, db)
	to := db.echo(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := web.Dial(ctx, to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if err := ping(c); err != nil {
			t.Fatal(err)
		}
		pid, err := filelock.Signed(p.Lock)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if err := ping(c); err != nil {
			t.Fatal(err)
		}
		took := time.Since(begun)
		t.Logf("went on after %v", took)
		if took > 2*time.Second {
			t.Errorf("the connection took %v to go on", took)
		}
		if now, err := filelock.Signed(p.Lock); err != nil || now == pid {
			t.Errorf("the lock is of %d, killed was %d: %v", now, pid, err)
		}
	}
}

// Many that start a switch at once share one.
func TestOneSwitch(t *testing.T) {
	p := newPlace(t)
	var all sync.WaitGroup
	members := make(chan *switchproto.Membership, 8)
	for i := range cap(members) {
		m := newMachine(t, fmt.Sprintf("m%d", i), fmt.Sprintf("10.40.0.%d", 10+i))
		all.Go(func() { members <- p.become(t, m) })
	}
	all.Wait()
	c, err := switchproto.Dial(context.Background(), p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := c.Inspect(context.Background())
	if err != nil || len(got) != 1 || len(got[0].Members) != cap(members) {
		t.Errorf("%+v, %v", got, err)
	}
	fi, err := os.Stat(p.Socket)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket %v: %v", fi.Mode(), err)
	}
	for range cap(members) {
		(<-members).Leave()
	}
	p.awaitNone(t)
	if _, err := os.Stat(p.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// One that finds another coming up, or going down, waits until that can be dialled,
// or is gone: who is told that there is a switch dials it at once.
func TestAnotherIsNotReadyYet(t *testing.T) {
	for name, then := range map[string]func(t *testing.T, p place, l *filelock.Lock){
		"coming up": func(t *testing.T, p place, _ *filelock.Lock) {
			l, err := net.Listen("unix", p.Socket)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
		},
		"going down": func(_ *testing.T, _ place, l *filelock.Lock) { l.Release() },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			lock, err := filelock.Try(p.Lock)
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Release()
			ctx, cancel := context.WithCancel(context.Background())
			ready, ended := make(chan struct{}), make(chan error, 1)
			go func() { ended <- Run(ctx, p.Orders, sync.OnceFunc(func() { close(ready) })); close(ended) }()
			select {
			case <-ready:
				t.Error("it said that there is one, which nobody can dial")
			case <-time.After(50 * time.Millisecond):
			}
			then(t, p, lock)
			select {
			case <-ready:
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Error("it did not become ready")
			}
			if c, err := net.Dial("unix", p.Socket); err != nil {
				t.Error(err)
			} else {
				_ = c.Close()
			}
			cancel()
			select {
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Error("it did not end")
			}
			lock.Release()
		})
	}
}

func TestMembershipThatCannotBe(t *testing.T) {
	p := newPlace(t)
	m := newMachine(t, "web", "10.40.0.10")
	m.join.Machine.Interfaces[0].V4 = netip.MustParseAddr("10.99.0.1")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := switchproto.Become(ctx, switchproto.MemberOptions{Path: p.Socket, Start: p.start, Join: m.join, Frames: []*os.File{m.file}})
	if !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("it is a member: %v", err)
	}
}

func TestStartFails(t *testing.T) {
	p := newPlace(t)
	p.Socket = filepath.Join(filepath.Dir(p.Socket), "no", "socket")
	if err := p.start(context.Background()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("started: %v", err)
	}
	p.program = []string{"/does/not/exist"}
	if err := p.start(context.Background()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("started: %v", err)
	}
	if _, err := ReadOrders(bytes.NewReader([]byte("{"))); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("read: %v", err)
	}
}

// Readiness is told, or will be, without waiting: also while the switch is gone.
func TestReadyDoesNotWait(t *testing.T) {
	p := newPlace(t)
	web := newMachine(t, "web", "10.40.0.10")
	s := p.become(t, web)
	pid, err := filelock.Signed(p.Lock)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		s.SetReady(i%2 == 0)
	}
	for end := time.Now().Add(patience); ; {
		if now, err := filelock.Signed(p.Lock); err == nil && now != pid {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no new switch")
		}
		<-time.After(time.Millisecond)
	}
}
