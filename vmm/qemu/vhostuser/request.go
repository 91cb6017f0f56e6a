//go:build linux

package vhostuser

// Request is a chain that is served outside the lock. It holds the memory that
// its slices point to. The guest may change their contents at any time: what is
// decided on must be copied first. They are touched in Protect.
type Request struct {
	Chain
	server *Server
	queue  *Queue
	mem    *memory
	run    uint64
}

// Detach makes a request of a chain that Pop has just answered. Done must be
// called for it, whatever happens: a ring that stops waits for it. The lock is
// held.
func (s *Server) Detach(q *Queue, c Chain) *Request {
	r := &Request{server: s, queue: q, mem: q.mem, run: q.run}
	r.Head = c.Head
	r.Readable = append([][]byte(nil), c.Readable...)
	r.Writable = append([][]byte(nil), c.Writable...)
	q.mem.refs++
	q.inflight++
	return r
}

// Done gives the chain back to the driver, with n bytes written, and the memory
// too: the slices are gone. It takes the lock. A request whose ring is gone is
// dropped.
func (r *Request) Done(n uint32) {
	s, q := r.server, r.queue
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.mem != nil && q.run == r.run {
		s.Guard(func() {
			q.Push(r.Head, n)
			q.Notify()
		})
		if q.inflight--; q.inflight == 0 {
			s.drained.Broadcast()
		}
	}
	r.Chain = Chain{}
	r.mem.release()
}
