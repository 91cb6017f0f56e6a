package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// courtesyLimit is how long a cancelled call may take to tell the peer so.
const courtesyLimit = time.Second

type request struct {
	ID     uint64          `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params,omitempty"`
}

type response struct {
	ID     uint64          `json:"id"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *errs.Wire      `json:"error,omitempty"`
}

type cancellation struct {
	ID uint64 `json:"id"`
}

// Notice is unasked news from the serving side.
type Notice struct {
	Topic string          `json:"topic"`
	Body  json.RawMessage `json:"body,omitempty"`
}

// Client makes calls on one connection. It is for many goroutines.
type Client struct {
	f       *framer
	welcome Welcome
	at      time.Time // when it came
	notices func(Notice)

	mu      sync.Mutex // guards the following
	next    uint64
	waiting map[uint64]chan response
	err     error // why it ended

	done chan struct{} // closed once err is set and the reader has ended
}

// NewClient greets on c and starts to read. notices (may be nil) is called on
// the reading goroutine, in order, and must not block. The client owns c from
// here on, also on error. ctx bounds the greeting.
func NewClient(ctx context.Context, c net.Conn, h Hello, notices func(Notice)) (*Client, error) {
	h.Purpose = Control
	f := newFramer(c)
	stop := closeOnDone(ctx, c)
	w, err := f.dial(h)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.Close() // the greeting's error is the one to tell
		return nil, err
	}
	cl := &Client{f: f, welcome: w, at: time.Now(), notices: notices, waiting: map[uint64]chan response{}, done: make(chan struct{})}
	go cl.read()
	return cl, nil
}

// closeOnDone makes what blocks on c end when ctx does. The answered function
// undoes it and reports whether ctx had not ended.
func closeOnDone(ctx context.Context, c net.Conn) func() bool {
	return context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
}

// Welcome is what the peer said of itself.
func (c *Client) Welcome() Welcome { return c.welcome }

// Welcomed is when the welcome came.
func (c *Client) Welcomed() time.Time { return c.at }

// Done is closed when the connection has ended; Err then says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err answers why the connection ended, nil while it lasts.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection and waits for the reader.
func (c *Client) Close() error {
	c.end(errs.New(errs.Canceled, "the connection was closed"))
	err := c.f.c.Close()
	<-c.done
	return err
}

func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	for id, ch := range c.waiting {
		delete(c.waiting, id)
		close(ch)
	}
}

func (c *Client) read() {
	defer close(c.done)
	for {
		k, p, err := c.f.readFrame()
		if err == nil {
			err = c.take(k, p)
		}
		if err != nil {
			c.end(errs.New(errs.Unavailable, "the peer is gone: %w", unexpected(err)))
			_ = c.f.c.Close()
			return
		}
	}
}

func (c *Client) take(k Kind, p []byte) error {
	switch k {
	case kindResponse:
		var r response
		if err := json.Unmarshal(p, &r); err != nil {
			return errs.New(errs.DataLoss, "decode answer: %w", err)
		}
		c.mu.Lock()
		ch := c.waiting[r.ID]
		delete(c.waiting, r.ID)
		c.mu.Unlock()
		if ch != nil { // otherwise the caller gave up
			ch <- r
		}
	case kindNotice:
		var n Notice
		if err := json.Unmarshal(p, &n); err != nil {
			return errs.New(errs.DataLoss, "decode notice: %w", err)
		}
		if c.notices != nil {
			c.notices(n)
		}
	default:
		return errs.New(errs.DataLoss, "unexpected frame of kind %d", k)
	}
	return nil
}

// Call asks the peer for method and decodes its answer into result (nil to
// ignore it). When ctx ends first the peer is told, and ctx's cause comes back.
func (c *Client) Call(ctx context.Context, method string, params, result any) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", method, context.Cause(ctx))
	}
	raw, err := json.Marshal(params)
	if err != nil {
		return errs.New(errs.Internal, "encode %s: %w", method, err)
	}
	id, ch, err := c.register()
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	if err := c.f.writeJSONContext(ctx, kindRequest, request{ID: id, Method: method, Params: raw}); err != nil {
		c.forget(id)
		return unsent(ctx, method, err)
	}
	select {
	case r, ok := <-ch:
		if !ok {
			return fmt.Errorf("%s: %w", method, c.Err())
		}
		return answer(r, method, result)
	case <-ctx.Done():
		if c.forget(id) {
			c.sendCancel(id)
		}
		return fmt.Errorf("%s: %w", method, context.Cause(ctx))
	}
}

// unsent says why a call did not go out: the message, the caller or the
// connection.
func unsent(ctx context.Context, method string, err error) error {
	class := errs.ClassOf(err)
	switch {
	case class == errs.InvalidArgument, class == errs.Internal:
		return fmt.Errorf("%s: %w", method, err)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", method, context.Cause(ctx))
	}
	return errs.New(errs.Unavailable, "%s: %w", method, err)
}

// sendCancel tells the peer that nobody waits any more. It is a courtesy: a
// peer that does not even read is not waited for long.
func (c *Client) sendCancel(id uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), courtesyLimit)
	defer cancel()
	_ = c.f.writeJSONContext(ctx, kindCancel, cancellation{ID: id})
}

func answer(r response, method string, result any) error {
	if r.Error != nil {
		return r.Error.Err()
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(r.Result, result); err != nil {
		return errs.New(errs.DataLoss, "decode answer to %s: %w", method, err)
	}
	return nil
}

func (c *Client) register() (uint64, chan response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.next++
	ch := make(chan response, 1)
	c.waiting[c.next] = ch
	return c.next, ch, nil
}

func (c *Client) forget(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.waiting[id]
	delete(c.waiting, id)
	return ok
}

var errServed = errors.New("the connection has ended")
