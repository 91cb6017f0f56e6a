//go:build linux

package vhostuser

import (
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// The flags of a descriptor, and of the rings: VIRTIO 1.2, 2.7.5, 2.7.6, 2.7.8.
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	availNoInterrupt = 1
	usedNoNotify     = 1
)

const (
	descSize     = 16
	maxQueueSize = 1024 // QEMU's limit too
)

// Queue is the device's side of one split virtqueue. The server's lock is held
// during every call of its methods, and those that say so are called in Guard.
type Queue struct {
	index int

	// what the front end has set
	size                       uint16
	descUVA, usedUVA, availUVA uint64
	kick                       *os.File // nil: none
	kickFD, callFD, errFD      int      // eventfds; -1: none; kickFD is kick's

	enabled   bool
	draining  bool  // it ends when inflight is 0
	announced bool  // the device was told Started, not yet Stopped
	broken    error // what the guest did to it

	// while it runs, mem is set, the slices lie in it, and run counts the runs
	mem                 *memory
	run                 uint64
	desc, avail, used   []byte
	availWord, usedWord *uint32 // {flags, idx} of each ring: one aligned word

	nextAvail, nextUsed, signalled uint16
	quiet                          bool // the driver was asked not to kick
	indirect                       bool
	inflight                       int // detached requests of this run

	readable, writable [][]byte // scratch of Pop
}

// Chain is one buffer of the driver: the parts that the device reads, and those
// that it writes after them (VIRTIO 1.2, 2.7.4.2). The slices point to guest
// memory, which the guest may change at any time, and are valid until the next
// Pop or until the lock is released. The device may change the slice headers.
type Chain struct {
	Head               uint16
	Readable, Writable [][]byte
}

// Ready says whether chains can be taken from the ring.
func (q *Queue) Ready() bool {
	return q.mem != nil && q.enabled && !q.draining && q.broken == nil
}

// Position is the index of the next chain in the available ring, modulo 2^16.
// A ring that goes on after a pause starts at the position where it stopped; one
// whose driver has reset the device starts at 0.
func (q *Queue) Position() uint16 { return q.nextAvail }

// resolve finds the rings in mem. It is called in Guard. On an error the queue
// is as before.
func (q *Queue) resolve(mem *memory) error {
	n := uint64(q.size)
	if n == 0 {
		return errs.New(errs.InvalidArgument, "queue %d has no size", q.index)
	}
	desc := mem.virtual(q.descUVA, descSize*n)
	avail := mem.virtual(q.availUVA, 4+2*n)
	used := mem.virtual(q.usedUVA, 4+8*n)
	if desc == nil || avail == nil || used == nil {
		return errs.New(errs.InvalidArgument, "queue %d lies outside of guest memory", q.index)
	}
	availWord, usedWord := unsafe.Pointer(&avail[0]), unsafe.Pointer(&used[0])
	// VIRTIO 1.2, 2.7 asks for 2 and 4; the flags and the index are read as one
	// word because there are no 16-bit atomics
	if uintptr(availWord)%4 != 0 || uintptr(usedWord)%4 != 0 {
		return errs.New(errs.InvalidArgument, "queue %d is not aligned to 4 bytes", q.index)
	}
	q.mem, q.desc, q.avail, q.used = mem, desc, avail, used
	q.availWord, q.usedWord = (*uint32)(availWord), (*uint32)(usedWord)
	return nil
}

// start makes the ring run in mem from the base that was set. It is called in
// Guard.
func (q *Queue) start(mem *memory, indirect bool) error {
	if err := q.resolve(mem); err != nil {
		return err
	}
	q.run++
	q.indirect, q.quiet = indirect, false
	// what is used is written in the ring itself
	q.nextUsed = uint16(atomic.LoadUint32(q.usedWord) >> 16)
	q.signalled = q.nextUsed
	return nil
}

// stop forgets the ring's memory. The position stays.
func (q *Queue) stop() {
	q.mem, q.desc, q.avail, q.used, q.availWord, q.usedWord = nil, nil, nil, nil, nil, nil
	q.enabled, q.draining, q.broken, q.inflight = false, false, nil, 0
	clear(q.readable[:cap(q.readable)])
	clear(q.writable[:cap(q.writable)])
}

// available says whether the driver offers a chain.
func (q *Queue) available() bool {
	n := uint16(atomic.LoadUint32(q.availWord)>>16) - q.nextAvail
	if n > q.size {
		q.fail("offers %d chains in %d places", n, q.size)
		return false
	}
	return n != 0
}

// Pop takes the next chain; ok is false when there is none. An error says that
// the guest broke the rules: the queue is not ready then, until the driver has
// reset it. It is called in Guard.
func (q *Queue) Pop() (c Chain, ok bool, err error) {
	if !q.Ready() || !q.available() {
		return Chain{}, false, q.broken
	}
	c.Head = le.Uint16(q.avail[4+2*int(q.nextAvail&(q.size-1)):])
	q.readable, q.writable = q.readable[:0], q.writable[:0]
	if !q.walk(c.Head) {
		return Chain{}, false, q.broken
	}
	q.nextAvail++
	c.Readable, c.Writable = q.readable, q.writable
	return c, true, nil
}

// walk collects the chain that begins with descriptor head: VIRTIO 1.2, 2.7.5.
func (q *Queue) walk(head uint16) bool {
	table, index, nested := q.desc, uint32(head), false
	for links := 0; ; links++ {
		if index >= uint32(len(table)/descSize) || links >= int(q.size) {
			return q.fail("has a chain that leaves its table")
		}
		d := loadDesc(table, index)
		if d.flags&descIndirect != 0 {
			if nested || links != 0 || !q.indirect || d.flags&descNext != 0 {
				return q.fail("has an indirect table where none may be")
			}
			if d.len == 0 || d.len%descSize != 0 || d.len > descSize*uint32(q.size) {
				return q.fail("has an indirect table of %d bytes", d.len)
			}
			if table = q.mem.physical(d.addr, uint64(d.len)); table == nil {
				return q.fail("has an indirect table outside of memory")
			}
			index, nested, links = 0, true, -1
			continue
		}
		if !q.collect(d) {
			return false
		}
		if d.flags&descNext == 0 {
			return true
		}
		index = uint32(d.next)
	}
}

type descriptor struct {
	addr        uint64
	len         uint32
	flags, next uint16
}

// loadDesc copies a descriptor before anything of it is looked at: the guest
// may change it at any time.
func loadDesc(table []byte, index uint32) descriptor {
	var d [descSize]byte
	copy(d[:], table[descSize*index:])
	return descriptor{le.Uint64(d[0:]), le.Uint32(d[8:]), le.Uint16(d[12:]), le.Uint16(d[14:])}
}

func (q *Queue) collect(d descriptor) (ok bool) {
	if d.flags&descWrite != 0 {
		q.writable, ok = q.mem.appendRange(q.writable, d.addr, d.len)
	} else {
		if len(q.writable) != 0 {
			return q.fail("has a readable part behind a writable one")
		}
		q.readable, ok = q.mem.appendRange(q.readable, d.addr, d.len)
	}
	if !ok {
		return q.fail("has %d bytes at %#x, outside of memory", d.len, d.addr)
	}
	return true
}

// fail breaks the queue and tells the front end, if it wants to know.
func (q *Queue) fail(format string, args ...any) bool {
	q.Fail(errs.New(errs.InvalidArgument, "queue %d "+format, append([]any{q.index}, args...)...))
	return false
}

// Fail breaks the queue for what the device found in a chain: it is not ready
// from now on, until the driver has reset it.
func (q *Queue) Fail(err error) {
	if q.broken == nil && err != nil {
		q.broken = err
		signal(q.errFD)
	}
}

// Push gives a chain back to the driver, with n bytes written to its writable
// part: VIRTIO 1.2, 2.7.8. It is called in Guard, while the ring runs.
func (q *Queue) Push(head uint16, n uint32) {
	if q.mem == nil {
		return
	}
	entry := q.used[4+8*int(q.nextUsed&(q.size-1)):]
	le.PutUint32(entry, uint32(head))
	le.PutUint32(entry[4:], n)
	q.nextUsed++
	q.publish()
}

// publish stores flags and index in one word. The store is a full barrier, for
// what Notify and WantKicks load afterwards.
func (q *Queue) publish() {
	word := uint32(q.nextUsed) << 16
	if q.quiet {
		word |= usedNoNotify
	}
	atomic.StoreUint32(q.usedWord, word)
}

// Notify interrupts the driver if chains came back since the last time and it
// wants to know. It is called in Guard.
func (q *Queue) Notify() {
	if q.mem == nil || q.nextUsed == q.signalled {
		return
	}
	q.signalled = q.nextUsed
	if atomic.LoadUint32(q.availWord)&availNoInterrupt == 0 {
		signal(q.callFD)
	}
}

// RefuseKicks asks the driver not to kick. It is advice: kicks may come. It is
// called in Guard.
func (q *Queue) RefuseKicks() {
	if !q.quiet && q.Ready() {
		q.quiet = true
		q.publish()
	}
}

// WantKicks asks the driver to kick again. It answers true if Pop has something
// to say already, for which no kick may come: chains, or that the queue is
// broken. It is called in Guard.
func (q *Queue) WantKicks() bool {
	if !q.Ready() {
		return q.broken != nil
	}
	q.quiet = false
	q.publish()
	return q.available() || q.broken != nil
}

// Poke makes the server call Kicked for this queue soon, as if the driver had
// kicked.
func (q *Queue) Poke() {
	if q.kick != nil {
		signal(q.kickFD)
	}
}

// signal adds 1 to an eventfd. It does not block; a full one is signalled
// already.
func signal(fd int) {
	if fd < 0 {
		return
	}
	one := [8]byte{1}
	_, _ = unix.Write(fd, one[:])
}
