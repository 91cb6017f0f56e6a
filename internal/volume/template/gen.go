//go:build ignore

// Command gen makes the templates of empty ext4 filesystems: for each size the
// blocks that are not zero, as (big-endian uint32 number, 4096 bytes) pairs,
// compressed. It needs mke2fs of e2fsprogs; the program itself does not.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
)

const block = 4096

func main() {
	for _, mib := range []int{64, 256, 1024, 2048, 4096, 8192, 16384, 32768, 65536} {
		if err := generate(mib); err != nil {
			log.Fatal(err)
		}
	}
}

func generate(mib int) error {
	f, err := os.CreateTemp("", "ext4-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Truncate(int64(mib) << 20); err != nil {
		return err
	}
	// Nothing is left to be initialised by the kernel: what is not in the
	// template is zero in a sparse file already.
	cmd := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-b", fmt.Sprint(block), "-m", "0", "-I", "256",
		"-O", "^metadata_csum,^64bit,^resize_inode,sparse_super2", "-J", "size=4",
		"-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard,num_backup_sb=0,root_owner=0:0,hash_seed=6f1d1f4e-5b0b-4b3c-9c1e-2f6c7a8d9e10",
		"-U", "6f1d1f4e-5b0b-4b3c-9c1e-2f6c7a8d9e11", f.Name())
	if mib >= 1024 {
		for i, a := range cmd.Args {
			if a == "size=4" {
				cmd.Args[i] = "size=16"
			}
		}
	}
	cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=1700000000")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	out, err := os.Create(fmt.Sprintf("ext4-%dm.gz", mib))
	if err != nil {
		return err
	}
	z, _ := gzip.NewWriterLevel(out, gzip.BestCompression)
	n, buf, zero := 0, make([]byte, block), make([]byte, block)
	for i := uint32(0); ; i++ {
		if _, err := io.ReadFull(f, buf); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		if bytes.Equal(buf, zero) {
			continue
		}
		n++
		if err := binary.Write(z, binary.BigEndian, i); err != nil {
			return err
		}
		if _, err := z.Write(buf); err != nil {
			return err
		}
	}
	if err := z.Close(); err != nil {
		return err
	}
	st, _ := out.Stat()
	fmt.Printf("%d MiB: %d blocks, %d bytes\n", mib, n, st.Size())
	return out.Close()
}
