package gateway

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// maxDatagram is the most that UDP carries, in bytes.
const maxDatagram = 65535

// acceptUDP is called with the first datagram of a flow, on the goroutine of the
// machine's port: nothing in it may wait, and connecting a datagram socket does
// not. False lets the stack answer "port unreachable".
func (g *Gateway) acceptUDP(r *udp.ForwarderRequest) bool {
	id := r.ID()
	m, end := g.begin(addrPort(id.RemoteAddress, 0).Addr(), func(m *machine) chan struct{} { return m.flows })
	if m == nil {
		return true // lost, as datagrams may be
	}
	to, ok := g.leads(m, "udp", addrPort(id.LocalAddress, id.LocalPort))
	if !ok {
		g.stats.denied.Add(1)
		end()
		return false
	}
	host, err := g.dial(m.ctx, "udp", to)
	if err != nil {
		g.stats.failed.Add(1)
		end()
		return false
	}
	var q waiter.Queue
	ep, terr := r.CreateEndpoint(&q)
	if terr != nil {
		host.Close()
		end()
		return true
	}
	g.stats.flows.Add(1)
	go func() {
		defer end()
		carry(m.ctx, gonet.NewUDPConn(&q, ep), host, g.o.Limits.Idle)
	}()
	return true
}

// carry moves datagrams between a and b until nothing has come for idle, one of
// them breaks or ctx ends. It owns both.
func carry(ctx context.Context, a, b net.Conn, idle time.Duration) {
	over, cancel := context.WithCancel(ctx)
	defer cancel()
	var came atomic.Bool // a datagram, since the last tick
	var ways sync.WaitGroup
	ways.Go(func() { defer cancel(); way(a, b, &came) })
	ways.Go(func() { defer cancel(); way(b, a, &came) })
	tick := time.NewTicker(idle)
	defer tick.Stop()
	for over.Err() == nil {
		select {
		case <-over.Done():
		case <-tick.C:
			if !came.Swap(false) {
				cancel()
			}
		}
	}
	a.Close()
	b.Close()
	ways.Wait()
}

func way(dst, src net.Conn, came *atomic.Bool) {
	b := make([]byte, maxDatagram)
	for {
		n, err := src.Read(b)
		if err != nil {
			return
		}
		came.Store(true)
		if _, err := dst.Write(b[:n]); err != nil {
			return
		}
	}
}
