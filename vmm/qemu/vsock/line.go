//go:build linux

package vsock

// line is where connections wait for the guest's buffers, first come, first
// served. A connection is in it at most once, whatever it has to send.
type line struct{ first, last *conn }

func (l *line) add(c *conn) {
	if c.inLine {
		return
	}
	c.inLine, c.prev, c.next = true, l.last, nil
	if l.last == nil {
		l.first = c
	} else {
		l.last.next = c
	}
	l.last = c
}

func (l *line) remove(c *conn) {
	if !c.inLine {
		return
	}
	if c.prev == nil {
		l.first = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		l.last = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.inLine, c.prev, c.next = false, nil, nil
}

// reset is an answer to a packet of no connection.
type reset struct {
	key
	kind uint16 // the type of the packet that it answers
}

// resetQueue holds at most maxResets of them.
type resetQueue struct {
	ring        []reset // nil until the first one
	start, size int
}

func (q *resetQueue) full() bool { return q.size == maxResets }

func (q *resetQueue) push(r reset) {
	if q.ring == nil {
		q.ring = make([]reset, maxResets)
	}
	q.ring[(q.start+q.size)%maxResets] = r
	q.size++
}

func (q *resetQueue) pop() reset {
	r := q.ring[q.start]
	q.start = (q.start + 1) % maxResets
	q.size--
	return r
}
