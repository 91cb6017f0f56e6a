package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// use is one mount of a disk of the host.
type use struct {
	container string
	mount     *node
	at        *trail
	readOnly  bool
}

// volumes checks that volumes are declared and that no two instances write to
// the same disk of the host. A volume may have several writers: the planner says
// what it is then.
func (c *checker) volumes(containers *node) {
	uses := map[string][]use{}
	for _, e := range containers.entries {
		name := e.key.text
		n := e.value.child("mounts")
		if n == nil || n.kind != listNode || !c.w.spend(n, n) {
			continue
		}
		at := c.at(name).key("mounts")
		for i, mount := range c.file.containers[name].Mounts {
			if mount.Type != "volume" && mount.Type != "block" || mount.Source == "" { // without a name it is one instance's
				continue
			}
			from := c.w.itemOf(n, i)
			m, where := from.node, at.item(from.index)
			if mount.Type == "volume" && c.root.child("volumes").entry(mount.Source) == nil {
				c.undeclared(m, where, mount.Source)
				continue
			}
			if mount.Type == "block" && c.active[name] {
				uses[mount.Source] = append(uses[mount.Source], use{name, m, where, mount.ReadOnly()})
			}
		}
	}
	for _, disk := range sortedKeys(uses) {
		c.shared(uses[disk])
	}
}

func (c *checker) undeclared(mount *node, at *trail, volume string) {
	hint := ""
	if !c.w.report.full(diag.Error) {
		hint = suggest(volume, sortedKeys(c.file.volumes))
	}
	if hint == "" {
		hint = "declare it under volumes"
	}
	c.w.error(mount.child("source"), at, hint, "no volume %s", quote(volume))
}

// shared refuses a disk that several instances have while one may write to it.
func (c *checker) shared(uses []use) {
	const why = "a disk belongs to one machine at a time, unless all mount it with ro"
	writable := false
	for _, u := range uses {
		writable = writable || !u.readOnly
	}
	if !writable {
		return
	}
	first := uses[0]
	for _, u := range uses {
		source := u.mount.child("source")
		if replicas := c.file.containers[u.container].Replicas; replicas > 1 {
			c.w.error(source, u.at, why, "disk %s would be in %d instances of %q", quote(source.text), replicas, u.container)
		}
		if u.container != first.container {
			c.w.error(source, u.at, why, "disk %s is already in container %q (line %d)",
				quote(source.text), first.container, first.mount.child("source").line)
		}
	}
}

// binds checks that what is bound of the host is there, or can be made.
func (c *checker) binds(containers *node) {
	for _, e := range containers.entries {
		name := e.key.text
		n := e.value.child("mounts")
		if !c.active[name] || n == nil || n.kind != listNode || !c.w.spend(n, n) {
			continue
		}
		at := c.at(name).key("mounts")
		for i, mount := range c.file.containers[name].Mounts {
			if mount.Type != "bind" && mount.Type != "block" {
				continue
			}
			from := c.w.itemOf(n, i)
			source, where := from.node.child("source"), at.item(from.index)
			switch info, err := os.Stat(mount.Source); {
			case errors.Is(err, fs.ErrNotExist) && mount.CreatesHostPath():
				if err := makeable(mount.Source); err != nil {
					c.w.error(source, where, "", "%s does not exist and cannot be made: %s", quote(source.text), err)
				} else {
					c.w.warn(source, where, "", "%s does not exist: a start makes it as a folder", quote(source.text))
				}
			case errors.Is(err, fs.ErrNotExist):
				c.w.error(source, where, "", "%s does not exist", quote(source.text))
			case err != nil:
				c.w.error(source, where, "", "%s: %s", quote(source.text), reason(err))
			case mount.Type == "bind" && !info.IsDir() && !info.Mode().IsRegular():
				c.w.error(source, where, "a socket is shared with sockets:", "%s is neither a folder nor a file", quote(source.text))
			case mount.Type == "block" && info.IsDir():
				c.w.error(source, where, "", "%s is a folder, not a disk", quote(source.text))
			}
		}
	}
}

// makeable returns what keeps the user from making a folder at path, where nothing
// is.
func makeable(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return errors.New("it is a symbolic link to what is not there")
	}
	for {
		path = filepath.Dir(path)
		switch info, err := os.Stat(path); {
		case errors.Is(err, fs.ErrNotExist) && path != filepath.Dir(path):
			if _, err := os.Lstat(path); err == nil {
				return fmt.Errorf("%s is a symbolic link to what is not there", path)
			}
		case err != nil:
			return err
		case !info.IsDir():
			return fmt.Errorf("%s is not a folder", path)
		default:
			if err := unix.Access(path, unix.W_OK|unix.X_OK); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			return nil
		}
	}
}
