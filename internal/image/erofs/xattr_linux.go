package erofs

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// hostXattrs answers the attributes of a file of the host that make sense in a
// machine: the user's, capabilities and access lists. Labels of the host's
// security modules are its own.
func hostXattrs(root *os.Root, name string, info fs.FileInfo) ([]byte, error) {
	if !info.Mode().IsRegular() && !info.IsDir() {
		return nil, nil
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd := int(f.Fd())
	list, err := readXattr(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) })
	if err != nil {
		return nil, err
	}
	attrs := map[string]string{}
	for _, attr := range splitList(list) {
		if attr != "security.capability" && !strings.HasPrefix(attr, "user.") &&
			!strings.HasPrefix(attr, "system.posix_acl_") {
			continue
		}
		value, err := readXattr(func(b []byte) (int, error) { return unix.Fgetxattr(fd, attr, b) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, err
		}
		attrs[attr] = string(value)
	}
	return encodeXattrs(attrs)
}

// readXattr calls get with room for anything the kernel keeps. It answers
// nothing where the file system has no attributes.
func readXattr(get func([]byte) (int, error)) ([]byte, error) {
	size, err := get(nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b := make([]byte, maxXattrs)
	if size, err = get(b); err != nil {
		return nil, err
	}
	return b[:size], nil
}

// splitList splits the NUL-ended names that listxattr answers.
func splitList(b []byte) []string {
	return strings.FieldsFunc(string(b), func(r rune) bool { return r == 0 })
}
