// Package relay carries bytes between connections: Pair joins two of them,
// Serve joins what a listener accepts with what a dial answers. It knows nothing
// of what the bytes mean, and neither authenticates nor logs.
//
// Each direction is one buffer: what the receiver does not take is not read from
// the sender, so that a slow side holds up only its own pair. End-of-stream is
// passed on by CloseWrite where the connection has it, and by Close where not.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// bufferSize of one direction, in bytes. A pair holds two while it lives.
const bufferSize = 32 << 10

// Stats counts what a pair carried, in bytes that the receiver took.
type Stats struct {
	AToB, BToA int64
}

// closeWriter is what a connection with half-close has: *net.TCPConn,
// *net.UnixConn, *vsock.Conn, and framed streams.
type closeWriter interface{ CloseWrite() error }

// Pair carries bytes between a and b, both ways, until both directions ended. It
// owns both connections and closes them before it answers; no goroutine of it is
// left then.
//
// The end of one side's stream is passed on and the other direction goes on. A
// receiver that cannot half-close is closed, which ends both. What a broken
// receiver no longer takes is read and thrown away, so that the last words of
// the receiver still arrive; a broken sender ends the pair. The error is nil
// when both streams ended well, the cause of ctx where ctx ended the pair, and
// else the first that happened.
func Pair(ctx context.Context, a, b net.Conn) (Stats, error) {
	return pair(ctx, a, b, newBuffers())
}

func pair(ctx context.Context, a, b net.Conn, buffers *sync.Pool) (Stats, error) {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		a.Close()
		b.Close()
	})
	p := &pipes{a: a, b: b}
	var s Stats
	there := make(chan struct{})
	go func() {
		defer close(there)
		s.AToB = p.carry(b, a, buffers)
	}()
	s.BToA = p.carry(a, b, buffers)
	<-there
	a.Close()
	b.Close()
	if !stop() {
		<-ended
		return s, context.Cause(ctx)
	}
	return s, p.err
}

// pipes is what the two directions of a pair share.
type pipes struct {
	a, b net.Conn

	mu     sync.Mutex // guards the following
	over   int        // directions that carry nothing more
	closed bool       // by us: what fails from here on is our doing
	err    error      // the first
}

// carry is one direction. It answers the bytes that dst took.
func (p *pipes) carry(dst, src net.Conn, buffers *sync.Pool) int64 {
	held := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(held)
	var n int64
	broken := false
	for {
		got, err := src.Read(held[:])
		if got > 0 && !broken {
			took, werr := dst.Write(held[:got])
			n += int64(took)
			if werr != nil {
				broken = true
				p.fail(fmt.Errorf("write: %w", werr))
				p.end()
			}
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) {
			p.fail(fmt.Errorf("read: %w", err))
			p.close()
		} else if !broken {
			p.finish(dst)
			p.end()
		}
		return n
	}
}

// finish tells dst that nothing follows. What half-close cannot tell, close
// does.
func (p *pipes) finish(dst net.Conn) {
	cw, ok := dst.(closeWriter)
	if !ok || cw.CloseWrite() != nil {
		p.close()
	}
}

// end counts a direction that is over. With the second there is nothing left
// to wait for, even from a sender whose receiver broke.
func (p *pipes) end() {
	p.mu.Lock()
	p.over++
	both := p.over == 2
	p.mu.Unlock()
	if both {
		p.close()
	}
}

func (p *pipes) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.a.Close()
	p.b.Close()
}

func (p *pipes) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil && !p.closed {
		p.err = err
	}
}

func newBuffers() *sync.Pool {
	return &sync.Pool{New: func() any { return new([bufferSize]byte) }}
}
