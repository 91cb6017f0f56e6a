package vz

import (
	"net"
	"sync"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// listener hands on the connections of one of the framework's, whose Close does
// not wake its Accept: so Accept is called on a goroutine of its own. That one
// stays behind, parked, once for each listener that was closed; it ends with
// the process, as the machine does.
type listener struct {
	inner net.Listener
	life  *life
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	err   error
}

// newListener owns inner. It answers errs.Unavailable where the machine is over.
func newListener(inner net.Listener, l *life) (*listener, error) {
	n := &listener{inner: inner, life: l, conns: make(chan net.Conn), done: make(chan struct{})}
	if !l.keep(n) {
		_ = inner.Close()
		return nil, errs.New(errs.Unavailable, "listen: the machine is gone")
	}
	go n.take()
	return n, nil
}

func (n *listener) take() {
	for {
		c, err := n.inner.Accept()
		if err != nil {
			select {
			case <-n.done:
				return
			default:
				continue // one connection could not be taken over; the next may
			}
		}
		select {
		case n.conns <- c:
		case <-n.done:
			_ = c.Close() // nobody is there to take it
			return
		}
	}
}

func (n *listener) Accept() (net.Conn, error) {
	select {
	case <-n.done:
		return nil, n.closed()
	default:
	}
	select {
	case c := <-n.conns:
		if k := newConn(c, n.life); k != nil {
			return k, nil
		}
		return nil, n.closed()
	case <-n.done:
		return nil, n.closed()
	}
}

func (n *listener) closed() error {
	return &net.OpError{Op: "accept", Net: "vsock", Addr: n.Addr(), Err: net.ErrClosed}
}

func (n *listener) Close() error {
	n.once.Do(func() {
		close(n.done)
		n.life.drop(n)
		n.err = n.inner.Close()
	})
	return n.err
}

func (n *listener) Addr() net.Addr { return n.inner.Addr() }
