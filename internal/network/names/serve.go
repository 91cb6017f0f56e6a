package names

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Bounds of serving.
const (
	maxQuery   = 4096             // bytes of a question; no library sends a tenth of it
	maxAnswer  = dns.MaxMsgSize   // bytes of an answer over a stream
	perAsker   = 32               // questions of one asker that wait for the host's resolvers
	streams    = 8                // of one asker
	streamIdle = 10 * time.Second // until the next question on a stream, and for writing an answer
)

// Resolver answers on the gateways of a stack's networks. Make it with New.
type Resolver struct {
	table *Table
	up    *upstream

	mu      sync.Mutex // guards the following
	waiting map[asker]int
	open    map[asker]int
}

// New makes a resolver of what t has, which asks the resolvers that the file
// resolvConf names for all else.
func New(t *Table, resolvConf string) *Resolver {
	return &Resolver{table: t, up: &upstream{path: resolvConf}, waiting: map[asker]int{}, open: map[asker]int{}}
}

// take counts one more of a's in m, unless it has limit. give takes it back.
func (r *Resolver) take(m map[asker]int, a asker, limit int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m[a] >= limit {
		return false
	}
	m[a]++
	return true
}

func (r *Resolver) give(m map[asker]int, a asker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m[a]--; m[a] == 0 {
		delete(m, a)
	}
}

// ServePacket answers questions that come as datagrams on c from machines of a
// network, until ctx ends or c breaks. It owns c, and is gone when it returns.
func (r *Resolver) ServePacket(ctx context.Context, network string, c net.PacketConn) error {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	b := make([]byte, maxQuery)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		a, q, ok := question(network, from, b[:n])
		if !ok {
			continue
		}
		reply, beyond := r.local(a, q)
		switch {
		case !beyond:
			send(c, from, q, reply)
		case !r.take(r.waiting, a, perAsker):
			send(c, from, q, refusal(q, dns.RcodeServerFailure))
		default:
			asking.Go(func() {
				defer r.give(r.waiting, a)
				send(c, from, q, r.forward(ctx, q, false))
			})
		}
	}
}

// question reads a message. What is none is not answered.
func question(network string, from net.Addr, b []byte) (asker, *dns.Msg, bool) {
	at, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return asker{}, nil, false
	}
	q := new(dns.Msg)
	if q.Unpack(b) != nil {
		return asker{}, nil, false
	}
	return asker{network, at.Addr().Unmap().WithZone("")}, q, true
}

// send answers a datagram, cut to what the asker takes in one.
func send(c net.PacketConn, to net.Addr, q, reply *dns.Msg) {
	if reply == nil {
		return
	}
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		size = min(max(size, int(opt.UDPSize())), udpSize)
	}
	reply.Truncate(size)
	b, err := reply.Pack()
	if err != nil {
		b, err = refusal(q, dns.RcodeServerFailure).Pack()
	}
	if err == nil {
		_, _ = c.WriteTo(b, to) // lost, as datagrams may be
	}
}

// Serve is ServePacket for streams.
func (r *Resolver) Serve(ctx context.Context, network string, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		at, err := netip.ParseAddrPort(c.RemoteAddr().String())
		a := asker{network, at.Addr().Unmap().WithZone("")}
		if err != nil || !r.take(r.open, a, streams) {
			c.Close()
			continue
		}
		conns.Go(func() {
			defer r.give(r.open, a)
			r.stream(ctx, a, c)
		})
	}
}

// stream answers the questions of one connection, one after the other.
func (r *Resolver) stream(ctx context.Context, a asker, c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	framed := &dns.Conn{Conn: c}
	for {
		q, err := read(framed)
		if err != nil {
			return
		}
		reply := r.answer(ctx, a, q, true)
		if reply == nil {
			return
		}
		reply.Truncate(maxAnswer)
		if c.SetDeadline(time.Now().Add(streamIdle)) != nil || framed.WriteMsg(reply) != nil {
			return
		}
	}
}

func read(c *dns.Conn) (*dns.Msg, error) {
	if err := c.SetDeadline(time.Now().Add(streamIdle)); err != nil {
		return nil, err
	}
	q, err := c.ReadMsg()
	if err != nil {
		return nil, err
	}
	if q.IsTsig() != nil {
		return nil, errs.New(errs.Unsupported, "a signed question")
	}
	return q, nil
}
