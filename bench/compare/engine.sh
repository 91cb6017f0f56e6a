# The first process of an engine's own namespaces (pid, mount, net), where it
# hides what engines write outside of their folders, and becomes tini: somebody
# has to reap what an engine's shims leave. Arguments: an empty folder in the
# place of /var/lib/containers, on a disk as that is; the engine's command line.
set -eu
mount --make-rprivate /
mount -t proc proc /proc
mount --bind "$1" /var/lib/containers
shift
for folder in /run /etc/docker; do
  [ ! -d "$folder" ] || mount -t tmpfs tmpfs "$folder"
done
exec tini -- "$@"
