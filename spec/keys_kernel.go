package spec

import (
	"slices"
	"strings"
)

// Kernel is what the machine of a container boots in place of the usual.
type Kernel struct {
	// Path is absolute: an image, a folder that has one and its modules, or a
	// Debian package; "": the usual kernel.
	Path string `json:"path,omitempty"`
	// Modules is an absolute folder with the modules of an image; "": beside it,
	// or built in.
	Modules string `json:"modules,omitempty"`
	// Cmdline is added to the kernel's command line.
	Cmdline []string `json:"cmdline,omitempty"`
}

// maxCmdline leaves room for what the machine itself has to say: x86 reads 2048
// bytes (COMMAND_LINE_SIZE).
const maxCmdline = 1024

func kernelKeys() *object[Kernel] {
	return &object[Kernel]{
		fields: []field[Kernel]{
			key("path", "An image, a folder that has one and its modules, or a Debian package. Default: the kernel of all machines.", hostPath(),
				func(k *Kernel) *string { return &k.Path }),
			key("modules", "Folder with the modules of the image.", hostPath(), func(k *Kernel) *string { return &k.Modules }),
			key("cmdline", "Added to the kernel's command line.", cmdline(), func(k *Kernel) *[]string { return &k.Cmdline }),
			instead[Kernel]("initrd", "the machine's first file system is made by vzcompose, as its agent is the first process; modules are named with modules"),
		},
		finish: func(w *walker, n *node, at *trail, k *Kernel) bool {
			if k.Modules != "" && k.Path == "" && !n.said("path") {
				w.error(n.entry("modules").key, at, "write path as well", "modules of which kernel?")
				return false
			}
			return true
		},
	}
}

// cmdline are words of the kernel's command line
// (Documentation/admin-guide/kernel-parameters.rst).
func cmdline() kind[[]string] {
	k := command()
	decode := k.decode
	k.decode = func(w *walker, n *node, at *trail) ([]string, bool) {
		all, ok := decode(w, n, at)
		if len(strings.Join(all, " ")) > maxCmdline {
			w.error(n, at, "", "the command line is over %d bytes", maxCmdline)
			return nil, false
		}
		for _, word := range all {
			if err := kernelWord(word); err != nil {
				w.wrong(n, at, err)
				ok = false
			}
		}
		if len(all) == 0 {
			all = nil
		}
		return all, ok
	}
	return k
}

func kernelWord(word string) error {
	name, _, _ := strings.Cut(word, "=")
	switch {
	case word == "" || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r == '"' || r > '~' }):
		return wrong{quote(word) + " is not a word of a kernel's command line", "words are printable ASCII without spaces and quotes"}
	case word == "--" || slices.Contains([]string{"init", "rdinit", "initrd", "root", "rootfstype"}, name):
		return wrong{quote(word) + " would take the machine's agent away", "leave it out"}
	}
	return nil
}
