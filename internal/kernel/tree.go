package kernel

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// folder is what was found in a folder: images, and modules by release.
type folder struct {
	images   []foundImage
	releases map[string]*moduleTree // of lib/modules/RELEASE
	loose    *moduleTree            // of modules elsewhere
}

type foundImage struct {
	blob
	name    string // its path
	release string // as its name says; "" if it does not
	inTree  bool   // it lies in lib/modules
}

func newFolder() *folder {
	return &folder{releases: map[string]*moduleTree{}, loose: newTree()}
}

// scanFolder walks dir, without following links below it.
func scanFolder(ctx context.Context, dir string) (*folder, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	found := newFolder()
	entries := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if entries++; entries > maxEntries {
			return errs.New(errs.ResourceExhausted, "%s has more than %d files", dir, maxEntries)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		found.add(filepath.ToSlash(path), blob{path: path, size: info.Size()})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("search %s: %w", dir, err)
	}
	return found, nil
}

// add takes in the file called name, a path with slashes, that lies at b.
func (f *folder) add(name string, b blob) {
	release := releaseOf(name)
	if v, ok := imageName(path.Base(name)); ok {
		f.images = append(f.images, foundImage{blob: b, name: name, release: cmp.Or(v, release), inTree: release != ""})
		return
	}
	tree := f.loose
	if release != "" {
		if tree = f.releases[release]; tree == nil {
			tree = newTree()
			f.releases[release] = tree
		}
	}
	tree.add(name, b)
}

// add takes the file in, if it tells of modules.
func (t *moduleTree) add(name string, b blob) {
	switch base := path.Base(name); base {
	case builtinList, builtinModinfo:
		t.lists[base] = b
	default:
		module, format, ok := moduleOf(base)
		if !ok {
			return
		}
		// The kernel's own module counts, not one that was installed over it.
		if _, have := t.files[module]; !have || strings.Contains(name, "/kernel/") {
			t.files[module] = moduleFile{name: name, format: format, blob: b}
		}
	}
}

// releaseOf answers RELEASE of a path .../lib/modules/RELEASE/..., or "".
func releaseOf(name string) string {
	parts := strings.Split(name, "/")
	for i := len(parts) - 2; i >= 2; i-- {
		if parts[i-1] == "modules" && parts[i-2] == "lib" {
			return parts[i]
		}
	}
	return ""
}

// imageName tells whether a file is called as kernel images are, and the
// release that its name carries.
func imageName(base string) (release string, ok bool) {
	if strings.HasSuffix(base, ".old") {
		return "", false
	}
	for _, stem := range []string{"vmlinuz", "vmlinux", "bzImage", "Image"} {
		rest, found := strings.CutPrefix(base, stem)
		if !found {
			continue
		}
		switch rest {
		case "", ".gz", ".xz", ".zst", ".lz4", ".efi":
			return "", true
		}
		release, found := strings.CutPrefix(rest, "-")
		return release, found
	}
	return "", false
}

// image answers the one image to import: that of the newest release, of those
// that have modules if any has.
func (f *folder) image() (foundImage, error) {
	candidates := f.images
	if withModules := f.imagesWithModules(); len(withModules) > 0 {
		candidates = withModules
	}
	var best []foundImage
	for _, c := range candidates {
		switch {
		case len(best) == 0 || compareReleases(c.release, best[0].release) > 0:
			best = []foundImage{c}
		case c.release == best[0].release && c.inTree == best[0].inTree:
			best = append(best, c)
		case c.release == best[0].release && best[0].inTree:
			best = []foundImage{c} // the installed one, not its copy in lib/modules
		}
	}
	switch len(best) {
	case 0:
		return foundImage{}, errs.New(errs.NotFound, "no kernel image: no file is called vmlinuz, vmlinux, bzImage or Image")
	case 1:
		return best[0], nil
	}
	var names []string
	for _, b := range best {
		names = append(names, b.name)
	}
	return foundImage{}, errs.WithHint(
		errs.New(errs.InvalidArgument, "it has several kernel images: %s", strings.Join(names, ", ")),
		"leave only one of them in the folder")
}

func (f *folder) imagesWithModules() []foundImage {
	var with []foundImage
	for _, i := range f.images {
		if f.releases[i.release] != nil {
			with = append(with, i)
		}
	}
	return with
}

// tree answers the modules for an image of the given release; named is the
// release its file name carries.
func (f *folder) tree(release, named string) (*moduleTree, error) {
	for _, r := range []string{release, named} {
		if t := f.releases[r]; t != nil {
			return t, nil
		}
	}
	if !f.loose.empty() {
		return f.loose, nil
	}
	if len(f.releases) == 1 {
		for _, t := range f.releases {
			return t, nil // if they are for another release, the error will say which
		}
	}
	return nil, errs.WithHint(
		errs.New(errs.FailedPrecondition, "no modules for kernel %s", cmp.Or(release, named, "(unknown release)")),
		"where image and modules come in packages of their own, unpack both into one folder and import that; if all is built in, import the image file itself")
}

// compareReleases orders releases by their numbers: 6.10 is newer than 6.9.
func compareReleases(a, b string) int {
	for a != "" && b != "" {
		x, restA := cutRun(a)
		y, restB := cutRun(b)
		if c := compareRuns(x, y); c != 0 {
			return c
		}
		a, b = restA, restB
	}
	return cmp.Compare(len(a), len(b))
}

// cutRun splits off the digits, or the other characters, that s starts with.
func cutRun(s string) (run, rest string) {
	i := 1
	for i < len(s) && isDigit(s[i]) == isDigit(s[0]) {
		i++
	}
	return s[:i], s[i:]
}

func compareRuns(x, y string) int {
	if isDigit(x[0]) && isDigit(y[0]) {
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if c := cmp.Compare(len(x), len(y)); c != 0 {
			return c
		}
	}
	return strings.Compare(x, y)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// scanRelease reads the module folder of one release.
func scanRelease(ctx context.Context, dir string) (*moduleTree, error) {
	f, err := scanFolder(ctx, dir)
	if err != nil {
		return nil, err
	}
	for _, t := range f.releases {
		return t, nil
	}
	if f.loose.empty() {
		return nil, errs.New(errs.NotFound, "no modules in %s", dir)
	}
	return f.loose, nil
}
