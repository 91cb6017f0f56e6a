package segment

import "sync"

// queue holds the frames that wait for one machine. Putting never waits.
//
// Each sender has a lane, and the lanes take turns: what one sends waits behind
// its own frames only.
type queue struct {
	wake chan struct{} // has a token where there may be frames

	mu     sync.Mutex // guards the following
	slots  []slot
	free   int // index of the first free slot; -1: none
	n      int // slots taken
	lanes  map[any]*lane
	turns  []*lane // those with frames, the next one to be served first
	closed bool
}

// slot is a place in a queue: each is in one lane or free.
type slot struct {
	buf  *buffer
	next int // index of the slot behind it; -1: none
}

// lane is the frames of one sender, oldest first. It has one at least.
type lane struct {
	from        any
	first, last int
	n           int
}

func newQueue(frames int) *queue {
	q := &queue{wake: make(chan struct{}, 1), slots: make([]slot, frames), lanes: map[any]*lane{}}
	for i := range q.slots {
		q.slots[i].next = i + 1
	}
	q.slots[frames-1].next = -1
	return q
}

// put takes over a reference to buf, or answers false where the sender has as
// much of the queue as it leaves free. So a sender alone has a half, two have a
// third each, and so on: there is always room for one more.
func (q *queue) put(from any, buf *buffer) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	l := q.lanes[from]
	if l != nil && l.n >= len(q.slots)-q.n || q.free < 0 {
		return false
	}
	at := q.free
	q.free = q.slots[at].next
	q.slots[at] = slot{buf, -1}
	q.n++
	if l == nil {
		l = &lane{from: from, first: at}
		q.lanes[from] = l
		q.turns = append(q.turns, l)
	} else {
		q.slots[l.last].next = at
	}
	l.last = at
	l.n++
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// take moves what waits into batch, a frame of each lane in turn, and answers
// how much. The references are the caller's then.
func (q *queue) take(batch []*buffer) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(q.n, len(batch))
	for i := range n {
		batch[i] = q.next()
	}
	q.n -= n
	return n
}

func (q *queue) next() *buffer {
	l := q.turns[0]
	at := l.first
	buf := q.slots[at].buf
	l.first = q.slots[at].next
	q.slots[at] = slot{next: q.free}
	q.free = at
	copy(q.turns, q.turns[1:])
	if l.n--; l.n > 0 {
		q.turns[len(q.turns)-1] = l
	} else {
		q.turns[len(q.turns)-1] = nil
		q.turns = q.turns[:len(q.turns)-1]
		delete(q.lanes, l.from)
	}
	return buf
}

// close refuses frames from here on. What waits is the garbage collector's.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.slots, q.n, q.lanes, q.turns = nil, 0, nil, nil
}
