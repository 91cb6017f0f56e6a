package erofs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// withFiles is an image with files of sizes that are kept in each way.
func withFiles(t testing.TB) ([]byte, map[string]string) {
	t.Helper()
	want := map[string]string{"etc/passwd": "root:x:0:0::/:/bin/sh\n", "etc/empty": "", "etc/block": strings.Repeat("b", blockSize),
		"etc/tail": strings.Repeat("t", 2*blockSize+7), "etc/long": strings.Repeat("l", blockSize+maxTail+1), "a/b/c": "deep"}
	for i := range 600 {
		want["many/"+strings.Repeat("n", 1+i%200)+string(rune('a'+i/200))] = "one of many"
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range want {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}, Format: tar.FormatPAX}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: "link", Linkname: "etc", Typeflag: tar.TypeSymlink}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	img, err := image(t, Limits{}, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return img, want
}

func TestReadFile(t *testing.T) {
	img, want := withFiles(t)
	for name, text := range want {
		if got, err := ReadFile(bytes.NewReader(img), name, 1<<20); err != nil || string(got) != text {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for _, name := range []string{"etc", "etc/none", "none/passwd", "etc/passwd/x", "link", "link/passwd", "", "/etc/passwd"} {
		if _, err := ReadFile(bytes.NewReader(img), name, 1<<20); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := ReadFile(bytes.NewReader(img), "etc/block", blockSize-1); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("over the limit: %v", err)
	}
}

func FuzzReadFile(f *testing.F) {
	img, _ := withFiles(f)
	f.Add(uint32(superOffset+14), []byte{0xff, 0xff})
	f.Add(uint32(superOffset+40), []byte{0xff, 0xff, 0xff, 0xff})
	f.Add(uint32(2*blockSize), bytes.Repeat([]byte{0xff}, 64))
	f.Fuzz(func(_ *testing.T, at uint32, b []byte) {
		damaged := bytes.Clone(img)
		copy(damaged[int(at)%len(damaged):], b)
		_, _ = ReadFile(bytes.NewReader(damaged), "etc/passwd", 1<<20)
		_, _ = ReadFile(bytes.NewReader(damaged[:int(at)%len(damaged)]), "many/na", 1<<20)
	})
}
