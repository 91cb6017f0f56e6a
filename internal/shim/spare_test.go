package shim

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

// spare starts a spare of the make of r's instance, which rehearses with args.
func (r *rig) spare(args ...string) (pool store.Home, ready <-chan struct{}) {
	r.t.Helper()
	pool = r.launch.Home.Pool()
	l := r.launch
	l.Home, l.Spare, l.Hold = pool, true, r.hold
	l.Instance.Stack, l.Instance.Name = ".spare", "one"
	spec := *l.Instance.Runtime
	process := *spec.Process
	process.Args = args
	spec.Process, l.Instance.Runtime = &process, &spec
	if err := os.MkdirAll(pool.Instance(".spare", "one"), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(pool.Writable(".spare", "one"), nil, 0o600); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop, r.ended = cancel, make(chan error, 1)
	waits := make(chan struct{})
	go func() {
		r.ended <- RunSpare(ctx, r.driver, l, func() { close(waits) }, func(shimproto.Launch) error { r.wanted(); return nil })
	}()
	r.t.Cleanup(func() {
		cancel()
		r.end()
		if left, err := pool.ListInstances(".spare"); len(left) > 0 || err != nil {
			r.t.Errorf("left in the pool: %q, %v", left, err)
		}
	})
	return pool, waits
}

// hand gives the spare text, and answers its line.
func (r *rig) hand(pool store.Home, text []byte) string {
	r.t.Helper()
	c, err := net.Dial("unix", pool.Socket(".spare", "one"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(text); err != nil {
		r.t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil && err != io.EOF {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func (r *rig) order() []byte {
	b, err := r.launch.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

// What is no order changes nothing; what is one makes the spare the instance's
// shim, with the machine that waited.
func TestSpareBecomesAnInstance(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "1000")
	pool, ready := r.spare("true")
	<-ready
	m := r.driver.Machine(".spare-one")
	if m == nil || len(m.Setups()) != 1 {
		t.Fatal("no machine that has rehearsed")
	}
	later := bytes.Replace(r.order(), []byte(`"version":1`), []byte(`"version":2`), 1)
	for _, text := range [][]byte{[]byte("nonsense\n"), []byte("{}\n"), later} {
		if said := r.hand(pool, text); said != "" {
			t.Errorf("%q: it says %q", text, said)
		}
	}
	if said := r.hand(pool, r.order()); said != shimproto.Ready {
		t.Fatalf("it says %q", said)
	}
	c, news := r.client()
	r.until(c, news, lifecycle.Started)
	if rec := r.record(); rec.Origin != string(vmm.Pooled) || len(rec.Notes) > 0 || rec.Boots != 1 {
		t.Errorf("on record is %+v", rec)
	}
	if n := len(r.driver.Machines()); n != 1 || r.driver.Machine(".spare-one") != m {
		t.Errorf("%d machines, and the one that waited is gone", n)
	}
	if alive, err := pool.Alive(".spare", "one"); alive || err != nil {
		t.Errorf("the spare still holds its lock: %v, %v", alive, err)
	}
}

// An order that is taken back leaves nothing, unless the spare has said that it is
// the instance's shim: then it answers as one.
func TestSpareWhoseOrderIsTakenBack(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "1000")
	var c *net.UnixConn
	r.wanted = func() { _ = c.CloseWrite() }
	pool, ready := r.spare("true")
	<-ready
	conn, err := net.Dial("unix", pool.Socket(".spare", "one"))
	if err != nil {
		t.Fatal(err)
	}
	c = conn.(*net.UnixConn)
	defer c.Close()
	if _, err := c.Write(r.order()); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(said)) == shimproto.Ready {
		// It may have ended since.
		if shim, err := shimproto.Dial(t.Context(), r.launch.Home.Socket("shop", "web-1"), nil); err == nil {
			_, _ = shim.Stop(t.Context(), grace(0))
			_ = shim.Close()
		}
	}
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	r.ended = nil
	if n := len(r.driver.Machines()); n != 0 {
		t.Errorf("%d machines are left", n)
	}
	if rec := r.record(); rec.State.Live() {
		t.Errorf("on record is %+v", rec)
	}
}

// A machine that cannot be adopted is ended, and another booted.
func TestSpareThatCannotBeAdopted(t *testing.T) {
	r := newRig(t, vmmfake.Options{Adopt: func(*vmm.Config) error { return errors.New("not today") }}, "sleep", "1000")
	pool, ready := r.spare("true")
	<-ready
	if said := r.hand(pool, r.order()); said != shimproto.Ready {
		t.Fatalf("it says %q", said)
	}
	c, news := r.client()
	r.until(c, news, lifecycle.Started)
	if rec := r.record(); rec.Origin == string(vmm.Pooled) || len(rec.Notes) != 1 || !strings.Contains(rec.Notes[0], "not today") {
		t.Errorf("on record is %+v", rec)
	}
	if r.driver.Machine(".spare-one") != nil || r.driver.Machine("shop-web-1") == nil {
		t.Errorf("machines: %v", r.driver.Machines())
	}
}

// An instance that another shim has is not taken from it: the spare says so and
// ends, with its machine.
func TestSpareForAnInstanceThatIsTaken(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "1000")
	lock, err := r.launch.Home.LockInstance("shop", "web-1")
	if err != nil {
		t.Fatal(err)
	}
	pool, ready := r.spare("true")
	<-ready
	if said := r.hand(pool, r.order()); !strings.Contains(said, "lock") {
		t.Errorf("it says %q", said)
	}
	if err := <-r.ended; err == nil {
		t.Error("it ended without an error")
	}
	r.ended = nil
	lock.Release()
	if n := len(r.driver.Machines()); n != 0 {
		t.Errorf("%d machines are left", n)
	}
}

// What does not come through its rehearsal never waits.
func TestRehearsalThatFails(t *testing.T) {
	for _, args := range [][]string{{"false"}, {"not-there"}} {
		r := newRig(t, vmmfake.Options{}, "sleep", "1000")
		_, ready := r.spare(args...)
		select {
		case <-ready:
			t.Errorf("%q: it waits", args)
		case err := <-r.ended:
			if err == nil || !strings.Contains(err.Error(), "rehearse") {
				t.Errorf("%q: %v", args, err)
			}
			r.ended = nil
		}
	}
}

// A machine that is lost while it waits ends its spare.
func TestSpareWhoseMachineIsLost(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "1000")
	_, ready := r.spare("true")
	<-ready
	r.driver.Machine(".spare-one").Crash(errors.New("struck by lightning"))
	if err := <-r.ended; err == nil || !strings.Contains(err.Error(), "lightning") {
		t.Errorf("got %v", err)
	}
	r.ended = nil
}

// What a machine holds is nobody's but that of whom it is for: the files of others
// stay.
func TestBringDisk(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	mine, other := write("instance"), write("other")
	m := &spareMachine{held: "key", root: "/root", writable: write("spare")}
	for name, cfg := range map[string]vmm.Config{
		"another key":      {Prepared: "other", Disks: []vmm.Disk{{ID: diskRoot, Path: "/root"}, {ID: diskWritable, Path: other}}},
		"no key":           {Disks: []vmm.Disk{{ID: diskRoot, Path: "/root"}, {ID: diskWritable, Path: other}}},
		"another image":    {Prepared: "key", Disks: []vmm.Disk{{ID: diskRoot, Path: "/another"}, {ID: diskWritable, Path: other}}},
		"no writable disk": {Prepared: "key", Disks: []vmm.Disk{{ID: diskRoot, Path: "/root"}}},
	} {
		if err := m.bringDisk(&cfg); !errs.Is(err, errs.FailedPrecondition) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cfg := vmm.Config{Prepared: "key", Disks: []vmm.Disk{{ID: diskRoot, Path: "/root"}, {ID: diskWritable, Path: mine}}}
	if err := m.bringDisk(&cfg); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{mine: "spare", other: "other"} {
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v", path, b, err)
		}
	}
	if _, err := os.Stat(m.writable); !os.IsNotExist(err) {
		t.Errorf("the spare's disk: %v", err)
	}
	if err := (&spareMachine{}).bringDisk(&cfg); err != nil {
		t.Errorf("of one that holds nothing: %v", err)
	}
}

// One that is told to retire ends, with its machine.
func TestSpareThatRetires(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "1000")
	pool, ready := r.spare("true")
	<-ready
	if said := r.hand(pool, []byte(`{"retire":true}`+"\n")); said != "" {
		t.Errorf("it says %q", said)
	}
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	r.ended = nil
	if n := len(r.driver.Machines()); n != 0 {
		t.Errorf("%d machines are left", n)
	}
}
