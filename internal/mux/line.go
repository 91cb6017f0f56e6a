package mux

// line is where streams wait, first come, first served.
type line struct{ first, last *place }

// place is a stream's place in one line, at most once.
type place struct {
	of         *Conn
	in         bool
	prev, next *place
}

func (l *line) add(p *place) {
	if p.in {
		return
	}
	p.in, p.prev, p.next = true, l.last, nil
	if l.last == nil {
		l.first = p
	} else {
		l.last.next = p
	}
	l.last = p
}

func (l *line) remove(p *place) {
	if !p.in {
		return
	}
	if p.prev == nil {
		l.first = p.next
	} else {
		p.prev.next = p.next
	}
	if p.next == nil {
		l.last = p.prev
	} else {
		p.next.prev = p.prev
	}
	p.in, p.prev, p.next = false, nil, nil
}
