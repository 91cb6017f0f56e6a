//go:build linux

package qemu

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/vzcompose/vzcompose/vmm"
)

// preparedTemplate writes a template with a disk, and answers its path and what
// was on the disk.
func preparedTemplate(t *testing.T) (path string, disk []byte) {
	t.Helper()
	dir := t.TempDir()
	disk = make([]byte, 1<<20)
	for _, at := range []int{0, 4096, 20 * 4096, len(disk) - 4096} {
		if _, err := rand.Read(disk[at : at+4096]); err != nil {
			t.Fatal(err)
		}
	}
	from := filepath.Join(dir, "from")
	if err := os.WriteFile(from, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	disks, err := saveDisks([]vmm.Disk{{ID: "root", Path: from, ReadOnly: true}, {ID: "writable", Path: from}})
	if err != nil || len(disks) != 1 || disks[0].Data != 4*4096 {
		t.Fatalf("saved %d disks, %v", len(disks), err)
	}
	path = filepath.Join(dir, "x.template")
	if err := writeTemplate(path, draftOf("x"), header{Key: "x"}, make([]byte, 1<<20), nil, []byte("state"), disks); err != nil {
		t.Fatal(err)
	}
	return path, disk
}

func TestDiskOfTemplate(t *testing.T) {
	path, disk := preparedTemplate(t)
	tpl, err := openTemplate(path, "x")
	if err != nil {
		t.Fatal(err)
	}
	defer tpl.close()
	to := filepath.Join(t.TempDir(), "to")
	for range 2 { // the second takes the first's place
		if err := tpl.restoreDisk(vmm.Disk{ID: "writable", Path: to}); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, disk) {
			t.Errorf("another disk than was saved: %v", err)
		}
		if err := os.WriteFile(to, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := tpl.restoreDisk(vmm.Disk{ID: "other", Path: to}); !isTemplateFault(err) {
		t.Errorf("a disk that it does not have: %v", err)
	}
}

// A disk of which any byte is not as it was is the template's fault, and what
// was in its place stays.
func TestDamagedDiskOfTemplate(t *testing.T) {
	path, _ := preparedTemplate(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tpl, err := openTemplate(path, "x")
	if err != nil {
		t.Fatal(err)
	}
	from, length := tpl.head.afterState(), sizeOfDisks(tpl.head.Disks)
	tpl.close()
	to := filepath.Join(t.TempDir(), "to")
	if err := os.WriteFile(to, []byte("as it was"), 0o600); err != nil {
		t.Fatal(err)
	}
	for at := from; at < from+length; at += 511 {
		bad := bytes.Clone(whole)
		bad[at] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		tpl, err := openTemplate(path, "x")
		if err != nil {
			t.Fatal(err)
		}
		if err := tpl.restoreDisk(vmm.Disk{ID: "writable", Path: to}); !isTemplateFault(err) {
			t.Errorf("damaged at %d: %v", at, err)
		}
		tpl.close()
	}
	if err := os.WriteFile(path, append(whole[:from:from], whole[from+1:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openTemplate(path, "x"); !isTemplateFault(err) {
		t.Errorf("a byte short: %v", err)
	}
	if b, err := os.ReadFile(to); err != nil || string(b) != "as it was" {
		t.Errorf("what was there: %q, %v", b, err)
	}
	if all, err := filepath.Glob(filepath.Join(filepath.Dir(to), ".new-*")); len(all) > 0 || err != nil {
		t.Errorf("left behind: %q", all)
	}
}
