package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/relay"
)

// Limits of published ports.
const (
	// maxCarried is how many connections of ports and relays there are at a time:
	// the agent serves 1000 of all purposes.
	maxCarried = 768
	// ownDescriptors is how many descriptors they leave for all else.
	ownDescriptors = 128
	maxFlows       = 256             // clients of one UDP port at a time
	flowIdle       = 2 * time.Minute // of datagrams between a client and the container
	flowQueue      = 64              // datagrams that wait for one client's stream
)

// carriedLimit is how many connections of ports and relays the shim carries. Each
// may need two descriptors, and where they took all that the process may have, no
// command would reach it.
func carriedLimit() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil || l.Cur >= 2*maxCarried+ownDescriptors {
		return maxCarried
	}
	return max(1, (int(l.Cur)-ownDescriptors)/2)
}

// ports are those of the host that lead to the container. They are open for as
// long as the shim lives: while its machine comes again, connections wait.
type ports struct {
	end    context.CancelFunc
	served sync.WaitGroup
	chosen []state.Port
}

// publish opens the ports of the record. On error none is left open.
func (s *shim) publish() (err error) {
	ctx, end := context.WithCancel(context.Background())
	s.ports.end = end
	defer func() {
		if err != nil {
			s.ports.close()
		}
	}()
	for _, p := range s.inst.Ports {
		at, err := s.publishOne(ctx, p)
		if err != nil {
			return fmt.Errorf("publish port %s: %w", p, err)
		}
		p.Published = [2]int{at, at}
		s.ports.chosen = append(s.ports.chosen, p)
	}
	return nil
}

// close ends all, with the connections that they carry.
func (p *ports) close() {
	if p.end != nil {
		p.end()
		p.served.Wait()
	}
}

// publishOne opens p at the first of its ports that is free, and answers which.
func (s *shim) publishOne(ctx context.Context, p state.Port) (at int, err error) {
	for at = p.Published[0]; at <= p.Published[1]; at++ {
		network, address := p.Listen(at)
		var opened int
		if p.Protocol == "udp" {
			opened, err = s.publishUDP(ctx, network, address, p.Target)
		} else {
			opened, err = s.publishTCP(ctx, network, address, p.Target)
		}
		if err == nil {
			return opened, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	if errors.Is(err, unix.EACCES) {
		return 0, errs.New(errs.PermissionDenied, "%w", err) // the engine's check said what to do, before
	}
	return 0, errs.New(errs.AlreadyExists, "%w", err)
}

func (s *shim) publishTCP(ctx context.Context, network, address string, target int) (int, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return 0, err
	}
	s.ports.served.Go(func() {
		_ = relay.Serve(ctx, l, func(ctx context.Context) (net.Conn, error) { return s.dialPort(ctx, "tcp", target) },
			relay.Options{MaxConns: maxRelayed, Shared: s.carried}) // it ends when it is closed
	})
	return l.Addr().(*net.TCPAddr).Port, nil
}

// dialPort connects to a port of the container once it runs: until ctx ends, a
// connection waits for a machine that is on its way.
func (s *shim) dialPort(ctx context.Context, protocol string, target int) (net.Conn, error) {
	for {
		changed := s.running.changes()
		m, _, err := s.running.get()
		if err == nil {
			st, err := openStream(ctx, m, agentproto.PortToken(protocol, target))
			if err != nil {
				return nil, err
			}
			return wire.AsConn(st), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (s *shim) publishUDP(ctx context.Context, network, address string, target int) (int, error) {
	c, err := net.ListenPacket(network, address)
	if err != nil {
		return 0, err
	}
	f := &flows{s: s, c: c, target: target, byClient: map[netip.AddrPort]*flow{}}
	context.AfterFunc(ctx, func() { _ = c.Close() })
	s.ports.served.Go(func() { f.serve(ctx) })
	return c.LocalAddr().(*net.UDPAddr).Port, nil
}

// flows are the clients of a UDP port. Each has a stream of its own; one that is
// slow or silent harms no other.
type flows struct {
	s      *shim
	c      net.PacketConn
	target int
	all    sync.WaitGroup

	mu       sync.Mutex // guards the following
	byClient map[netip.AddrPort]*flow
}

// flow is one client.
type flow struct{ in chan []byte }

func (f *flows) serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer f.all.Wait()
	defer cancel()
	buf := make([]byte, relay.MaxDatagram)
	for {
		n, from, err := f.c.(*net.UDPConn).ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // of a client that is gone (udp(7))
		}
		if one := f.of(ctx, from); one != nil {
			select {
			case one.in <- slices.Clone(buf[:n]):
			default: // datagrams may be lost
			}
		}
	}
}

// of answers the flow of a client, nil where there are too many.
func (f *flows) of(ctx context.Context, from netip.AddrPort) *flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	one := f.byClient[from]
	if one != nil || len(f.byClient) >= maxFlows {
		return one
	}
	select {
	case f.s.carried <- struct{}{}:
	default:
		return nil
	}
	one = &flow{in: make(chan []byte, flowQueue)}
	f.byClient[from] = one
	f.all.Go(func() {
		f.carry(ctx, from, one)
		f.mu.Lock()
		delete(f.byClient, from)
		f.mu.Unlock()
		<-f.s.carried
	})
	return one
}

// carry passes a client's datagrams on, and what comes back, until it is silent.
func (f *flows) carry(ctx context.Context, from netip.AddrPort, one *flow) {
	dctx, cancel := limit(ctx, portDialLimit, "reach the container")
	st, err := f.s.dialPort(dctx, "udp", f.target)
	cancel()
	if err != nil {
		return
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	context.AfterFunc(ctx, func() { _ = st.Close() })
	quiet := time.AfterFunc(flowIdle, end)
	defer quiet.Stop()
	back := make(chan struct{})
	go func() {
		defer close(back)
		defer end()
		buf := make([]byte, relay.MaxDatagram)
		for {
			b, err := relay.ReadDatagram(st, buf)
			if err != nil {
				return
			}
			quiet.Reset(flowIdle)
			_, _ = f.c.WriteTo(b, net.UDPAddrFromAddrPort(from)) // datagrams may be lost
		}
	}()
	for ctx.Err() == nil {
		select {
		case b := <-one.in:
			quiet.Reset(flowIdle)
			if relay.WriteDatagram(st, b) != nil {
				end()
			}
		case <-ctx.Done():
		}
	}
	<-back
}

// portDialLimit is how long a client's first datagrams wait for the container.
const portDialLimit = 30 * time.Second
