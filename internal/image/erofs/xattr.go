package erofs

import (
	"encoding/binary"
	"maps"
	"slices"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const (
	xattrHeaderSize = 12       // struct erofs_xattr_ibody_header, no shared ones
	maxXattrs       = 64 << 10 // encoded bytes of one inode; XATTR_LIST_MAX is the kernel's
	maxXattrValue   = 1<<16 - 1
)

// xattrIndex splits an attribute's name into the number of its prefix and the
// rest. It answers 0 for names that are left out (see the package comment).
func xattrIndex(name string) (index byte, rest string) {
	switch {
	case name == "system.posix_acl_access":
		return 2, ""
	case name == "system.posix_acl_default":
		return 3, ""
	case strings.HasPrefix(name, "trusted.overlay."), strings.HasPrefix(name, "user.overlay."):
		return 0, ""
	}
	namespace, rest, _ := strings.Cut(name, ".")
	if rest == "" {
		return 0, ""
	}
	switch namespace {
	case "user":
		return 1, rest
	case "trusted":
		return 4, rest
	case "security":
		return 6, rest
	}
	return 0, ""
}

// encodeXattrs answers the attributes as they follow an inode, sorted by name,
// or nil where none is kept.
func encodeXattrs(attrs map[string]string) ([]byte, error) {
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		index, rest := xattrIndex(name)
		if index == 0 {
			continue
		}
		value := attrs[name]
		switch {
		case len(name) > maxName || strings.ContainsRune(name, 0):
			return nil, errs.New(errs.InvalidArgument, "name of extended attribute %q is not legal", clip(name))
		case len(value) > maxXattrValue:
			return nil, errs.New(errs.ResourceExhausted, "extended attribute %s has %d bytes", clip(name), len(value))
		}
		if b == nil {
			b = make([]byte, xattrHeaderSize)
		}
		b = append(b, byte(len(rest)), index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
		b = append(append(b, rest...), value...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
		if len(b) > maxXattrs {
			return nil, errs.New(errs.ResourceExhausted, "extended attributes exceed %d bytes", maxXattrs)
		}
	}
	return b, nil
}
