package spec

import "path/filepath"

// Identity is which stack some files are.
type Identity struct {
	Name  string   // "": the files do not tell
	Dir   string   // the project directory, absolute; "": there is none
	Files []string // absolute paths, in order; "-" is Stdin
}

// Identify returns which stack opts means. It reads no more of the files than
// their names: what else is wrong with them does not matter, so that a mistake in
// a file keeps nobody from stopping what was brought up by it.
func Identify(opts Options) Identity {
	l := newLoader(opts) // what it finds is of no account
	inputs := l.inputs()
	id := Identity{Files: l.read}
	if len(inputs) == 0 {
		// A file is not there, or cannot be read. Its folder is what is known.
		id.Dir = l.folder()
		if stackText.MatchString(opts.Name) {
			id.Name = opts.Name
		}
		return id
	}
	dir, err := l.dir(inputs[0])
	if err != nil {
		return id
	}
	id.Dir = dir
	w := newWalker(l.report, dir, l.near(inputs[0]), l.lookup(inputs[0], dir))
	var written *node // name, in the last file that has it
	root := &node{}
	for _, in := range inputs {
		r := parse(in.name, in.data, l.report)
		if r == nil || r.kind != mappingNode {
			if opts.Name == "" {
				return id // it may have been there
			}
			continue
		}
		if n := r.child("name"); n != nil {
			written, root = n, r
		}
	}
	var f file
	if written != nil {
		stackKeys().field("name").decode(w, written, (*trail)(nil).key("name"), &f)
	}
	id.Name = l.name(f.name, root, dir, w.lookup)
	if !stackText.MatchString(id.Name) {
		id.Name = ""
	}
	return id
}

// folder is the project directory where no file could be read; "": there is none.
func (l *loader) folder() string {
	if len(l.opts.Files) > 0 {
		first := l.opts.Files[0]
		if abs, err := filepath.Abs(first); err == nil && first != stdinFile {
			first = abs
		}
		dir, err := l.dir(input{path: first})
		if err != nil {
			return ""
		}
		return dir
	}
	dir, err := filepath.Abs(l.opts.Dir)
	if err != nil {
		return ""
	}
	return dir
}
