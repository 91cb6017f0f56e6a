//go:build linux

package share

import (
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser"
)

// Queues of the device, and what it does of them at a time.
const (
	queues    = 2 // one of high priority, one of requests
	perKick   = 64
	maxFlight = 64 // requests that are being served
	// maxRequest is what a request or an answer may have: a write with all that
	// stands before it, in bytes.
	maxRequest = maxWrite + 8<<10
	maxTag     = 36 // bytes
	inHeader   = 40 // bytes of struct fuse_in_header
	outHeader  = 16 // of struct fuse_out_header
)

// Device is a share as a virtio-fs device. Make it with NewDevice.
type Device struct {
	tag    string
	fs     *FS
	proto  *protocol
	server *vhostuser.Server
	work   sync.WaitGroup
	bufs   sync.Pool

	// The server's lock guards the following.
	flight  int
	waiting [queues]bool // chains are left for want of places
}

// NewDevice makes the device that the guest mounts by tag, of 1 to 36 bytes.
func NewDevice(tag string, o Options) (*Device, error) {
	if tag == "" || len(tag) > maxTag {
		return nil, errs.New(errs.InvalidArgument, "share with a tag of %d bytes", len(tag))
	}
	fs, err := New(o)
	if err != nil {
		return nil, fmt.Errorf("share %s: %w", tag, err)
	}
	d := &Device{tag: tag, fs: fs, bufs: sync.Pool{New: func() any { return new([2 * maxRequest]byte) }}}
	d.proto = newProtocol(fs)
	d.server = vhostuser.NewServer(d)
	return d, nil
}

// Forgets returns why the share remembers no owners where it should.
func (d *Device) Forgets() error { return d.fs.forgets }

// protocol reads FUSE. The library keeps what an INIT agreed on without a lock, as a
// kernel sends one before all else; a hostile guest sends it when it likes. So it
// is served alone.
type protocol struct {
	locks  *lockTable
	alone  sync.RWMutex
	server *fuse.ProtocolServer
}

// newProtocol reads FUSE for fs. What a hostile guest gets wrong is not worth a
// word, and must not fill a disk with them: the library tells some of it to the
// logger of the process, which nothing of ours uses.
func newProtocol(fs *FS) *protocol {
	log.SetOutput(io.Discard)
	return &protocol{locks: fs.locks, server: fuse.NewProtocolServer(fs, &fuse.MountOptions{MaxWrite: maxWrite, DisableXAttrs: true, EnableLocks: true,
		Logger: log.New(io.Discard, "", 0)})}
}

func (p *protocol) handle(in, out []byte) (int, fuse.Status) {
	const opInit, opDestroy = 26, 38 // include/uapi/linux/fuse.h
	if op := binary.LittleEndian.Uint32(in[4:]); op == opInit || op == opDestroy {
		p.locks.pause() // a request that waits would keep this one waiting
		defer p.locks.resume()
		p.alone.Lock()
		defer p.alone.Unlock()
		p.locks.clear() // they were of a kernel that is gone
	} else {
		p.alone.RLock()
		defer p.alone.RUnlock()
	}
	return p.server.HandleRequest([][]byte{in}, [][]byte{out})
}

// Serve owns c and serves the machine behind it until that is gone, or Close. It
// lets go of the share before it returns.
func (d *Device) Serve(c *net.UnixConn) error {
	err := d.server.Serve(c)
	d.fs.locks.pause() // for good: who waits for a lock would wait for another machine
	d.work.Wait()
	d.fs.Close()
	return err
}

// Close ends Serve.
func (d *Device) Close() error { return d.server.Close() }

// BreakLockWaits ends all waits for locks with EINTR, now and from now on.
func (d *Device) BreakLockWaits() { d.fs.locks.pause() }

// Queues, Features and Config are what the driver sees (VIRTIO 1.2, 5.11.2 and
// 5.11.4).
func (d *Device) Queues() int { return queues }

// Features has none.
func (d *Device) Features() uint64 { return 0 }

// Config is the tag, and the number of request queues.
func (d *Device) Config() []byte {
	b := make([]byte, maxTag, maxTag+4)
	copy(b, d.tag)
	return binary.LittleEndian.AppendUint32(b, queues-1)
}

// Started looks for what waits.
func (d *Device) Started(q int) { d.server.Queue(q).Poke() }

// Stopped has nothing to do: requests under way are answered.
func (d *Device) Stopped(int) {}

// Kicked serves requests, each on a goroutine of its own.
func (d *Device) Kicked(i int) (more bool) {
	q := d.server.Queue(i)
	q.RefuseKicks()
	for range perKick {
		if d.flight >= maxFlight {
			d.waiting[i] = true // the next that is done goes on
			return false
		}
		c, ok, err := q.Pop()
		if err != nil {
			return false // the queue is broken, until the driver resets it
		}
		if !ok {
			if q.WantKicks() {
				q.RefuseKicks()
				continue
			}
			return false
		}
		d.flight++
		r := d.server.Detach(q, c)
		d.work.Go(func() { d.serve(r) })
	}
	return true
}

// serve answers one request.
func (d *Device) serve(r *vhostuser.Request) {
	n := uint32(0)
	if err := vhostuser.Protect(func() { n = d.answer(r) }); err != nil {
		n = 0 // the memory is gone, and the machine with it
	}
	r.Done(n)
	d.server.Lock()
	defer d.server.Unlock()
	d.flight--
	for i := range d.waiting {
		if d.waiting[i] {
			d.waiting[i] = false
			d.server.Queue(i).Poke()
		}
	}
}

// answer copies a request out of the guest's memory, has it done, and copies the
// answer in.
func (d *Device) answer(r *vhostuser.Request) uint32 {
	buf := d.bufs.Get().(*[2 * maxRequest]byte)
	defer d.bufs.Put(buf)
	in, out := buf[:maxRequest], buf[maxRequest:]
	size, fits := gather(in, r.Readable)
	room := total(r.Writable)
	n := perform(d.proto, in[:size], out[:min(room, maxRequest)], fits)
	return scatter(r.Writable, out[:n])
}

// perform has one request done, whatever it says, and answers how much of out is
// the answer.
func perform(proto *protocol, in, out []byte, fits bool) (n int) {
	if len(in) < inHeader {
		return 0 // nobody to answer
	}
	defer func() {
		if p := recover(); p != nil { // of the library, by what a guest has made up
			n = refuse(in, out, unix.EIO)
		}
	}()
	if !fits {
		return refuse(in, out, unix.EFBIG)
	}
	n, code := proto.handle(in, out)
	if !code.Ok() {
		return refuse(in, out, unix.EIO)
	}
	return n
}

// refuse answers a request with an error (struct fuse_out_header).
func refuse(in, out []byte, code unix.Errno) int {
	if len(out) < outHeader {
		return 0
	}
	binary.LittleEndian.PutUint32(out, outHeader)
	binary.LittleEndian.PutUint32(out[4:], uint32(-int32(code)))
	copy(out[8:16], in[8:16]) // its number
	return outHeader
}

// gather copies pieces into b; fits is false where they are longer.
func gather(b []byte, pieces [][]byte) (n int, fits bool) {
	for _, p := range pieces {
		k := copy(b[n:], p)
		n += k
		if k < len(p) {
			return n, false
		}
	}
	return n, true
}

func scatter(pieces [][]byte, b []byte) (n uint32) {
	for _, p := range pieces {
		k := copy(p, b)
		b = b[k:]
		n += uint32(k)
	}
	return n
}

func total(pieces [][]byte) (n int) {
	for _, p := range pieces {
		n += len(p)
	}
	return n
}
