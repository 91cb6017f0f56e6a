package kernel

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"regexp"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// image is what was learned of an uncompressed image.
type image struct {
	arch    string
	version string // "" if it does not say
	size    int64
	sha256  string
}

// payload is where in a file the kernel proper lies.
type payload struct {
	off, len int64
	format   compression
	want     int64 // its uncompressed length, or -1 where the wrapper does not say
}

// headBytes is how much of a file tells what it is.
const headBytes = 1 << 10

// extractImage finds the kernel in the size bytes of src, writes it uncompressed
// to dst, and checks that a machine can boot it. The caller closes dst.
func extractImage(ctx context.Context, src io.ReaderAt, size int64, dst *os.File, seen func(current, total int64)) (image, error) {
	if size > maxImage {
		return image{}, errs.New(errs.ResourceExhausted, "the image has more than %d bytes", int64(maxImage))
	}
	p, err := locate(src, size)
	if err != nil {
		return image{}, err
	}
	in := &ctxReader{ctx: ctx, r: io.NewSectionReader(src, p.off, p.len), seen: func(n int64) { seen(n, p.len) }}
	plain, err := decompress(p.format, in)
	if err != nil {
		return image{}, fmt.Errorf("decompress the image: %w", err)
	}
	defer plain.Close()
	sum := sha256.New()
	n, err := copyBounded(ctx, io.MultiWriter(dst, sum), plain, maxImage, "the uncompressed image")
	if err != nil {
		return image{}, fmt.Errorf("decompress the image (%s): %w", orPlain(p.format), err)
	}
	if p.want >= 0 && uint32(n) != uint32(p.want) {
		return image{}, errs.New(errs.DataLoss, "the image unpacks to %d bytes, its header says %d", n, p.want)
	}
	arch, err := checkBootable(dst, n)
	if err != nil {
		return image{}, err
	}
	version, err := findVersion(io.NewSectionReader(dst, 0, n))
	if err != nil {
		return image{}, err
	}
	return image{arch: arch, version: version, size: n, sha256: hex.EncodeToString(sum.Sum(nil))}, nil
}

func orPlain(c compression) compression {
	if c == unpacked {
		return "not compressed"
	}
	return c
}

// locate tells where the kernel lies in the size bytes of r: in a bzImage, an
// EFI zboot wrapper, a compressed file, or as it is.
func locate(r io.ReaderAt, size int64) (payload, error) {
	head := make([]byte, headBytes)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return payload{}, err
	}
	head = head[:n]
	switch {
	case hasAt(head, 0x202, "HdrS"):
		return locateBzImage(r, head, size)
	case hasAt(head, 0, "MZ") && hasAt(head, 4, "zimg"):
		return locateZboot(r, head, size)
	case hasAt(head, 0, elf.ELFMAG), hasAt(head, arm64MagicAt, arm64Magic):
		return payload{len: size, want: -1}, nil
	}
	if f := sniff(head); f != unpacked {
		return payload{len: size, format: f, want: -1}, nil
	}
	return payload{}, errs.New(errs.InvalidArgument,
		"not a kernel: neither a bzImage, an ELF vmlinux, an arm64 Image, nor one of them compressed")
}

func hasAt(b []byte, off int, s string) bool {
	return len(b) >= off+len(s) && string(b[off:off+len(s)]) == s
}

// locateBzImage follows the x86 boot protocol (Documentation/arch/x86/boot.rst):
// the protected-mode part starts after setup_sects+1 sectors, and
// payload_offset counts from there. The last four bytes of the payload are the
// uncompressed length (arch/x86/boot/compressed/Makefile), which is gzip's own
// trailer and appended by the build for every other format.
func locateBzImage(r io.ReaderAt, head []byte, size int64) (payload, error) {
	const (
		setupSects    = 0x1f1
		protocol      = 0x206
		payloadOffset = 0x248
		payloadLength = 0x24c
		sector        = 512
		minProtocol   = 0x208 // 2.08 brought the payload fields
	)
	if len(head) < payloadLength+4 {
		return payload{}, errs.New(errs.DataLoss, "the bzImage header is cut off")
	}
	if v := binary.LittleEndian.Uint16(head[protocol:]); v < minProtocol {
		return payload{}, errs.New(errs.Unsupported, "boot protocol %d.%02d of the bzImage is older than 2.08", v>>8, v&0xff)
	}
	sects := int64(head[setupSects])
	if sects == 0 {
		sects = 4 // boot.rst: for backwards compatibility 0 means 4
	}
	p := payload{
		off: (sects+1)*sector + int64(binary.LittleEndian.Uint32(head[payloadOffset:])),
		len: int64(binary.LittleEndian.Uint32(head[payloadLength:])),
	}
	if p.len < 8 || p.off > size || p.len > size-p.off {
		return payload{}, errs.New(errs.DataLoss, "the payload of the bzImage (%d bytes at %d) lies outside its %d bytes", p.len, p.off, size)
	}
	var length [4]byte
	if _, err := r.ReadAt(length[:], p.off+p.len-4); err != nil {
		return payload{}, err
	}
	p.want = int64(binary.LittleEndian.Uint32(length[:]))
	err := p.sniff(r)
	if err != nil {
		return payload{}, err
	}
	if p.format != gzipped {
		p.len -= 4
	}
	return p, nil
}

// locateZboot reads the header of drivers/firmware/efi/libstub/zboot-header.S;
// its payload size does not count an appended length.
func locateZboot(r io.ReaderAt, head []byte, size int64) (payload, error) {
	if len(head) < 16 {
		return payload{}, errs.New(errs.DataLoss, "the EFI zboot header is cut off")
	}
	p := payload{
		off:  int64(binary.LittleEndian.Uint32(head[8:])),
		len:  int64(binary.LittleEndian.Uint32(head[12:])),
		want: -1,
	}
	if p.len < 8 || p.off > size || p.len > size-p.off {
		return payload{}, errs.New(errs.DataLoss, "the payload of the EFI zboot image (%d bytes at %d) lies outside its %d bytes", p.len, p.off, size)
	}
	return p, p.sniff(r)
}

// sniff sets the format; a payload is always compressed, or an ELF as it is.
func (p *payload) sniff(r io.ReaderAt) error {
	var magic [8]byte
	if _, err := r.ReadAt(magic[:], p.off); err != nil {
		return err
	}
	if p.format = sniff(magic[:]); p.format == unpacked && !hasAt(magic[:], 0, elf.ELFMAG) {
		return errs.New(errs.Unsupported, "the compression of the image (first bytes % x) is not known", magic)
	}
	return nil
}

// Documentation/arch/arm64/booting.rst: the header of Image.
const (
	arm64MagicAt = 56
	arm64Magic   = "ARM\x64"
)

// checkBootable tells the architecture of the uncompressed image r, if a
// machine can boot it without a boot loader.
func checkBootable(r io.ReaderAt, size int64) (arch string, err error) {
	head := make([]byte, 64)
	if n, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return "", err
	} else if n < len(head) {
		return "", errs.New(errs.DataLoss, "the image has %d bytes only", n)
	}
	if hasAt(head, arm64MagicAt, arm64Magic) {
		return "arm64", nil
	}
	if !hasAt(head, 0, elf.ELFMAG) {
		return "", errs.New(errs.InvalidArgument, "what the image unpacks to is no kernel: neither ELF nor an arm64 Image")
	}
	f, err := elf.NewFile(io.NewSectionReader(r, 0, size))
	if err != nil {
		return "", errs.New(errs.DataLoss, "read vmlinux: %w", err)
	}
	switch {
	case f.Machine == elf.EM_AARCH64:
		return "", errs.New(errs.Unsupported, "an ELF vmlinux does not boot on arm64; import Image or vmlinuz")
	case f.Machine != elf.EM_X86_64 || f.Class != elf.ELFCLASS64:
		return "", errs.New(errs.Unsupported, "the kernel is for %v, not for x86-64 or arm64", f.Machine)
	case !hasPVH(f):
		return "", errs.WithHint(
			errs.New(errs.Unsupported, "the kernel has no PVH entry point (ELF note %q of type %d), by which it would be booted", pvhOwner, pvhType),
			"use a kernel built with CONFIG_PVH=y, as those of Debian, Ubuntu and Fedora are")
	}
	return "amd64", nil
}

// xen/include/public/elfnote.h: XEN_ELFNOTE_PHYS32_ENTRY.
const (
	pvhOwner = "Xen"
	pvhType  = 18
)

func hasPVH(f *elf.File) bool {
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > maxNotes {
			continue
		}
		b, err := io.ReadAll(p.Open())
		if err == nil && hasNote(b, f.ByteOrder, pvhOwner, pvhType) {
			return true
		}
	}
	return false
}

// hasNote walks ELF notes: namesz, descsz, type, then name and descriptor,
// each padded to four bytes.
func hasNote(b []byte, order binary.ByteOrder, owner string, kind uint32) bool {
	pad := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	for len(b) >= 12 {
		namesz, descsz := order.Uint32(b), order.Uint32(b[4:])
		body := b[12:]
		next := pad(namesz) + pad(descsz)
		if next > uint64(len(body)) {
			return false
		}
		if order.Uint32(b[8:]) == kind && uint64(namesz) == uint64(len(owner)+1) && string(body[:len(owner)]) == owner {
			return true
		}
		b = body[next:]
	}
	return false
}

// banner is the start of linux_banner (init/version.c).
var banner = regexp.MustCompile(`Linux version ([0-9][0-9A-Za-z.+~_-]{0,63}) `)

// findVersion answers the release in the kernel's banner, or "".
func findVersion(r io.Reader) (string, error) {
	const chunk, overlap = 1 << 20, 256
	buf := make([]byte, 0, chunk+overlap)
	for {
		n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if m := banner.FindSubmatch(buf); m != nil {
			return string(m[1]), nil
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("search for the version: %w", err)
		}
		buf = buf[:copy(buf, buf[len(buf)-overlap:])]
	}
}
