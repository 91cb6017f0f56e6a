package vz

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

const host8 = 8

func host() limits {
	return limits{minCPUs: 1, maxCPUs: host8, minMemory: 64 << 20, maxMemory: 8 << 30}
}

func config() *vmm.Config {
	return &vmm.Config{Name: "m", CPUs: 2, Memory: 512 << 20, Kernel: "/k", Initramfs: "/i", Console: "/c",
		KernelArgs: []string{"extra=1"},
		Disks:      []vmm.Disk{{ID: "root", Path: "/root.img", ReadOnly: true}, {ID: "upper", Path: "/upper.img"}}}
}

func TestPlan(t *testing.T) {
	got, err := plan(config(), host())
	if err != nil {
		t.Fatal(err)
	}
	want := &devices{cpus: 2, memory: 512 << 20, kernel: "/k", initramfs: "/i", console: "/c",
		cmdline: "console=hvc0 quiet panic=-1 audit=0 lsm= cryptomgr.notests rcupdate.rcu_expedited=1 random.trust_cpu=on extra=1",
		disks:   []disk{{path: "/root.img", readOnly: true, id: "root"}, {path: "/upper.img", id: "upper"}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	again, err := plan(config(), host())
	if err != nil || !reflect.DeepEqual(got, again) {
		t.Errorf("not the same twice: %+v, %v", again, err)
	}
	if strings.Contains(got.cmdline, "earlycon") || strings.Contains(got.cmdline, "/root.img") {
		t.Errorf("command line %q", got.cmdline)
	}
}

func TestPlanRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*vmm.Config){
		"no kernel":       func(c *vmm.Config) { c.Kernel = "" },
		"too many cpus":   func(c *vmm.Config) { c.CPUs = host8 + 1 },
		"too much memory": func(c *vmm.Config) { c.Memory = 16 << 30 },
		"too little":      func(c *vmm.Config) { c.Memory = 1 << 20 },
		"same id twice":   func(c *vmm.Config) { c.Disks[1].ID = c.Disks[0].ID },
		"long id":         func(c *vmm.Config) { c.Disks[1].ID = strings.Repeat("x", 21) },
	} {
		c := config()
		spoil(c)
		if _, err := plan(c, host()); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestCheckKernel(t *testing.T) {
	image := append(make([]byte, 56), "ARM\x64"...)
	for name, c := range map[string]struct {
		text []byte
		arch string
		want errs.Class
	}{
		"image":          {image, "arm64", errs.Unknown},
		"gzip":           {append([]byte("\x1f\x8b"), make([]byte, 100)...), "arm64", errs.InvalidArgument},
		"short":          {image[:57], "arm64", errs.InvalidArgument},
		"elf":            {append([]byte("\x7fELF"), make([]byte, 100)...), "arm64", errs.InvalidArgument},
		"other hardware": {[]byte("anything"), "amd64", errs.Unknown},
	} {
		p := filepath.Join(t.TempDir(), "kernel")
		if err := os.WriteFile(p, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkKernel(p, c.arch); errs.ClassOf(err) != c.want {
			t.Errorf("%s: got %v, want class %q", name, err, c.want)
		}
	}
	if err := checkKernel(filepath.Join(t.TempDir(), "missing"), "arm64"); !errs.Is(err, errs.NotFound) {
		t.Errorf("missing: got %v", err)
	}
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		domain string
		code   int
		text   string
		want   errs.Class
		hint   string
	}{
		{domain, codeConfiguration, `doesn't have the "com.apple.security.virtualization" entitlement`, errs.PermissionDenied, "codesign"},
		{domain, codeConfiguration, "the disk is odd", errs.InvalidArgument, ""},
		{domain, codeLimit, "", errs.ResourceExhausted, "stop other"},
		{domain, 1, "", errs.Unavailable, ""},
		{"NSPOSIXErrorDomain", 54, "", errs.Unavailable, ""},
	} {
		cause := errors.New("cause")
		err := classify(cause, c.domain, c.code, c.text)
		if !errs.Is(err, c.want) || !errors.Is(err, cause) || !strings.Contains(errs.HintOf(err), c.hint) || (c.hint == "") != (errs.HintOf(err) == "") {
			t.Errorf("%+v: got %v, class %q, hint %q", c, err, errs.ClassOf(err), errs.HintOf(err))
		}
	}
}

func TestEntitled(t *testing.T) {
	const plist = `<?xml version="1.0"?><plist version="1.0"><dict>%</dict></plist>`
	for text, want := range map[string]bool{
		"<key>com.apple.security.virtualization</key><true/>": true, "<key>com.apple.security.virtualization</key>\n  <true/>": true,
		"<key>com.apple.security.virtualization</key><false/>": false, "<key>com.apple.security.hypervisor</key><true/>": false, "": false,
	} {
		if got := entitled([]byte(strings.Replace(plist, "%", text, 1))); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	text, err := os.ReadFile("vz.entitlements")
	if err != nil || !entitled(text) {
		t.Errorf("the file has not what it is for: %v", err)
	}
}

// framework plays the framework's connect.
type framework struct {
	answers chan any // net.Conn or error; none: it blocks
}

func (f *framework) connect(uint32) (net.Conn, error) {
	switch a := (<-f.answers).(type) {
	case net.Conn:
		return a, nil
	case error:
		return nil, a
	}
	return nil, net.ErrClosed // the channel was closed
}

func newDialer(answers ...any) (*dialer, *framework) {
	f := &framework{answers: make(chan any, 16)}
	for _, a := range answers {
		f.answers <- a
	}
	return &dialer{name: "m", connect: f.connect, life: newLife()}, f
}

var errRefused = errors.New("refused")

func TestDialWaitsUntilTheGuestIsUpAndThenDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		d, _ := newDialer(errRefused, errRefused, near, errRefused)
		begin := time.Now()
		c, err := d.dial(t.Context(), 1024)
		if err != nil || time.Since(begin) != 3*firstPause {
			t.Fatalf("got %v after %v", err, time.Since(begin))
		}
		defer c.Close()
		begin = time.Now()
		if _, err := d.dial(t.Context(), 7); !errs.Is(err, errs.Unavailable) || !errors.Is(err, errRefused) || time.Since(begin) != 0 {
			t.Errorf("got %v after %v", err, time.Since(begin))
		}
	})
}

func TestDialGivesUpAndClosesTheLateConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, f := newDialer()
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error)
		go func() { _, err := d.dial(ctx, 1); got <- err }()
		synctest.Wait()
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		near, far := net.Pipe()
		f.answers <- near
		if _, err := far.Read(make([]byte, 1)); err == nil {
			t.Error("the late connection is open")
		}
	})
}

func TestDialTriesAnewWhereAnAttemptHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		near, far := net.Pipe()
		defer far.Close()
		hang := make(chan struct{})
		defer close(hang)
		d := &dialer{name: "m", life: newLife(), connect: func(uint32) (net.Conn, error) {
			if calls.Add(1) == 1 { // the guest's driver is not up
				<-hang
				return nil, errRefused
			}
			return near, nil
		}}
		begin := time.Now()
		c, err := d.dial(t.Context(), 1)
		if err != nil || time.Since(begin) != attemptLimit+firstPause {
			t.Fatalf("got %v after %v", err, time.Since(begin))
		}
		c.Close()
	})
}

func TestTheEndEndsDialsConnectionsAndListeners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		d, f := newDialer(near)
		open, err := d.dial(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		inner := newInner()
		l, err := newListener(inner, d.life)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error, 3)
		go func() { _, err := d.dial(t.Context(), 1); got <- err }()
		go func() { _, err := l.Accept(); got <- err }()
		go func() { _, err := open.Read(make([]byte, 1)); got <- err }()
		synctest.Wait()
		cause := errors.New("broke")
		d.life.end(cause)
		d.life.end(nil)
		for range 3 {
			if err := <-got; err == nil {
				t.Error("something outlived the machine")
			}
		}
		if _, err := far.Read(make([]byte, 1)); err == nil {
			t.Error("the connection is open")
		}
		if err := d.life.wait(t.Context()); err != cause {
			t.Errorf("got %v", err)
		}
		if _, err := d.dial(t.Context(), 1); !errs.Is(err, errs.Unavailable) {
			t.Errorf("got %v", err)
		}
		if _, err := newListener(newInner(), d.life); !errs.Is(err, errs.Unavailable) {
			t.Errorf("got %v", err)
		}
		if !inner.closed {
			t.Error("the framework's listener is open")
		}
		close(f.answers)
		inner.release()
	})
}

// inner is a listener whose Close does not wake Accept, as the framework's.
type inner struct {
	conns  chan net.Conn
	closed bool
}

func newInner() *inner { return &inner{conns: make(chan net.Conn)} }

func (i *inner) Accept() (net.Conn, error) {
	if c := <-i.conns; c != nil {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (i *inner) Close() error   { i.closed = true; return nil }
func (i *inner) Addr() net.Addr { return &net.UnixAddr{Name: "vsock"} }
func (i *inner) release()       { close(i.conns) }

func TestListenerCloseWakesAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInner()
		l, err := newListener(in, newLife())
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe()
		go func() { in.conns <- near }()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		far.Close()
		got := make(chan error)
		go func() { _, err := l.Accept(); got <- err }()
		synctest.Wait()
		l.Close()
		if err := <-got; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
		// One that the framework still delivers finds its end.
		near, far = net.Pipe()
		in.conns <- near
		if _, err := far.Read(make([]byte, 1)); err == nil {
			t.Error("a connection after Close is open")
		}
	})
}

func TestWaitIsBoundByItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l := newLife()
	if err := l.wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	l.end(nil)
	if err := l.wait(ctx); err != nil {
		t.Errorf("got %v", err)
	}
}
