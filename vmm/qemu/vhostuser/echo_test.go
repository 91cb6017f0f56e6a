//go:build linux

package vhostuser

import (
	"sync"
	"testing"

	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser/vhostusertest"
)

// echo is a device that answers what it reads. It has the lock's protection.
type echo struct {
	srv      *Server
	budget   int
	detach   func(*Request) // serve chains outside of the lock
	started  []int
	stopped  []int
	kicks    int
	chains   int
	failures []error
}

func (e *echo) Queues() int      { return 2 }
func (e *echo) Features() uint64 { return 1 << 5 }
func (e *echo) Config() []byte   { return []byte("abcdefgh") }
func (e *echo) Started(q int) {
	e.started = append(e.started, q)
	e.srv.Queue(q).Poke()
}
func (e *echo) Stopped(q int) { e.stopped = append(e.stopped, q) }

func (e *echo) Kicked(i int) (more bool) {
	e.kicks++
	q := e.srv.Queue(i)
	q.RefuseKicks()
	defer q.Notify()
	for range e.budget {
		c, ok, err := q.Pop()
		if err != nil {
			e.failures = append(e.failures, err)
			return false
		}
		if !ok {
			if q.WantKicks() {
				continue
			}
			return false
		}
		e.chains++
		if e.detach != nil {
			e.detach(e.srv.Detach(q, c))
			continue
		}
		q.Push(c.Head, copyChain(c))
	}
	return true
}

// copyChain copies what is readable to what is writable.
func copyChain(c Chain) (n uint32) {
	var all []byte
	for _, b := range c.Readable {
		all = append(all, b...)
	}
	for _, b := range c.Writable {
		k := copy(b, all)
		all = all[k:]
		n += uint32(k)
	}
	return n
}

// serve makes a served echo device and its front end.
func serve(t *testing.T, sealed bool) (*echo, *vhostusertest.Frontend, func() error) {
	t.Helper()
	fe, c := vhostusertest.New(t, sealed)
	e := &echo{budget: 64}
	e.srv = NewServer(e)
	served := make(chan error, 1)
	go func() { served <- e.srv.Serve(c) }()
	wait := sync.OnceValue(func() error { return <-served })
	t.Cleanup(func() { fe.Hangup(); _ = wait() })
	return e, fe, wait
}

const (
	ringAt  = 0x10000
	tableAt = 0x40000
	dataAt  = 0x100000
)

// run makes queue 0 of a served device run.
func run(t *testing.T) (*echo, *vhostusertest.Frontend, *vhostusertest.Ring) {
	t.Helper()
	e, fe, _ := serve(t, true)
	fe.Connect()
	fe.Share()
	r := vhostusertest.NewRing(fe.RAM, ringAt, 16, fe.GPA)
	fe.Start(0, r, 0)
	fe.Enable(0, true)
	return e, fe, r
}

// take waits for the next chain that comes back.
func take(t *testing.T, r *vhostusertest.Ring) (head uint16, n uint32) {
	t.Helper()
	for {
		if head, n, ok := r.Used(); ok {
			return head, n
		}
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}
