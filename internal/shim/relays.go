package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/relay"
	"github.com/vzcompose/vzcompose/vmm"
)

// maxRelayed is how many connections a relay carries at a time. More wait in the
// backlog of its socket: the agent serves 1000 of all kinds.
const maxRelayed = 256

// What the agent may announce of a relay: connections that wait for the host, and
// the bytes of a token.
const (
	maxAccepted = 128
	maxToken    = 256
)

// dialHostLimit is how long a host server may take to accept.
const dialHostLimit = 10 * time.Second

// relays are the sockets that stand for servers on the other side, while the
// container's process runs.
type relays struct {
	mu     sync.Mutex // guards the following
	count  int
	open   map[string]*relaying // by destination
	byID   map[string]*relaying
	served sync.WaitGroup
}

// relaying is one of them.
type relaying struct {
	state.Relay
	id  string
	ctx context.Context // ends it, and the connections that it carries
	end context.CancelFunc
	// over is closed when nothing of it is left on the host; nil: nothing is.
	over chan struct{}
	// accepted has the tokens of connections that the container has made and the
	// host has not claimed; nil: the server is in the container.
	accepted chan string
}

// openRelays opens those of the instance's record. On error none is left.
func (s *shim) openRelays(ctx context.Context, m vmm.Machine, agent *agentproto.Client) error {
	for _, r := range s.inst.Relays {
		if _, ok := r.VsockPort(); ok && !outOf(r) {
			continue // it is open since before the process was started
		}
		if err := s.openRelay(ctx, m, agent, r); err != nil {
			s.relays.close()
			return fmt.Errorf("socket %s: %w", r.Destination, err)
		}
	}
	return nil
}

func (s *shim) openRelay(ctx context.Context, m vmm.Machine, agent *agentproto.Client, r state.Relay) error {
	if port, ok := r.VsockPort(); ok {
		return s.relayPort(m, r, port)
	}
	one, err := s.relays.reserve(s.ctx, r)
	if err != nil {
		return err
	}
	ask := agentproto.Relay{ID: one.id, Direction: agentproto.Direction(r.Direction), Path: r.Destination, Mode: r.Mode, UID: r.UID, GID: r.GID}
	if ask.Direction == agentproto.OutOf {
		ask.Path = r.Source
	}
	if err := agent.Relay(ctx, ask); err != nil {
		s.relays.forget(one)
		return err
	}
	if ask.Direction != agentproto.OutOf {
		s.relays.served.Go(func() { s.serveAccepted(m, one) })
		return nil
	}
	l, err := listenSocket(r.Destination, r.Mode)
	if err != nil {
		s.relays.forget(one)
		uctx, cancel := limit(context.WithoutCancel(ctx), callLimit, "take the relay back")
		defer cancel()
		return errors.Join(err, agent.Unrelay(uctx, one.id))
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		st, err := openStream(ctx, m, agentproto.RelayToken(one.id))
		if err != nil {
			return nil, err
		}
		return wire.AsConn(st), nil
	}
	s.relays.serve(one, l, dial, relay.Options{MaxConns: maxRelayed, Shared: s.carried})
	return nil
}

// serve carries connections of l to what dial returns, until the relay ends.
func (t *relays) serve(one *relaying, l net.Listener, dial func(context.Context) (net.Conn, error), o relay.Options) {
	over := make(chan struct{})
	t.mu.Lock()
	one.over = over
	t.mu.Unlock()
	t.served.Go(func() {
		defer close(over)
		_ = relay.Serve(one.ctx, l, dial, o) // it ends when it is closed
	})
}

func (t *relays) reserve(ctx context.Context, r state.Relay) (*relaying, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[r.Destination] != nil {
		return nil, errs.New(errs.AlreadyExists, "%s is relayed already", r.Destination)
	}
	if t.open == nil {
		t.open, t.byID = map[string]*relaying{}, map[string]*relaying{}
	}
	t.count++
	one := &relaying{Relay: r, id: "relay-" + strconv.Itoa(t.count)}
	one.ctx, one.end = context.WithCancel(ctx)
	if agentproto.Direction(r.Direction) == agentproto.Into {
		one.accepted = make(chan string, maxAccepted)
	}
	t.open[r.Destination], t.byID[one.id] = one, one
	return one, nil
}

func (t *relays) forget(one *relaying) {
	t.mu.Lock()
	delete(t.open, one.Destination)
	delete(t.byID, one.id)
	t.mu.Unlock()
	one.end()
}

func (t *relays) find(id string) *relaying {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// close ends all, with the connections that they carry.
func (t *relays) close() {
	t.mu.Lock()
	all := t.open
	t.open, t.byID = nil, nil
	t.mu.Unlock()
	for _, one := range all {
		one.end()
	}
	t.served.Wait()
}

// accepted takes the agent's notice of a connection that the container has made. It
// does not block, and what the agent may not have sent costs nothing.
func (t *relays) accepted(a agentproto.Accepted) {
	one := t.find(a.Relay)
	if one == nil || one.accepted == nil || len(a.Token) > maxToken {
		return // it was just taken away, or never was
	}
	select {
	case one.accepted <- a.Token:
	default: // more than the agent lets wait
	}
}

// serveAccepted pairs what the container has connected with the host's server, a
// bounded number at a time, until the relay ends.
func (s *shim) serveAccepted(m vmm.Machine, one *relaying) {
	slots := make(chan struct{}, maxRelayed)
	for {
		select {
		case token := <-one.accepted:
			if !enter(one.ctx, slots) {
				return
			}
			if !enter(one.ctx, s.carried) {
				return
			}
			s.relays.served.Go(func() {
				defer func() { <-s.carried; <-slots }()
				one.pair(m, token)
			})
		case <-one.ctx.Done():
			return
		}
	}
}

// enter waits for a place; false: ctx ended first.
func enter(ctx context.Context, places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// pair connects one connection of the container's with the host's server.
func (r *relaying) pair(m vmm.Machine, token string) {
	ctx, cancel := limit(r.ctx, dialHostLimit, "reach the server of the host")
	defer cancel()
	st, err := openStream(ctx, m, token)
	if err != nil {
		return // the agent drops what nobody claims
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", r.Source)
	if err != nil {
		_ = st.Abort(errs.New(errs.Unavailable, "nobody answers at the host's socket"))
		_ = st.Close()
		return
	}
	_, _ = relay.Pair(r.ctx, wire.AsConn(st), c) // what a pair ends with is its ends' matter
}

// Relay adds a relay to the running instance.
func (h handler) Relay(ctx context.Context, r state.Relay) (shimproto.Empty, error) {
	s := h.s
	if st, _ := s.status.read(); st.State != lifecycle.Started {
		return shimproto.Empty{}, errs.New(errs.FailedPrecondition, "cannot add a relay to what is %s", st.State)
	}
	if err := checkRelay(r); err != nil {
		return shimproto.Empty{}, err
	}
	m, agent, err := s.running.get()
	if err != nil {
		return shimproto.Empty{}, err
	}
	ctx, cancel := limit(ctx, callLimit, "open the relay")
	defer cancel()
	return shimproto.Empty{}, s.openRelay(ctx, m, agent, r)
}

// Unrelay ends a relay and what it carries. One that is not there is fine.
func (h handler) Unrelay(ctx context.Context, p shimproto.Unrelay) (shimproto.Empty, error) {
	s := h.s
	s.relays.mu.Lock()
	one := s.relays.open[p.Destination]
	var over chan struct{}
	if one != nil {
		over = one.over
	}
	s.relays.mu.Unlock()
	if one == nil {
		return shimproto.Empty{}, nil
	}
	s.relays.forget(one)
	ctx, cancel := limit(ctx, callLimit, "end the relay")
	defer cancel()
	var err error
	_, agent, gone := s.running.get() // where it is gone, the relay went with it
	if _, port := one.VsockPort(); !port && gone == nil {
		err = agent.Unrelay(ctx, one.id)
	}
	if over != nil { // another may take its place as soon as this returns
		select {
		case <-over:
		case <-ctx.Done():
			err = errors.Join(err, context.Cause(ctx))
		}
	}
	return shimproto.Empty{}, err
}

// listenSocket opens a socket of the host. A socket that nobody answers at, as a
// shim that was killed leaves it, is replaced; anything else is not.
func listenSocket(path string, mode uint32) (net.Listener, error) {
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, errs.New(errs.AlreadyExists, "%s is there and is no socket", path)
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = c.Close()
			return nil, errs.New(errs.AlreadyExists, "somebody answers at %s already", path)
		} else if !errors.Is(err, unix.ECONNREFUSED) {
			return nil, fmt.Errorf("look who is at %s: %w", path, err)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove the old socket: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make its folder: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the socket: %w", err)
	}
	if mode == 0 {
		mode = 0o600
	}
	if err := os.Chmod(path, os.FileMode(mode&0o777)); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("set the socket's mode: %w", err)
	}
	return l, nil
}
