package segment

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network/frame"
	nt "github.com/vzcompose/vzcompose/internal/network/networktest"
)

// machine is what a guest can do: anything, on its frame socket.
type machine struct {
	net.Conn
	frame.Identity
	port *Port
}

// patience bounds what must come; what must not come is shown by something that
// comes after it.
const patience = 10 * time.Second

func newSegment(t testing.TB, o Options) *Segment {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func identity(n byte) frame.Identity {
	return frame.Identity{
		MAC: frame.MAC{2, 0, 0, 0, 0, n},
		V4:  netip.AddrFrom4([4]byte{10, 40, 0, n}), V6: netip.AddrFrom16([16]byte{0: 0xfd, 15: n}),
	}
}

func join(t testing.TB, s *Segment, n byte) *machine {
	t.Helper()
	ours, theirs := nt.Pair(t)
	p, err := s.Attach(identity(n), ours)
	if err != nil {
		t.Fatal(err)
	}
	return &machine{theirs, identity(n), p}
}

// packet is a numbered datagram from m to another.
func (m *machine) packet(to frame.Identity, number int) []byte {
	b := nt.IPv4(to.MAC, m.MAC, m.V4, to.V4, frame.UDP, 16)
	binary.BigEndian.PutUint64(b[len(b)-8:], uint64(number))
	return b
}

func (m *machine) send(t testing.TB, b []byte) {
	t.Helper()
	if _, err := m.Write(b); err != nil {
		t.Fatal(err)
	}
}

// next answers the next frame for m.
func (m *machine) next(t testing.TB) []byte {
	t.Helper()
	if err := m.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 70000)
	n, err := m.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// expect wants the next frame for m to be a packet of from's with number.
func (m *machine) expect(t testing.TB, from *machine, number int) {
	t.Helper()
	b := m.next(t)
	if frame.MAC(b[6:12]) != from.MAC || int(binary.BigEndian.Uint64(b[len(b)-8:])) != number {
		t.Fatalf("got %x, want number %d of %v", b, number, from.MAC)
	}
}

// settled waits until p has counted n frames of its machine.
func settled(t testing.TB, p *Port, n uint64) Counters {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		c := p.Counters()
		if c.SentFrames >= n {
			return c
		}
		if time.Now().After(end) {
			t.Fatalf("%d frames are not there: %+v", n, c)
		}
		<-time.After(time.Millisecond)
	}
}

func TestForwards(t *testing.T) {
	s := newSegment(t, Options{})
	a, b, c := join(t, s, 1), join(t, s, 2), join(t, s, 3)
	a.send(t, a.packet(b.Identity, 1))
	b.expect(t, a, 1)
	all := nt.ARP(nt.Broadcast(), a.MAC, 1, a.MAC, a.V4, c.V4)
	a.send(t, all)
	for _, m := range []*machine{b, c} {
		if got := m.next(t); string(got) != string(all) {
			t.Errorf("broadcast came as %x", got)
		}
	}
	// What was sent to b alone did not come to c, and the broadcast not back to a.
	b.send(t, b.packet(a.Identity, 2))
	a.expect(t, b, 2)
}

func TestCountsWhatItRefuses(t *testing.T) {
	s := newSegment(t, Options{})
	a, b := join(t, s, 1), join(t, s, 2)
	for _, f := range [][]byte{
		make([]byte, 1), make([]byte, 13), // short
		make([]byte, 1280+15), make([]byte, 4000), // long
		nt.Ethernet(b.MAC, a.MAC, 0x8100, make([]byte, 40)),                                                                  // kind
		nt.IPv4(b.MAC, b.MAC, a.V4, b.V4, frame.UDP, 8),                                                                      // spoofed
		nt.IPv4(b.MAC, a.MAC, b.V4, b.V4, frame.UDP, 8),                                                                      // spoofed
		nt.ARP(b.MAC, a.MAC, 2, a.MAC, b.V4, b.V4),                                                                           // spoofed
		nt.IPv6(b.MAC, a.MAC, frame.LinkLocal(a.MAC), b.V6, frame.ICMPv6, nt.Neighbour(frame.Advertisement, b.V6, 2, a.MAC)), // spoofed
		nt.IPv4(frame.MAC{2, 9}, a.MAC, a.V4, b.V4, frame.UDP, 8),                                                            // nobody
		nt.IPv4(a.MAC, a.MAC, a.V4, a.V4, frame.UDP, 8),                                                                      // to itself: nobody
		a.packet(b.Identity, 7),
	} {
		a.send(t, f)
	}
	b.expect(t, a, 7)
	c := settled(t, a.port, 12)
	want := Counters{SentFrames: 12, SentBytes: c.SentBytes, Short: 2, Long: 2, Kind: 1, Spoofed: 4, Nobody: 2}
	if c != want {
		t.Errorf("counted %+v, want %+v", c, want)
	}
}

// A guest that sends garbage harms nobody: others' frames pass, and none of its
// own comes anywhere.
func TestGarbageHarmsNobody(t *testing.T) {
	s := newSegment(t, Options{})
	bad, a, b := join(t, s, 1), join(t, s, 2), join(t, s, 3)
	garbage := make([]byte, 1400)
	for i := range 2000 {
		for j := range garbage {
			garbage[j] = byte(i*31 + j*j*7)
		}
		copy(garbage, b.MAC[:])
		copy(garbage[6:], bad.MAC[:])
		binary.BigEndian.PutUint16(garbage[12:], []uint16{frame.ARP, frame.IPv4, frame.IPv6, 0x8100}[i%4])
		bad.send(t, garbage[:1+i%1399])
		a.send(t, a.packet(b.Identity, i))
		b.expect(t, a, i)
	}
	if c := settled(t, bad.port, 2000); c.Short+c.Long+c.Kind+c.Garbled+c.Spoofed+c.Nobody != 2000 {
		t.Errorf("not all garbage was refused: %+v", c)
	}
}

// A guest that floods a neighbour with as much as it can leaves room for others:
// their frames come, in order and each of them.
func TestFloodLeavesRoom(t *testing.T) {
	s := newSegment(t, Options{})
	bad, good, victim := join(t, s, 1), join(t, s, 2), join(t, s, 3)
	flood := bad.packet(victim.Identity, 0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := bad.Write(flood); err != nil {
					return
				}
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	for i := range 50 {
		good.send(t, good.packet(victim.Identity, i))
		for {
			b := victim.next(t)
			if frame.MAC(b[6:12]) == good.MAC {
				if got := int(binary.BigEndian.Uint64(b[len(b)-8:])); got != i {
					t.Fatalf("number %d came, want %d", got, i)
				}
				break
			}
		}
	}
}

// A guest that does not read loses what is for it, and stalls nobody.
func TestStalledHarmsNobody(t *testing.T) {
	s := newSegment(t, Options{})
	stalled, a, b := join(t, s, 1), join(t, s, 2), join(t, s, 3)
	for i := range 5000 {
		a.send(t, a.packet(stalled.Identity, i))
		a.send(t, a.packet(b.Identity, i))
		b.expect(t, a, i)
	}
	if c := stalled.port.Counters(); c.Full == 0 {
		t.Errorf("nothing was lost: %+v", c)
	}
	// What it had not read is bounded, and it can go on.
	stalled.expect(t, a, 0)
}

func TestBroadcastsAreBounded(t *testing.T) {
	s := newSegment(t, Options{Broadcasts: 1e-3, Burst: 5})
	bad, a := join(t, s, 1), join(t, s, 2)
	storm := nt.ARP(nt.Broadcast(), bad.MAC, 1, bad.MAC, bad.V4, a.V4)
	for range 1000 {
		bad.send(t, storm)
	}
	bad.send(t, bad.packet(a.Identity, 1)) // what is not broadcast passes
	for range 5 {
		if got := a.next(t); string(got) != string(storm) {
			t.Fatalf("got %x", got)
		}
	}
	a.expect(t, bad, 1)
	if c := settled(t, bad.port, 1001); c.Storm != 995 {
		t.Errorf("counted %+v", c)
	}
}

func TestNoPathBetweenSegments(t *testing.T) {
	one, two := newSegment(t, Options{}), newSegment(t, Options{})
	a, b := join(t, one, 1), join(t, two, 2)
	a.send(t, a.packet(b.Identity, 1))
	a.send(t, nt.ARP(nt.Broadcast(), a.MAC, 1, a.MAC, a.V4, b.V4))
	if c := settled(t, a.port, 2); c.Nobody != 1 { // and the broadcast has nobody to go to
		t.Errorf("counted %+v", c)
	}
	other := join(t, two, 3)
	other.send(t, other.packet(b.Identity, 2))
	b.expect(t, other, 2)
}

func TestComesBack(t *testing.T) {
	s := newSegment(t, Options{})
	a, old := join(t, s, 1), join(t, s, 2)
	anew := join(t, s, 2)
	if err := old.port.Wait(context.Background()); !errs.Is(err, errs.AlreadyExists) {
		t.Errorf("the old port ended with %v", err)
	}
	a.send(t, a.packet(anew.Identity, 1))
	anew.expect(t, a, 1)
	anew.port.Detach()
	if err := anew.port.Wait(context.Background()); err != nil {
		t.Errorf("detached with %v", err)
	}
	a.send(t, a.packet(anew.Identity, 2))
	if c := settled(t, a.port, 2); c.Nobody != 1 {
		t.Errorf("counted %+v", c)
	}
}

type brokenConn struct{ err error }

func (c brokenConn) Read([]byte) (int, error)    { return 0, c.err }
func (c brokenConn) Write(b []byte) (int, error) { return len(b), nil }
func (c brokenConn) Close() error                { return nil }

func TestBrokenConnectionEndsItsPort(t *testing.T) {
	s := newSegment(t, Options{})
	p, err := s.Attach(identity(1), brokenConn{io.EOF})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(context.Background()); !errors.Is(err, io.EOF) {
		t.Errorf("ended with %v", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errs.New(errs.Canceled, "the test's"))
	if err := join(t, s, 2).port.Wait(ctx); !errs.Is(err, errs.Canceled) {
		t.Errorf("waited with %v", err)
	}
}

func TestRefusesToAttach(t *testing.T) {
	if _, err := New(Options{MTU: 100}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("MTU 100: %v", err)
	}
	s := newSegment(t, Options{})
	gateway := frame.MAC{2, 0, 0, 0, 0, 1}
	if _, err := s.Connect(gateway, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Connect(frame.MAC{2, 9}, nil); !errs.Is(err, errs.AlreadyExists) {
		t.Errorf("a second uplink: %v", err)
	}
	for _, c := range []struct {
		mac  frame.MAC
		want errs.Class
	}{{gateway, errs.AlreadyExists}, {nt.Broadcast(), errs.InvalidArgument}, {frame.MAC{}, errs.InvalidArgument}} {
		if _, err := s.Attach(frame.Identity{MAC: c.mac}, brokenConn{}); !errs.Is(err, c.want) {
			t.Errorf("%v: %v", c.mac, err)
		}
	}
	s.Close()
	if _, err := s.Attach(identity(1), brokenConn{}); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("after Close: %v", err)
	}
}

func TestUplink(t *testing.T) {
	s := newSegment(t, Options{})
	a, b := join(t, s, 1), join(t, s, 2)
	got := make(chan frame.Frame, 8)
	gateway := frame.Identity{MAC: frame.MAC{2, 0, 0, 0, 0, 254}, V4: netip.MustParseAddr("10.40.0.254")}
	u, err := s.Connect(gateway.MAC, func(f *frame.Frame, _ []byte) { got <- *f })
	if err != nil {
		t.Fatal(err)
	}
	a.send(t, a.packet(b.Identity, 1)) // not for the gateway
	a.send(t, a.packet(gateway, 2))
	a.send(t, nt.ARP(nt.Broadcast(), a.MAC, 1, a.MAC, a.V4, gateway.V4))
	b.expect(t, a, 1)
	if f := <-got; f.Type != frame.IPv4 || f.To != gateway.V4 || f.From != a.V4 {
		t.Errorf("delivered %+v", f)
	}
	if f := <-got; f.Type != frame.ARP {
		t.Errorf("delivered %+v", f)
	}
	u.Send(make([]byte, 5))
	u.Send(make([]byte, 5000))
	u.Send(nt.ARP(a.MAC, gateway.MAC, 2, gateway.MAC, gateway.V4, a.V4))
	if b := a.next(t); frame.MAC(b[6:12]) != gateway.MAC {
		t.Errorf("from the gateway came %x", b)
	}
}

func BenchmarkForward(b *testing.B) {
	for _, size := range []int{64, 1294} {
		b.Run(map[int]string{64: "64B", 1294: "1294B"}[size], func(b *testing.B) {
			s := newSegment(b, Options{})
			from, to := join(b, s, 1), join(b, s, 2)
			p := nt.IPv4(to.MAC, from.MAC, from.V4, to.V4, frame.UDP, size-34)
			got := make(chan int)
			go func() {
				n, buf := 0, make([]byte, 2000)
				for {
					if _, err := to.Read(buf); err != nil {
						got <- n
						return
					}
					n++
				}
			}()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := from.Write(p); err != nil {
					b.Fatal(err)
				}
			}
			settled(b, from.port, uint64(b.N))
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
			to.Close()
			b.ReportMetric(float64(<-got)/float64(b.N), "delivered")
		})
	}
}
