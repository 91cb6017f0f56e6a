//go:build linux

package vsock

import "encoding/binary"

// HostCID is the context ID of the host: VMADDR_CID_HOST.
const HostCID = 2

// headerLen is the size of struct virtio_vsock_hdr, in bytes.
const headerLen = 44

// maxPayload is what a packet of the guest carries at most, in bytes:
// VIRTIO_VSOCK_MAX_PKT_BUF_SIZE of Linux.
const maxPayload = 64 << 10

// typeStream is VIRTIO_VSOCK_TYPE_STREAM.
const typeStream = 1

// operation of a packet: VIRTIO 1.2, 5.10.6.
type operation uint16

const (
	opRequest       operation = 1 // connect
	opResponse      operation = 2 // connected
	opReset         operation = 3 // refused, or broken, or the answer to a shutdown of both directions
	opShutdown      operation = 4
	opData          operation = 5 // VIRTIO_VSOCK_OP_RW
	opCreditUpdate  operation = 6
	opCreditRequest operation = 7
)

// Flags of opShutdown: what its sender will not do any more.
const (
	shutReceive = 1
	shutSend    = 2
	shutBoth    = shutReceive | shutSend
)

// header is struct virtio_vsock_hdr. Buffer and forwarded are the sender's: how
// many bytes it has room for, and how many it has handed to its reader so far.
type header struct {
	srcCID, dstCID    uint64
	srcPort, dstPort  uint32
	length            uint32 // of the payload
	sockType          uint16
	op                operation
	flags             uint32
	buffer, forwarded uint32
}

func parseHeader(b *[headerLen]byte) header {
	le := binary.LittleEndian
	return header{
		srcCID: le.Uint64(b[0:]), dstCID: le.Uint64(b[8:]), srcPort: le.Uint32(b[16:]), dstPort: le.Uint32(b[20:]),
		length: le.Uint32(b[24:]), sockType: le.Uint16(b[28:]), op: operation(le.Uint16(b[30:])), flags: le.Uint32(b[32:]),
		buffer: le.Uint32(b[36:]), forwarded: le.Uint32(b[40:]),
	}
}

func (h *header) encode() (b [headerLen]byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], h.srcCID)
	le.PutUint64(b[8:], h.dstCID)
	le.PutUint32(b[16:], h.srcPort)
	le.PutUint32(b[20:], h.dstPort)
	le.PutUint32(b[24:], h.length)
	le.PutUint16(b[28:], h.sockType)
	le.PutUint16(b[30:], uint16(h.op))
	le.PutUint32(b[32:], h.flags)
	le.PutUint32(b[36:], h.buffer)
	le.PutUint32(b[40:], h.forwarded)
	return b
}

// gather copies from pieces to b, and returns what of pieces is left. The pieces
// lie in guest memory.
func gather(b []byte, pieces [][]byte) (n int, rest [][]byte) {
	for len(pieces) > 0 && n < len(b) {
		k := copy(b[n:], pieces[0])
		n += k
		if k < len(pieces[0]) {
			pieces[0] = pieces[0][k:]
			break
		}
		pieces = pieces[1:]
	}
	return n, pieces
}

// scatter copies b to pieces, and returns what of pieces is left.
func scatter(pieces [][]byte, b []byte) (rest [][]byte) {
	for len(b) > 0 && len(pieces) > 0 {
		k := copy(pieces[0], b)
		b = b[k:]
		if k < len(pieces[0]) {
			pieces[0] = pieces[0][k:]
			break
		}
		pieces = pieces[1:]
	}
	return pieces
}

// total is the length of pieces, in bytes. A chain has at most 1024 pieces of at
// most 4 GiB.
func total(pieces [][]byte) (n uint64) {
	for _, p := range pieces {
		n += uint64(len(p))
	}
	return n
}
