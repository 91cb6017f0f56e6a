//go:build linux

package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"runtime/debug"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/accept"
	"github.com/vzcompose/vzcompose/internal/mux"
	"github.com/vzcompose/vzcompose/internal/wire"
)

// agentPort is vmm.AgentPort, which the guest does not import.
const agentPort = 1024

// maxConns is how many connections are served at a time.
const maxConns = 1000

// listenSockets makes the vsock listener. It works before there is a device, and stays
// good when a device comes, goes, or changes its address.
func listenSockets() (net.Listener, error) {
	l, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, agentPort, nil)
	if err != nil {
		return nil, fmt.Errorf("listen on vsock port %d: %w", agentPort, err)
	}
	return l, nil
}

// fromHost says whether the host dialled c, and not a process in the machine.
func fromHost(c net.Conn) bool {
	switch addr := c.RemoteAddr().(type) {
	case *vsock.Addr:
		return addr.ContextID == vsock.Host
	case mux.Addr:
		return addr.Side == mux.Host
	}
	return false
}

// serve answers the connections of l that allowed admits until l is closed,
// which is nil, or fails for good.
func (a *agent) serve(ctx context.Context, l net.Listener, build string, allowed func(net.Conn) bool) error {
	l = a.accepting(l)
	slots := make(chan struct{}, maxConns)
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		case !allowed(c):
			a.log.printf("refused a connection from %v", c.RemoteAddr())
			_ = c.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			a.log.printf("refused a connection: %d are open", maxConns)
			_ = c.Close()
			continue
		}
		c = &counted{Conn: c, closed: func() { <-slots }}
		go a.serveConn(ctx, c, build)
	}
}

// accepting is l, which lasts through a lack of descriptors; the agent's log has
// it.
func (a *agent) accepting(l net.Listener) net.Listener {
	return accept.Through(l, func(err error) { a.log.printf("%v", err) })
}

func (a *agent) serveConn(ctx context.Context, c net.Conn, build string) {
	greet := func(ctx context.Context, notify func(string, any) error) {
		a.notices.subscribe(ctx, notify, func() { _ = c.Close() })
	}
	s := agentproto.NewServer(a, build, a.openStream, greet)
	s.Clock = monotonic
	for name, m := range s.Methods {
		s.Methods[name] = a.guarded(m)
	}
	if err := s.ServeConn(ctx, c); err != nil {
		a.log.printf("connection: %v", err)
	}
}

// guarded makes a panic in m end the machine in order, instead of PID 1.
func (a *agent) guarded(m wire.Method) wire.Method {
	return func(ctx context.Context, params json.RawMessage) (any, error) {
		defer func() {
			if p := recover(); p != nil {
				report(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
				a.off()
			}
		}()
		return m(ctx, params)
	}
}
