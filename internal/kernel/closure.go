package kernel

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// want is a module that the agent has a use for.
type want struct {
	name   string
	needed bool // without it no machine can serve
}

// bootWants lists what must be there before the agent answers the host and
// mounts the root, in the order it is best loaded: vsock, so that the agent can
// listen; then what devices and disks need; the bus at the very end, so that
// every driver is there when the devices appear.
func bootWants(arch string) []want {
	wants := []want{
		{"vsock", true},
		{"vmw_vsock_virtio_transport", true},
		{"virtio_blk", true},
		{"erofs", true},
		{"overlay", true},
		{"ext4", true},
	}
	if arch == "arm64" {
		// The console of Virtualization.framework, which is the only one it has.
		wants = append(wants, want{"virtio_console", false})
	}
	wants = append(wants, want{"virtio_pci", true})
	if arch == "arm64" {
		wants = append(wants, want{"pci_host_generic", false}) // the PCI host of a device tree
	}
	return wants
}

// lazyWants lists what a machine loads when it is given such a device or a
// process asks for such a file system.
func lazyWants() []want {
	return []want{
		{name: "virtio_net"}, {name: "fuse"}, {name: "virtiofs"}, {name: "virtio_balloon"},
		{name: "virtio_console"}, {name: "virtio_rng"}, {name: "virtio_mmio"}, {name: "tun"},
	}
}

// moduleTree is what the module folder of one release offers.
type moduleTree struct {
	files   map[string]moduleFile // by canonical name
	lists   map[string]blob       // modules.builtin and its like, until read
	builtin map[string]bool       // canonical names of what is in the image
	aliases map[string]bool       // other names of the same
}

type moduleFile struct {
	name   string // its path in the tree
	format compression
	blob
}

func newTree() *moduleTree {
	return &moduleTree{files: map[string]moduleFile{}, lists: map[string]blob{}}
}

func (t *moduleTree) empty() bool { return len(t.files) == 0 && len(t.lists) == 0 }

// The lists of what is built in, as the kernel's build leaves them.
const (
	builtinList    = "modules.builtin"
	builtinModinfo = "modules.builtin.modinfo"
)

// readLists learns what is built in.
func (t *moduleTree) readLists() error {
	text := map[string][]byte{}
	for name, b := range t.lists {
		read, err := b.read(maxText)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		text[name] = read
	}
	t.builtin, t.aliases = parseBuiltin(text[builtinList]), parseBuiltinAliases(text[builtinModinfo])
	return nil
}

// selection is what was chosen of a tree. Names are canonical.
type selection struct {
	boot    []string
	lazy    map[string][]string // what to load after boot; empty where nothing is left to do
	builtin []string
	missing []string
}

// picker copies the modules it is led to, uncompressed, into out, and reads
// their dependencies there: only what is reached is ever unpacked.
type picker struct {
	tree    *moduleTree
	out     string
	arch    string
	release string // "" if the image does not say

	copied map[string]copiedModule
	crypto map[string][]string // alias -> modules that provide it; nil until asked for
}

type copiedModule struct {
	info modinfo
	file fileRecord
}

func newPicker(tree *moduleTree, out, arch, release string) *picker {
	return &picker{tree: tree, out: out, arch: arch, release: release, copied: map[string]copiedModule{}}
}

// pick chooses the modules that the agent wants, each after all it depends on.
// What is needed and missing is an error that names all of it.
func (p *picker) pick(ctx context.Context) (selection, error) {
	if err := p.tree.readLists(); err != nil {
		return selection{}, err
	}
	sel := selection{lazy: map[string][]string{}}
	loaded := map[string]bool{}
	var lacking []string
	for _, w := range bootWants(p.arch) {
		list, err := p.closure(ctx, w.name, loaded)
		switch {
		case errs.Is(err, errs.NotFound) && w.needed:
			lacking = append(lacking, err.Error())
		case errs.Is(err, errs.NotFound):
			sel.missing = append(sel.missing, w.name)
		case err != nil:
			return selection{}, err
		default:
			sel.boot = append(sel.boot, list...)
			sel.noteBuiltin(p.tree, w.name)
			markLoaded(loaded, list)
		}
	}
	if len(lacking) > 0 {
		return selection{}, p.lackingError(lacking)
	}
	for _, w := range lazyWants() {
		list, err := p.closure(ctx, w.name, loaded)
		switch {
		case errs.Is(err, errs.NotFound):
			sel.missing = append(sel.missing, w.name)
		case err != nil:
			return selection{}, err
		default:
			sel.lazy[w.name] = list
			sel.noteBuiltin(p.tree, w.name)
		}
	}
	return sel, nil
}

func (s *selection) noteBuiltin(t *moduleTree, name string) {
	if t.builtin[name] {
		s.builtin = append(s.builtin, name)
	}
}

func markLoaded(loaded map[string]bool, names []string) {
	for _, n := range names {
		loaded[n] = true
	}
}

func (p *picker) lackingError(lacking []string) error {
	err := errs.New(errs.FailedPrecondition, "the kernel lacks what a machine needs: %s", strings.Join(lacking, "; "))
	if len(p.tree.builtin) == 0 {
		return errs.WithHint(err, "no modules.builtin was found, so that nothing counts as built in; import a folder that has it beside the modules")
	}
	return errs.WithHint(err, "where image and modules come in packages of their own, unpack both into one folder and import that")
}

// closure answers what to load for name, name last, without what is in
// loaded; nothing if it is built in. It is NotFound if name or something that
// name cannot be without is neither a module nor built in.
func (p *picker) closure(ctx context.Context, name string, loaded map[string]bool) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		if p.tree.builtin[name] || loaded[name] || seen[name] {
			return nil
		}
		seen[name] = true
		m, err := p.copy(ctx, name)
		if err != nil {
			return err
		}
		for _, soft := range m.info.pre {
			provider, err := p.provider(ctx, soft)
			if err != nil {
				return err
			}
			if provider == "" {
				continue // a soft dependency is a wish
			}
			if err := visit(provider); err != nil && !errs.Is(err, errs.NotFound) {
				return err
			}
		}
		for _, dep := range m.info.depends {
			if err := visit(dep); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		order = append(order, name)
		return nil
	}
	if err := visit(name); err != nil {
		return nil, err
	}
	return order, nil
}

// copy puts the module into out, once, and reads what it says of itself.
func (p *picker) copy(ctx context.Context, name string) (copiedModule, error) {
	if m, ok := p.copied[name]; ok {
		return m, nil
	}
	src, ok := p.tree.files[name]
	if !ok {
		return copiedModule{}, errs.New(errs.NotFound, "no module %s", name)
	}
	if len(p.copied) >= maxClosure {
		return copiedModule{}, errs.New(errs.ResourceExhausted, "the modules wanted need more than %d others", maxClosure)
	}
	dst, err := os.OpenFile(filepath.Join(p.out, name+".ko"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return copiedModule{}, err
	}
	defer dst.Close()
	sum := sha256.New()
	n, err := unpackModule(ctx, io.MultiWriter(dst, sum), src)
	if err != nil {
		return copiedModule{}, fmt.Errorf("unpack module %s: %w", name, err)
	}
	info, err := readModinfo(dst)
	if err != nil {
		return copiedModule{}, fmt.Errorf("module %s: %w", name, err)
	}
	if err := p.fits(name, info); err != nil {
		return copiedModule{}, err
	}
	if err := dst.Sync(); err != nil {
		return copiedModule{}, err
	}
	m := copiedModule{info: info, file: fileRecord{Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))}}
	p.copied[name] = m
	return m, nil
}

// fits refuses a module that the kernel would refuse.
func (p *picker) fits(name string, info modinfo) error {
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[p.arch]
	switch {
	case info.machine != machine:
		return errs.New(errs.FailedPrecondition, "module %s is for %v, the image for %s", name, info.machine, p.arch)
	case p.release != "" && info.release != "" && info.release != p.release:
		return errs.New(errs.FailedPrecondition, "module %s is for kernel %s, the image is %s", name, info.release, p.release)
	case info.name != "" && info.name != name:
		return errs.New(errs.DataLoss, "module %s calls itself %s", name, info.name)
	}
	return nil
}

func unpackModule(ctx context.Context, w io.Writer, m moduleFile) (int64, error) {
	src, err := m.open()
	if err != nil {
		return 0, err
	}
	defer src.Close()
	plain, err := decompress(m.format, &ctxReader{ctx: ctx, r: src})
	if err != nil {
		return 0, err
	}
	defer plain.Close()
	return copyBounded(ctx, w, plain, maxModule, m.name)
}

// provider answers the module to load for a soft dependency, which may be an
// alias: "" if it is built in or there is none.
func (p *picker) provider(ctx context.Context, soft string) (string, error) {
	name := canonical(soft)
	if _, ok := p.tree.files[name]; ok {
		return name, nil
	}
	if p.tree.builtin[name] || p.tree.aliases[soft] {
		return "", nil
	}
	if p.crypto == nil {
		aliases, err := p.cryptoAliases(ctx)
		if err != nil {
			return "", err
		}
		p.crypto = aliases
	}
	providers := p.crypto[soft]
	for _, m := range providers {
		if strings.HasSuffix(m, "_generic") { // runs on every processor
			return m, nil
		}
	}
	if len(providers) > 0 {
		return providers[0], nil
	}
	return "", nil
}

// cryptoAliases reads the aliases of all modules in folders named crypto: the
// soft dependencies that are no names are algorithms ("crypto-crc32c"). depmod
// would have made this table at installation; a package does not have it.
func (p *picker) cryptoAliases(ctx context.Context) (map[string][]string, error) {
	names := make([]string, 0, 64)
	for name, f := range p.tree.files {
		if path.Base(path.Dir(f.name)) == "crypto" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	aliases := map[string][]string{}
	for _, name := range names {
		info, err := peek(ctx, p.tree.files[name])
		if err != nil {
			return nil, fmt.Errorf("read aliases of %s: %w", name, err)
		}
		for _, a := range info.aliases {
			aliases[a] = append(aliases[a], name)
		}
	}
	return aliases, nil
}

// peek reads a module's modinfo without keeping the module.
func peek(ctx context.Context, m moduleFile) (modinfo, error) {
	if m.format == unpacked {
		f, err := m.open()
		if err != nil {
			return modinfo{}, err
		}
		defer f.Close()
		return readModinfo(f)
	}
	var buf strings.Builder
	if _, err := unpackModule(ctx, &buf, m); err != nil {
		return modinfo{}, err
	}
	return readModinfo(strings.NewReader(buf.String()))
}
