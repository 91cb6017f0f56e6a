//go:build linux

package vhostusertest

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	// RAMBytes is the size of a machine's memory.
	RAMBytes = 8 << 20
	half     = RAMBytes / 2
	// high is the guest physical address of the second half: a machine has a
	// hole, and a table of two regions.
	high = 1 << 32
	// firstUVA is where QEMU has the memory.
	firstUVA = 0x7f00_0000_0000
)

// Messages and flags that the Frontend itself sends: vhost-user.rst.
const (
	getFeatures         = 1
	setFeatures         = 2
	setOwner            = 3
	SetMemTable         = 5
	SetVringNum         = 8
	SetVringAddr        = 9
	SetVringBase        = 10
	GetVringBase        = 11
	SetVringKick        = 12
	SetVringCall        = 13
	getProtocolFeatures = 15
	setProtocolFeatures = 16
	GetQueueNum         = 17
	SetVringEnable      = 18
	GetConfig           = 24

	Version   = 1
	NeedReply = 8
)

// Frontend is QEMU with one machine in it.
type Frontend struct {
	// RAM is the driver's mapping of the memory.
	RAM []byte
	// File is the memory itself.
	File *os.File

	t    testing.TB
	conn *net.UnixConn
}

// New makes a front end that is not sealed against shrinking unless sealed. It
// answers the device's end of the socket too, which is the caller's. All of it
// goes with the test, or Hangup.
func New(t testing.TB, sealed bool) (*Frontend, *net.UnixConn) {
	t.Helper()
	fd, err := unix.MemfdCreate("ram", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	must(t, err)
	f := &Frontend{t: t, File: os.NewFile(uintptr(fd), "ram")}
	must(t, f.File.Truncate(RAMBytes))
	if sealed {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK)
		must(t, err)
	}
	f.RAM, err = unix.Mmap(fd, 0, RAMBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	f.conn = unixConn(t, fds[0])
	t.Cleanup(f.close)
	return f, unixConn(t, fds[1])
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func unixConn(t testing.TB, fd int) *net.UnixConn {
	file := os.NewFile(uintptr(fd), "socket")
	defer file.Close()
	c, err := net.FileConn(file)
	must(t, err)
	return c.(*net.UnixConn)
}

func (f *Frontend) close() {
	f.Hangup()
	f.File.Close()
	if f.RAM != nil {
		_ = unix.Munmap(f.RAM)
		f.RAM = nil
	}
}

// Hangup is QEMU's end.
func (f *Frontend) Hangup() { f.conn.Close() }

// GPA is the guest physical address of a place in RAM.
func (f *Frontend) GPA(at uint64) uint64 {
	if at >= half {
		return high + at - half
	}
	return at
}

func uva(at uint64) uint64 { return firstUVA + at }

// Send sends a message.
func (f *Frontend) Send(request, flags uint32, payload []byte, fds ...int) error {
	b := le.AppendUint32(nil, request)
	b = le.AppendUint32(b, flags)
	b = le.AppendUint32(b, uint32(len(payload)))
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := f.conn.WriteMsgUnix(append(b, payload...), oob, nil)
	return err
}

// Receive reads a reply.
func (f *Frontend) Receive() ([]byte, error) {
	var h [12]byte
	if _, err := io.ReadFull(f.conn, h[:]); err != nil {
		return nil, err
	}
	if flags := le.Uint32(h[4:]); flags != 5 {
		return nil, fmt.Errorf("reply with flags %#x", flags)
	}
	payload := make([]byte, le.Uint32(h[8:]))
	_, err := io.ReadFull(f.conn, payload)
	return payload, err
}

// Ask sends a message that has a reply.
func (f *Frontend) Ask(request uint32, payload []byte, fds ...int) []byte {
	f.t.Helper()
	must(f.t, f.Send(request, Version, payload, fds...))
	reply, err := f.Receive()
	must(f.t, err)
	return reply
}

// Tell sends a message and waits for its acknowledgement.
func (f *Frontend) Tell(request uint32, payload []byte, fds ...int) {
	f.t.Helper()
	must(f.t, f.TryTell(request, payload, fds...))
}

// TryTell is Tell where it may be refused.
func (f *Frontend) TryTell(request uint32, payload []byte, fds ...int) error {
	if err := f.Send(request, Version|NeedReply, payload, fds...); err != nil {
		return err
	}
	reply, err := f.Receive()
	if err != nil {
		return err
	}
	if len(reply) != 8 || le.Uint64(reply) != 0 {
		return fmt.Errorf("request %d: negative acknowledgement %x", request, reply)
	}
	return nil
}

// U64 is a payload of one number.
func U64(v uint64) []byte { return le.AppendUint64(nil, v) }

// State is the payload "vring state".
func State(queue int, n uint32) []byte {
	return le.AppendUint32(le.AppendUint32(nil, uint32(queue)), n)
}

// Connect does what QEMU does when it realizes the device, in its order.
func (f *Frontend) Connect() {
	f.t.Helper()
	features := le.Uint64(f.Ask(getFeatures, nil))
	protocol := le.Uint64(f.Ask(getProtocolFeatures, nil))
	must(f.t, f.Send(setProtocolFeatures, Version, U64(protocol)))
	f.Ask(GetQueueNum, nil)
	f.Tell(setOwner, nil)
	f.Tell(setFeatures, U64(features))
}

// Table is the payload of SET_MEM_TABLE for all of RAM, in two regions of one
// file.
func (f *Frontend) Table() ([]byte, []int) {
	b := le.AppendUint64(nil, 2)
	for _, at := range []uint64{0, half} {
		for _, v := range []uint64{f.GPA(at), half, uva(at), at} {
			b = le.AppendUint64(b, v)
		}
	}
	fd := Descriptor(f.t, f.File)
	return b, []int{fd, fd}
}

// Share hands the memory over.
func (f *Frontend) Share() {
	f.t.Helper()
	table, fds := f.Table()
	f.Tell(SetMemTable, table, fds...)
}

// Start makes a queue run whose driver keeps ring r at a place in RAM: with base
// 0 after a reset, otherwise where it stopped. It is not enabled yet.
func (f *Frontend) Start(queue int, r *Ring, base uint16) {
	f.t.Helper()
	f.Tell(SetVringNum, State(queue, uint32(r.Size)))
	f.Tell(SetVringBase, State(queue, uint32(base)))
	f.Tell(SetVringAddr, f.Addresses(queue, r))
	if r.Kick == nil {
		r.Kick, r.Call = Eventfd(f.t), Eventfd(f.t)
	}
	f.Tell(SetVringCall, U64(uint64(queue)), Descriptor(f.t, r.Call))
	f.Tell(SetVringKick, U64(uint64(queue)), Descriptor(f.t, r.Kick))
}

// Addresses is the payload of SET_VRING_ADDR.
func (f *Frontend) Addresses(queue int, r *Ring) []byte {
	b := State(queue, 0)
	for _, at := range []uint64{r.at + DescAt, r.at + UsedAt, r.at + AvailAt, 0} {
		v := uva(at)
		b = le.AppendUint64(b, v)
	}
	return b
}

// Enable lets a queue be used, or not.
func (f *Frontend) Enable(queue int, on bool) {
	f.t.Helper()
	n := uint32(0)
	if on {
		n = 1
	}
	f.Tell(SetVringEnable, State(queue, n))
}

// Stop ends a queue and answers its base.
func (f *Frontend) Stop(queue int) uint16 {
	f.t.Helper()
	return uint16(le.Uint32(f.Ask(GetVringBase, State(queue, 0))[4:]))
}

// Eventfd makes an eventfd that goes with the test.
func Eventfd(t testing.TB) *os.File {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	must(t, err)
	file := os.NewFile(uintptr(fd), "eventfd")
	t.Cleanup(func() { file.Close() })
	return file
}

// Descriptor is the number of a file, which stays non-blocking.
func Descriptor(t testing.TB, file *os.File) (n int) {
	t.Helper()
	raw, err := file.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { n = int(fd) }))
	return n
}
