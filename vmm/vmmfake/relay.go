package vmmfake

import (
	"context"
	"crypto/rand"
	"net"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/relay"
)

// relaying is a relay of the agent.
type relaying struct {
	agentproto.Relay
	listener net.Listener        // of one into the host; nil: the server is in the container
	pending  map[string]net.Conn // that the host has not claimed, by token
}

// open gives a stream to what its token names: a port of the container, a relay,
// or the output of a process.
func (a *agent) open(token string, s *wire.Stream) error {
	if _, _, ok := agentproto.ParsePortToken(token); ok {
		a.m.work.Go(func() { a.pass(s, token) })
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.relays {
		if r.Direction == agentproto.OutOf && token == agentproto.RelayToken(r.ID) {
			a.m.work.Go(func() { a.pass(s, r.Path) })
			return nil
		}
		if c := r.pending[token]; c != nil {
			delete(r.pending, token)
			a.m.work.Go(func() { _, _ = relay.Pair(a.m.ctx, wire.AsConn(s), c) }) // its ends see how it ended
			return nil
		}
	}
	return a.streams.open(token, s)
}

// pass connects a stream with a server in the container.
func (a *agent) pass(s *wire.Stream, at string) {
	c, err := a.m.Reach(at)
	if err != nil {
		_ = s.Abort(err)
		_ = s.Close()
		return
	}
	_, _ = relay.Pair(a.m.ctx, wire.AsConn(s), c) // its ends see how it ended
}

func (a *agent) Relay(_ context.Context, r agentproto.Relay) (e agentproto.Empty, err error) {
	one := &relaying{Relay: r, pending: map[string]net.Conn{}}
	if r.Direction == agentproto.Into {
		if one.listener, err = a.m.Serve(r.Path); err != nil {
			return e, err
		}
		a.m.work.Go(func() { a.accept(one) })
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.relays[r.ID] != nil {
		return e, errs.New(errs.AlreadyExists, "relay %q is there already", r.ID)
	}
	a.relays[r.ID] = one
	return e, nil
}

// accept tells the host of what the container has connected, until the relay ends.
func (a *agent) accept(one *relaying) {
	for {
		c, err := one.listener.Accept()
		if err != nil {
			return
		}
		token := rand.Text()
		a.mu.Lock()
		one.pending[token] = c
		a.tellLocked(agentproto.NoticeAccepted, agentproto.Accepted{Relay: one.ID, Token: token})
		a.mu.Unlock()
	}
}

func (a *agent) Unrelay(_ context.Context, u agentproto.Unrelay) (e agentproto.Empty, err error) {
	a.mu.Lock()
	one := a.relays[u.ID]
	delete(a.relays, u.ID)
	a.mu.Unlock()
	if one != nil {
		one.end()
	}
	return e, nil
}

func (r *relaying) end() {
	if r.listener != nil {
		_ = r.listener.Close()
	}
	for _, c := range r.pending {
		_ = c.Close()
	}
}

// endRelays ends all: the container's process has ended.
func (a *agent) endRelays() {
	a.mu.Lock()
	all := a.relays
	a.relays = map[string]*relaying{}
	a.mu.Unlock()
	for _, r := range all {
		r.end()
	}
}
