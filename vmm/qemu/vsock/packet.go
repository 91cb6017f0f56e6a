//go:build linux

package vsock

import (
	"encoding/binary"

	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser"
)

// hostCID is the host's address: VIRTIO 1.2, 5.10.4.
const hostCID = 2

const (
	headerSize = 44
	// maxPacket bounds the payload of one packet, in bytes. It is Linux's
	// VIRTIO_VSOCK_MAX_PKT_BUF_SIZE.
	maxPacket = 64 << 10

	typeStream = 1
)

// operation of a packet: VIRTIO 1.2, 5.10.6.
type operation uint16

const (
	opRequest       operation = 1
	opResponse      operation = 2
	opReset         operation = 3
	opShutdown      operation = 4
	opData          operation = 5 // VIRTIO_VSOCK_OP_RW
	opCredit        operation = 6 // VIRTIO_VSOCK_OP_CREDIT_UPDATE
	opCreditRequest operation = 7
)

// The flags of a shutdown: its sender will not receive, or not send, any more.
const (
	shutReceive = 1
	shutSend    = 2
	shutBoth    = shutReceive | shutSend
)

// header is struct virtio_vsock_hdr: VIRTIO 1.2, 5.10.6.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	len              uint32 // bytes of payload
	kind             uint16 // "type"
	op               operation
	flags            uint32
	bufAlloc, fwdCnt uint32 // the sender's receive buffer, and bytes taken from it
}

func (h *header) decode(b *[headerSize]byte) {
	le := binary.LittleEndian
	h.srcCID, h.dstCID = le.Uint64(b[0:]), le.Uint64(b[8:])
	h.srcPort, h.dstPort, h.len = le.Uint32(b[16:]), le.Uint32(b[20:]), le.Uint32(b[24:])
	h.kind, h.op = le.Uint16(b[28:]), operation(le.Uint16(b[30:]))
	h.flags, h.bufAlloc, h.fwdCnt = le.Uint32(b[32:]), le.Uint32(b[36:]), le.Uint32(b[40:])
}

func (h *header) encode(b *[headerSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], h.srcCID)
	le.PutUint64(b[8:], h.dstCID)
	le.PutUint32(b[16:], h.srcPort)
	le.PutUint32(b[20:], h.dstPort)
	le.PutUint32(b[24:], h.len)
	le.PutUint16(b[28:], h.kind)
	le.PutUint16(b[30:], uint16(h.op))
	le.PutUint32(b[32:], h.flags)
	le.PutUint32(b[36:], h.bufAlloc)
	le.PutUint32(b[40:], h.fwdCnt)
}

// unpack decodes the header of a packet of the guest and answers its payload as
// pieces of guest memory, and their length in bytes. It is called in Guard.
func (h *header) unpack(chain vhostuser.Chain) (payload [][]byte, size int, ok bool) {
	var b [headerSize]byte
	payload = chain.Readable
	for got := 0; got < headerSize; {
		if len(payload) == 0 {
			return nil, 0, false
		}
		n := copy(b[got:], payload[0])
		got += n
		payload = advance(payload, n)
	}
	h.decode(&b)
	return payload, length(payload), true
}

// pack writes h and data, which fit, to the guest's buffer and answers how many
// bytes that were. It is called in Guard.
func (h *header) pack(chain vhostuser.Chain, data []byte) uint32 {
	var b [headerSize]byte
	h.encode(&b)
	room := scatter(chain.Writable, b[:])
	scatter(room, data)
	return headerSize + uint32(len(data))
}

// scatter copies data, which fits, to pieces and answers what is left of them.
func scatter(pieces [][]byte, data []byte) [][]byte {
	for len(data) > 0 {
		n := copy(pieces[0], data)
		data = data[n:]
		pieces = advance(pieces, n)
	}
	return pieces
}

// advance takes n bytes, at most its length, off the first piece.
func advance(pieces [][]byte, n int) [][]byte {
	if n == len(pieces[0]) {
		return pieces[1:]
	}
	pieces[0] = pieces[0][n:]
	return pieces
}

func length(pieces [][]byte) (n int) {
	for _, p := range pieces {
		n += len(p)
	}
	return n
}
