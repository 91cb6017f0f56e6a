//go:build linux

package vsock

import (
	"net"
	"time"
)

// alarm calls a function at a time, with the device's lock held, and ends with
// the device. The lock guards it. The zero alarm is not set.
type alarm struct {
	fire  func()
	d     *Device
	at    time.Time
	timer *time.Timer // nil until it is first set
	rung  bool        // the time has come
}

// set puts the alarm to a time, in place of another; the zero time is never.
func (a *alarm) set(d *Device, at time.Time) {
	a.stop()
	a.rung = false
	if at.IsZero() {
		return
	}
	now := time.Now()
	wait := at.Sub(now)
	if wait <= 0 {
		a.rung = true
		a.fire()
		return
	}
	if d.ended != nil {
		return // nothing waits any more
	}
	a.d, a.at = d, now.Add(wait) // on the monotonic clock
	d.alarms[a] = struct{}{}
	d.ringing.Add(1)
	if a.timer == nil {
		a.timer = time.AfterFunc(wait, a.ring)
	} else {
		a.timer.Reset(wait)
	}
}

// stop makes the alarm silent. What it has said stays said.
func (a *alarm) stop() {
	if a.at.IsZero() {
		return
	}
	a.at = time.Time{}
	delete(a.d.alarms, a)
	if a.timer.Stop() {
		a.d.ringing.Done()
	}
}

// ring runs for each time that the timer fired; it may find that the alarm was
// stopped, or put off, meanwhile.
func (a *alarm) ring() {
	defer a.d.ringing.Done()
	a.d.srv.Lock()
	defer a.d.srv.Unlock()
	if a.at.IsZero() || time.Now().Before(a.at) {
		return
	}
	a.at = time.Time{}
	delete(a.d.alarms, a)
	a.rung = true
	a.fire()
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.d.srv.Lock()
	defer c.d.srv.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.setReadLimit(t)
	c.setWriteLimit(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.d.srv.Lock()
	defer c.d.srv.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.setReadLimit(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.d.srv.Lock()
	defer c.d.srv.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.setWriteLimit(t)
	return nil
}

func (c *conn) setReadLimit(t time.Time) {
	if c.readLimit.fire == nil {
		c.readLimit.fire = c.readable.Broadcast
	}
	c.readLimit.set(c.d, t)
}

func (c *conn) setWriteLimit(t time.Time) {
	if c.writeLimit.fire == nil {
		c.writeLimit.fire = c.writable.Broadcast
	}
	c.writeLimit.set(c.d, t)
}
