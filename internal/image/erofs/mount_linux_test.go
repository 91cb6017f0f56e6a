package erofs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKernelReadsTheSame mounts an image and compares every file with what our
// reader makes of the bytes.
func TestKernelReadsTheSame(t *testing.T) {
	long := strings.Repeat("v", 9000)
	img, err := image(t, Limits{},
		layer(t, "d a", "f a/x 1", "l a/l x", "h a/h a/x", "p a/p", "c a/c", "d gone", "f gone/x 1",
			"f big "+strings.Repeat("0123456789abcdef", 70000), "f tail "+strings.Repeat("t", 5000)),
		write(t,
			&tar.Header{Name: "attr", Typeflag: tar.TypeReg, Size: 6000, Uid: 3_000_000_000, Gid: 70000, Mode: 0o4711,
				ModTime: time.Unix(1700000000, 123456789), Format: tar.FormatPAX,
				PAXRecords: map[string]string{"SCHILY.xattr.user.a": "1", "SCHILY.xattr.user.long": long}},
			&tar.Header{Name: "dirattr/", Typeflag: tar.TypeDir, Mode: 0o1777, Format: tar.FormatPAX,
				PAXRecords: map[string]string{"SCHILY.xattr.user.d": strings.Repeat("d", 4000)}},
			&tar.Header{Name: "longlink", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("t/", 2000)},
			&tar.Header{Name: "midlink", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("m", 2040)},
			&tar.Header{Name: "attrlink", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("m", 2000), Format: tar.FormatPAX,
				PAXRecords: map[string]string{"SCHILY.xattr.security.s": long}}),
		layer(t, append(manyNames(), "f .wh.gone ")...))
	if err != nil {
		t.Fatal(err)
	}
	dir := mount(t, img)
	all := mustWalk(t, img)
	seen := 0
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		seen++
		rel := filepath.Join("/", strings.TrimPrefix(p, dir))
		if diff := compare(p, all[rel]); diff != "" {
			t.Errorf("%s: %s", rel, diff)
		}
		return nil
	})
	if err != nil || seen != len(all) {
		t.Errorf("kernel shows %d files, there are %d (%v)", seen, len(all), err)
	}
}

func manyNames() (entries []string) {
	for i := range 2000 {
		entries = append(entries, fmt.Sprintf("f many/%s%d %d", strings.Repeat("n", i%200), i, i))
	}
	return entries
}

// mount mounts the image, or skips where that cannot be.
func mount(t *testing.T, img []byte) string {
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	file, dir := filepath.Join(t.TempDir(), "img"), t.TempDir()
	if err := os.WriteFile(file, img, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", file, dir).CombinedOutput(); err != nil {
		if _, known := filesystems(); !known {
			t.Skipf("this kernel cannot mount EROFS: %s", out)
		}
		if strings.Contains(string(out), "loop") {
			t.Skipf("no loop device: %s", out)
		}
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

func filesystems() (string, bool) {
	b, err := os.ReadFile("/proc/filesystems")
	return string(b), err == nil && strings.Contains(string(b), "erofs")
}

func compare(p string, n rnode) string {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return err.Error()
	}
	if got := (syscall.Timespec{Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec}); got.Sec != n.mtime || got.Nsec != int64(n.mtimeNS) {
		return fmt.Sprintf("time %v, want %d.%d", got, n.mtime, n.mtimeNS)
	}
	if uint16(st.Mode) != n.mode || st.Uid != n.uid || st.Gid != n.gid || uint32(st.Nlink) != n.nlink || st.Ino == 0 {
		return fmt.Sprintf("%+v, want %o %d:%d %d links", st, n.mode, n.uid, n.gid, n.nlink)
	}
	var data []byte
	var err error
	switch n.mode & modeType {
	case modeRegular:
		data, err = os.ReadFile(p)
	case modeSymlink:
		var s string
		s, err = os.Readlink(p)
		data = []byte(s)
	case modeChar:
		if want := unix.Mkdev(n.rdev>>8&0xfff, n.rdev&0xff|n.rdev>>12&0xfff00); st.Rdev != want {
			return fmt.Sprintf("device %x, want %x", st.Rdev, want)
		}
		return ""
	default:
		return ""
	}
	if err != nil || !bytes.Equal(data, n.data) {
		return fmt.Sprintf("%d bytes differ from %d (%v)", len(data), len(n.data), err)
	}
	for name, want := range n.xattrs {
		if strings.HasPrefix(name, "security.") {
			continue
		}
		b := make([]byte, 1<<16)
		if got, err := unix.Lgetxattr(p, name, b); err != nil || string(b[:got]) != want {
			return fmt.Sprintf("attribute %s: %d bytes, want %d (%v)", name, got, len(want), err)
		}
	}
	return ""
}
