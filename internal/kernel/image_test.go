package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/base64"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/kernel/kerneltest"
)

func extract(t *testing.T, data []byte) (image, []byte, error) {
	t.Helper()
	src, err := os.Open(writeFile(t, "in", data))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	img, err := extractImage(t.Context(), src, int64(len(data)), dst, func(int64, int64) {})
	if err != nil {
		return img, nil, err
	}
	out, err := os.ReadFile(dst.Name())
	if err != nil {
		t.Fatal(err)
	}
	return img, out, nil
}

func TestImagesOfEveryWrapping(t *testing.T) {
	x86, arm := goodVmlinux(), arm64Image(testRelease)
	for name, c := range map[string]struct {
		in, want []byte
		arch     string
	}{
		"vmlinux":       {x86, x86, "amd64"},
		"vmlinux.gz":    {compressed(gzipped, x86), x86, "amd64"},
		"vmlinux.zst":   {compressed(zstded, x86), x86, "amd64"},
		"bzImage gzip":  {bzImage(gzipped, x86), x86, "amd64"},
		"bzImage zstd":  {bzImage(zstded, x86), x86, "amd64"},
		"bzImage lz4":   {bzImage(lz4ed, x86), x86, "amd64"},
		"bzImage plain": {bzImage(unpacked, x86), x86, "amd64"},
		"Image":         {arm, arm, "arm64"},
		"Image.gz":      {compressed(gzipped, arm), arm, "arm64"},
		"zboot gzip":    {zboot(gzipped, arm), arm, "arm64"},
		"zboot zstd":    {zboot(zstded, arm), arm, "arm64"},
	} {
		t.Run(name, func(t *testing.T) {
			img, out, err := extract(t, c.in)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out, c.want) || img.arch != c.arch || img.version != testRelease || img.size != int64(len(out)) {
				t.Errorf("%+v, %d bytes, want %d", img, len(out), len(c.want))
			}
		})
	}
}

func TestImagesThatWillNotDo(t *testing.T) {
	x86 := goodVmlinux()
	old := bzImage(gzipped, x86)
	old[0x206] = 0x07
	short := bzImage(zstded, x86)
	lies := bzImageOf(append(compressed(zstded, x86), 1, 2, 3, 4))
	for name, c := range map[string]struct {
		in    []byte
		class errs.Class
		words string
	}{
		"empty":          {nil, errs.InvalidArgument, "not a kernel"},
		"text":           {[]byte(strings.Repeat("hello ", 500)), errs.InvalidArgument, "not a kernel"},
		"no PVH":         {kerneltest.Vmlinux(elf.EM_X86_64, 17, "1.0"), errs.Unsupported, "no PVH entry point"},
		"arm64 ELF":      {kerneltest.Vmlinux(elf.EM_AARCH64, pvhType, "1.0"), errs.Unsupported, "import Image"},
		"riscv":          {kerneltest.Vmlinux(elf.EM_RISCV, pvhType, "1.0"), errs.Unsupported, "EM_RISCV"},
		"old protocol":   {old, errs.Unsupported, "2.07"},
		"cut header":     {old[:0x220], errs.DataLoss, "cut off"},
		"cut payload":    {short[:len(short)-60], errs.DataLoss, "outside"},
		"wrong length":   {lies, errs.DataLoss, "its header says"},
		"lzma":           {bzImageOf([]byte("\x5d\x00\x00\x80\x00aaaaaaaaaa")), errs.Unsupported, "lzma"},
		"unknown format": {bzImageOf([]byte("aaaaaaaaaaaaaaaaaaaa")), errs.Unsupported, "not known"},
		"not in it":      {compressed(gzipped, []byte(strings.Repeat("hello ", 50))), errs.InvalidArgument, "unpacks to is no kernel"},
		"twice packed":   {compressed(gzipped, bzImage(gzipped, x86)), errs.InvalidArgument, "unpacks to is no kernel"},
		"corrupt":        {bzImageOf(append([]byte("\x1f\x8b\x08"), make([]byte, 64)...)), errs.Unknown, "decompress"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := extract(t, c.in)
			if errs.ClassOf(err) != c.class || err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %v (%s)", err, errs.ClassOf(err))
			}
		})
	}
}

func TestDecodersWithoutWriters(t *testing.T) {
	for format, text := range map[compression]string{
		// xz --x86 --lzma2=dict=1MiB --check=crc32, as scripts/xz_wrap.sh does
		xzed:    "/Td6WFoAAAFpIt42AgEEACEBEACLIW9JAQALaGVsbG8ga2VybmVsAC7A4i8AASAMot20vJBCmQ0BAAAAAAFZWg==",
		bzipped: "QlpoOTFBWSZTWfk1p8oAAAIRgEAAAk2QACAAMQwIINM1AOEKXYvF3JFOFCQ+TWnygA==",
	} {
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if sniff(b) != format {
			t.Errorf("%s: sniffed %q", format, sniff(b))
		}
		r, err := decompress(format, bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != "hello kernel" {
			t.Errorf("%s: %q, %v", format, got, err)
		}
	}
}

func TestVersionAcrossChunks(t *testing.T) {
	const chunk = 1 << 20
	for _, before := range []int{0, 1, chunk - 20, chunk, chunk + 240, 3*chunk - 5} {
		in := strings.Repeat("x", before) + "Linux version 6.12.3+deb13-amd64 (x" + strings.Repeat("y", 100)
		if v, err := findVersion(strings.NewReader(in)); err != nil || v != "6.12.3+deb13-amd64" {
			t.Errorf("after %d bytes: %q, %v", before, v, err)
		}
	}
	if v, err := findVersion(strings.NewReader("Linux version %s")); v != "" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
}

func FuzzBzImage(f *testing.F) {
	x86 := goodVmlinux()
	for _, b := range [][]byte{
		bzImage(gzipped, x86), bzImage(zstded, x86), bzImage(lz4ed, x86), bzImage(unpacked, x86),
		x86, arm64Image("6.1"), zboot(gzipped, arm64Image("6.1")),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		size := int64(len(b))
		p, err := locate(bytes.NewReader(b), size)
		if err == nil {
			if p.off < 0 || p.len < 0 || p.off+p.len > size {
				t.Fatalf("payload %+v of %d bytes", p, size)
			}
			if plain, err := decompress(p.format, bytes.NewReader(b[p.off:p.off+p.len])); err == nil {
				_, _ = copyBounded(t.Context(), io.Discard, plain, 1<<20, "image")
				plain.Close()
			}
		}
		_, _ = checkBootable(bytes.NewReader(b), size)
	})
}
