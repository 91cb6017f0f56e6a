package mux

import (
	"net"
	"sync"
	"time"
)

// limit is a deadline: it wakes who waits when its time has come, so that they
// ask passed. The session's lock guards it. The zero limit is never.
type limit struct {
	at    time.Time
	timer *time.Timer // nil until it is first needed
}

func (l *limit) passed() bool { return !l.at.IsZero() && time.Until(l.at) <= 0 }

// set puts the limit to a time and wakes the waiters of cond, now and then. The
// zero time is never.
func (l *limit) set(at time.Time, cond *sync.Cond) {
	l.stop()
	cond.Broadcast()
	if at.IsZero() {
		return
	}
	now := time.Now()
	wait := at.Sub(now)
	l.at = now.Add(wait) // on the monotonic clock, which is the timer's
	switch {
	case wait <= 0:
	case l.timer == nil:
		l.timer = time.AfterFunc(wait, func() {
			cond.L.Lock()
			cond.Broadcast()
			cond.L.Unlock()
		})
	default:
		l.timer.Reset(wait)
	}
}

func (l *limit) stop() {
	l.at = time.Time{}
	if l.timer != nil {
		l.timer.Stop()
	}
}

// SetDeadline implements net.Conn. See Write for what its deadline does not
// break off.
func (c *Conn) SetDeadline(t time.Time) error { return c.setLimits(t, true, true) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setLimits(t, true, false) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setLimits(t, false, true) }

func (c *Conn) setLimits(t time.Time, read, write bool) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if read {
		c.readLimit.set(t, &c.readable)
	}
	if write {
		c.writeLimit.set(t, &c.writable)
	}
	return nil
}
