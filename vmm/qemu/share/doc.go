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
//     pipes, sockets and devices of its own. No device nodes are made on the host,
//     and no bits that lend somebody's identity (set-user-id, set-group-id).
//   - A read-only share refuses here, not in the guest.
//   - A request is copied out of the guest's memory before it is read, and the
//     answer into it after it was made. What there may be of requests, nodes and
//     handles at a time is bounded.
//
// # Owners
//
// As root, owners are the host's. Without root, all files are the invoking user's on
// the host, and a table in the home folder has what the guest made of them (table):
// owners, modes, device numbers. Nothing of it is on the files themselves, which
// could not hold it (attributes of the user's cannot be on symbolic links and
// devices), nor in their folder. What is not in the table is the container's user's.
// Who may do what is up to the guest's kernel, which mounts each virtio-fs with
// default_permissions (fs/fuse/virtio_fs.c, virtio_fs_ctx_set_defaults): a check here
// would be of IDs that a hostile guest makes up, and without its supplementary groups.
//
// Extended attributes are not offered.
//
// # Locks
//
// A lock of the guest is one of the host's kernel (lockTable), so that it holds
// between machines. What a guest has of them is bounded, and ends with its device.
package share
