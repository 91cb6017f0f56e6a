package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"

	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/image/erofs"
)

// RehearsalCommand is the one program of a rehearsal's root. It does nothing.
const RehearsalCommand = "/rehearse"

// WriteRehearsal writes a root filesystem with RehearsalCommand, for machines of
// architecture arch (GOARCH), to path: whole or not at all. What is there stays.
func WriteRehearsal(ctx context.Context, path, arch string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	program, err := doNothing(arch)
	if err != nil {
		return err
	}
	err = durable.Create(path, func(f *os.File) error {
		w := erofs.NewWriter(f, erofs.Limits{})
		if err := w.AddLayer(ctx, "rehearsal", bytes.NewReader(rehearsalTar(program))); err != nil {
			return err
		}
		_, err := w.Finish(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("write the root of a rehearsal: %w", err)
	}
	return nil
}

func rehearsalTar(program []byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b) // into memory: it does not fail
	for _, dir := range []string{"dev", "etc", "proc", "sys", "tmp"} {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755})
	}
	for _, file := range []struct {
		name string
		mode int64
		text []byte
	}{
		{RehearsalCommand[1:], 0o755, program},
		{"etc/passwd", 0o644, []byte("root:x:0:0:root:/:/bin/sh\n")},
		{"etc/group", 0o644, []byte("root:x:0:\n")},
	} {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: file.name, Mode: file.mode, Size: int64(len(file.text))})
		_, _ = w.Write(file.text)
	}
	_ = w.Close()
	return b.Bytes()
}

// doNothing is a program that exits with 0: an ELF file of one segment (elf(5)),
// and a call of exit.
func doNothing(arch string) ([]byte, error) {
	var code []byte
	var machine uint16
	switch arch {
	case "amd64":
		machine, code = 62, []byte{0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05} // mov $60,%eax; xor %edi,%edi; syscall
	case "arm64":
		machine = 183
		for _, i := range []uint32{0xd2800000, 0xd2800ba8, 0xd4000001} { // mov x0,#0; mov x8,#93; svc #0
			code = binary.LittleEndian.AppendUint32(code, i)
		}
	default:
		return nil, errs.New(errs.Unsupported, "no machines on %s", arch)
	}
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + len(code))
	var b bytes.Buffer
	for _, v := range []any{
		[16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, uint16(2), machine, uint32(1), // 64 bits, little-endian; an executable
		uint64(base + headers), uint64(64), uint64(0), uint32(0), // entry; where the segment's header is; no sections
		uint16(64), uint16(56), uint16(1), uint16(64), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000), // load all, read and execute
		code,
	} {
		_ = binary.Write(&b, binary.LittleEndian, v) // into memory: it does not fail
	}
	return b.Bytes(), nil
}
