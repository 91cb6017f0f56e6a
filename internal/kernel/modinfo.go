package kernel

import (
	"bytes"
	"debug/elf"
	"io"
	"path"
	"regexp"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// modinfo is what a module says of itself (include/linux/module.h).
type modinfo struct {
	name    string   // as lsmod shows it
	depends []string // names of the modules whose symbols it uses
	pre     []string // softdep: what is better loaded before; names or aliases
	aliases []string
	release string // of the kernel it was built for
	machine elf.Machine
}

// moduleName is a name in the kernel's own spelling (MODULE_NAME_LEN is 56).
var moduleName = regexp.MustCompile(`^[A-Za-z0-9_]{1,56}$`)

// canonical spells a module's name the way the kernel does: files may have a
// dash where the name has an underscore.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// moduleOf answers the name of the module in the file at p, and how the file
// is compressed; ok is false if it is no module.
func moduleOf(p string) (name string, format compression, ok bool) {
	base := path.Base(p)
	for suffix, f := range map[string]compression{".ko": unpacked, ".ko.xz": xzed, ".ko.zst": zstded, ".ko.gz": gzipped} {
		if stem, found := strings.CutSuffix(base, suffix); found {
			name := canonical(stem)
			return name, f, moduleName.MatchString(name)
		}
	}
	return "", unpacked, false
}

// readModinfo reads the .modinfo section of the uncompressed module r.
func readModinfo(r io.ReaderAt) (modinfo, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return modinfo{}, errs.New(errs.DataLoss, "read module: %w", err)
	}
	s := f.Section(".modinfo")
	switch {
	case f.Type != elf.ET_REL || s == nil || s.Type == elf.SHT_NOBITS || s.Flags&elf.SHF_COMPRESSED != 0:
		return modinfo{}, errs.New(errs.DataLoss, "read module: it has no plain .modinfo section")
	case s.FileSize > maxModinfo:
		return modinfo{}, errs.New(errs.ResourceExhausted, "read module: .modinfo has more than %d bytes", maxModinfo)
	}
	b, err := io.ReadAll(s.Open())
	if err != nil {
		return modinfo{}, errs.New(errs.DataLoss, "read module: %w", err)
	}
	m := parseModinfo(b)
	m.machine = f.Machine
	if m.name != "" && !moduleName.MatchString(m.name) {
		return modinfo{}, errs.New(errs.DataLoss, "read module: it calls itself %q", m.name)
	}
	return m, nil
}

// parseModinfo reads key=value pairs that end in NUL.
func parseModinfo(b []byte) modinfo {
	var m modinfo
	for field := range bytes.SplitSeq(b, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "name":
			m.name = canonical(value)
		case "depends":
			for d := range strings.SplitSeq(value, ",") {
				if d != "" {
					m.depends = append(m.depends, canonical(d))
				}
			}
		case "softdep":
			m.pre = append(m.pre, softdepPre(value)...)
		case "alias":
			m.aliases = append(m.aliases, value)
		case "vermagic":
			m.release, _, _ = strings.Cut(value, " ")
		}
	}
	return m
}

// softdepPre answers the "pre:" part of "pre: a b post: c" (modprobe.d(5)).
func softdepPre(s string) []string {
	var pre []string
	in := false
	for _, w := range strings.Fields(s) {
		switch w {
		case "pre:":
			in = true
		case "post:":
			in = false
		default:
			if in {
				pre = append(pre, w)
			}
		}
	}
	return pre
}

// parseBuiltin reads modules.builtin: a path a line.
func parseBuiltin(b []byte) map[string]bool {
	built := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		if name, _, ok := moduleOf(strings.TrimSpace(line)); ok {
			built[name] = true
		}
	}
	return built
}

// parseBuiltinAliases reads modules.builtin.modinfo, NAME.key=value pairs that
// end in NUL, and answers the aliases.
func parseBuiltinAliases(b []byte) map[string]bool {
	aliases := map[string]bool{}
	for field := range bytes.SplitSeq(b, []byte{0}) {
		if key, value, _ := strings.Cut(string(field), "="); strings.HasSuffix(key, ".alias") {
			aliases[value] = true
		}
	}
	return aliases
}
