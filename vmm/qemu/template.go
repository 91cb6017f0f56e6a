//go:build linux

package qemu

import (
	"bufio"
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

// A template is one file (docs/template.md):
//
//	magic    8 bytes, with the version of the format
//	length   of the header, u32
//	crc32c   of the header, u32
//	header   JSON
//	index    of the extents of RAM that are not all zero, extentSize each
//	RAM      the extents' bytes, from the next page boundary on
//	state    of QEMU's devices, as its migration stream has it
//
// Numbers are little-endian.
const (
	templateMagic   = "vztmpl\x00\x01"
	templateFixed   = len(templateMagic) + 8 // bytes before the header
	maxHeader       = 64 << 10
	extentSize      = 20
	maxExtentLength = 1 << 20 // bytes of RAM in one extent
	maxState        = 64 << 20
	// gapPages is how many pages of zeros in a row end an extent: fewer are
	// cheaper to copy than to index.
	gapPages = 8
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// header describes a template.
type header struct {
	Key      string    `json:"key"`
	Made     time.Time `json:"made"`
	CPUs     int       `json:"cpus"`
	Memory   int64     `json:"memory"`  // bytes of RAM
	Kernel   string    `json:"kernel"`  // path; for people
	QEMU     string    `json:"qemu"`    // likewise
	Extents  int       `json:"extents"` // entries of the index
	IndexCRC uint32    `json:"indexCRC"`
	RAM      int64     `json:"ram"` // bytes of all extents
	State    int64     `json:"state"`
	StateCRC uint32    `json:"stateCRC"`
}

// extent is a run of RAM that the template has.
type extent struct {
	at, length int64 // in RAM, bytes
	crc        uint32
}

// template is an open one. Whoever opened it closes it.
type template struct {
	f     *os.File
	head  header
	index []extent
	ends  int64 // where the header ends in f, bytes
	ram   int64 // where the extents begin in f, bytes
}

func (t *template) close() { _ = t.f.Close() } // only read

// errTemplate is every reason for which a template is no good: it is made anew.
type errTemplate struct{ err error }

func (e errTemplate) Error() string { return e.err.Error() }
func (e errTemplate) Unwrap() error { return e.err }

func badTemplate(format string, args ...any) error {
	return errTemplate{errs.New(errs.DataLoss, format, args...)}
}

// openTemplate opens the file at path and checks all but the RAM, which restore
// checks while it copies it.
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
	if err := t.readHeader(); err != nil {
		return nil, err
	}
	if t.head.Key != key {
		return nil, badTemplate("it is of another machine")
	}
	return t, t.readIndex()
}

func (t *template) readHeader() error {
	var fixed [templateFixed]byte
	if _, err := t.f.ReadAt(fixed[:], 0); err != nil {
		return badTemplate("read the beginning: %w", err)
	}
	if string(fixed[:len(templateMagic)]) != templateMagic {
		return badTemplate("it is not of this version")
	}
	n := binary.LittleEndian.Uint32(fixed[len(templateMagic):])
	if n == 0 || n > maxHeader {
		return badTemplate("a header of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := t.f.ReadAt(b, int64(templateFixed)); err != nil {
		return badTemplate("read the header: %w", err)
	}
	if crc32.Checksum(b, crcTable) != binary.LittleEndian.Uint32(fixed[len(templateMagic)+4:]) {
		return badTemplate("the header's checksum is wrong")
	}
	if err := json.Unmarshal(b, &t.head); err != nil {
		return badTemplate("decode the header: %w", err)
	}
	t.ends = int64(templateFixed) + int64(n)
	h := &t.head
	if h.Memory <= 0 || h.RAM < 0 || h.RAM > h.Memory || h.State <= 0 || h.State > maxState ||
		h.Extents < 0 || int64(h.Extents) > h.Memory/int64(os.Getpagesize()) {
		return badTemplate("the header contradicts itself")
	}
	return nil
}

func (t *template) readIndex() error {
	b := make([]byte, t.head.Extents*extentSize)
	if _, err := t.f.ReadAt(b, t.ends); err != nil {
		return badTemplate("read the index: %w", err)
	}
	if crc32.Checksum(b, crcTable) != t.head.IndexCRC {
		return badTemplate("the index's checksum is wrong")
	}
	var total, end int64
	for len(b) > 0 {
		e := extent{int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:])), binary.LittleEndian.Uint32(b[16:])}
		if e.at < end || e.length <= 0 || e.length > maxExtentLength || e.at > t.head.Memory-e.length {
			return badTemplate("an extent of %d bytes at %d", e.length, e.at)
		}
		end, total = e.at+e.length, total+e.length
		t.index, b = append(t.index, e), b[extentSize:]
	}
	if total != t.head.RAM {
		return badTemplate("%d bytes of RAM, the header says %d", total, t.head.RAM)
	}
	t.ram = pageAlign(t.ends + int64(t.head.Extents)*extentSize)
	if fi, err := t.f.Stat(); err != nil || fi.Size() != t.ram+t.head.RAM+t.head.State {
		return badTemplate("the file is cut off or too long")
	}
	return nil
}

func pageAlign(n int64) int64 {
	page := int64(os.Getpagesize())
	return (n + page - 1) &^ (page - 1)
}

// fill copies the template's RAM into ram, a new memory file, and compares its
// checksums on the way.
func (t *template) fill(ram *os.File) error {
	if t.head.RAM == 0 {
		return nil
	}
	b, err := unix.Mmap(int(t.f.Fd()), t.ram, int(t.head.RAM), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("map the template: %w", err)
	}
	whole := b
	defer func() { _ = unix.Munmap(whole) }()
	for _, e := range t.index {
		if crc32.Checksum(b[:e.length], crcTable) != e.crc {
			return badTemplate("the checksum of the RAM at %#x is wrong", e.at)
		}
		if _, err := ram.WriteAt(b[:e.length], e.at); err != nil {
			return errs.As(errs.ResourceExhausted, fmt.Errorf("fill the machine's RAM: %w", err))
		}
		b = b[e.length:]
	}
	return nil
}

// openState opens the device state, checked, for QEMU to read from.
func (t *template) openState() (*os.File, error) {
	at := t.ram + t.head.RAM
	h := crc32.New(crcTable)
	if _, err := io.Copy(h, io.NewSectionReader(t.f, at, t.head.State)); err != nil {
		return nil, badTemplate("read the state: %w", err)
	}
	if h.Sum32() != t.head.StateCRC {
		return nil, badTemplate("the state's checksum is wrong")
	}
	// A descriptor with an offset of its own.
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", t.f.Fd()))
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// writeTemplate writes a template to path, or nothing: by a temporary file
// beside it. ram is mapped RAM; state is QEMU's stream.
func writeTemplate(path string, head header, ram []byte, state []byte) (err error) {
	var un undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write template: %w", err), un.Run(context.Background(), undoLimit))
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	un.PushFunc("create the file", func() { _ = f.Close(); _ = os.Remove(f.Name()) })
	index := indexRAM(ram)
	head.Memory, head.Extents, head.State = int64(len(ram)), len(index), int64(len(state))
	head.StateCRC = crc32.Checksum(state, crcTable)
	raw := make([]byte, 0, len(index)*extentSize)
	for _, e := range index {
		head.RAM += e.length
		raw = binary.LittleEndian.AppendUint64(raw, uint64(e.at))
		raw = binary.LittleEndian.AppendUint64(raw, uint64(e.length))
		raw = binary.LittleEndian.AppendUint32(raw, e.crc)
	}
	head.IndexCRC = crc32.Checksum(raw, crcTable)
	b, err := json.Marshal(head)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	start := []byte(templateMagic)
	start = binary.LittleEndian.AppendUint32(start, uint32(len(b)))
	start = binary.LittleEndian.AppendUint32(start, crc32.Checksum(b, crcTable))
	at := int64(len(start) + len(b) + len(raw))
	parts := [][]byte{start, b, raw, make([]byte, pageAlign(at)-at)}
	for _, e := range index {
		parts = append(parts, ram[e.at:e.at+e.length])
	}
	for _, p := range append(parts, state) {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
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

// indexRAM finds what of ram is not zero.
func indexRAM(ram []byte) []extent {
	page := os.Getpagesize()
	zero := make([]byte, page)
	var index []extent
	for at := 0; at < len(ram); {
		if bytes.Equal(ram[at:at+page], zero) {
			at += page
			continue
		}
		end := at + page // one past the last page that counts
		for p := end; p < len(ram) && p-end < gapPages*page && p-at < maxExtentLength; p += page {
			if !bytes.Equal(ram[p:p+page], zero) {
				end = p + page
			}
		}
		index = append(index, extent{int64(at), int64(end - at), crc32.Checksum(ram[at:end], crcTable)})
		at = end
	}
	return index
}

// isTemplateFault says whether a new template may help.
func isTemplateFault(err error) bool {
	var bad errTemplate
	return errors.As(err, &bad)
}
