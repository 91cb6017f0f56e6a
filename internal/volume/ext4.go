// Package volume makes the disks that a machine may write: an instance's
// writable layer and a stack's named volumes. Each is a raw, sparse ext4 image,
// made in a millisecond from a template of the few blocks that an empty
// filesystem has: no mkfs is needed on the host or in the guest. A disk belongs to
// one machine at a time; a volume with several writers is a directory of the host.
package volume

import (
	"bufio"
	"compress/gzip"
	"embed"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"github.com/dustin/go-humanize"

	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/errs"
)

//go:generate sh -c "cd template && go run gen.go"

//go:embed template/*.gz
var templates embed.FS

const blockSize = 4096

// sizes are those of the templates, in MiB, ascending.
func sizes() []uint64 { return []uint64{64, 256, 1024, 2048, 4096, 8192, 16384, 32768, 65536} }

// WritableLayer is the size of an instance's writable layer, in bytes: what the
// guest may fill, not what it takes on the host.
const WritableLayer = 16 << 30

// Largest is the size of the largest volume, in bytes.
const Largest = 64 << 30

// RoundUp answers the size in bytes that a volume of at least size has: the
// next of a few powers of two from 64 MiB.
func RoundUp(size uint64) (uint64, error) {
	for _, mib := range sizes() {
		if size <= mib<<20 {
			return mib << 20, nil
		}
	}
	return 0, errs.New(errs.InvalidArgument, "a volume of %s: the largest is %s",
		humanize.IBytes(size), humanize.IBytes(Largest))
}

// least is the smallest size of which RoundUp makes size; 0 where size is none
// that it makes.
func least(size int64) int64 {
	below := int64(0)
	for _, mib := range sizes() {
		if size == int64(mib)<<20 {
			return below + 1
		}
		below = int64(mib) << 20
	}
	return 0
}

// Create makes an empty ext4 image of RoundUp(size) bytes at path, mode 0600.
// What exists is not overwritten: errs.AlreadyExists.
func Create(path string, size uint64) error {
	size, err := RoundUp(size)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil {
		return errs.New(errs.AlreadyExists, "%s is there already", path)
	}
	if err := durable.Create(path, func(f *os.File) error { return fill(f, size) }); err != nil {
		return fmt.Errorf("make disk %s: %w", path, err)
	}
	return nil
}

func fill(f *os.File, size uint64) error {
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	t, err := templates.Open(fmt.Sprintf("template/ext4-%dm.gz", size>>20))
	if err != nil {
		return errs.New(errs.Internal, "no template: %w", err)
	}
	defer t.Close()
	z, err := gzip.NewReader(bufio.NewReader(t))
	if err != nil {
		return errs.New(errs.Internal, "read template: %w", err)
	}
	// The template has blocks in order; those in a row are written at once.
	var head [4]byte
	run := make([]byte, 0, maxRun*blockSize)
	var at int64 // where run belongs, in bytes
	flush := func() error {
		_, err := f.WriteAt(run, at)
		run = run[:0]
		return err
	}
	for {
		if _, err := io.ReadFull(z, head[:]); err == io.EOF {
			return flush()
		} else if err != nil {
			return errs.New(errs.Internal, "read template: %w", err)
		}
		next := int64(binary.BigEndian.Uint32(head[:])) * blockSize
		if next != at+int64(len(run)) || len(run) == cap(run) {
			if err := flush(); err != nil {
				return err
			}
			at = next
		}
		run = run[:len(run)+blockSize]
		if _, err := io.ReadFull(z, run[len(run)-blockSize:]); err != nil {
			return errs.New(errs.Internal, "read template: %w", err)
		}
	}
}

// maxRun is how many blocks are written at once.
const maxRun = 64
