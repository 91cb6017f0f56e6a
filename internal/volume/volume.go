package volume

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/state"
)

// Store holds the volumes of one stack, in a folder.
type Store struct{ dir string }

// New answers the store in dir, which need not exist.
func New(dir string) *Store { return &Store{dir} }

const suffix = ".img"

// ownerMark stands behind the instance in the name of a volume that only that
// instance has. Neither an instance nor a volume of a stack file has it in its name.
const ownerMark = "@"

// Anonymous is the name of the volume that an instance has at a path of its
// container because the stack file or its image asks for one without a name. It is
// the same each time the instance is made.
func Anonymous(instance, path string) string {
	readable := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.Trim(path, "/"))
	sum := sha256.Sum256([]byte(path))
	return fmt.Sprintf("%s%s%.40s-%x", instance, ownerMark, readable, sum[:4])
}

// Path is where the volume called name is.
func (s *Store) Path(name string) string { return filepath.Join(s.dir, name+suffix) }

// Create makes a volume; one that is there is left as it is.
func (s *Store) Create(name string, size uint64) error {
	if err := durable.MkdirAll(s.dir); err != nil {
		return fmt.Errorf("create volume %s: %w", name, err)
	}
	if err := Create(s.Path(name), size); err != nil && !errs.Is(err, errs.AlreadyExists) {
		return fmt.Errorf("create volume %s: %w", name, err)
	}
	return nil
}

// Remove destroys a volume and what is in it; one that is not there is fine.
func (s *Store) Remove(name string) error {
	if err := os.Remove(s.Path(name)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	if err := removeDirectory(s.Directory(name)); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	_ = os.Remove(s.dir) // where it was the last
	return nil
}

// List answers the volumes, sorted by name.
func (s *Store) List() ([]state.Volume, error) {
	entries, err := os.ReadDir(s.dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var all []state.Volume
	for _, e := range entries {
		name, directory := strings.CutSuffix(e.Name(), dirSuffix)
		if directory = directory && e.IsDir(); !directory {
			var ok bool
			if name, ok = strings.CutSuffix(e.Name(), suffix); !ok {
				continue
			}
		}
		if strings.HasPrefix(name, ".") {
			continue
		}
		if directory {
			all = append(all, state.Volume{Name: name, Kind: state.Directory})
			continue
		}
		info, err := e.Info()
		if os.IsNotExist(err) { // removed just now
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list volumes: %w", err)
		}
		owner, _, anonymous := strings.Cut(name, ownerMark)
		if !anonymous {
			owner = ""
		}
		all = append(all, state.Volume{Name: name, Kind: state.Disk, Instance: owner, Size: info.Size(), Least: least(info.Size())})
	}
	slices.SortFunc(all, func(a, b state.Volume) int { return strings.Compare(a.Name, b.Name) }) // without the suffixes
	return all, nil
}
