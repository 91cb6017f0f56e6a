package shim

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/volume"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

// newDisk gives an instance a writable disk to which nothing was written.
func (r *rig) newDisk(name string) {
	r.t.Helper()
	if err := os.MkdirAll(r.launch.Home.Instance("shop", name), 0o700); err != nil {
		r.t.Fatal(err)
	}
	path := r.launch.Home.Writable("shop", name)
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	if err := volume.Create(path, 64<<20); err != nil {
		r.t.Fatal(err)
	}
}

// prepare makes the template of the rig's instance.
func (r *rig) prepare() {
	r.t.Helper()
	r.newDisk("web-1")
	r.newDisk("saved")
	l := r.launch
	l.Instance.Name, l.Prepare = "saved", true
	ready := 0
	if err := Prepare(r.t.Context(), r.driver, l, func() { ready++ }); err != nil || ready != 1 {
		r.t.Fatalf("%v; it was ready %d times", err, ready)
	}
	if alive, err := l.Home.Alive("shop", "saved"); alive || err != nil {
		r.t.Errorf("whoever prepared has its lock: %v, %v", alive, err)
	}
}

func (r *rig) preparedTemplates() int {
	r.t.Helper()
	all, err := r.driver.Templates()
	if err != nil {
		r.t.Fatal(err)
	}
	return len(slices.DeleteFunc(all, func(t vmm.Template) bool { return t.Root == "" }))
}

// The process of a prepared machine runs with what is its instance's own; a later
// start, whose disk was written to, has another machine.
func TestPreparedInstance(t *testing.T) {
	r := newRig(t, vmmfake.Options{Templates: t.TempDir()}, "sleep", "infinity")
	r.prepare()
	c, _, m := r.started()
	if o := r.record().Origin; o != string(vmm.Prepared) {
		t.Errorf("the machine was %s", o)
	}
	set := slices.Clone(m.Setups())
	if len(set) != 2 || set[0].Hostname != heldName || set[1].Hostname != "web-1" {
		t.Errorf("it was set up with %+v", set)
	}
	if p := m.Process(agentproto.InitID); !slices.Equal(p.Args, []string{"sleep", "infinity"}) || !slices.Equal(p.Env, []string{"A=1", "B=2"}) {
		t.Errorf("it runs %q with %q", p.Args, p.Env)
	}
	if _, err := c.Stop(t.Context(), grace(0)); err != nil {
		t.Fatal(err)
	}
	r.end()
	r.started()
	if o := r.record().Origin; o != string(vmm.Restored) {
		t.Errorf("a second time the machine was %s", o)
	}
}

// What a container's process fails with is its instance's matter: the template
// stays. Anything else is the machine's fault, and costs the template.
func TestPreparedInstanceThatFails(t *testing.T) {
	for name, x := range map[string]struct {
		fault error
		want  lifecycle.State
		left  int
	}{
		"the program is not there": {errs.New(errs.NotFound, "no program"), lifecycle.Errored, 1},
		"the machine is of no use": {errs.New(errs.Internal, "no stage"), lifecycle.Started, 0},
	} {
		t.Run(name, func(t *testing.T) {
			broken := true
			r := newRig(t, vmmfake.Options{Templates: t.TempDir(), Start: func(_ context.Context, s agentproto.Start) error {
				if s.Hold || !broken {
					return nil
				}
				broken = false
				return x.fault
			}}, "sleep", "infinity")
			r.prepare()
			r.run()
			c, news := r.client()
			r.until(c, news, x.want)
			st := r.record()
			if x.want == lifecycle.Errored && !strings.Contains(st.Cause, "no program") || x.want == lifecycle.Started && !strings.Contains(strings.Join(st.Notes, ";"), "no stage") {
				t.Errorf("on record is %+v", st)
			}
			if n := r.preparedTemplates(); n != x.left {
				t.Errorf("%d templates are left, want %d", n, x.left)
			}
		})
	}
}

// What cannot be prepared leaves nothing: of a driver that cannot, of an instance
// that cannot, and where the agent refuses.
func TestPrepareThatFails(t *testing.T) {
	r := newRig(t, vmmfake.Options{Templates: t.TempDir(), Start: func(context.Context, agentproto.Start) error {
		return errs.New(errs.Internal, "not held")
	}}, "sleep", "infinity")
	r.newDisk("web-1")
	vsock := r.launch
	vsock.Instance.Vsock = true
	for name, x := range map[string]struct {
		driver vmm.Driver
		l      shimproto.Launch
		want   errs.Class
		word   string
	}{
		"driver":   {struct{ vmm.Driver }{r.driver}, r.launch, errs.Unsupported, "this driver"},
		"instance": {r.driver, vsock, errs.Unsupported, "virtual sockets"},
		"agent":    {r.driver, r.launch, errs.Internal, "not held"},
	} {
		err := Prepare(t.Context(), x.driver, x.l, func() { t.Errorf("%s: it is ready", name) })
		if !errs.Is(err, x.want) || !strings.Contains(err.Error(), x.word) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(r.driver.Machines()); n > 0 || r.preparedTemplates() > 0 {
		t.Errorf("%d machines and %d templates are left", n, r.preparedTemplates())
	}
}

// A spare that holds a container becomes that of an instance, with what was written
// for it; one whose container is another's does not.
func TestSpareThatHolds(t *testing.T) {
	for name, x := range map[string]struct {
		change func(*shimproto.Launch)
		origin vmm.Origin
	}{
		"its own":   {func(*shimproto.Launch) {}, vmm.Pooled},
		"another's": {func(l *shimproto.Launch) { l.Instance.User = "nobody" }, vmm.Booted},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
			r.newDisk("web-1")
			common, _, err := Held(r.launch)
			if err != nil {
				t.Fatal(err)
			}
			common.Home = r.launch.Home
			r.hold = &common
			pool, ready := r.spare("true")
			<-ready
			x.change(&r.launch)
			if said := r.hand(pool, r.order()); said != shimproto.Ready {
				t.Fatalf("it says %q", said)
			}
			c, news := r.client()
			r.until(c, news, lifecycle.Started)
			if st := r.record(); st.Origin != string(x.origin) || (len(st.Notes) > 0) != (x.origin == vmm.Booted) {
				t.Errorf("on record is %+v", st)
			}
			m := r.driver.Machines()[0]
			if s := m.Setups(); s[len(s)-1].Hostname != "web-1" || m.Process(agentproto.InitID) == nil {
				t.Errorf("it was set up with %+v", s)
			}
		})
	}
}
