package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// recordFormat is the version of kernel.json that this code writes.
const recordFormat = 1

// record is kernel.json. Module names are canonical; the file of NAME is
// modules/NAME.ko.
type record struct {
	Format   int                   `json:"format"`
	ID       string                `json:"id"`
	Version  string                `json:"version,omitempty"`
	Arch     string                `json:"arch"`
	Image    fileRecord            `json:"image"`
	Modules  map[string]fileRecord `json:"modules"`
	Boot     []string              `json:"boot"`
	Lazy     map[string][]string   `json:"lazy"`
	Builtin  []string              `json:"builtin,omitempty"`
	Missing  []string              `json:"missing,omitempty"`
	Origin   string                `json:"origin"`
	Imported time.Time             `json:"imported"`
	Asked    bool                  `json:"asked,omitempty"` // only for those that ask for it
}

type fileRecord struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// contentID is the digest of all that a machine would see of the kernel.
func (r *record) contentID() string {
	h := sha256.New()
	fmt.Fprintf(h, "vzcompose kernel %d\n%s\n%s\n", recordFormat, r.Arch, r.Image.SHA256)
	for _, name := range r.Boot {
		fmt.Fprintf(h, "boot %s %s\n", name, r.Modules[name].SHA256)
	}
	for _, want := range slices.Sorted(maps.Keys(r.Lazy)) {
		fmt.Fprintf(h, "lazy %s\n", want)
		for _, name := range r.Lazy[want] {
			fmt.Fprintf(h, "%s %s\n", name, r.Modules[name].SHA256)
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// modules answers the names of all modules, in an order in which they load.
func (r *record) modules() []string {
	all := slices.Clone(r.Boot)
	seen := map[string]bool{}
	markLoaded(seen, all)
	for _, want := range slices.Sorted(maps.Keys(r.Lazy)) {
		for _, name := range r.Lazy[want] {
			if !seen[name] {
				seen[name] = true
				all = append(all, name)
			}
		}
	}
	return all
}

// check refuses a record that cannot be acted upon.
func (r *record) check(id string) error {
	switch {
	case r.Format != recordFormat:
		return errs.New(errs.Unsupported, "it has format %d, this version reads %d", r.Format, recordFormat)
	case r.ID != id:
		return errs.New(errs.DataLoss, "it is that of %q", r.ID)
	case r.Arch != "amd64" && r.Arch != "arm64":
		return errs.New(errs.DataLoss, "it names the architecture %q", r.Arch)
	case len(r.Modules) > maxClosure:
		return errs.New(errs.DataLoss, "it names %d modules", len(r.Modules))
	}
	for _, name := range r.modules() {
		if _, ok := r.Modules[name]; !ok || !moduleName.MatchString(name) {
			return errs.New(errs.DataLoss, "it names a module %q of which it has no file", name)
		}
	}
	if r.contentID() != id {
		return errs.New(errs.DataLoss, "what it lists is not what it is named after")
	}
	return nil
}

func encodeRecord(r *record) ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return nil, err
	}
	if len(b) >= maxRecord { // it could not be read again
		return nil, errs.New(errs.ResourceExhausted, "its record would have %d bytes, and has at most %d", len(b), maxRecord)
	}
	return append(b, '\n'), nil
}

func decodeRecord(b []byte, id string) (*record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, errs.New(errs.DataLoss, "decode: %w", err)
	}
	if err := r.check(id); err != nil {
		return nil, err
	}
	return &r, nil
}

// record reads the record of id and checks that its files are there.
func (s *Store) record(id string) (*record, error) {
	if !idPattern.MatchString(id) {
		return nil, errs.New(errs.InvalidArgument, "%q is no kernel id", id)
	}
	dir := filepath.Join(s.dir, id)
	path := filepath.Join(dir, "kernel.json")
	b, err := readBounded(path, maxRecord)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	r, err := decodeRecord(b, id)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if err := sized(filepath.Join(dir, "vmlinux"), r.Image.Size); err != nil {
		return nil, fmt.Errorf("check kernel %s: %w", id, err)
	}
	for _, name := range r.modules() {
		if err := sized(filepath.Join(dir, "modules", name+".ko"), r.Modules[name].Size); err != nil {
			return nil, fmt.Errorf("check kernel %s: %w", id, err)
		}
	}
	return r, nil
}

func sized(path string, want int64) error {
	st, err := os.Lstat(path)
	if err != nil {
		return errs.As(errs.DataLoss, err)
	}
	if !st.Mode().IsRegular() || st.Size() != want {
		return errs.New(errs.DataLoss, "%s has %d bytes, not %d", path, st.Size(), want)
	}
	return nil
}

// load answers the kernel as the caller sees it.
func (s *Store) load(id string) (Kernel, error) {
	r, err := s.record(id)
	if err != nil {
		return Kernel{}, err
	}
	return s.kernel(r), nil
}

func (s *Store) kernel(r *record) Kernel {
	dir := filepath.Join(s.dir, r.ID)
	k := Kernel{
		ID: r.ID, Version: r.Version, Arch: r.Arch,
		Image:      filepath.Join(dir, "vmlinux"),
		ModulesDir: filepath.Join(dir, "modules"),
		Modules:    fileNames(r.modules()),
		Boot:       fileNames(r.Boot),
		Lazy:       map[string][]string{},
		Builtin:    slices.Clone(r.Builtin),
		Missing:    slices.Clone(r.Missing),
		Origin:     r.Origin,
		Imported:   r.Imported,
		Asked:      r.Asked,
	}
	for want, names := range r.Lazy {
		k.Lazy[want] = fileNames(names)
	}
	return k
}

func fileNames(names []string) []string {
	files := make([]string, 0, len(names))
	for _, n := range names {
		files = append(files, n+".ko")
	}
	return files
}

// String says it in one line.
func (k Kernel) String() string {
	if k.Broken != "" {
		return fmt.Sprintf("%s broken: %s", k.ID, k.Broken)
	}
	s := fmt.Sprintf("%s %s %s boot=%s", k.ID, k.Arch, k.Version, strings.Join(k.Boot, ","))
	for _, want := range slices.Sorted(maps.Keys(k.Lazy)) {
		s += fmt.Sprintf(" %s=%s", want, strings.Join(k.Lazy[want], ","))
	}
	return s + fmt.Sprintf(" builtin=%s missing=%s", strings.Join(k.Builtin, ","), strings.Join(k.Missing, ","))
}
