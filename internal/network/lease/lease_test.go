package lease

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network/frame"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func newBook(t *testing.T) *Book {
	t.Helper()
	b, err := Open(filepath.Join(t.TempDir(), "network.json"), "shop")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func define(t *testing.T, b *Book, name string, w Wish) Network {
	t.Helper()
	n, err := b.Define(name, w, nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func give(t *testing.T, b *Book, network, instance, asked string) Lease {
	t.Helper()
	var a netip.Addr
	if asked != "" {
		a = addr(asked)
	}
	l, err := b.Give(network, instance, a, frame.MAC{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestPickedSubnets(t *testing.T) {
	b := newBook(t)
	front := define(t, b, "front", Wish{})
	if !prefix("10.208.0.0/12").Contains(front.Subnet.Addr()) || front.Subnet.Bits() != 24 || front.Gateway != front.Subnet.Addr().Next() {
		t.Errorf("picked %+v", front)
	}
	if again := define(t, newBook(t), "front", Wish{}); again != front {
		t.Errorf("the same names lead to %v and %v", front, again)
	}
	if back := define(t, b, "back", Wish{}); back.Subnet.Overlaps(front.Subnet) {
		t.Errorf("%v and %v overlap", front, back)
	}
	other, err := newBook(t).Define("front", Wish{}, []netip.Prefix{front.Subnet})
	if err != nil || other.Subnet.Overlaps(front.Subnet) {
		t.Errorf("picked %v, which the host has: %v", other.Subnet, err)
	}
	if _, err := newBook(t).Define("front", Wish{}, []netip.Prefix{prefix("10.0.0.0/8")}); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("all taken: %v", err)
	}
}

func TestWishes(t *testing.T) {
	b := newBook(t)
	n := define(t, b, "front", Wish{Subnet: prefix("10.40.0.0/24"), Gateway: addr("10.40.0.254"), IPv6: true})
	if n.Gateway != addr("10.40.0.254") || n.Subnet6.Bits() != 64 || n.Subnet6.Addr().As16()[0] != 0xfd || !n.Subnet6.Contains(n.Gateway6) {
		t.Errorf("got %+v", n)
	}
	n = define(t, b, "six", Wish{Subnet: prefix("10.41.0.0/24"), IPv6: true, Subnet6: prefix("fd12::/64")})
	if n.Gateway6 != addr("fd12::a29:1") {
		t.Errorf("got %+v", n)
	}
	for name, w := range map[string]Wish{
		"overlap": {Subnet: prefix("10.40.0.128/25")}, "small": {Subnet: prefix("10.9.0.0/30")}, "large": {Subnet: prefix("0.0.0.0/0")},
		"gateway": {Subnet: prefix("10.9.0.0/24"), Gateway: addr("10.8.0.1")}, "v6": {Subnet: prefix("fd00::/64")},
	} {
		if n, err := b.Define(name, w, nil); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v, %v", name, n, err)
		}
	}
}

func TestLeases(t *testing.T) {
	b := newBook(t)
	define(t, b, "front", Wish{Subnet: prefix("10.40.0.0/24"), IPv6: true, Subnet6: prefix("fd00::/64")})
	l := give(t, b, "front", "web-1", "")
	if l.Address != addr("10.40.0.2") || l.Address6 != addr("fd00::a28:2") || l.MAC != (frame.MAC{2, 0x56, 10, 40, 0, 2}) {
		t.Errorf("got %+v", l)
	}
	if again := give(t, b, "front", "web-1", ""); again != l {
		t.Errorf("the second time %+v, the first %+v", again, l)
	}
	if l := give(t, b, "front", "web-2", ""); l.Address != addr("10.40.0.3") {
		t.Errorf("got %+v", l)
	}
	// What the file says is taken from who has it by chance.
	if l := give(t, b, "front", "db-1", "10.40.0.2"); !l.Static {
		t.Errorf("got %+v", l)
	}
	if l := give(t, b, "front", "web-1", ""); l.Address != addr("10.40.0.4") {
		t.Errorf("got %+v", l)
	}
	b.Return("web-2")
	if l := give(t, b, "front", "new-1", ""); l.Address != addr("10.40.0.3") {
		t.Errorf("got %+v", l)
	}
}

func TestRefusesToGive(t *testing.T) {
	b := newBook(t)
	define(t, b, "front", Wish{Subnet: prefix("10.40.0.0/29")})
	give(t, b, "front", "web-1", "10.40.0.5")
	for _, c := range []struct {
		network, asked string
		mac            frame.MAC
		want           errs.Class
	}{
		{"back", "", frame.MAC{}, errs.NotFound},
		{"front", "10.40.0.5", frame.MAC{}, errs.AlreadyExists},
		{"front", "10.40.0.1", frame.MAC{}, errs.InvalidArgument}, // the gateway's
		{"front", "10.40.0.0", frame.MAC{}, errs.InvalidArgument},
		{"front", "10.40.0.7", frame.MAC{}, errs.InvalidArgument},
		{"front", "10.41.0.2", frame.MAC{}, errs.InvalidArgument},
		{"front", "fd00::2", frame.MAC{}, errs.InvalidArgument},
		{"front", "10.40.0.2", frame.MAC{2, 0x56, 10, 40, 0, 5}, errs.AlreadyExists},
		{"front", "10.40.0.2", frame.MAC{2, 0x56, 10, 40, 0, 1}, errs.AlreadyExists}, // the gateway's
	} {
		var a netip.Addr
		if c.asked != "" {
			a = addr(c.asked)
		}
		if l, err := b.Give(c.network, "db-1", a, c.mac); !errs.Is(err, c.want) {
			t.Errorf("%s %s %v: %+v, %v", c.network, c.asked, c.mac, l, err)
		}
	}
	for i := range 4 {
		give(t, b, "front", fmt.Sprintf("more-%d", i), "")
	}
	if l, err := b.Give("front", "db-1", netip.Addr{}, frame.MAC{}); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("full: %+v, %v", l, err)
	}
}

func TestRoundTrip(t *testing.T) {
	b := newBook(t)
	define(t, b, "front", Wish{Subnet: prefix("10.40.0.0/24"), IPv6: true})
	define(t, b, "back", Wish{})
	give(t, b, "front", "web-1", "10.40.0.9")
	give(t, b, "back", "web-1", "")
	if err := b.Save(); err != nil {
		t.Fatal(err)
	}
	got, err := Open(b.path, "shop")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Leases(""), b.Leases("")) || !slices.Equal(got.Networks(), []string{"back", "front"}) {
		t.Errorf("read %+v, wrote %+v", got, b)
	}
	for _, name := range b.Networks() {
		want, _ := b.Network(name)
		if n, ok := got.Network(name); !ok || n != want {
			t.Errorf("%s: read %+v, wrote %+v", name, n, want)
		}
		// Nothing changes by being said again.
		if n, err := got.Define(name, Wish{IPv6: want.Subnet6.IsValid()}, nil); err != nil || n != want || len(got.Leases(name)) != 1 {
			t.Errorf("%s: defined again as %+v: %v", name, n, err)
		}
	}
	// Another subnet voids what was given.
	define(t, got, "front", Wish{Subnet: prefix("10.50.0.0/24")})
	if len(got.Leases("front")) != 0 || len(got.Leases("back")) != 1 {
		t.Errorf("left are %+v", got.Leases(""))
	}
	got.Drop("back")
	if len(got.Leases("")) != 0 || len(got.Networks()) != 1 {
		t.Errorf("left are %+v", got)
	}
	if left, err := os.ReadDir(filepath.Dir(b.path)); err != nil || len(left) != 1 {
		t.Errorf("left are %v: %v", left, err)
	}
}

func TestRefusesARecord(t *testing.T) {
	network := `"networks":{"front":{"subnet":"10.40.0.0/24","gateway":"10.40.0.1"}}`
	lease := func(network, address string) string {
		return fmt.Sprintf(`{"network":%q,"instance":"web-1","address":%q,"mac":"02:56:0a:28:00:02"}`, network, address)
	}
	for text, want := range map[string]errs.Class{
		`{`:                        errs.DataLoss,
		`{"version":2}`:            errs.Unsupported,
		`{"version":1,"colour":3}`: errs.DataLoss,
		`{"version":1,"networks":{"front":{"subnet":"10.40.0.0/24","gateway":"10.41.0.1"}}}`:                                errs.DataLoss,
		`{"version":1,` + network + `,"leases":[` + lease("back", "10.40.0.2") + `]}`:                                       errs.DataLoss,
		`{"version":1,` + network + `,"leases":[` + lease("front", "10.41.0.2") + `]}`:                                      errs.DataLoss,
		`{"version":1,` + network + `,"leases":[` + lease("front", "10.40.0.2") + `,` + lease("front", "10.40.0.2") + `]}`:  errs.DataLoss,
		`{"version":1,` + network + `,"leases":[` + strings.Replace(lease("front", "10.40.0.2"), "02:56", "2:56", 1) + `]}`: errs.DataLoss,
	} {
		path := filepath.Join(t.TempDir(), "network.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, "shop"); !errs.Is(err, want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestHostPrefixes(t *testing.T) {
	all, err := HostPrefixes()
	if err != nil || !slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Addr().IsLoopback() }) {
		t.Errorf("%v, %v", all, err)
	}
}

// What was given since is taken back: others keep what they have, and have been
// given meanwhile.
func TestRestore(t *testing.T) {
	b := newBook(t)
	for _, n := range []string{"front", "back"} {
		define(t, b, n, Wish{Subnet: prefix(map[string]string{"front": "10.40.0.0/24", "back": "10.41.0.0/24"}[n])})
	}
	first := give(t, b, "front", "web-1", "")
	give(t, b, "front", "db-1", "")
	had := b.Of("web-1")
	if !slices.Equal(had, []Lease{first}) {
		t.Fatalf("it has %v", had)
	}
	give(t, b, "front", "web-1", "10.40.0.77")
	give(t, b, "back", "web-1", "")
	b.Restore("web-1", had)
	if got := b.Of("web-1"); !slices.Equal(got, had) {
		t.Errorf("restored to %v, want %v", got, had)
	}
	b.Return("web-1")
	other := give(t, b, "front", "web-2", "")
	if other.Address != first.Address {
		t.Fatalf("%v is not given again", first.Address)
	}
	b.Restore("web-1", had)
	if got := b.Of("web-1"); len(got) > 0 {
		t.Errorf("restored to %v, which is another's", got)
	}
	b.Restore("new-1", nil)
	if got := b.Leases("front"); len(got) != 2 {
		t.Errorf("left: %v", got)
	}
}
