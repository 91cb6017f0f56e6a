// Package erofs writes a root filesystem as one read-only EROFS image, in one
// pass: file data goes to the image as it is read, metadata follows at the end.
// Input is the layers of an image, oldest first (tar streams, merged as the OCI
// image-spec's layer.md says), or a folder of the host. The same input gives
// the same bytes.
//
// On disk: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h of the
// kernel. Blocks of 4096 bytes, extended (64-byte) inodes, flat layouts, small
// tails inline beside the inode, no compression: any kernel since 5.4 mounts it.
//
// Merging, where layer.md leaves room:
//   - A whiteout (".wh.NAME", ".wh..wh..opq") hides what lower layers put there
//     and nothing of its own layer, wherever in the layer it stands.
//   - A folder given again keeps its content and takes the new attributes; any
//     other pair of kinds replaces, content included.
//   - Folders on the way to an entry are resolved as a process in the container
//     would: symbolic links are followed inside the image, ".." stops at its
//     root. The last component is never followed. Missing folders are made
//     (root:root, 0755, time 0). Nothing is ever written to the host but the
//     image, so that there is nothing to escape to.
//   - Hard links share one inode, also with a file of a lower layer.
//   - Other ".wh..wh." names are AUFS's bookkeeping and are left out.
//
// Extended attributes of namespaces that no kernel keeps are left out, and so
// are overlayfs's own, which the overlay on top would take for orders.
//
// Data of a file that an upper layer hides stays in the image as unused blocks:
// that is the price of one pass.
//
// The input is hostile: everything is bounded by Limits, and errors name the
// layer and the entry. Not here: compression of either side, digests, caching.
package erofs

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Limits bound what one image may ask of the host. A zero field is the default.
type Limits struct {
	Entries  int   // tar entries and inodes together; default 4,000,000
	Bytes    int64 // file data, logical, all layers together; default 128 GiB
	Metadata int64 // names, link targets and attributes held in memory; default 512 MiB
}

func (l Limits) orDefault() Limits {
	if l.Entries == 0 {
		l.Entries = 4_000_000
	}
	if l.Bytes == 0 {
		l.Bytes = 128 << 30
	}
	if l.Metadata == 0 {
		l.Metadata = 512 << 20
	}
	return l
}

// File is what an image is written to; *os.File is one. It must be empty: runs
// of zeros are skipped, so that the file is sparse where the data is.
type File interface {
	io.WriterAt
	Truncate(size int64) error
}

// Stats says what an image holds.
type Stats struct {
	Size   int64 // bytes of the image
	Inodes int
}

// Writer makes one image. It belongs to one goroutine. After an error the
// image is worthless and the Writer must not be used again.
type Writer struct {
	out    *output
	tree   *tree
	limits Limits

	entries  int   // tar entries and folder entries read
	data     int64 // logical file bytes so far
	inlined  int64 // tails held in memory
	layer    int   // number of the layer being read, from 1
	finished bool
}

// NewWriter returns a Writer of an image in f, which stays the caller's.
func NewWriter(f File, limits Limits) *Writer {
	limits = limits.orDefault()
	w := &Writer{out: newOutput(f), limits: limits, tree: newTree(limits)}
	w.out.skip(blockSize) // the superblock's, written last
	return w
}

// Finish writes the metadata and the superblock. The caller syncs the file.
func (w *Writer) Finish(ctx context.Context) (Stats, error) {
	if w.finished {
		return Stats{}, errs.New(errs.Internal, "image is finished already")
	}
	w.finished = true
	if err := w.out.align(); err != nil {
		return Stats{}, fmt.Errorf("write image: %w", err)
	}
	inodes, dirs := w.tree.place()
	for _, d := range dirs {
		if err := ctx.Err(); err != nil {
			return Stats{}, fmt.Errorf("write directories: %w", err)
		}
		if err := w.writeDir(d); err != nil {
			return Stats{}, fmt.Errorf("write directories: %w", err)
		}
	}
	metaBlock := w.out.offset() / blockSize
	if err := w.writeInodes(ctx, inodes); err != nil {
		return Stats{}, fmt.Errorf("write inodes: %w", err)
	}
	size := w.out.offset()
	if size/blockSize > maxBlocks {
		return Stats{}, errs.New(errs.ResourceExhausted, "image of %d bytes is more than the format holds", size)
	}
	sb := superblock(w.tree.root.nid, len(inodes), metaBlock, size/blockSize)
	if err := w.out.finish(sb); err != nil {
		return Stats{}, fmt.Errorf("write superblock: %w", err)
	}
	return Stats{Size: size, Inodes: len(inodes)}, nil
}

// writeDir writes d's whole blocks to the data area; the rest stays as its tail.
func (w *Writer) writeDir(d *inode) error {
	b := d.encodeDir()
	cut := len(b)
	if d.inline {
		cut -= cut % blockSize
	}
	d.tail = b[cut:]
	if cut == 0 {
		return nil
	}
	d.block = w.out.block()
	if _, err := w.out.Write(b[:cut]); err != nil {
		return err
	}
	return w.out.align()
}

func (w *Writer) writeInodes(ctx context.Context, inodes []*inode) error {
	start := w.out.offset()
	var head [inodeSize]byte
	for i, n := range inodes {
		if i%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := w.out.zero(start + int64(n.nid)*slotSize - w.out.offset()); err != nil {
			return err
		}
		n.encode(&head, uint32(i+1))
		for _, part := range [][]byte{head[:], n.xattrs, n.inlineData()} {
			if _, err := w.out.Write(part); err != nil {
				return err
			}
		}
	}
	return w.out.align()
}

// Check answers an error unless r holds size bytes of an image with a whole
// superblock, as Finish left it. It does not look at the rest.
func Check(r io.ReaderAt, size int64) error {
	var b [blockSize]byte
	if _, err := r.ReadAt(b[:], 0); err != nil {
		return errs.New(errs.DataLoss, "read superblock: %w", err)
	}
	sb := b[superOffset:]
	le := binary.LittleEndian
	sum := le.Uint32(sb[4:])
	le.PutUint32(sb[4:], 0)
	switch {
	case le.Uint32(sb) != magic:
		return errs.New(errs.DataLoss, "not an EROFS image")
	case sum != checksum(sb):
		return errs.New(errs.DataLoss, "superblock of the image is damaged")
	case int64(le.Uint32(sb[36:]))*blockSize != size:
		return errs.New(errs.DataLoss, "image is %d bytes, not the %d its superblock says",
			size, int64(le.Uint32(sb[36:]))*blockSize)
	}
	return nil
}

// checksum is crc32c over the superblock's block from the superblock on, the
// checksum field being 0; the kernel leaves out the final inversion.
func checksum(sb []byte) uint32 {
	return ^crc32.Checksum(sb, crc32.MakeTable(crc32.Castagnoli))
}
