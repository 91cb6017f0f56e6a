package shim

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/network"
	"github.com/vzcompose/vzcompose/internal/network/frame"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/switchproc"
	"github.com/vzcompose/vzcompose/internal/switchproto"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

// onNetwork puts the rig's instance on the network front.
func (r *rig) onNetwork() {
	r.launch.Instance.Interfaces = []store.Interface{{Network: "front", MAC: "02:00:00:00:85:02", MTU: 1280,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.85.0.2/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.85.0.1")},
		On: store.Network{Gateway: netip.MustParsePrefix("10.85.0.1/24"), MAC: "02:00:00:00:85:01", MTU: 1280}}}
}

// runSwitch is a switch of the rig's stack until stop is called.
func (r *rig) runSwitch() (stop func()) {
	r.t.Helper()
	home := r.launch.Home
	if err := home.MakeRuntime(); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- switchproc.Run(ctx, switchproc.Orders{Socket: home.SwitchSocket("shop"), Lock: home.SwitchLock("shop"),
			Log: filepath.Join(home.Dir, "switch.log"), ResolvConf: "/dev/null", Idle: switchIdle}, func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		r.t.Fatalf("the switch: %v", err)
	}
	return func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("the switch: %v", err)
		}
	}
}

// isMember reports whether the switch knows the rig's instance.
func (r *rig) isMember() bool {
	c, err := switchproto.Dial(r.t.Context(), r.launch.Home.SwitchSocket("shop"))
	if err != nil {
		r.t.Error(err)
		return false
	}
	defer c.Close()
	all, err := c.Inspect(r.t.Context())
	if err != nil {
		r.t.Error(err)
	}
	return slices.ContainsFunc(all, func(n network.NetworkStatus) bool {
		return slices.ContainsFunc(n.Members, func(m network.MemberStatus) bool { return m.Instance == "web-1" })
	})
}

// isNamed reports whether the name of the container leads to m, as m itself sees it.
func isNamed(t *testing.T, m *vmmfake.Machine) bool {
	t.Helper()
	c, err := m.Station(0).Packet(netip.MustParseAddrPort("10.85.0.1:53"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, _, err := new(dns.Client).ExchangeWithConn(new(dns.Msg).SetQuestion("web.", dns.TypeA), &dns.Conn{Conn: c})
	if err != nil {
		t.Fatalf("the resolver: %v", err)
	}
	return len(r.Answer) == 1
}

// eventually waits for what another goroutine is about to do.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// awaitEnd waits for the shim's end, where the switch's socket stays.
func (r *rig) awaitEnd() {
	r.t.Helper()
	if err := <-r.ended; err != nil {
		r.t.Errorf("the shim: %v", err)
	}
	r.ended = nil
}

// A machine is on its networks before its process starts, names lead to it while it
// is ready, and it leaves with its end.
func TestMembership(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	r.onNetwork()
	defer r.runSwitch()()
	_, _, m := r.started()
	if m.Station(0) == nil {
		t.Fatal("the interface is not up")
	}
	if !r.isMember() {
		t.Error("it started before it was on its network")
	}
	eventually(t, "its name leads to it", func() bool { return isNamed(t, m) })
	r.stop()
	r.awaitEnd()
	eventually(t, "it has left", func() bool { return !r.isMember() })
}

// An instance that nobody can put on its networks does not start, and its machine
// is gone.
func TestNoSwitch(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	r.onNetwork()
	r.run()
	r.end()
	if st := r.record(); st.State != lifecycle.Errored || !strings.Contains(st.Cause, "there is no switch") {
		t.Errorf("on record is %+v", st)
	}
}

// A switch that is lost is replaced, and the machine is on the next one as it was.
// What nobody could mend for a while is in the journal.
func TestSwitchThatIsLost(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	r.onNetwork()
	stop := r.runSwitch()
	_, _, m := r.started()
	stop()
	journal := func(word string) bool {
		b, err := os.ReadFile(r.launch.Home.Journal("shop"))
		return err == nil && strings.Contains(string(b), `"`+word+`"`)
	}
	eventually(t, "the loss is in the journal", func() bool { return journal("disconnect") })
	defer r.runSwitch()()
	eventually(t, "that it is mended is in the journal", func() bool { return journal("connect") })
	if !r.isMember() {
		t.Error("it is not on its network again")
	}
	eventually(t, "its name leads to it", func() bool { return isNamed(t, m) })
	r.stop()
	r.awaitEnd()
}

// What the switch learns of an instance follows from its record.
func TestJoinOf(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "true")
	r.onNetwork()
	i := &r.launch.Instance.Interfaces[0]
	i.Addresses = append(i.Addresses, netip.MustParsePrefix("fd00:85::2/64"))
	i.Aliases, i.On.Internal = []string{"api"}, true
	j, err := joinOf(r.launch.Instance)
	if err != nil {
		t.Fatal(err)
	}
	at := j.Machine.Interfaces[0]
	if j.Machine.Instance != "web-1" || j.Machine.Container != "web" || at.V4.String() != "10.85.0.2" || at.V6.String() != "fd00:85::2" ||
		at.MAC != (frame.MAC{2, 0, 0, 0, 0x85, 2}) || len(at.Aliases) != 1 {
		t.Errorf("machine: %+v", j.Machine)
	}
	if n := j.Networks[0]; n.Name != "front" || !n.Internal || n.MTU != 1280 || n.V4.String() != "10.85.0.1/24" || n.MAC != (frame.MAC{2, 0, 0, 0, 0x85, 1}) {
		t.Errorf("network: %+v", n)
	}
	for _, spoil := range []func(*store.Interface){func(i *store.Interface) { i.MAC = "x" }, func(i *store.Interface) { i.On.MAC = "x" }} {
		inst := r.launch.Instance
		inst.Interfaces = append([]store.Interface{}, *i)
		spoil(&inst.Interfaces[0])
		if _, err := joinOf(inst); err == nil {
			t.Error("a damaged record is joined")
		}
	}
}
