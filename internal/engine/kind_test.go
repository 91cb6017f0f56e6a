package engine

import (
	"testing"

	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/store"
)

// Machines that hold containers are the same for those whose container is: of the
// image too, which is not in the key.
func TestKinds(t *testing.T) {
	small := Make{CPUs: 1, Memory: 64 << 20}
	held := func(change func(*shimproto.Launch)) Kind {
		l := shimproto.Launch{Kernel: "/k", Initramfs: "/i", Instance: store.Instance{CPUs: 1, Memory: 64 << 20, Root: "/a.erofs"}}
		change(&l)
		return Kind{small, &l, "key"}
	}
	base := held(func(*shimproto.Launch) {})
	for name, x := range map[string]struct {
		a, b Kind
		same bool
	}{
		"nothing held":   {Kind{Make: small}, Kind{Make: small}, true},
		"another make":   {Kind{Make: small}, Kind{Make: Make{CPUs: 2, Memory: 64 << 20}}, false},
		"larger":         {Kind{Make: small}, Kind{Make: Make{CPUs: 1, Memory: 128 << 20}}, false},
		"held and not":   {base, Kind{Make: small}, false},
		"equal":          {base, held(func(*shimproto.Launch) {}), true},
		"another name":   {base, held(func(l *shimproto.Launch) { l.Instance.Container = "other" }), true},
		"another image":  {base, held(func(l *shimproto.Launch) { l.Instance.Root = "/b.erofs" }), false},
		"another kernel": {base, held(func(l *shimproto.Launch) { l.Kernel = "/l" }), false},
		"a larger disk":  {base, held(func(l *shimproto.Launch) { l.Instance.Writable = 1 << 30 }), false},
		"another memory": {base, held(func(l *shimproto.Launch) { l.Instance.Memory = 1 << 30 }), false},
		"another key":    {base, Kind{small, base.Held, "other"}, false},
	} {
		from := &bootFiles{kernel: "/k", initramfs: "/i"}
		if x.a.same(x.b) != x.same || x.b.same(x.a) != x.same || (x.a.prefix(from) == x.b.prefix(from)) != x.same {
			t.Errorf("%s: the same is %v", name, !x.same)
		}
	}
}
