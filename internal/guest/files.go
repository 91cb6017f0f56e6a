//go:build linux

package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// maxFileCount is how many files a set-up may have.
const maxFileCount = 256

func checkFiles(files []agentproto.File) error {
	if len(files) > maxFileCount {
		return errs.New(errs.InvalidArgument, "%d files", len(files))
	}
	seen, size := map[string]bool{}, 0
	for _, f := range files {
		if checkID(f.ID) != nil || seen[f.ID] || f.Mode > 0o7777 {
			return errs.New(errs.InvalidArgument, "file %q of mode %o is no file or there twice", cutName(f.ID), f.Mode)
		}
		seen[f.ID] = true
		if size += len(f.Data); size > agentproto.MaxFiles {
			return errs.New(errs.InvalidArgument, "files of more than %d bytes", agentproto.MaxFiles)
		}
	}
	return nil
}

// writeFiles puts the files into memory of their own, which no disk ever sees:
// the machine has no swap.
func (m *setup) writeFiles() error {
	if err := os.MkdirAll(filesDir, 0o700); err != nil {
		return err
	}
	// A page for each file and its directory entry, beside what they hold.
	size := agentproto.MaxFiles + (len(m.want.Files)+16)*os.Getpagesize()
	options := "mode=0700,size=" + strconv.Itoa(size)
	if err := unix.Mount("tmpfs", filesDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount memory for files: %w", err)
	}
	m.keep(filesDir)
	for _, f := range m.want.Files {
		at := filepath.Join(filesDir, f.ID)
		if err := os.WriteFile(at, f.Data, 0o600); err != nil {
			return err
		}
		if err := os.Chown(at, int(f.UID), int(f.GID)); err != nil {
			return err
		}
		if err := unix.Chmod(at, f.Mode); err != nil { // os.Chmod has other bits for setuid
			return fmt.Errorf("set the mode of %s: %w", f.ID, err)
		}
		m.place(agentproto.FileScheme+f.ID, at)
	}
	return nil
}
