package shim

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/relay"
	"github.com/vzcompose/vzcompose/vmm"
)

// Limits of virtual sockets.
const (
	dialVsockLimit  = 10 * time.Second // for the guest to answer
	maxConnected    = 256              // connections that wait for their stream
	connectedExpiry = 30 * time.Second
)

// vsock returns the virtual sockets of the container's machine.
func (s *shim) vsock(m vmm.Machine) (vmm.Vsock, error) {
	if !s.inst.Vsock {
		return nil, errs.WithHint(errs.New(errs.FailedPrecondition, "%s has no virtual sockets", s.inst.Name), "declare vsock: true in container %s, and vzcompose up", s.inst.Container)
	}
	v, ok := vmm.As[vmm.Vsocker](m)
	if !ok {
		return nil, errs.New(errs.Unsupported, "machines of this system have no virtual sockets")
	}
	return v.Vsock()
}

// readyVsock returns once the container can use its virtual sockets, and opens the
// ports that stand for servers of the host: a process may connect to them at once.
func (s *shim) readyVsock(ctx context.Context, m vmm.Machine) error {
	if !s.inst.Vsock {
		return nil
	}
	v, err := s.vsock(m)
	if err != nil {
		return err
	}
	rctx, cancel := limit(ctx, setupLimit, "await the machine's virtual sockets")
	defer cancel()
	if err := v.Ready(rctx); err != nil {
		return err
	}
	s.send(func() { s.st.VsockCID = v.CID() })
	for _, r := range s.inst.Relays {
		if port, ok := r.VsockPort(); ok && !outOf(r) {
			if err := s.relayPort(m, r, port); err != nil {
				return fmt.Errorf("socket %s: %w", r.Destination, err)
			}
		}
	}
	return nil
}

func outOf(r state.Relay) bool { return agentproto.Direction(r.Direction) == agentproto.OutOf }

// relayPort opens a relay whose end in the container is a port.
func (s *shim) relayPort(m vmm.Machine, r state.Relay, port uint32) error {
	v, err := s.vsock(m)
	if err != nil {
		return err
	}
	one, err := s.relays.reserve(s.ctx, r)
	if err != nil {
		return err
	}
	var l net.Listener
	dial := func(ctx context.Context) (net.Conn, error) { return v.Dial(ctx, port) }
	o := relay.Options{MaxConns: maxRelayed, DialTimeout: dialVsockLimit}
	if outOf(r) {
		l, err = listenSocket(r.Destination, r.Mode)
	} else {
		l, err = v.Listen(port)
		dial = func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", r.Source)
		}
		o.DialTimeout = dialHostLimit
	}
	if err != nil {
		s.relays.forget(one)
		return err
	}
	s.relays.serve(one, l, dial, o)
	return nil
}

// checkRelay returns what is wrong with a relay that a command asks for.
func checkRelay(r state.Relay) error {
	guest, host := r.Destination, r.Source
	if outOf(r) {
		guest, host = host, guest
	}
	port, ok := r.VsockPort()
	if ok {
		if err := vmm.CheckVsockPort(port); err != nil {
			return err
		}
	}
	if d := agentproto.Direction(r.Direction); d != agentproto.OutOf && d != agentproto.Into || !filepath.IsAbs(host) || !ok && !filepath.IsAbs(guest) {
		return errs.New(errs.InvalidArgument, "relay %q from %q to %q", r.Direction, r.Source, r.Destination)
	}
	return nil
}

// Vsock connects a command to a port of the container.
func (h handler) Vsock(ctx context.Context, p shimproto.Vsock) (shimproto.Connected, error) {
	s := h.s
	if st, _ := s.status.read(); st.State != lifecycle.Started {
		return shimproto.Connected{}, errs.New(errs.FailedPrecondition, "cannot connect to what is %s", st.State)
	}
	m, _, err := s.running.get()
	if err != nil {
		return shimproto.Connected{}, err
	}
	v, err := s.vsock(m)
	if err != nil {
		return shimproto.Connected{}, err
	}
	ctx, cancel := limit(ctx, dialVsockLimit, "connect to the container")
	defer cancel()
	c, err := v.Dial(ctx, p.Port)
	if err != nil {
		return shimproto.Connected{}, err
	}
	token, err := s.connected.add(c)
	return shimproto.Connected{Token: token}, err
}

// connected are connections to containers that wait for the stream of the command
// that asked for them.
type connected struct {
	mu     sync.Mutex // guards the following
	all    map[string]net.Conn
	closed bool
}

// add keeps c, until it is taken or too old.
func (t *connected) add(c net.Conn) (token string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		err = errs.New(errs.FailedPrecondition, "the instance has ended")
	case len(t.all) >= maxConnected:
		err = errs.New(errs.ResourceExhausted, "more than %d connections wait for their streams", maxConnected)
	}
	if err != nil {
		_ = c.Close() // nothing went through it
		return "", err
	}
	if t.all == nil {
		t.all = map[string]net.Conn{}
	}
	token = shimproto.VsockPrefix + rand.Text()
	t.all[token] = c
	time.AfterFunc(connectedExpiry, func() {
		if c := t.take(token); c != nil {
			_ = c.Close() // whoever asked for it has forgotten it
		}
	})
	return token, nil
}

// take returns a connection, nil where there is none.
func (t *connected) take(token string) net.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.all[token]
	delete(t.all, token)
	return c
}

// close closes those that are left.
func (t *connected) close() {
	t.mu.Lock()
	all := t.all
	t.all, t.closed = nil, true
	t.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}

// attachVsock pairs a command's stream with the connection that it is for.
func (s *shim) attachVsock(token string, st *wire.Stream) error {
	c := s.connected.take(token)
	if c == nil {
		return errs.New(errs.NotFound, "no connection waits for this stream")
	}
	s.tasks.Go(func() { _, _ = relay.Pair(s.ctx, wire.AsConn(st), c) }) // what a pair ends with is its ends' matter
	return nil
}
