package network

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network/frame"
	nt "github.com/vzcompose/vzcompose/internal/network/networktest"
	"github.com/vzcompose/vzcompose/internal/network/segment"
)

const patience = 20 * time.Second

func net4(name, gateway string, internal bool, mtu int) Network {
	p := netip.MustParsePrefix(gateway)
	b := p.Addr().As4()
	return Network{Name: name, V4: p, MAC: frame.MAC{2, 0x56, b[0], b[1], b[2], b[3]}, Internal: internal, MTU: mtu}
}

func newSwitch(t testing.TB, networks ...Network) *Switch {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := New(Options{ResolvConf: conf})
	t.Cleanup(s.Close)
	for _, n := range networks {
		if err := s.Define(n); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// member is a machine with one interface, and its side of the socket.
type member struct {
	*Member
	Interface
	socket net.Conn
}

func iface(network, v4 string, aliases ...string) Interface {
	a := netip.MustParseAddr(v4)
	b := a.As4()
	return Interface{Network: network, V4: a, MAC: frame.MAC{2, 0x56, b[0], b[1], b[2], b[3]}, Aliases: aliases}
}

func join(t testing.TB, s *Switch, instance string, i Interface) *member {
	t.Helper()
	ours, theirs := nt.Pair(t)
	container, _, _ := strings.Cut(instance, "-")
	m, err := s.Join(Machine{Instance: instance, Container: container, Ready: true, Interfaces: []Interface{i},
		HostPorts: []HostPorts{{Low: 1, High: 65535, Protocol: "tcp"}}}, []segment.Conn{ours})
	if err != nil {
		t.Fatal(err)
	}
	return &member{m, i, theirs}
}

// station puts an IP stack on the machine's socket.
func (m *member) station(t testing.TB) *nt.Station {
	n := m.plugs[0].on
	return nt.Start(t, m.socket, nt.Config{
		MAC: m.MAC, V4: netip.PrefixFrom(m.V4, n.V4.Bits()), Gateways: []netip.Addr{n.V4.Addr()}, MTU: n.segment.MTU(),
	})
}

// ask resolves name on the station's gateway and answers the code and addresses.
func ask(t testing.TB, s *nt.Station, gateway, name string) string {
	t.Helper()
	for range 20 { // a datagram may be lost
		c, err := s.Packet(netip.AddrPortFrom(netip.MustParseAddr(gateway), resolverPort))
		if err != nil {
			t.Fatal(err)
		}
		q := new(dns.Msg)
		q.SetQuestion(dns.Fqdn(name), dns.TypeA)
		m, _, err := (&dns.Client{Timeout: time.Second, Net: "udp"}).ExchangeWithConn(q, &dns.Conn{Conn: packetConn{c}})
		c.Close()
		if err != nil {
			continue
		}
		var got []string
		for _, rr := range m.Answer {
			got = append(got, rr.(*dns.A).A.String())
		}
		slices.Sort(got)
		return strings.TrimSpace(dns.RcodeToString[m.Rcode] + " " + strings.Join(got, " "))
	}
	t.Fatalf("nobody answered for %s", name)
	return ""
}

// packetConn tells the library that its connection carries datagrams.
type packetConn struct{ net.Conn }

func (c packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := c.Read(b)
	return n, c.RemoteAddr(), err
}
func (c packetConn) WriteTo(b []byte, _ net.Addr) (int, error) { return c.Write(b) }

// echo serves on port 80 of a station.
func echo(t testing.TB, s *nt.Station, at netip.Addr) netip.AddrPort {
	t.Helper()
	to := netip.AddrPortFrom(at, 80)
	l, err := s.Listen(to)
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
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return to
}

// talk sends b to to and wants it back.
func talk(s *nt.Station, to netip.AddrPort, b []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := s.Dial(ctx, to)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
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
	if err == nil && !bytes.Equal(got, b) {
		err = errors.New("other bytes came back")
	}
	return errors.Join(err, <-sent)
}

func TestMachinesFindAndReachEachOther(t *testing.T) {
	s := newSwitch(t, net4("front", "10.40.0.1/24", false, 1280))
	web, db := join(t, s, "web-1", iface("front", "10.40.0.10")), join(t, s, "db-1", iface("front", "10.40.0.20", "store"))
	at := web.station(t)
	to := echo(t, db.station(t), db.V4)
	for name, want := range map[string]string{
		"db": "NOERROR 10.40.0.20", "store": "NOERROR 10.40.0.20", "db-1": "NOERROR 10.40.0.20",
		"host.vzcompose.internal": "NOERROR 10.40.0.1", "nobody": "NXDOMAIN", "example.org": "SERVFAIL", // no resolvers here
	} {
		if got := ask(t, at, "10.40.0.1", name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if err := talk(at, to, bytes.Repeat([]byte("x"), 1<<20)); err != nil {
		t.Error(err)
	}
	db.SetReady(false)
	if got := ask(t, at, "10.40.0.1", "db"); got != "NOERROR" {
		t.Errorf("not ready: %s", got)
	}
	db.Leave()
	if got := ask(t, at, "10.40.0.1", "db"); got != "NXDOMAIN" {
		t.Errorf("gone: %s", got)
	}
	status := s.Networks()
	if len(status) != 1 || len(status[0].Members) != 1 || status[0].Members[0].Instance != "web-1" || status[0].Members[0].Port.SentFrames == 0 {
		t.Errorf("status %+v", status)
	}
}

func TestNetworksDoNotSeeEachOther(t *testing.T) {
	s := newSwitch(t, net4("front", "10.40.0.1/24", false, 1280), net4("back", "10.41.0.1/24", true, 1280))
	web, db := join(t, s, "web-1", iface("front", "10.40.0.10")), join(t, s, "db-1", iface("back", "10.41.0.10"))
	at, other := web.station(t), db.station(t)
	to, back := echo(t, other, db.V4), echo(t, at, web.V4)
	if got := ask(t, at, "10.40.0.1", "db"); got != "NXDOMAIN" {
		t.Errorf("db is found: %s", got)
	}
	// Not by the gateway either, which dials from the host.
	if err := talk(at, to, []byte("x")); err == nil {
		t.Error("front reaches back")
	}
	if err := talk(other, back, []byte("x")); err == nil {
		t.Error("back reaches front")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := netip.MustParseAddrPort(l.Addr().String()).Port()
	if err := talk(other, netip.AddrPortFrom(netip.MustParseAddr("10.41.0.1"), port), []byte("x")); err == nil {
		t.Error("an internal network reaches the host")
	}
}

// A machine does its worst on three counts: a flood of datagrams at its
// neighbour, of questions at the resolver, and of frames in the neighbour's
// name. The others go on as if it were not there.
func TestHostileMachineHarmsNobody(t *testing.T) {
	s := newSwitch(t, net4("front", "10.40.0.1/24", false, 1280))
	bad, web, db := join(t, s, "bad-1", iface("front", "10.40.0.66")), join(t, s, "web-1", iface("front", "10.40.0.10")), join(t, s, "db-1", iface("front", "10.40.0.20"))
	at := web.station(t)
	to := echo(t, db.station(t), db.V4)
	gateway := bad.plugs[0].on.MAC
	worst := [][]byte{
		nt.IPv4(db.MAC, bad.MAC, bad.V4, db.V4, frame.UDP, 1200),
		nt.IPv4(gateway, bad.MAC, bad.V4, netip.MustParseAddr("10.40.0.1"), frame.UDP, 100),
		nt.IPv4(web.MAC, db.MAC, db.V4, web.V4, frame.TCP, 20),                                // db's MAC
		nt.IPv4(web.MAC, bad.MAC, db.V4, web.V4, frame.TCP, 20),                               // db's address
		nt.ARP(web.MAC, bad.MAC, 2, bad.MAC, db.V4, web.V4),                                   // "db is here"
		nt.ARP(nt.Broadcast(), bad.MAC, 2, bad.MAC, netip.MustParseAddr("10.40.0.1"), web.V4), // "the gateway is here"
		nt.ARP(nt.Broadcast(), bad.MAC, 1, bad.MAC, bad.V4, web.V4),                           // a storm
		bytes.Repeat([]byte{0xff}, 1294),
		{1, 2, 3},
	}
	stop := make(chan struct{})
	var flood sync.WaitGroup
	flood.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				if _, err := bad.socket.Write(worst[i%len(worst)]); err != nil {
					return
				}
			}
		}
	})
	for range 20 {
		if err := talk(at, to, bytes.Repeat([]byte("x"), 10_000)); err != nil {
			t.Error(err)
		}
		if got := ask(t, at, "10.40.0.1", "db"); got != "NOERROR 10.40.0.20" {
			t.Error(got)
		}
	}
	for end := time.Now().Add(patience); bad.plugs[0].port.Counters().Storm == 0 && time.Now().Before(end); {
		if err := talk(at, to, []byte("x")); err != nil { // the flood goes on
			t.Error(err)
		}
	}
	close(stop)
	flood.Wait()
	if c := bad.plugs[0].port.Counters(); c.Spoofed == 0 || c.Storm == 0 || c.Short == 0 || c.Kind == 0 {
		t.Errorf("counted %+v", c)
	}
}

// Two stacks with the same subnet are two switches.
func TestSameSubnetTwice(t *testing.T) {
	one, two := newSwitch(t, net4("front", "10.40.0.1/24", false, 1280)), newSwitch(t, net4("front", "10.40.0.1/24", false, 1280))
	a, b := join(t, one, "web-1", iface("front", "10.40.0.10")), join(t, two, "db-1", iface("front", "10.40.0.20"))
	at := a.station(t)
	to := echo(t, b.station(t), b.V4)
	if got := ask(t, at, "10.40.0.1", "db"); got != "NXDOMAIN" {
		t.Errorf("db is found: %s", got)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if c, err := at.Dial(ctx, to); err == nil {
		c.Close()
		t.Error("one stack reaches the other")
	}
}

// A new switch that the machine joins with the same socket goes on where the old
// one was, and the machine notices nothing.
func TestNewSwitchTakesOver(t *testing.T) {
	n := net4("front", "10.40.0.1/24", false, 1280)
	web, db := iface("front", "10.40.0.10"), iface("front", "10.40.0.20")
	sockets := map[string][2]net.Conn{}
	for _, name := range []string{"web-1", "db-1"} {
		ours, theirs := nt.Pair(t)
		sockets[name] = [2]net.Conn{ours, theirs}
	}
	start := func() *Switch {
		s := newSwitch(t, n)
		for name, i := range map[string]Interface{"web-1": web, "db-1": db} {
			m := Machine{Instance: name, Container: name[:len(name)-2], Ready: true, Interfaces: []Interface{i}}
			// A switch that dies closes its own descriptor only.
			if _, err := s.Join(m, []segment.Conn{dup(t, sockets[name][0])}); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	config := func(i Interface) nt.Config {
		return nt.Config{MAC: i.MAC, V4: netip.PrefixFrom(i.V4, 24), Gateways: []netip.Addr{n.V4.Addr()}, MTU: 1280}
	}
	old := start()
	at := nt.Start(t, sockets["web-1"][1], config(web))
	to := echo(t, nt.Start(t, sockets["db-1"][1], config(db)), db.V4)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := at.Dial(ctx, to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 {
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatalf("the connection between machines did not survive: %v", err)
		}
		if got := ask(t, at, "10.40.0.1", "db"); got != "NOERROR 10.40.0.20" {
			t.Error(got)
		}
		old.Close()
		old = start()
	}
}

func dup(t testing.TB, c net.Conn) net.Conn {
	t.Helper()
	f, err := c.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	again, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestMembership(t *testing.T) {
	s := newSwitch(t, net4("front", "10.40.0.1/24", false, 1280), net4("back", "10.41.0.1/24", false, 1280))
	web := join(t, s, "web-1", iface("front", "10.40.0.10"))
	for name, c := range map[string]struct {
		i    Interface
		want errs.Class
	}{
		"unknown network":  {iface("side", "10.40.0.11"), errs.NotFound},
		"foreign address":  {iface("front", "10.41.0.11"), errs.InvalidArgument},
		"gateway":          {iface("front", "10.40.0.1"), errs.InvalidArgument},
		"another's":        {iface("front", "10.40.0.10"), errs.AlreadyExists},
		"IPv6 without one": {Interface{Network: "front", V4: netip.MustParseAddr("10.40.0.12"), V6: netip.MustParseAddr("fd00::1"), MAC: frame.MAC{2, 1}}, errs.InvalidArgument},
	} {
		ours, _ := nt.Pair(t)
		if _, err := s.Join(Machine{Instance: "db-1", Interfaces: []Interface{c.i}}, []segment.Conn{ours}); !errs.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := ours.Write([]byte{1}); err == nil {
			t.Errorf("%s: the connection is still open", name)
		}
	}
	if _, err := s.Join(Machine{Instance: "db-1"}, []segment.Conn{web.socket}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("a connection too many: %v", err)
	}
	// A machine that joins again replaces itself.
	again := join(t, s, "web-1", iface("back", "10.41.0.10"))
	if err := web.Wait(context.Background()); err != nil {
		t.Errorf("the old membership ended with %v", err)
	}
	web.Leave() // it is not there any more, and harms nobody
	if got := s.Networks(); len(got[0].Members) != 1 || len(got[1].Members) != 0 {
		t.Errorf("members %+v", got)
	}
	if err := s.Define(net4("back", "10.42.0.1/24", false, 1280)); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("changed under its members: %v", err)
	}
	again.Leave()
	if err := s.Define(net4("back", "10.42.0.1/24", false, 1280)); err != nil {
		t.Error(err)
	}
	s.Close()
	if err := s.Define(net4("new", "10.43.0.1/24", false, 1280)); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("defined after Close: %v", err)
	}
}

func BenchmarkMachineToMachine(b *testing.B) {
	for name, mtu := range map[string]int{"MTU1280": 1280, "MTU65000": 65000} {
		b.Run(name, func(b *testing.B) {
			s := newSwitch(b, net4("front", "10.40.0.1/24", false, mtu))
			from, to := join(b, s, "web-1", iface("front", "10.40.0.10")), join(b, s, "db-1", iface("front", "10.40.0.20"))
			l, err := to.station(b).Listen(netip.AddrPortFrom(to.V4, 80))
			if err != nil {
				b.Fatal(err)
			}
			got := make(chan int64, 1)
			go func() {
				c, err := l.Accept()
				if err != nil {
					got <- 0
					return
				}
				n, _ := io.Copy(io.Discard, c)
				got <- n
			}()
			c, err := from.station(b).Dial(context.Background(), netip.AddrPortFrom(to.V4, 80))
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
