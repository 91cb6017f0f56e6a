// Package share is a folder of the host, or one file of it, as a virtio-fs
// device on vmm/qemu/vhostuser (VIRTIO 1.2, 5.11 "File System Device"). The FUSE
// protocol is read by github.com/hanwen/go-fuse; what may be done to the host is
// decided here, in FS.
//
// # Trust
//
// The guest is hostile, and root in it may speak FUSE as it likes.
//
//   - A node is an O_PATH descriptor. A name is one component, and is resolved
//     from its parent's descriptor by openat2(2) with RESOLVE_BENEATH,
//     RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS: nothing is reached but what
//     lies in the share, whatever is swapped under it meanwhile. Symbolic links
//     are text, which the guest follows in its own world.
//   - Only regular files and directories are opened: the guest's kernel has the
//     pipes, sockets and devices of its own. No device nodes are made, and no bits
//     that lend somebody's identity (set-user-id, set-group-id).
//   - A read-only share refuses here, not in the guest.
//   - A request is copied out of the guest's memory before it is read, and the
//     answer into it after it was made. What there may be of requests, nodes and
//     handles at a time is bounded.
//
// Without root on the host all files are the invoking user's: they are shown as
// the guest's root's, and a change of owner is accepted and has no effect.
// Extended attributes are not offered.
//
// # Locks
//
// A lock of the guest is one of the host's kernel (lockTable), so that it holds
// between machines. What a guest has of them is bounded, and ends with its device.
package share
