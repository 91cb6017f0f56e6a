package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const (
	// helloLimit is how long a peer may take to say hello: a machine that is emulated on a
	// busy host, and has hundreds of connections to serve, takes its time.
	helloLimit = time.Minute
	// answerLimit is how long the last answers may take to be written.
	answerLimit = 5 * time.Second
	// maxCalls is how many calls one connection may have under way.
	maxCalls = 256
)

// Method answers one call. params is not valid after it returned.
type Method func(ctx context.Context, params json.RawMessage) (any, error)

// Handle makes a Method of a function with typed parameters.
func Handle[P, R any](fn func(context.Context, P) (R, error)) Method {
	return func(ctx context.Context, raw json.RawMessage) (any, error) {
		var p P
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &p); err != nil {
				return nil, errs.New(errs.InvalidArgument, "decode parameters: %w", err)
			}
		}
		return fn(ctx, p)
	}
}

// Server answers the connections of one protocol.
type Server struct {
	Protocol string
	Version  int
	Build    string
	// Methods answer calls on control connections.
	Methods map[string]Method
	// Open takes a stream connection by its token. An error is told to the peer.
	// The stream belongs to whom Open gives it to; Open itself must not block, nor
	// write to the stream: what others write waits until Open has returned.
	Open func(token string, s *Stream) error
	// Greet, where set, is told of each control connection before its first
	// call; it may keep notify to send notices until ctx ends.
	Greet func(ctx context.Context, notify func(topic string, body any) error)
	// Clock, where set, is asked for Welcome's Clock.
	Clock func() time.Duration
}

// ServeConn answers one connection until it ends or ctx does. It owns c, except
// for a stream that Open has taken. The error says why a control connection
// ended; an orderly end is nil.
func (s *Server) ServeConn(ctx context.Context, c net.Conn) error {
	f := newFramer(c)
	_ = c.SetDeadline(time.Now().Add(helloLimit))
	stop := closeOnDone(ctx, c) // a peer that says nothing does not hold up our end
	var h Hello
	err := f.expect(kindHello, &h)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.Close()
		return fmt.Errorf("await hello: %w", err)
	}
	if err := s.check(h); err != nil {
		_ = f.writeJSON(kindWelcome, Welcome{Version: s.Version, Build: s.Build, Error: errs.ToWire(err)})
		_ = c.Close()
		return err
	}
	if h.Purpose == Bytes {
		return s.openStream(f, h.Token)
	}
	w := Welcome{Version: s.Version, Build: s.Build}
	if s.Clock != nil {
		w.Clock = s.Clock()
	}
	if err := f.writeJSON(kindWelcome, w); err != nil {
		_ = c.Close()
		return fmt.Errorf("welcome: %w", err)
	}
	_ = c.SetDeadline(time.Time{})
	return s.serveCalls(ctx, f)
}

func (s *Server) check(h Hello) error {
	switch {
	case h.Protocol != s.Protocol:
		return errs.New(errs.Unsupported, "this is %s, not %.80q", s.Protocol, h.Protocol)
	case h.Version != s.Version:
		return errs.New(errs.Unsupported, "this side speaks version %d of %s, the peer %d", s.Version, s.Protocol, h.Version)
	case h.Purpose == Bytes && s.Open != nil && h.Token != "":
		return nil
	case h.Purpose == Control:
		return nil
	}
	return errs.New(errs.InvalidArgument, "no connections for %.80q here", h.Purpose)
}

// openStream gives Open the stream before the peer is welcomed: who opens a stream
// when another of the same token is open knows that Open sees them in that order.
// Nothing is written to the stream before the welcome.
func (s *Server) openStream(f *framer, token string) error {
	_ = f.c.SetDeadline(time.Time{}) // deadlines are the owner's from here on
	st := newStream(f)
	st.mu.Lock()
	opened := s.Open(token, st)
	ctx, cancel := context.WithTimeout(context.Background(), helloLimit)
	defer cancel()
	err := f.writeJSONContext(ctx, kindWelcome, Welcome{Version: s.Version, Build: s.Build})
	st.mu.Unlock()
	if err != nil {
		_ = f.c.Close() // its owner, if it has one, sees the end
		return fmt.Errorf("welcome stream: %w", err)
	}
	if opened != nil {
		_ = st.Abort(opened)
		return fmt.Errorf("open stream: %w", opened)
	}
	return nil
}

// conn is one control connection being served.
type conn struct {
	s     *Server
	f     *framer
	calls sync.WaitGroup
	slots chan struct{} // has a token for each call under way
	// unread has a token for each call that is under way or whose answer is not
	// written yet: where the peer does not read those, we do not read it.
	unread chan struct{}

	mu      sync.Mutex // guards cancels
	cancels map[uint64]context.CancelCauseFunc
}

func (s *Server) serveCalls(ctx context.Context, f *framer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	ctx = context.WithValue(ctx, connKey{}, ctx)
	c := &conn{s: s, f: f, slots: make(chan struct{}, maxCalls),
		unread: make(chan struct{}, 2*maxCalls), cancels: map[uint64]context.CancelCauseFunc{}}
	// When ctx ends no more calls are read; those under way still answer.
	stop := context.AfterFunc(ctx, func() {
		_ = f.c.SetReadDeadline(time.Unix(1, 0))
		_ = f.c.SetWriteDeadline(time.Now().Add(answerLimit)) // the reader may be writing
	})
	defer func() {
		stop()
		cancel(errServed)
		_ = f.c.SetWriteDeadline(time.Now().Add(answerLimit))
		c.calls.Wait()
		_ = f.c.Close()
	}()
	if s.Greet != nil {
		s.Greet(ctx, func(topic string, body any) error {
			raw, err := json.Marshal(body)
			if err != nil {
				return errs.New(errs.Internal, "encode notice: %w", err)
			}
			return f.writeJSON(kindNotice, Notice{Topic: topic, Body: raw})
		})
	}
	for {
		k, p, err := f.readFrame()
		if err == nil {
			err = c.take(ctx, k, p)
		}
		// A peer that leaves with something unread resets the connection (unix(7)): as
		// one that has no use for the replies to calls that it gave up.
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// connKey is the key of a connection's context in those of its calls.
type connKey struct{}

// Connection returns the context of the connection that a call came on, given the
// call's own. It ends with the connection, for what the caller owns beyond the
// call.
func Connection(ctx context.Context) context.Context {
	if c, ok := ctx.Value(connKey{}).(context.Context); ok {
		return c
	}
	return ctx
}

func (c *conn) take(ctx context.Context, k Kind, p []byte) error {
	switch k {
	case kindRequest:
		var r request
		if err := json.Unmarshal(p, &r); err != nil {
			return errs.New(errs.DataLoss, "decode call: %w", err)
		}
		select {
		case c.slots <- struct{}{}:
			c.start(ctx, r)
		default:
			return c.f.writeJSON(kindResponse, response{ID: r.ID, Error: errs.ToWire(
				errs.New(errs.ResourceExhausted, "more than %d calls under way", maxCalls))})
		}
		return nil
	case kindCancel:
		var x cancellation
		if err := json.Unmarshal(p, &x); err != nil {
			return errs.New(errs.DataLoss, "decode cancel: %w", err)
		}
		c.mu.Lock()
		cancel := c.cancels[x.ID]
		c.mu.Unlock()
		if cancel != nil {
			cancel(context.Canceled)
		}
		return nil
	}
	return errs.New(errs.DataLoss, "unexpected frame of kind %d", k)
}

func (c *conn) start(ctx context.Context, r request) {
	ctx, cancel := context.WithCancelCause(ctx)
	c.mu.Lock()
	c.cancels[r.ID] = cancel
	c.mu.Unlock()
	c.unread <- struct{}{}
	c.calls.Go(func() {
		defer func() { <-c.unread }()
		resp := c.call(ctx, r)
		c.mu.Lock()
		delete(c.cancels, r.ID)
		c.mu.Unlock()
		cancel(nil)
		<-c.slots
		if err := c.f.writeJSON(kindResponse, resp); errs.Is(err, errs.InvalidArgument) { // over the limit
			_ = c.f.writeJSON(kindResponse, response{ID: r.ID, Error: errs.ToWire(err)})
		} // other write errors end the reader too, which reports them
	})
}

func (c *conn) call(ctx context.Context, r request) (resp response) {
	resp.ID = r.ID
	m, ok := c.s.Methods[r.Method]
	if !ok {
		resp.Error = errs.ToWire(errs.New(errs.Unsupported, "no method %.80q", r.Method))
		return resp
	}
	v, err := m(ctx, r.Params)
	if err != nil {
		resp.Error = errs.ToWire(err)
		return resp
	}
	raw, err := json.Marshal(v)
	if err != nil {
		resp.Error = errs.ToWire(errs.New(errs.Internal, "encode answer to %s: %w", r.Method, err))
		return resp
	}
	resp.Result = raw
	return resp
}
