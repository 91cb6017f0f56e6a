//go:build linux

package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/undo"
)

// A template is one file (docs/template.md), made to be mapped:
//
//	RAM      of the machine, from the file's beginning; holes where it is zero
//	index    of the extents of RAM that are data, extentSize each
//	state    of QEMU's devices, as its migration stream has it
//	disks    of a prepared machine: of each an index, as of the RAM, and the data
//	header   JSON
//	footer   length of the header, u32; its crc32c, u32; templateMagic
//
// Numbers are little-endian.
const (
	templateMagic   = "vztmpl\x00\x02" // with the version of the format
	footerSize      = 8 + len(templateMagic)
	maxHeader       = 64 << 10
	extentSize      = 20
	maxExtentLength = 1 << 20 // bytes of RAM in one extent
	maxState        = 64 << 20
	maxExtents      = 1 << 20 // templates have a few hundred
	// gapPages is how many pages of zeros in a row end an extent: fewer are
	// cheaper to have than to index.
	gapPages = 8
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// header describes a template.
type header struct {
	Key      string     `json:"key"`
	Made     time.Time  `json:"made"`
	CPUs     int        `json:"cpus"`
	Memory   int64      `json:"memory"`  // bytes of RAM
	Kernel   string     `json:"kernel"`  // path; for people
	QEMU     string     `json:"qemu"`    // likewise
	Extents  int        `json:"extents"` // entries of the index
	IndexCRC uint32     `json:"indexCRC"`
	Data     int64      `json:"data"`  // bytes of all extents
	State    int64      `json:"state"` // bytes
	StateCRC uint32     `json:"stateCRC"`
	Root     string     `json:"root,omitempty"` // of a prepared machine: path; for people
	Disks    []diskHead `json:"disks,omitempty"`
}

// extent is a run of RAM that is data.
type extent struct {
	at, length int64 // bytes
	crc        uint32
}

// template is an open one. Whoever opened it closes it.
type template struct {
	f     *os.File
	head  header
	index []extent
}

func (t *template) close() { _ = t.f.Close() } // only read

// errTemplate is every reason for which a template is no good: it is made anew.
type errTemplate struct{ err error }

func (e errTemplate) Error() string { return e.err.Error() }
func (e errTemplate) Unwrap() error { return e.err }

func badTemplate(format string, args ...any) error {
	return errTemplate{errs.New(errs.DataLoss, format, args...)}
}

// isTemplateFault says whether a new template may help.
func isTemplateFault(err error) bool {
	var bad errTemplate
	return errors.As(err, &bad)
}

// openTemplate opens the file at path and checks all but the RAM and the state,
// for which there are checkRAM and openState.
func openTemplate(path, key string) (_ *template, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	t := &template{f: f}
	defer func() {
		if err != nil {
			t.close()
			err = fmt.Errorf("template %s: %w", filepath.Base(path), err)
		}
	}()
	size, err := t.readHeader()
	if err != nil {
		return nil, err
	}
	h := t.head
	switch {
	case h.Key != key:
		return nil, badTemplate("it is of another machine")
	case h.Memory <= 0 || h.Memory%int64(os.Getpagesize()) != 0 || h.Data < 0 || h.Data > h.Memory ||
		h.Extents < 0 || h.Extents > maxExtents || h.State <= 0 || h.State > maxState:
		return nil, badTemplate("its header makes no sense")
	case !soundDisks(h.Disks):
		return nil, badTemplate("its header makes no sense")
	case size != h.afterState()+sizeOfDisks(h.Disks):
		return nil, badTemplate("it is cut off or too long")
	}
	return t, t.readIndex()
}

// readHeader answers how many bytes there are before the header.
func (t *template) readHeader() (before int64, err error) {
	fi, err := t.f.Stat()
	if err != nil {
		return 0, err
	}
	end := fi.Size() - int64(footerSize)
	var footer [footerSize]byte
	if end < 0 {
		return 0, badTemplate("it is cut off")
	}
	if _, err := t.f.ReadAt(footer[:], end); err != nil {
		return 0, badTemplate("read the footer: %w", err)
	}
	if string(footer[8:]) != templateMagic {
		return 0, badTemplate("it is cut off or of another version")
	}
	n := int64(binary.LittleEndian.Uint32(footer[:]))
	if n == 0 || n > min(maxHeader, end) {
		return 0, badTemplate("a header of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := t.f.ReadAt(b, end-n); err != nil {
		return 0, badTemplate("read the header: %w", err)
	}
	if crc32.Checksum(b, crcTable) != binary.LittleEndian.Uint32(footer[4:]) {
		return 0, badTemplate("the header's checksum is wrong")
	}
	if err := json.Unmarshal(b, &t.head); err != nil {
		return 0, badTemplate("decode the header: %w", err)
	}
	return end - n, nil
}

func (t *template) readIndex() error {
	b := make([]byte, t.head.Extents*extentSize)
	if _, err := t.f.ReadAt(b, t.head.Memory); err != nil {
		return badTemplate("read the index: %w", err)
	}
	if crc32.Checksum(b, crcTable) != t.head.IndexCRC {
		return badTemplate("the index's checksum is wrong")
	}
	t.index = make([]extent, 0, t.head.Extents)
	var end, total int64
	for len(b) > 0 {
		e := extent{int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:])), binary.LittleEndian.Uint32(b[16:])}
		if e.at < end || e.length <= 0 || e.length > maxExtentLength || e.at > t.head.Memory-e.length {
			return badTemplate("the index names RAM that there is not")
		}
		end, total = e.at+e.length, total+e.length
		t.index, b = append(t.index, e), b[extentSize:]
	}
	if total != t.head.Data {
		return badTemplate("%d bytes of RAM, the header says %d", total, t.head.Data)
	}
	return nil
}

// checkRAM compares the RAM with the checksums, and makes sure that there is
// nothing where there should be nothing.
func (t *template) checkRAM() error {
	b, err := unix.Mmap(int(t.f.Fd()), 0, int(t.head.Memory), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the template: %w", err)
	}
	defer func() { _ = unix.Munmap(b) }()
	for _, e := range t.index {
		part := b[e.at : e.at+e.length]
		_ = unix.Madvise(part[:e.length&^int64(os.Getpagesize()-1)], unix.MADV_POPULATE_READ) // faster than fault by fault; from Linux 5.14
		if crc32.Checksum(part, crcTable) != e.crc {
			return badTemplate("the checksum of the RAM at %#x is wrong", e.at)
		}
	}
	return t.checkHoles(b)
}

// checkHoles looks at what the filesystem says is data, and the index does not.
func (t *template) checkHoles(ram []byte) error {
	index := t.index
	data, err := dataOf(t.f, t.head.Memory)
	if err != nil {
		return fmt.Errorf("look for the template's holes: %w", err)
	}
	for _, d := range data {
		for at, end := d.start, d.end; at < end; {
			for len(index) > 0 && index[0].at+index[0].length <= at {
				index = index[1:]
			}
			zeros := end
			if len(index) > 0 && index[0].at <= at {
				at = index[0].at + index[0].length
				continue
			} else if len(index) > 0 {
				zeros = min(zeros, index[0].at)
			}
			if !allZero(ram[at:zeros]) {
				return badTemplate("the RAM at %#x should be zero", at)
			}
			at = zeros
		}
	}
	return nil
}

// span is a part of a file.
type span struct{ start, end int64 }

// dataOf returns what of the first size bytes of f is no hole.
func dataOf(f *os.File, size int64) (all []span, err error) {
	for at := int64(0); at < size; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing any more
			break
		}
		if err != nil {
			return nil, err
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		if start < size {
			all = append(all, span{start, min(end, size)})
		}
		at = end
	}
	return all, nil
}

// openState opens the device state, checked, for QEMU to read from. The caller
// closes it.
func (t *template) openState() (_ *os.File, err error) {
	b := make([]byte, t.head.State)
	if _, err := t.f.ReadAt(b, t.head.Memory+int64(t.head.Extents)*extentSize); err != nil {
		return nil, badTemplate("read the state: %w", err)
	}
	if crc32.Checksum(b, crcTable) != t.head.StateCRC {
		return nil, badTemplate("the state's checksum is wrong")
	}
	f, err := memoryFile("state")
	if err != nil {
		return nil, err
	}
	_, err = f.Write(b)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, errs.As(errs.ResourceExhausted, fmt.Errorf("copy the state: %w", err))
	}
	return f, nil
}

// writeTemplate writes a template to path, or nothing: by a temporary file
// beside it, whose name begins with draft. ram is mapped RAM, of which index is not
// zero; state is QEMU's stream.
func writeTemplate(path, draft string, head header, ram []byte, index []extent, state []byte, disks []savedDisk) (err error) {
	var un undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write template: %w", err), un.Run(context.Background(), undoLimit))
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), draft+"*")
	if err != nil {
		return err
	}
	un.PushFunc("create the file", func() { _ = f.Close(); _ = os.Remove(f.Name()) })
	if err := f.Truncate(int64(len(ram))); err != nil {
		return err
	}
	trailer, err := encodeTrailer(head, index, int64(len(ram)), state, disks)
	if err != nil {
		return err
	}
	for _, e := range index {
		if _, err := f.WriteAt(ram[e.at:e.at+e.length], e.at); err != nil {
			return err
		}
	}
	if _, err := f.WriteAt(trailer, int64(len(ram))); err != nil {
		return err
	}
	// No fsync: a template that a loss of power leaves torn fails its checksums
	// and is made anew.
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	un.Release()
	return nil
}

// encodeTrailer is what follows the RAM.
func encodeTrailer(head header, index []extent, memory int64, state []byte, disks []savedDisk) ([]byte, error) {
	if len(index) > maxExtents {
		return nil, errs.New(errs.ResourceExhausted, "the RAM is in %d pieces, more than %d", len(index), maxExtents)
	}
	var b []byte
	head.Memory, head.Extents, head.State = memory, len(index), int64(len(state))
	for _, e := range index {
		head.Data += e.length
		b = binary.LittleEndian.AppendUint64(b, uint64(e.at))
		b = binary.LittleEndian.AppendUint64(b, uint64(e.length))
		b = binary.LittleEndian.AppendUint32(b, e.crc)
	}
	head.IndexCRC, head.StateCRC = crc32.Checksum(b, crcTable), crc32.Checksum(state, crcTable)
	b = append(b, state...)
	for _, d := range disks {
		head.Disks = append(head.Disks, d.diskHead)
		b = append(append(b, d.index...), d.data...)
	}
	h, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	b = append(b, h...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(h)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(h, crcTable))
	return append(b, templateMagic...), nil
}

// indexRAM finds what of ram is not zero. What is not in data is a hole of the file
// that ram is mapped from, and is not looked at: to read a hole of a memory file is
// to allocate it, and the machine's RAM would be in the host's memory as a whole.
func indexRAM(ram []byte, data []span) []extent {
	page := os.Getpagesize()
	// zero is asked for ever higher pages, or for such as were zero.
	zero := func(at int) bool {
		for len(data) > 0 && data[0].end <= int64(at) {
			data = data[1:]
		}
		return len(data) == 0 || int64(at) < data[0].start || allZero(ram[at:at+page])
	}
	var index []extent
	for at := 0; at < len(ram); {
		if zero(at) {
			at += page
			continue
		}
		end := at + page // one past the last page that counts
		for p := end; p < len(ram) && p-end < gapPages*page && p-at < maxExtentLength; p += page {
			if !zero(p) {
				end = p + page
			}
		}
		index = append(index, extent{int64(at), int64(end - at), crc32.Checksum(ram[at:end], crcTable)})
		at = end
	}
	return index
}

var zeros [4 << 10]byte

func allZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}
