package switchproto

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network"
)

// Client is a connection to a switch. Make it with Dial.
type Client struct {
	c       *net.UnixConn
	replies chan reply
	done    chan struct{} // closed with the connection
	calling chan struct{} // has a token while no request is under way
	closing sync.Once
}

// Dial connects to the switch on a socket; errs.Unavailable where there is none.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, errs.New(errs.Unavailable, "dial the switch: %w", err)
	}
	c := &Client{c: conn.(*net.UnixConn), replies: make(chan reply), done: make(chan struct{}), calling: make(chan struct{}, 1)}
	c.calling <- struct{}{}
	go c.read()
	return c, nil
}

func (c *Client) read() {
	defer c.Close()
	for {
		var r reply
		files, err := receive(c.c, &r)
		closeAll(files) // a switch sends none
		if err != nil {
			return
		}
		select {
		case c.replies <- r:
		case <-c.done:
			return
		}
	}
}

// Close ends the connection, and with it the membership.
func (c *Client) Close() {
	c.closing.Do(func() {
		close(c.done)
		_ = c.c.Close() // nothing is buffered
	})
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// call waits for the answer to r. A call that ctx ends takes the connection with
// it: nobody would know whose the next answer is.
func (c *Client) call(ctx context.Context, r request, files []*os.File) (reply, error) {
	select {
	case <-c.calling:
		defer func() { c.calling <- struct{}{} }()
	case <-ctx.Done():
		return reply{}, context.Cause(ctx)
	}
	r.Version = Version
	if err := send(c.c, r, files); err != nil {
		c.Close()
		return reply{}, errs.New(errs.Unavailable, "ask the switch: %w", err)
	}
	select {
	case got := <-c.replies:
		err := got.Error.Err()
		if errs.Is(err, errs.Unsupported) { // only its version is
			err = fmt.Errorf("another version of vzcompose started the switch, and it ends with the last machine on it: "+
				"take the stack down and up again: %w", err)
		}
		return got, err
	case <-c.done:
		return reply{}, errs.New(errs.Unavailable, "the switch is gone")
	case <-ctx.Done():
		c.Close()
		return reply{}, context.Cause(ctx)
	}
}

// Join puts the machine on its networks. frames stay the caller's, who keeps
// them for the next switch.
func (c *Client) Join(ctx context.Context, j Join, frames []*os.File) error {
	if len(frames) > maxFiles {
		return errs.New(errs.ResourceExhausted, "%d interfaces of %s, more than %d", len(frames), j.Machine.Instance, maxFiles)
	}
	if _, err := c.call(ctx, request{Join: &j}, frames); err != nil {
		return fmt.Errorf("join the switch: %w", err)
	}
	return nil
}

// SetReady says whether names lead to the machine that has joined.
func (c *Client) SetReady(ctx context.Context, ready bool) error {
	_, err := c.call(ctx, request{Ready: &ready}, nil)
	return err
}

// Inspect answers what the networks count.
func (c *Client) Inspect(ctx context.Context) ([]network.NetworkStatus, error) {
	got, err := c.call(ctx, request{Inspect: true}, nil)
	return got.Networks, err
}
