// Package kerneltest makes kernels of a few hundred bytes for tests: enough of
// an image for it to be imported, and nothing that could run.
package kerneltest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// PVHNote is the type of the ELF note by which a kernel offers the entry that
// QEMU uses (XEN_ELFNOTE_PHYS32_ENTRY, include/xen/interface/elfnote.h).
const PVHNote = 18

// Image returns a bare kernel image for a GOARCH, with everything built in.
func Image(arch, release string) []byte {
	if arch == "arm64" {
		b := make([]byte, 64) // Documentation/arch/arm64/booting.rst has the header
		copy(b, "MZ")
		copy(b[56:], "ARM\x64")
		return append(b, []byte("Linux version "+release+" (a@b)")...)
	}
	return Vmlinux(elf.EM_X86_64, PVHNote, release)
}

// Vmlinux returns an ELF kernel with a note of the given type and a banner.
func Vmlinux(machine elf.Machine, noteType uint32, release string) []byte {
	note := new(bytes.Buffer)
	put(note, []uint32{4, 3, 7})
	note.WriteString("GNU\x00abc\x00") // another note first, with padding
	put(note, []uint32{4, 8, noteType})
	note.WriteString("Xen\x00")
	put(note, uint64(0x1000000))
	const hdr = 64 + 56
	b := new(bytes.Buffer)
	put(b, elf.Header64{Ident: ident(), Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1})
	put(b, elf.Prog64{Type: uint32(elf.PT_NOTE), Off: hdr, Filesz: uint64(note.Len()), Memsz: uint64(note.Len()), Align: 4})
	b.Write(note.Bytes())
	fmt.Fprintf(b, "Linux version %%s\x00Linux version %s (a@b) #1 SMP\x00", release)
	return b.Bytes()
}

// Module returns a relocatable ELF file with the given .modinfo fields.
func Module(machine elf.Machine, fields ...string) []byte {
	info := []byte(strings.Join(fields, "\x00") + "\x00")
	names := "\x00.modinfo\x00.shstrtab\x00"
	const hdr = 64
	shoff := uint64(hdr+len(info)+len(names)+7) &^ 7
	b := new(bytes.Buffer)
	put(b, elf.Header64{Ident: ident(), Type: uint16(elf.ET_REL), Machine: uint16(machine), Version: 1,
		Shoff: shoff, Ehsize: hdr, Shentsize: 64, Shnum: 3, Shstrndx: 2})
	b.Write(info)
	b.WriteString(names)
	b.Write(make([]byte, int(shoff)-b.Len()))
	put(b, elf.Section64{})
	put(b, elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: hdr, Size: uint64(len(info))})
	put(b, elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: hdr + uint64(len(info)), Size: uint64(len(names))})
	return b.Bytes()
}

func ident() (id [elf.EI_NIDENT]byte) {
	copy(id[:], elf.ELFMAG)
	id[elf.EI_CLASS], id[elf.EI_DATA], id[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	return id
}

func put(w io.Writer, v any) {
	if err := binary.Write(w, binary.LittleEndian, v); err != nil {
		panic(err) // a buffer takes everything, and the values have fixed sizes
	}
}
