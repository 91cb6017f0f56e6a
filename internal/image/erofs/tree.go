package erofs

import (
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const (
	maxName  = 255  // EROFS_NAME_LEN
	maxPath  = 4095 // PATH_MAX without its terminator; also a link's target
	maxDepth = 2048 // folders above one another
	maxLinks = 40   // symbolic links followed for one path, as the kernel's MAXSYMLINKS
)

// tree is the merged filesystem so far.
type tree struct {
	root   *inode
	limits Limits
	inodes int
	meta   int64 // bytes held for names, targets and attributes
	steps  int   // path components walked, all entries together
}

// directory is what makes an inode a folder.
type directory struct {
	name   string // in parent
	parent *inode // the root's is the root
	depth  int
	kids   map[string]entry
	// given is the layer that last gave its attributes; 0: none did.
	given int
	// hidden is the layer whose whiteouts took all lower content out last.
	hidden int
}

// entry is a name in a folder.
type entry struct {
	node *inode
	// layer is the one that put it here or, for a folder, that last put
	// something under it. Whiteouts spare what is of their own layer.
	layer int
}

func newTree(limits Limits) *tree {
	root := implicitDir()
	root.dir = &directory{parent: root, kids: map[string]entry{}}
	return &tree{root: root, limits: limits, inodes: 1}
}

func implicitDir() *inode { return &inode{mode: modeDir | 0o755} }

// hold accounts for memory that lives as long as the tree.
func (t *tree) hold(n int) error {
	if t.meta += int64(n); t.meta > t.limits.Metadata {
		return errs.New(errs.ResourceExhausted, "names, links and attributes exceed %d bytes", t.limits.Metadata)
	}
	return nil
}

// count accounts for a new inode.
func (t *tree) count() error {
	if t.inodes++; t.inodes > t.limits.Entries {
		return errs.New(errs.ResourceExhausted, "more than %d files", t.limits.Entries)
	}
	return nil
}

// walk answers the folder at path, following links inside the tree. Where create
// is set, missing folders are made for it; else a missing one, or what is no
// folder, is answered as nil without an error.
func (t *tree) walk(path string, create bool) (*inode, error) {
	cur, links := t.root, 0
	for rest := path; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if t.steps++; t.steps > 64*t.limits.Entries {
			return nil, errs.New(errs.ResourceExhausted, "paths and links are too tangled to resolve")
		}
		switch name {
		case "", ".":
			continue
		case "..":
			cur = cur.dir.parent
			continue
		}
		kid, ok := cur.dir.kids[name]
		switch {
		case ok && kid.node.dir != nil:
			cur = kid.node
		case ok && kid.node.mode&modeType == modeSymlink:
			if links++; links > maxLinks {
				return nil, errs.New(errs.InvalidArgument, "too many symbolic links in %q", clip(path))
			}
			if strings.HasPrefix(kid.node.target, "/") {
				cur = t.root
			}
			rest = kid.node.target + "/" + rest
		case !create:
			return nil, nil
		case ok:
			return nil, errs.New(errs.InvalidArgument, "%q is not a folder", clip(name))
		default:
			n, err := t.addDir(cur, name)
			if err != nil {
				return nil, err
			}
			cur = n
		}
	}
	return cur, nil
}

func (t *tree) addDir(parent *inode, name string) (*inode, error) {
	if err := t.count(); err != nil {
		return nil, err
	}
	n := implicitDir()
	return n, t.put(parent, name, n, 0)
}

// put makes name in parent mean n, for layer. What was there goes, except that
// a folder is given to a folder: then the old inode stays, with n's attributes.
func (t *tree) put(parent *inode, name string, n *inode, layer int) error {
	if len(name) > maxName {
		return errs.New(errs.InvalidArgument, "name of %d bytes is longer than %d", len(name), maxName)
	}
	old, ok := parent.dir.kids[name]
	if ok && old.node.dir != nil && n.mode&modeType == modeDir {
		t.attributes(old.node, n, layer)
		n = old.node
	} else if n.mode&modeType == modeDir {
		if parent.dir.depth >= maxDepth {
			return errs.New(errs.InvalidArgument, "folders are nested more than %d deep", maxDepth)
		}
		n.dir = &directory{name: name, parent: parent, depth: parent.dir.depth + 1, kids: map[string]entry{}, given: layer}
	}
	if !ok {
		if err := t.hold(len(name)); err != nil {
			return err
		}
	}
	parent.dir.kids[name] = entry{node: n, layer: layer}
	t.touch(parent, layer)
	return nil
}

// attributes gives the folder old those of n.
func (t *tree) attributes(old, n *inode, layer int) {
	dir := old.dir
	*old = *n
	old.dir = dir
	dir.given = layer
}

// touch notes that layer put something below d.
func (t *tree) touch(d *inode, layer int) {
	for d != t.root {
		kids := d.dir.parent.dir.kids
		e := kids[d.dir.name]
		if e.layer >= layer {
			return
		}
		e.layer = layer
		kids[d.dir.name] = e
		d = d.dir.parent
	}
}

// whiteout takes name out of d as far as lower layers put it there.
func (t *tree) whiteout(d *inode, name string, layer int) {
	e, ok := d.dir.kids[name]
	switch {
	case !ok:
	case e.layer < layer:
		delete(d.dir.kids, name)
	case e.node.dir != nil:
		t.forget(e.node, layer)
		t.opaque(e.node, layer)
	}
}

// opaque takes out of d all that lower layers put there.
func (t *tree) opaque(d *inode, layer int) {
	if d.dir.hidden == layer {
		return
	}
	d.dir.hidden = layer
	for name, e := range d.dir.kids {
		switch {
		case e.layer < layer:
			delete(d.dir.kids, name)
		case e.node.dir != nil:
			t.forget(e.node, layer)
			t.opaque(e.node, layer)
		}
	}
}

// forget takes from a folder the attributes a lower layer gave it.
func (t *tree) forget(d *inode, layer int) {
	if d.dir.given < layer {
		t.attributes(d, implicitDir(), 0)
	}
}

// clip makes a hostile string fit for a message.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
