//go:build linux

package qemu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

// Bounds of the disks of a template.
const (
	maxDiskData    = 256 << 20 // bytes of data of one; an empty filesystem has less than 1 MiB
	maxDiskExtents = 1 << 16
	diskPage       = 4096
)

// diskHead describes a disk of a template.
type diskHead struct {
	ID       string `json:"id"`
	Size     int64  `json:"size"`     // bytes of the disk
	Extents  int    `json:"extents"`  // entries of its index
	IndexCRC uint32 `json:"indexCRC"` // which has the checksums of the data
	Data     int64  `json:"data"`     // bytes of all extents
}

// savedDisk is one that is to be written.
type savedDisk struct {
	diskHead
	index, data []byte
}

func soundDisks(all []diskHead) bool {
	for _, d := range all {
		if d.Size <= 0 || d.Extents < 0 || d.Extents > maxDiskExtents || d.Data < 0 || d.Data > min(d.Size, maxDiskData) {
			return false
		}
	}
	return len(all) <= len(bays)
}

func (d diskHead) length() int64 { return int64(d.Extents)*extentSize + d.Data }

func sizeOfDisks(all []diskHead) (n int64) {
	for _, d := range all {
		n += d.length()
	}
	return n
}

// afterState is where the disks begin.
func (h header) afterState() int64 { return h.Memory + int64(h.Extents)*extentSize + h.State }

// saveDisks reads the writable disks of a machine that has ended.
func saveDisks(disks []vmm.Disk) (all []savedDisk, err error) {
	for _, d := range disks {
		if d.ReadOnly {
			continue
		}
		s, err := saveDisk(d)
		if err != nil {
			return nil, fmt.Errorf("save disk %s: %w", d.ID, err)
		}
		all = append(all, s)
	}
	return all, nil
}

func saveDisk(d vmm.Disk) (s savedDisk, err error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return s, err
	}
	defer func() { _ = f.Close() }() // only read
	fi, err := f.Stat()
	if err != nil {
		return s, err
	}
	s.ID, s.Size = d.ID, fi.Size()
	for at := int64(0); ; {
		at, err = f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return s, err
		}
		end, err := f.Seek(at, unix.SEEK_HOLE)
		if err != nil {
			return s, err
		}
		if err := s.add(f, at, end); err != nil {
			return s, err
		}
		at = end
	}
	s.IndexCRC, s.Data = crc32.Checksum(s.index, crcTable), int64(len(s.data))
	return s, nil
}

// add takes in what of f from at to end is not zero.
func (s *savedDisk) add(f io.ReaderAt, at, end int64) error {
	buf := make([]byte, diskPage)
	for ; at < end; at += diskPage {
		b := buf[:min(diskPage, end-at)]
		if _, err := f.ReadAt(b, at); err != nil {
			return err
		}
		if allZero(b) {
			continue
		}
		if len(s.data)+len(b) > maxDiskData || s.Extents == maxDiskExtents {
			return errs.New(errs.ResourceExhausted, "it holds more than %d bytes", maxDiskData)
		}
		s.index = binary.LittleEndian.AppendUint64(s.index, uint64(at))
		s.index = binary.LittleEndian.AppendUint64(s.index, uint64(len(b)))
		s.index = binary.LittleEndian.AppendUint32(s.index, crc32.Checksum(b, crcTable))
		s.data = append(s.data, b...)
		s.Extents++
	}
	return nil
}

// restoreDisk puts what the template has of the disk d in its place. What is
// there is another file's from then on: half a disk is never there.
func (t *template) restoreDisk(d vmm.Disk) (err error) {
	at := t.head.afterState()
	for _, h := range t.head.Disks {
		if h.ID == d.ID {
			return t.putDisk(h, at, d.Path)
		}
		at += h.length()
	}
	return badTemplate("it has no disk %q", d.ID)
}

func (t *template) putDisk(h diskHead, at int64, path string) error {
	index, data := make([]byte, int64(h.Extents)*extentSize), make([]byte, h.Data)
	if _, err := t.f.ReadAt(index, at); err != nil {
		return badTemplate("read the index of disk %s: %w", h.ID, err)
	}
	if crc32.Checksum(index, crcTable) != h.IndexCRC {
		return badTemplate("the checksum of the index of disk %s is wrong", h.ID)
	}
	if _, err := t.f.ReadAt(data, at+int64(len(index))); err != nil && h.Data > 0 {
		return badTemplate("read disk %s: %w", h.ID, err)
	}
	if err := durable.Create(path, func(f *os.File) error { return h.fill(f, index, data) }); err != nil {
		return fmt.Errorf("make disk %s: %w", h.ID, err)
	}
	return nil
}

// fill writes a disk, run by run.
func (h diskHead) fill(f *os.File, index, data []byte) error {
	if err := f.Truncate(h.Size); err != nil {
		return errs.As(errs.ResourceExhausted, err)
	}
	var run []byte // of data, that belongs in a row
	var at, end int64
	flush := func() error {
		_, err := f.WriteAt(run, at)
		return err
	}
	for ; len(index) > 0; index = index[extentSize:] {
		e := extent{int64(binary.LittleEndian.Uint64(index)), int64(binary.LittleEndian.Uint64(index[8:])), binary.LittleEndian.Uint32(index[16:])}
		if e.at < end || e.length <= 0 || e.length > int64(len(data)-len(run)) || e.at > h.Size-e.length {
			return badTemplate("the index of disk %s makes no sense", h.ID)
		}
		next := data[len(run) : len(run)+int(e.length)]
		if crc32.Checksum(next, crcTable) != e.crc {
			return badTemplate("the checksum of disk %s is wrong at %#x", h.ID, e.at)
		}
		if e.at != end || len(run) == 0 {
			if err := flush(); err != nil {
				return err
			}
			data = data[len(run):]
			run, at = data[:0], e.at
		}
		run, end = data[:len(run)+int(e.length)], e.at+e.length
	}
	return flush()
}
