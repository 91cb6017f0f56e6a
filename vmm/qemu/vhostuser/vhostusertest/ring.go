//go:build linux

package vhostusertest

import (
	"encoding/binary"
	"os"
	"sync/atomic"
	"unsafe"
)

var le = binary.LittleEndian

// Where a ring of at most 1024 entries keeps its parts, in bytes from its
// beginning.
const (
	DescAt  = 0
	AvailAt = 0x4000
	UsedAt  = 0x5000
	// RingBytes is how much memory a ring takes.
	RingBytes = 0x8000
)

// Span is a piece of memory, by its place in the RAM and its length in bytes.
type Span struct {
	At  uint64
	Len uint32
}

// Ring is the driver's side of a virtqueue: VIRTIO 1.2, 2.7.13 and 2.7.14. It
// is for one goroutine at a time.
type Ring struct {
	Size uint16
	// GPA tells the guest physical address of a place in the RAM.
	GPA func(at uint64) uint64
	// Indirect is the place of a table for chains, 16 bytes * 16 a head; 0 for
	// chains in the ring itself.
	Indirect uint64

	Kick *os.File // eventfds; nil for a ring without front end
	Call *os.File

	ram               []byte
	at                uint64
	free              []uint16
	chains            [][]uint16 // descriptors of each head
	nextAvail, usedAt uint16
}

// NewRing makes a ring at a place in ram, and clears it.
func NewRing(ram []byte, at uint64, size uint16, gpa func(uint64) uint64) *Ring {
	r := &Ring{Size: size, GPA: gpa, ram: ram, at: at, chains: make([][]uint16, size)}
	r.Reset()
	return r
}

// Reset forgets all chains, as a driver that begins anew.
func (r *Ring) Reset() {
	clear(r.ram[r.at : r.at+RingBytes])
	r.free = r.free[:0]
	for i := range r.Size {
		r.free = append(r.free, r.Size-1-i)
	}
	r.nextAvail, r.usedAt = 0, 0
}

func (r *Ring) word(at uint64) *uint32 { return (*uint32)(unsafe.Pointer(&r.ram[r.at+at])) }

// Add offers a chain, without telling the device; false if the ring is full.
func (r *Ring) Add(readable, writable []Span) (head uint16, ok bool) {
	n := len(readable) + len(writable)
	need := n
	if r.Indirect != 0 {
		need = 1
	}
	if n == 0 || len(r.free) < need {
		return 0, false
	}
	used := r.free[len(r.free)-need:]
	r.free = r.free[:len(r.free)-need]
	head = used[0]
	r.chains[head] = append(r.chains[head][:0], used...)
	if r.Indirect != 0 {
		table := r.Indirect + 16*16*uint64(head)
		r.describe(table, nil, readable, writable)
		r.SetDesc(head, r.GPA(table), 16*uint32(n), 4, 0)
	} else {
		r.describe(r.at+DescAt, r.chains[head], readable, writable)
	}
	r.Offer(head)
	return head, true
}

// describe writes the descriptors of a chain to a table, at the given indexes
// or, if there are none, one after the other.
func (r *Ring) describe(table uint64, indexes []uint16, readable, writable []Span) {
	n := len(readable) + len(writable)
	for i := range n {
		var flags, next, index uint16
		span := Span{}
		if i < len(readable) {
			span = readable[i]
		} else {
			span, flags = writable[i-len(readable)], 2
		}
		index = uint16(i)
		if indexes != nil {
			index = indexes[i]
		}
		if i < n-1 {
			flags |= 1
			next = uint16(i + 1)
			if indexes != nil {
				next = indexes[i+1]
			}
		}
		putDesc(r.ram[table+16*uint64(index):], r.GPA(span.At), span.Len, flags, next)
	}
}

// SetDesc writes a descriptor of the ring.
func (r *Ring) SetDesc(index uint16, addr uint64, n uint32, flags, next uint16) {
	putDesc(r.ram[r.at+DescAt+16*uint64(index):], addr, n, flags, next)
}

func putDesc(b []byte, addr uint64, n uint32, flags, next uint16) {
	le.PutUint64(b, addr)
	le.PutUint32(b[8:], n)
	le.PutUint16(b[12:], flags)
	le.PutUint16(b[14:], next)
}

// Offer puts a head in the available ring, whatever is behind it.
func (r *Ring) Offer(head uint16) {
	le.PutUint16(r.ram[r.at+AvailAt+4+2*uint64(r.nextAvail&(r.Size-1)):], head)
	r.nextAvail++
	r.SetAvail(r.nextAvail)
}

// SetAvail publishes an index of the available ring.
func (r *Ring) SetAvail(index uint16) {
	w := r.word(AvailAt)
	atomic.StoreUint32(w, atomic.LoadUint32(w)&0xffff|uint32(index)<<16)
}

// WantsKick says whether the device asks for kicks.
func (r *Ring) WantsKick() bool { return atomic.LoadUint32(r.word(UsedAt))&1 == 0 }

// Notify kicks, if the device wants that.
func (r *Ring) Notify() {
	if r.WantsKick() {
		r.NotifyAnyway()
	}
}

// NotifyAnyway kicks.
func (r *Ring) NotifyAnyway() {
	if r.Kick != nil {
		_, _ = r.Kick.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// Used takes the next chain that the device has given back, and how many bytes
// it has written to it.
func (r *Ring) Used() (head uint16, n uint32, ok bool) {
	if r.Pending() == 0 {
		return 0, 0, false
	}
	entry := r.ram[r.at+UsedAt+4+8*uint64(r.usedAt&(r.Size-1)):]
	head, n = uint16(le.Uint32(entry)), le.Uint32(entry[4:])
	r.usedAt++
	if int(head) < len(r.chains) {
		r.free = append(r.free, r.chains[head]...)
		r.chains[head] = r.chains[head][:0]
	}
	return head, n, true
}

// Pending is how many chains the device has given back that Used has not taken.
func (r *Ring) Pending() int {
	return int(uint16(atomic.LoadUint32(r.word(UsedAt))>>16) - r.usedAt)
}

// Wait waits for an interrupt; an error says that there will be none any more.
func (r *Ring) Wait() error {
	var count [8]byte
	_, err := r.Call.Read(count[:])
	return err
}

// Free is how many descriptors the driver has left.
func (r *Ring) Free() int { return len(r.free) }
