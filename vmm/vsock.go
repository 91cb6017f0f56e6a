package vmm

import (
	"context"
	"math"
	"net"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Vsocker is the optional ability of a machine to have virtual sockets for its
// container. Those on which a driver may reach the agent are not among them.
type Vsocker interface {
	// Vsock returns the machine's virtual sockets; errs.NotFound where Config.Vsock
	// did not ask for them.
	Vsock() (Vsock, error)
}

// Vsock is one machine's virtual socket device, the host's side. Its methods may be
// called at any time from any goroutine. The caller owns connections and listeners;
// they end with the machine.
type Vsock interface {
	// CID is the guest's context ID, by which processes in it name themselves. It is
	// no name to anybody else: the host is the only peer. 0: the driver does not know.
	CID() uint32
	// Ready blocks until processes in the guest can use their sockets.
	Ready(ctx context.Context) error
	// Dial connects to a port of the guest: errs.Unavailable at once where nobody
	// listens. A connection has half-close (CloseWrite) where the driver has it.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Listen takes connections of the guest to a port of the host. A port without a
	// listener refuses them at once.
	Listen(port uint32) (net.Listener, error)
}

// CheckVsockPort returns what is wrong with a port for virtual sockets of a
// container: 0 and the highest number mean any port to programs, and AgentPort
// is the agent's on some drivers.
func CheckVsockPort(port uint32) error {
	switch port {
	case 0, math.MaxUint32:
		return errs.New(errs.InvalidArgument, "%d is not a port of virtual sockets", port)
	case AgentPort:
		return errs.New(errs.InvalidArgument, "port %d of virtual sockets is the agent's", port)
	}
	return nil
}
