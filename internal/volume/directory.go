package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// dirSuffix ends the name of a volume that is a directory. What a container sees is
// the directory "data" in it; what the machines note beside that stands with it.
const dirSuffix = ".dir"

// Directory is where the volume called name is, if it is a directory.
func (s *Store) Directory(name string) string { return filepath.Join(s.dir, name+dirSuffix) }

// IsDirectory reports whether the volume called name is there as a directory.
func (s *Store) IsDirectory(name string) bool {
	fi, err := os.Stat(s.Directory(name))
	return err == nil && fi.IsDir()
}

// CreateDirectory makes a volume as a directory; one that is there is left as it is,
// and has to be a directory.
func (s *Store) CreateDirectory(name string) (err error) {
	if s.IsDirectory(name) {
		return nil
	}
	if _, err := os.Stat(s.Path(name)); err == nil {
		return errs.New(errs.AlreadyExists, "create volume %s: it is there as a disk", name)
	}
	if err := durable.MkdirAll(s.dir); err != nil {
		return fmt.Errorf("create volume %s: %w", name, err)
	}
	made, err := os.MkdirTemp(s.dir, ".tmp-")
	if err != nil {
		return fmt.Errorf("create volume %s: %w", name, err)
	}
	data := filepath.Join(made, "data")
	if err = os.Mkdir(data, 0o755); err == nil {
		err = os.Chmod(data, 0o755) // whatever the umask: containers have other users
	}
	if err == nil {
		err = durable.Rename(made, s.Directory(name))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("create volume %s: %w", name, err), os.RemoveAll(made))
	}
	return nil
}

// removeDirectory deletes a directory that no machine has. A container
// may have left folders in which their owner may not write.
func removeDirectory(path string) error {
	err := os.RemoveAll(path)
	if !os.IsPermission(err) {
		return err
	}
	err = filepath.WalkDir(path, func(at string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && err == nil { // it is read after this
			return os.Chmod(at, 0o700)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(path))
}
