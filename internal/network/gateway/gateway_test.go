package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network/frame"
	nt "github.com/vzcompose/vzcompose/internal/network/networktest"
	"github.com/vzcompose/vzcompose/internal/network/segment"
)

const patience = 20 * time.Second

// lan is a segment with a gateway.
type lan struct {
	*segment.Segment
	*Gateway
	o    Options
	open []Ports // to machines that are plugged in from here on
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func identity(n byte) frame.Identity {
	return frame.Identity{MAC: frame.MAC{2, 0, 0, 0, 0, n},
		V4: netip.AddrFrom4([4]byte{10, 40, 0, n}), V6: netip.AddrFrom16([16]byte{0: 0xfd, 15: n})}
}

func newLAN(t testing.TB, mtu int, change func(*Options)) *lan {
	t.Helper()
	s, err := segment.New(segment.Options{MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{MAC: frame.MAC{2, 0, 0, 0, 0, 1}, V4: prefix("10.40.0.1/24"), V6: prefix("fd00::1/64")}
	if change != nil {
		change(&o)
	}
	g, err := New(s, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); g.Close() })
	return &lan{Segment: s, Gateway: g, o: o}
}

// plug attaches machine n and answers its socket.
func (l *lan) plug(t testing.TB, n byte) net.Conn {
	t.Helper()
	ours, theirs := nt.Pair(t)
	if err := l.Join(identity(n), l.open); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Attach(identity(n), ours); err != nil {
		t.Fatal(err)
	}
	return theirs
}

func (l *lan) station(t testing.TB, n byte) *nt.Station {
	id := identity(n)
	return nt.Start(t, l.plug(t, n), nt.Config{
		MAC: id.MAC, V4: netip.PrefixFrom(id.V4, 24), V6: netip.PrefixFrom(id.V6, 64),
		Gateways: []netip.Addr{l.o.V4.Addr(), l.o.V6.Addr()}, MTU: l.MTU(),
	})
}

// elsewhere answers a Dial that leads all addresses to one on the host, and
// tells what was asked for.
func elsewhere(to string) (func(context.Context, string, string) (net.Conn, error), chan string) {
	asked := make(chan string, 100)
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		asked <- network + " " + address
		return new(net.Dialer).DialContext(ctx, network, to)
	}, asked
}

// echoServer answers an address on the host whose TCP connections get back what
// they send.
func echoServer(t testing.TB, at string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Skipf("this host cannot listen on %s: %v", at, err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// exchange sends b and wants it back, and then the end of the stream.
func exchange(t testing.TB, c net.Conn, b []byte) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(b)
		if err == nil {
			err = c.(interface{ CloseWrite() error }).CloseWrite()
		}
		sent <- err
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("%d of %d bytes came back: %v", len(got), len(b), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestWayOutTCP(t *testing.T) {
	server := echoServer(t, "127.0.0.1:0")
	dial, asked := elsewhere(server.String())
	l := newLAN(t, 1280, func(o *Options) { o.Dial = dial })
	s := l.station(t, 10)
	for _, to := range []string{"192.0.2.7:8080", "[2001:db8::7]:443"} {
		c, err := s.Dial(limited(t), netip.MustParseAddrPort(to))
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, c, bytes.Repeat([]byte("vzcompose"), 100_000))
		if got := <-asked; got != "tcp "+to {
			t.Errorf("dialled %s, want %s", got, to)
		}
		c.Close()
	}
	if c := l.Gateway.Counters(); c.Conns != 2 {
		t.Errorf("counted %+v", c)
	}
}

// portsOf opens one port.
func portsOf(protocol string, port uint16) []Ports {
	return []Ports{{Low: port, High: port, Protocol: protocol}}
}

func TestHostPortLeadsToTheLoopback(t *testing.T) {
	for at, gateway := range map[string]string{"127.0.0.1:0": "10.40.0.1", "[::1]:0": "fd00::1"} {
		t.Run(gateway, func(t *testing.T) {
			server := echoServer(t, at)
			l := newLAN(t, 1280, nil)
			l.open = portsOf("tcp", server.Port())
			c, err := l.station(t, 10).Dial(limited(t), netip.AddrPortFrom(netip.MustParseAddr(gateway), server.Port()))
			if err != nil {
				t.Fatal(err)
			}
			exchange(t, c, []byte("hello"))
		})
	}
}

// By default nothing of the host can be reached by any of its addresses, by TCP
// or UDP, and a port that one machine may reach is not open to another.
func TestHostIsClosed(t *testing.T) {
	server := echoServer(t, "127.0.0.1:0")
	own := []net.Addr{&net.IPNet{IP: net.IPv4(192, 0, 2, 9), Mask: net.CIDRMask(24, 32)},
		&net.IPNet{IP: net.ParseIP("2001:db8::9"), Mask: net.CIDRMask(64, 128)}}
	dial, asked := elsewhere(server.String())
	l := newLAN(t, 1280, func(o *Options) {
		o.Dial, o.HostAddrs = dial, func() ([]net.Addr, error) { return own, nil }
	})
	other := l.station(t, 11)
	l.open = portsOf("udp", server.Port())
	s := l.station(t, 10)
	for _, a := range []string{"10.40.0.1", "fd00::1", "192.0.2.9", "2001:db8::9"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(a), server.Port())
		for name, from := range map[string]interface {
			Dial(context.Context, netip.AddrPort) (net.Conn, error)
		}{"with a port of UDP": s, "without": other} {
			if c, err := from.Dial(limited(t), to); err == nil {
				c.Close()
				t.Errorf("%s is reached by a machine %s", to, name)
			} else if errs.ClassOf(err) == errs.DeadlineExceeded {
				t.Errorf("%s: not refused at once: %v", to, err)
			}
		}
	}
	if len(asked) > 0 {
		t.Errorf("dialled %s", <-asked)
	}
	if c := l.Gateway.Counters(); c.Denied == 0 || c.Conns+c.Flows > 0 {
		t.Errorf("counted %+v", c)
	}
}

// What must not be reached is refused at once, and never dialled.
func TestDenied(t *testing.T) {
	server := echoServer(t, "127.0.0.1:0")
	for name, internal := range map[string]bool{"open": false, "internal": true} {
		t.Run(name, func(t *testing.T) {
			dial, asked := elsewhere(server.String())
			l := newLAN(t, 1280, func(o *Options) {
				o.Dial, o.Internal, o.Denied = dial, internal, prefix("10.41.0.0/24").Contains
			})
			s := l.station(t, 10)
			to := []string{"127.0.0.1", "127.8.8.8", "0.0.0.0", "169.254.169.254", "10.41.0.10", "240.0.0.1", "::1", "fe80::5", "::"}
			if internal {
				to = append(to, "10.40.0.1", "fd00::1", "192.0.2.7", "2001:db8::7")
			}
			all := &machine{open: []Ports{{1, 65535, "tcp"}}}
			for _, a := range to {
				if _, ok := l.leads(all, "tcp", netip.AddrPortFrom(netip.MustParseAddr(a), server.Port())); ok {
					t.Errorf("something leads to %s", a)
				}
			}
			for _, a := range []string{"10.41.0.10", "240.0.0.1"} {
				if c, err := s.Dial(limited(t), netip.AddrPortFrom(netip.MustParseAddr(a), server.Port())); err == nil {
					c.Close()
					t.Errorf("%s can be reached", a)
				} else if errs.ClassOf(err) == errs.DeadlineExceeded {
					t.Errorf("%s: not refused at once: %v", a, err)
				}
			}
			if len(asked) > 0 {
				t.Errorf("dialled %s", <-asked)
			}
		})
	}
}

func TestLeads(t *testing.T) {
	own := []net.Addr{&net.IPNet{IP: net.IPv4(198, 51, 100, 9), Mask: net.CIDRMask(24, 32)},
		&net.IPNet{IP: net.ParseIP("2001:db8::9"), Mask: net.CIDRMask(64, 128)}, &net.IPNet{IP: net.IPv4(203, 0, 113, 1), Mask: net.CIDRMask(32, 32)}}
	g := &Gateway{o: Options{V4: prefix("10.40.0.1/24"), V6: prefix("fd00::1/64")},
		host: hostAddrs{list: func() ([]net.Addr, error) { return own, nil }}}
	m := &machine{open: []Ports{{80, 81, "tcp"}, {53, 53, "udp"}}}
	for _, c := range []struct{ network, to, want string }{
		{"tcp", "10.40.0.1:80", "127.0.0.1:80"},
		{"tcp", "[fd00::1]:81", "[::1]:81"},
		{"udp", "10.40.0.1:53", "127.0.0.1:53"},
		{"tcp", "[::ffff:10.40.0.1]:80", "127.0.0.1:80"},
		{"tcp", "10.40.0.1:79", ""},
		{"tcp", "10.40.0.1:82", ""},
		{"udp", "10.40.0.1:80", ""},
		{"tcp", "10.40.0.1:53", ""},
		// Addresses of the host, also with a port that is open under its name.
		{"tcp", "198.51.100.9:80", ""},
		{"tcp", "[::ffff:198.51.100.9]:80", ""},
		{"tcp", "[2001:db8::9]:80", ""},
		{"tcp", "203.0.113.1:80", ""},
		{"tcp", "127.0.0.1:80", ""},
		{"tcp", "127.1.2.3:80", ""},
		{"tcp", "[::ffff:127.0.0.1]:80", ""},
		{"tcp", "[::1]:80", ""},
		{"tcp", "0.0.0.0:80", ""},
		{"tcp", "0.1.2.3:80", ""},
		{"tcp", "[::]:80", ""},
		{"tcp", "169.254.169.254:80", ""},
		{"tcp", "[fe80::1]:80", ""},
		{"udp", "198.51.100.255:53", ""}, // the broadcast of the host's network
		{"udp", "198.51.100.0:53", ""},
		{"udp", "255.255.255.255:53", ""},
		{"tcp", "224.0.0.1:80", ""},
		{"tcp", "[ff02::1]:80", ""},
		// The way out is open.
		{"tcp", "198.51.100.1:80", "198.51.100.1:80"},
		{"tcp", "[2001:db8::1]:80", "[2001:db8::1]:80"},
		{"udp", "192.0.2.1:53", "192.0.2.1:53"},
		{"tcp", "[::ffff:192.0.2.1]:80", "192.0.2.1:80"},
		{"tcp", "192.0.2.1:0", ""},
	} {
		got, ok := g.leads(m, c.network, netip.MustParseAddrPort(c.to))
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("%s %s leads to %v, %v; want %q", c.network, c.to, got, ok, c.want)
		}
	}
	g.host = hostAddrs{list: func() ([]net.Addr, error) { return nil, errs.New(errs.Unavailable, "no netlink") }}
	if _, ok := g.leads(m, "tcp", netip.MustParseAddrPort("192.0.2.1:80")); ok {
		t.Error("the way out is open while the host's addresses are not known")
	}
}

// Where the host's interfaces do not list an address of the host, its routes tell.
func TestDialOutRefusesTheHost(t *testing.T) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		n, ok := addr.(*net.IPNet)
		if !ok || n.IP.IsLoopback() || n.IP.IsLinkLocalUnicast() {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort(n.IP.String(), "0"))
		if err != nil {
			continue // tentative, say
		}
		for _, network := range []string{"tcp", "udp"} {
			if c, err := dialOut(limited(t), network, l.Addr().String()); !errs.Is(err, errs.PermissionDenied) {
				if err == nil {
					c.Close()
				}
				t.Errorf("%s %s: %v", network, l.Addr(), err)
			}
		}
		l.Close()
	}
	server := echoServer(t, "127.0.0.1:0")
	c, err := dialOut(limited(t), "tcp", server.String())
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, c, []byte("hello"))
}

func TestRefusedByTheHost(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	n := newLAN(t, 1280, nil)
	n.open = portsOf("tcp", closed.Port())
	c, err := n.station(t, 10).Dial(limited(t), netip.AddrPortFrom(n.o.V4.Addr(), closed.Port()))
	if err == nil {
		c.Close()
		t.Fatal("connected to a closed port")
	}
	if c := n.Gateway.Counters(); c.Failed != 1 {
		t.Errorf("counted %+v", c)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	server := echoServer(t, "127.0.0.1:0")
	l := newLAN(t, 1280, func(o *Options) { o.Limits.Conns = 3 })
	l.open = portsOf("tcp", server.Port())
	greedy, other := l.station(t, 10), l.station(t, 11)
	to := netip.AddrPortFrom(l.o.V4.Addr(), server.Port())
	var held []net.Conn
	for range 3 {
		c, err := greedy.Dial(limited(t), to)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	if c, err := greedy.Dial(limited(t), to); err == nil {
		c.Close()
		t.Error("a fourth connection was made")
	}
	c, err := other.Dial(limited(t), to)
	if err != nil {
		t.Fatalf("another machine: %v", err)
	}
	exchange(t, c, []byte("x"))
	// A connection that ended gives its place back, and Leave ends all.
	exchange(t, held[0], []byte("x"))
	held[0].Close()
	for {
		c, err := greedy.Dial(limited(t), to)
		if err == nil {
			held = append(held, c)
			break
		}
	}
	l.Leave(identity(10))
	for _, c := range held[1:] {
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); n > 0 || errs.ClassOf(err) == errs.DeadlineExceeded {
			t.Errorf("a connection outlived its machine's leave: %v", err)
		}
	}
}

// udpEcho answers an address on the host whose datagrams come back.
func udpEcho(t testing.TB) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

func TestWayOutUDP(t *testing.T) {
	server := udpEcho(t)
	dial, asked := elsewhere(server.String())
	l := newLAN(t, 1280, func(o *Options) { o.Dial, o.Limits.Flows, o.Limits.Idle = dial, 1, 50*time.Millisecond })
	s := l.station(t, 10)
	for i, size := range []int{1, 1200, 9000} { // the last is fragmented
		c, err := s.Packet(netip.MustParseAddrPort("192.0.2.7:9"))
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Repeat([]byte{byte(i)}, size)
		b := make([]byte, 10000)
		// The one flow there may be is free again when the one before has idled;
		// until then the datagram is lost, as datagrams may be.
		for {
			if _, err := c.Write(want); err != nil {
				t.Fatal(err)
			}
			if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(b); err == nil {
				if !bytes.Equal(b[:n], want) {
					t.Errorf("%d bytes came back, want %d", n, size)
				}
				break
			}
		}
		c.Close()
	}
	if got := <-asked; got != "udp 192.0.2.7:9" {
		t.Errorf("dialled %s", got)
	}
}

// ping is an echo request from machine n.
func ping(l *lan, n byte, to netip.Addr) []byte {
	id := identity(n)
	b := nt.IPv4(l.o.MAC, id.MAC, id.V4, to, frame.ICMP, 8)
	head, body := b[14:34], b[34:]
	body[0] = frame.Echo
	binary.BigEndian.PutUint16(body[2:], ^checksum.Checksum(body, 0))
	binary.BigEndian.PutUint16(head[10:], ^checksum.Checksum(head, 0))
	return b
}

// The gateway answers for itself, and claims no other address.
func TestAnswersForItselfOnly(t *testing.T) {
	l := newLAN(t, 1280, nil)
	id, c := identity(10), l.plug(t, 10)
	ask := func(a netip.Addr) []byte { return nt.ARP(nt.Broadcast(), id.MAC, 1, id.MAC, id.V4, a) }
	for _, b := range [][]byte{
		ask(netip.MustParseAddr("10.40.0.99")), ask(netip.MustParseAddr("192.0.2.7")),
		ping(l, 10, netip.MustParseAddr("192.0.2.7")), ping(l, 10, netip.MustParseAddr("10.40.0.99")),
		ping(l, 10, l.o.V4.Addr()), ask(l.o.V4.Addr()),
	} {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		kind uint16
		op   uint16
	}{{frame.IPv4, 0}, {frame.ARP, 2}} {
		b := make([]byte, 1500)
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		f, fault := frame.Parse(b[:n])
		if fault != frame.None || f.Type != want.kind || f.Op != want.op || f.From != l.o.V4.Addr() || f.Src != l.o.MAC {
			t.Errorf("came %+v, %v", f, fault)
		}
	}
}

func TestListen(t *testing.T) {
	l := newLAN(t, 1280, nil)
	listeners, err := l.Listen(53)
	if err != nil || len(listeners) != 2 {
		t.Fatalf("%d listeners: %v", len(listeners), err)
	}
	packets, err := l.ListenPacket(53)
	if err != nil || len(packets) != 2 {
		t.Fatalf("%d sockets: %v", len(packets), err)
	}
	if _, err := l.Listen(53); err == nil {
		t.Error("a port was taken twice")
	}
	s := l.station(t, 10)
	for i, a := range l.own() {
		c, err := s.Dial(limited(t), netip.AddrPortFrom(a, 53))
		if err != nil {
			t.Fatal(err)
		}
		got, err := listeners[i].Accept()
		if err != nil {
			t.Fatal(err)
		}
		if at, _ := netip.ParseAddrPort(got.RemoteAddr().String()); at.Addr() != identity(10).V4 && at.Addr() != identity(10).V6 {
			t.Errorf("accepted from %v", got.RemoteAddr())
		}
		c.Close()
		got.Close()
	}
}

// FuzzDeliver: no frame that a machine may send makes the stack panic.
func FuzzDeliver(f *testing.F) {
	l := newLAN(f, 1280, func(o *Options) {
		o.Dial = func(context.Context, string, string) (net.Conn, error) {
			return nil, errs.New(errs.Unavailable, "no way out in this test")
		}
	})
	if err := l.Join(identity(10), nil); err != nil {
		f.Fatal(err)
	}
	id := identity(10)
	f.Add(ping(l, 10, l.o.V4.Addr()))
	f.Add(nt.IPv4(l.o.MAC, id.MAC, id.V4, netip.MustParseAddr("192.0.2.1"), frame.UDP, 20))
	f.Add(nt.IPv6(l.o.MAC, id.MAC, id.V6, l.o.V6.Addr(), frame.ICMPv6, nt.Neighbour(frame.Solicitation, l.o.V6.Addr(), 1, id.MAC)))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, fault := frame.Parse(b)
		if fault != frame.None || id.Check(&got) != frame.None {
			return
		}
		l.deliver(&got, b)
	})
}

func BenchmarkThroughput(b *testing.B) {
	for name, mtu := range map[string]int{"MTU1280": 1280, "MTU65000": 65000} {
		b.Run("MachineToHost"+name, func(b *testing.B) {
			sink, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer sink.Close()
			got := make(chan int64, 1)
			go func() {
				c, err := sink.Accept()
				if err != nil {
					got <- 0
					return
				}
				n, _ := io.Copy(io.Discard, c)
				got <- n
			}()
			l := newLAN(b, mtu, nil)
			port := netip.MustParseAddrPort(sink.Addr().String()).Port()
			l.open = portsOf("tcp", port)
			c, err := l.station(b, 10).Dial(limited(b), netip.AddrPortFrom(l.o.V4.Addr(), port))
			if err != nil {
				b.Fatal(err)
			}
			block := make([]byte, 64<<10)
			b.SetBytes(int64(len(block)))
			for b.Loop() {
				if _, err := c.Write(block); err != nil {
					b.Fatal(err)
				}
			}
			c.Close()
			<-got
		})
	}
}
