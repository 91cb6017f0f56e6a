package mux

import "sync"

const (
	// chunkSize makes a chunk 16 KiB, a size that the allocator has.
	chunkSize = 16<<10 - 24
	// maxSpare is how many chunks a session keeps for the next bytes.
	maxSpare = 16
)

// chunk is a piece of a queue.
type chunk struct {
	next       *chunk
	start, end int // what of buf has been written and not read
	buf        [chunkSize]byte
}

// pool keeps a few chunks that are not in use, so that a steady flow allocates
// nothing; those beyond until the collector comes by, so that many streams that
// fill and empty in turn do not make garbage of all that they carry. The zero
// pool is empty.
type pool struct {
	first  *chunk
	count  int
	beyond sync.Pool
}

func (p *pool) take() *chunk {
	c := p.first
	if c == nil {
		if c, _ = p.beyond.Get().(*chunk); c == nil {
			return &chunk{}
		}
	} else {
		p.first, p.count = c.next, p.count-1
	}
	c.next, c.start, c.end = nil, 0, 0
	return c
}

func (p *pool) put(c *chunk) {
	if p.count < maxSpare {
		c.next, p.first = p.first, c
		p.count++
		return
	}
	c.next = nil
	p.beyond.Put(c)
}

// queue is received bytes, in chunks that come when they are needed and go when
// they have been read. The zero queue is empty and holds no memory.
type queue struct {
	first, last *chunk
	size        int  // in bytes
	lent        bool // the end of last is being written to without the lock
}

// tail answers where the next bytes may be put, some of at most n.
func (q *queue) tail(n int, p *pool) []byte {
	if q.last == nil || q.last.end == chunkSize {
		c := p.take()
		if q.last == nil {
			q.first = c
		} else {
			q.last.next = c
		}
		q.last = c
	}
	return q.last.buf[q.last.end:min(chunkSize, q.last.end+n)]
}

// grow takes in n bytes that were put into tail.
func (q *queue) grow(n int) {
	q.last.end += n
	q.size += n
}

// write appends b.
func (q *queue) write(b []byte, p *pool) {
	for len(b) > 0 {
		n := copy(q.tail(len(b), p), b)
		q.grow(n)
		b = b[n:]
	}
}

// read moves what is there to b, as much as fits.
func (q *queue) read(b []byte, p *pool) int {
	done := 0
	for done < len(b) && q.size > 0 {
		c := q.first
		n := copy(b[done:], c.buf[c.start:c.end])
		c.start += n
		q.size -= n
		done += n
		if c.start == c.end && !(q.lent && c == q.last) {
			q.pop(p)
		}
	}
	return done
}

func (q *queue) pop(p *pool) {
	c := q.first
	q.first = c.next
	if q.first == nil {
		q.last = nil
	}
	p.put(c)
}

// drop empties the queue. Nothing of it may be lent.
func (q *queue) drop(p *pool) {
	for q.first != nil {
		q.pop(p)
	}
	q.size = 0
}
