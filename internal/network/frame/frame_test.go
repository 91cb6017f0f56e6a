package frame_test

import (
	"net/netip"
	"testing"

	"github.com/vzcompose/vzcompose/internal/network/frame"
	nt "github.com/vzcompose/vzcompose/internal/network/networktest"
)

func own() frame.Identity {
	return frame.Identity{MAC: frame.MAC{2, 0, 0, 0, 0, 10}, V4: addr("10.40.0.10"), V6: addr("fd00::a")}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// judge is what a port does with a frame.
func judge(b []byte, id frame.Identity) frame.Fault {
	f, fault := frame.Parse(b)
	if fault == frame.None {
		fault = id.Check(&f)
	}
	return fault
}

// chain puts extension headers before payload: the type of each, and the last
// one's next.
func chain(next uint8, payload []byte, kinds ...uint8) (uint8, []byte) {
	for i := len(kinds) - 1; i >= 0; i-- {
		payload = append([]byte{next, 0, 0, 0, 0, 0, 0, 0}, payload...)
		next = kinds[i]
	}
	return next, payload
}

func later(next uint8) []byte { return []byte{next, 0, 0, 8, 0, 0, 0, 1, 136, 0, 0, 0} }

type judged struct {
	name string
	b    []byte
	want frame.Fault
}

func TestIPv4AndARP(t *testing.T) {
	id, other := own(), frame.MAC{2, 0, 0, 0, 0, 11}
	all, none := nt.Broadcast(), addr("0.0.0.0")
	me, you := id.V4, addr("10.40.0.11")
	ping := nt.IPv4(other, id.MAC, me, you, frame.ICMP, 8)
	for _, c := range []judged{
		{"packet", nt.IPv4(other, id.MAC, me, you, frame.TCP, 20), frame.None},
		{"padded packet", append(nt.IPv4(other, id.MAC, me, you, frame.UDP, 8), make([]byte, 18)...), frame.None},
		{"another's MAC", nt.IPv4(other, other, me, you, frame.TCP, 20), frame.Spoofed},
		{"another's address", nt.IPv4(other, id.MAC, you, me, frame.TCP, 20), frame.Spoofed},
		{"no address, as of DHCP", nt.IPv4(all, id.MAC, none, addr("255.255.255.255"), frame.UDP, 20), frame.Spoofed},
		{"cut in its header", ping[:30], frame.Short},
		{"cut in its payload", ping[:40], frame.Short},
		{"ARP request", nt.ARP(all, id.MAC, 1, id.MAC, me, you), frame.None},
		{"ARP probe", nt.ARP(all, id.MAC, 1, id.MAC, none, me), frame.None},
		{"ARP reply", nt.ARP(other, id.MAC, 2, id.MAC, me, you), frame.None},
		{"ARP reply of nobody", nt.ARP(other, id.MAC, 2, id.MAC, none, you), frame.Spoofed},
		{"ARP for another's address", nt.ARP(other, id.MAC, 2, id.MAC, you, me), frame.Spoofed},
		{"ARP with another's MAC inside", nt.ARP(other, id.MAC, 2, other, me, you), frame.Spoofed},
		{"ARP of an unknown operation", nt.ARP(other, id.MAC, 8, id.MAC, me, you), frame.Kind},
		{"cut ARP", nt.ARP(all, id.MAC, 1, id.MAC, me, you)[:41], frame.Short},
		{"nothing", nil, frame.Short},
		{"13 bytes", make([]byte, 13), frame.Short},
		{"VLAN tag", nt.Ethernet(other, id.MAC, 0x8100, ping[12:]), frame.Kind},
		{"802.3 length", nt.Ethernet(all, id.MAC, 38, make([]byte, 38)), frame.Kind},
	} {
		if got := judge(c.b, id); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestGarbledHeaders(t *testing.T) {
	id := own()
	packet := func(at int, v byte) []byte {
		b := nt.IPv4(frame.MAC{2}, id.MAC, id.V4, id.V4, frame.TCP, 20)
		b[frame.HeaderSize+at] = v
		return b
	}
	arp := nt.ARP(nt.Broadcast(), id.MAC, 1, id.MAC, id.V4, id.V4)
	arp[frame.HeaderSize+4] = 8
	mapped := nt.IPv6(frame.MAC{2}, id.MAC, id.V6, addr("::ffff:10.0.0.1"), frame.TCP, make([]byte, 20))
	next, many := chain(frame.TCP, make([]byte, 20), 0, 60, 60, 60, 60, 60, 60, 60)
	endless := nt.IPv6(frame.MAC{2}, id.MAC, id.V6, id.V6, next, many)
	version := nt.IPv6(frame.MAC{2}, id.MAC, id.V6, id.V6, frame.TCP, nil)
	version[frame.HeaderSize] = 0x40
	for name, b := range map[string][]byte{
		"version": packet(0, 0x65), "header of 16 bytes": packet(0, 0x44), "total below the header": packet(3, 8),
		"ARP for other addresses": arp, "mapped address": mapped, "endless extensions": endless, "IPv6 of version 4": version,
	} {
		if got := judge(b, id); got != frame.Garbled {
			t.Errorf("%s: %v, want garbled", name, got)
		}
	}
}

func TestIPv6(t *testing.T) {
	id, other := own(), frame.MAC{2, 0, 0, 0, 0, 11}
	me, you, all, none := id.V6, addr("fd00::b"), addr("ff02::1"), addr("::")
	link := frame.LinkLocal(id.MAC)
	icmp := func(from netip.Addr, b []byte) []byte {
		return nt.IPv6(other, id.MAC, from, all, frame.ICMPv6, b)
	}
	nd := nt.Neighbour
	behind := func(b []byte, kinds ...uint8) []byte {
		next, b := chain(frame.ICMPv6, b, kinds...)
		return nt.IPv6(other, id.MAC, me, all, next, b)
	}
	two := append(nd(frame.Advertisement, me, 2, id.MAC), 2, 1, 2, 0, 0, 0, 0, 11)
	for _, c := range []judged{
		{"packet", nt.IPv6(other, id.MAC, me, you, frame.TCP, make([]byte, 20)), frame.None},
		{"of its link-local address", nt.IPv6(other, id.MAC, link, you, frame.UDP, make([]byte, 8)), frame.None},
		{"another's address", nt.IPv6(other, id.MAC, you, me, frame.TCP, make([]byte, 20)), frame.Spoofed},
		{"another's link-local address", nt.IPv6(other, id.MAC, frame.LinkLocal(other), me, frame.TCP, nil), frame.Spoofed},
		{"of no address", nt.IPv6(other, id.MAC, none, me, frame.TCP, make([]byte, 20)), frame.Spoofed},
		{"echo", icmp(me, []byte{frame.EchoV6, 0, 0, 0}), frame.None},
		{"solicitation", icmp(me, nd(frame.Solicitation, you, 1, id.MAC)), frame.None},
		{"solicitation with another's MAC", icmp(me, nd(frame.Solicitation, you, 1, other)), frame.Spoofed},
		{"is mine taken", icmp(none, nd(frame.Solicitation, me, 14, id.MAC)), frame.None},
		{"is another's taken", icmp(none, nd(frame.Solicitation, you, 14, id.MAC)), frame.Spoofed},
		{"advertisement", icmp(me, nd(frame.Advertisement, me, 2, id.MAC)), frame.None},
		{"advertisement of another's address", icmp(me, nd(frame.Advertisement, you, 2, id.MAC)), frame.Spoofed},
		{"advertisement of another's MAC", icmp(me, nd(frame.Advertisement, me, 2, other)), frame.Spoofed},
		{"advertisement of two MACs", icmp(me, two), frame.Garbled},
		{"option of no length", icmp(me, append(nd(frame.Advertisement, me, 2, id.MAC), 1, 0, 0, 0, 0, 0, 0, 0)), frame.Garbled},
		{"option cut", icmp(me, append(nd(frame.Advertisement, me, 2, id.MAC), 1, 2, 0, 0, 0, 0, 0, 0)), frame.Short},
		{"advertisement cut", icmp(me, nd(frame.Advertisement, me, 2, id.MAC)[:20]), frame.Short},
		{"router advertisement", icmp(link, []byte{134, 0, 0, 0}), frame.Kind},
		{"redirect", icmp(link, []byte{137, 0, 0, 0}), frame.Kind},
		{"listener query", icmp(link, []byte{130, 0, 0, 0}), frame.Kind},
		{"router advertisement behind extensions", behind([]byte{134, 0, 0, 0}, 0, 60), frame.Kind},
		{"another's address behind an extension", behind(nd(frame.Advertisement, you, 2, id.MAC), 60), frame.Spoofed},
		{"advertisement in a first fragment", behind(nd(frame.Advertisement, me, 2, id.MAC), 44), frame.Kind},
		{"echo in a first fragment", behind([]byte{frame.EchoV6, 0, 0, 0}, 44), frame.None},
		{"first fragment without its type", behind(nil, 44), frame.Short},
		{"later fragment", nt.IPv6(other, id.MAC, me, you, 44, later(frame.ICMPv6)), frame.None},
		{"later fragment of no address", nt.IPv6(other, id.MAC, none, you, 44, later(frame.ICMPv6)), frame.Spoofed},
		{"extension cut", nt.IPv6(other, id.MAC, me, you, 0, []byte{58, 3, 0, 0, 0, 0, 0, 0}), frame.Short},
		{"cut", nt.IPv6(other, id.MAC, me, you, frame.TCP, make([]byte, 20))[:60], frame.Short},
	} {
		if got := judge(c.b, id); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	id.V6 = netip.Addr{}
	if got := judge(nt.IPv6(other, id.MAC, link, you, frame.TCP, nil), id); got != frame.Kind {
		t.Errorf("IPv6 where the network has none: %v", got)
	}
}

func TestLinkLocal(t *testing.T) {
	if got, want := frame.LinkLocal(frame.MAC{2, 0, 0, 0, 0, 10}), addr("fe80::ff:fe00:a"); got != want {
		t.Errorf("%v, want %v", got, want)
	}
}

// FuzzFrame: no bytes panic, and what passes speaks in the machine's name.
func FuzzFrame(f *testing.F) {
	id := own()
	f.Add([]byte{})
	f.Add(nt.ARP(nt.Broadcast(), id.MAC, 1, id.MAC, id.V4, id.V4))
	f.Add(nt.IPv4(frame.MAC{2}, id.MAC, id.V4, id.V4, frame.ICMP, 8))
	f.Add(nt.IPv6(frame.MAC{2}, id.MAC, id.V6, id.V6, frame.ICMPv6, nt.Neighbour(frame.Advertisement, id.V6, 2, id.MAC)))
	next, b := chain(frame.ICMPv6, nt.Neighbour(frame.Solicitation, id.V6, 1, id.MAC), 0, 60, 44)
	f.Add(nt.IPv6(frame.MAC{2}, id.MAC, id.V6, id.V6, next, b))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, fault := frame.Parse(b)
		if fault != frame.None || id.Check(&got) != frame.None {
			return
		}
		if got.Src != id.MAC || got.Type == frame.ARP && got.Sender != id.MAC || got.HasLink && got.Link != id.MAC {
			t.Errorf("passed with the MAC of another: %+v", got)
		}
		if from := got.From; from != id.V4 && from != id.V6 && from != frame.LinkLocal(id.MAC) && !from.IsUnspecified() {
			t.Errorf("passed from %v", from)
		}
	})
}

func BenchmarkFrame(b *testing.B) {
	id := own()
	p := nt.IPv4(frame.MAC{2}, id.MAC, id.V4, id.V4, frame.TCP, 1200)
	b.ReportAllocs()
	for b.Loop() {
		if judge(p, id) != frame.None {
			b.Fatal("refused")
		}
	}
}

func TestParseMAC(t *testing.T) {
	if m, err := frame.ParseMAC("02:00:00:00:00:1F"); err != nil || m != (frame.MAC{2, 0, 0, 0, 0, 0x1f}) {
		t.Errorf("%v, %v", m, err)
	}
	for _, s := range []string{"", "02:00:00:00:00", "02:00:00:00:00:10:11", "02-00-00-00-00-10", "2:0:0:0:0:10", "02:00:00:00:00:1g"} {
		if m, err := frame.ParseMAC(s); err == nil {
			t.Errorf("%q is %v", s, m)
		}
	}
}
