package shimproto

import (
	"context"

	"github.com/vzcompose/vzcompose/internal/wire"
)

// MethodVsock connects to a port of the container's virtual sockets: Vsock →
// Connected.
const MethodVsock = "vsock"

// Vsock names a port on which a process in the container listens.
type Vsock struct {
	Port uint32 `json:"port"`
}

// Connected is a connection that waits for its stream: the one that is opened
// next with this token. It does not wait long.
type Connected struct {
	Token string `json:"token"`
}

// VsockPrefix begins the tokens of such connections.
const VsockPrefix = "vsock:"

// DialVsock connects to a port of the container's virtual sockets. A port on which
// nobody listens is errs.Unavailable at once; errs.FailedPrecondition where the
// container has no virtual sockets, or does not run. The caller owns the stream,
// which ends with the connection and outlives c. wire.AsConn makes a net.Conn of
// it.
func (c *Client) DialVsock(ctx context.Context, port uint32) (*wire.Stream, error) {
	var r Connected
	if err := c.c.Call(ctx, MethodVsock, Vsock{Port: port}, &r); err != nil {
		return nil, err
	}
	return c.OpenStream(ctx, r.Token)
}
