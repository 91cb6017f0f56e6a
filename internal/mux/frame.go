package mux

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// version is what the host's first frame says. A guest that does not know it
// ends the session.
const version = 1

// kind says what a frame is.
type kind uint8

const (
	kindHello  kind = 1 // version u8; the first frame of the host
	kindOpen   kind = 2 // port u32, window u32: a dial
	kindAccept kind = 3 // window u32: its answer
	kindRefuse kind = 4 // refusal u8: its other answer; ends the stream
	kindData   kind = 5 // 1 byte to 64 KiB - 1
	kindCredit kind = 6 // n u32: so many bytes more may be sent
	kindFin    kind = 7 // no more data from here
	kindReset  kind = 8 // nothing more from here, nor is anything read; ends the stream
	kindBye    kind = 9 // farewell u8; ends the session
)

// names are for errors.
var names = [...]string{"", "hello", "open", "accept", "refuse", "data", "credit", "fin", "reset", "bye"}

func (k kind) String() string {
	if k >= kindHello && k <= kindBye {
		return names[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// size is the length of a frame of kind k, in bytes; data has any.
func (k kind) size() int {
	switch k {
	case kindHello, kindRefuse, kindBye:
		return 1
	case kindAccept, kindCredit:
		return 4
	case kindOpen:
		return 8
	default:
		return 0
	}
}

const (
	headerLen = 8
	// maxOwed is the most that one stream can owe at once, in bytes: an accept,
	// a credit, a fin and a reset, and the hello before them.
	maxOwed = 5*headerLen + 4 + 4 + 1
)

// header is the head of a frame: kind u8, flags u8 (none are known), length
// u16, stream u32, big-endian. Frames of the session have stream 0.
type header struct {
	kind   kind
	length int // of what follows, in bytes
	id     uint32
}

// parseHeader checks what can be checked without knowing the session.
func parseHeader(b []byte) (header, error) {
	h := header{kind: kind(b[0]), length: int(binary.BigEndian.Uint16(b[2:])), id: binary.BigEndian.Uint32(b[4:])}
	ofSession := h.kind == kindHello || h.kind == kindBye
	switch {
	case h.kind < kindHello || h.kind > kindBye:
		return h, broke("frame of %s", h.kind)
	case b[1] != 0:
		return h, broke("%s with flags %#x", h.kind, b[1])
	case h.kind == kindData && h.length == 0, h.kind != kindData && h.length != h.kind.size():
		return h, broke("%s of %d bytes", h.kind, h.length)
	case ofSession != (h.id == 0):
		return h, broke("%s on stream %d", h.kind, h.id)
	}
	return h, nil
}

// appendHeader appends the head of a frame with n bytes.
func appendHeader(b []byte, k kind, id uint32, n int) []byte {
	b = append(b, byte(k), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	return binary.BigEndian.AppendUint32(b, id)
}

// appendWords appends a whole frame of numbers.
func appendWords(b []byte, k kind, id uint32, words ...uint32) []byte {
	b = appendHeader(b, k, id, 4*len(words))
	for _, w := range words {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return b
}

// appendByte appends a whole frame of one byte.
func appendByte(b []byte, k kind, id uint32, v byte) []byte {
	return append(appendHeader(b, k, id, 1), v)
}

// broke is the error of a peer that breaks the protocol.
func broke(format string, args ...any) error {
	return errs.New(errs.DataLoss, "peer broke the protocol: "+format, args...)
}

// refusal says why a dial was refused.
type refusal uint8

const (
	refusedNobody  refusal = 1 // nobody listens on the port
	refusedBacklog refusal = 2 // who listens does not keep up
	refusedLimit   refusal = 3 // too many streams
)

func (r refusal) err() error {
	switch r {
	case refusedNobody:
		return errs.New(errs.Unavailable, "nobody listens: %w", syscall.ECONNREFUSED)
	case refusedBacklog:
		return errs.New(errs.ResourceExhausted, "too many dials wait to be accepted: %w", syscall.ECONNREFUSED)
	case refusedLimit:
		return errs.New(errs.ResourceExhausted, "the peer has too many streams: %w", syscall.ECONNREFUSED)
	}
	return errs.New(errs.Unavailable, "refused with code %d: %w", r, syscall.ECONNREFUSED)
}

// farewell says why a peer ended the session.
type farewell uint8

const (
	byeClosed  farewell = 1 // its user closed it
	byeBroken  farewell = 2 // we broke the protocol
	byeVersion farewell = 3 // it does not know our version
)

func (f farewell) err() error {
	switch f {
	case byeClosed:
		return errs.New(errs.Unavailable, "the peer closed its session")
	case byeBroken:
		return errs.New(errs.DataLoss, "the peer says that we broke the protocol")
	case byeVersion:
		return errs.New(errs.Unsupported, "the peer does not speak version %d", version)
	}
	return errs.New(errs.Unavailable, "the peer ended its session with code %d", f)
}
