//go:build linux

package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// modules loads the kernel modules that lie in the initramfs:
//
//	boot.list  names of files, one a line, loaded at boot in this order
//	lazy.json  name of a module → names of files, loaded in this order when
//	           the module is first needed
//
// A kernel with everything built in has neither.
type modules struct {
	dir  string
	load func(path string) error // finit_module

	mu     sync.Mutex // serialises loading, guards the following
	lazy   map[string][]string
	loaded map[string]error // by file name; what became of it
}

func newModules(dir string) *modules {
	return &modules{dir: dir, load: finitModule, loaded: map[string]error{}}
}

// maxList bounds the two lists, in bytes.
const maxList = 64 << 10

// readLists answers the files to load at boot.
func (m *modules) readLists() ([]string, error) {
	list, err := readBounded(filepath.Join(m.dir, "boot.list"), maxList)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of modules: %w", err)
	}
	raw, err := readBounded(filepath.Join(m.dir, "lazy.json"), maxList)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the list of lazy modules: %w", err)
	}
	lazy := map[string][]string{}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &lazy); err != nil {
			return nil, errs.New(errs.DataLoss, "decode the list of lazy modules: %w", err)
		}
	}
	m.mu.Lock()
	m.lazy = lazy
	m.mu.Unlock()
	return strings.Fields(string(list)), nil
}

// add loads the files in order, those that are loaded already excepted, and
// answers the first error. It goes on after one: a module that this machine has
// no use for must not cost it the others.
func (m *modules) add(files []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var first error
	for _, f := range files {
		err, done := m.loaded[f]
		if !done {
			err = m.load(filepath.Join(m.dir, filepath.Base(f)))
			if err != nil {
				err = fmt.Errorf("load module %s: %w", f, err)
			}
			m.loaded[f] = err
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// need loads the module called name where it lies in the initramfs and is not
// loaded. One that does not lie there may be built in: what needs it will say.
func (m *modules) need(name string) error {
	m.mu.Lock()
	files := m.lazy[name]
	m.mu.Unlock()
	return m.add(files)
}

// failures lists what could not be loaded.
func (m *modules) failures() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []error
	for _, err := range m.loaded {
		if err != nil {
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

func finitModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// readBounded reads a regular file of at most limit bytes. It does not hang on
// what only looks like one.
func readBounded(path string, limit int64) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }() // only read
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errs.New(errs.InvalidArgument, "%s is not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, errs.New(errs.ResourceExhausted, "%s is over %d bytes", path, limit)
	}
	return b, nil
}
