package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// MaxDatagram is the most bytes that a datagram of UDP over IPv4 has.
const MaxDatagram = 65507

// WriteDatagram sends b on a stream: its length in two bytes, big-endian, then
// b. A datagram that is too long is an error, and nothing is sent.
func WriteDatagram(w io.Writer, b []byte) error {
	if len(b) > MaxDatagram {
		return fmt.Errorf("a datagram of %d bytes, more than %d", len(b), MaxDatagram)
	}
	framed := make([]byte, 2+len(b))
	binary.BigEndian.PutUint16(framed, uint16(len(b)))
	copy(framed[2:], b)
	_, err := w.Write(framed)
	return err
}

// ReadDatagram reads one from a stream into buf, which has MaxDatagram bytes.
// io.EOF is the end between two of them.
func ReadDatagram(r io.Reader, buf []byte) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > MaxDatagram || n > len(buf) {
		return nil, fmt.Errorf("a datagram of %d bytes, more than %d", n, min(MaxDatagram, len(buf)))
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return nil, fmt.Errorf("read a datagram: %w", noEOF(err))
	}
	return buf[:n], nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Datagrams carries datagrams between a stream, framed as WriteDatagram does,
// and packets, a connected socket of datagrams, until either ends, ctx does, or
// nothing came for idle. It owns both and closes them before it answers. What is
// refused by whoever packets leads to is not an end: datagrams may be lost.
func Datagrams(ctx context.Context, stream, packets net.Conn, idle time.Duration) {
	var once sync.Once
	end := func() { once.Do(func() { stream.Close(); packets.Close() }) }
	defer end()
	defer context.AfterFunc(ctx, end)()
	quiet := time.AfterFunc(idle, end)
	defer quiet.Stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer end()
		buf := make([]byte, MaxDatagram)
		for {
			n, err := packets.Read(buf)
			if err != nil && !refused(err) {
				return
			}
			if err == nil && WriteDatagram(stream, buf[:n]) != nil {
				return
			}
			quiet.Reset(idle)
		}
	}()
	buf := make([]byte, MaxDatagram)
	for {
		b, err := ReadDatagram(stream, buf)
		if err != nil {
			break
		}
		if _, err := packets.Write(b); err != nil && !refused(err) {
			break
		}
		quiet.Reset(idle)
	}
	end()
	<-done
}

// refused reports whether a datagram was answered by nobody (udp(7)).
func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
