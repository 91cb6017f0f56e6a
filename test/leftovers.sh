#!/usr/bin/env bash
# Fails if anything of a home folder's stacks is left: processes, sockets,
# mounts, folders. Usage: leftovers.sh HOME
set -euo pipefail
home=$1
left=0
say() { echo "left behind: $*" >&2; left=1; }
for p in $(pgrep -f "qemu-system.*$home" || true) $(pgrep -f 'vzcompose shim' || true); do
  # Only what works for this home: a shim has its files open. One that has given
  # up its lock is over, yet the kernel may need a moment to take it away: tail
  # waits for just that.
  if ls -l "/proc/$p/fd" 2>/dev/null | grep -q "$home" || tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null | grep -q "$home"; then
    what=$(tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null | cut -c1-120 || true)
    timeout 5 tail --pid="$p" -f /dev/null || say "process $p: $what"
  fi
done
if [ -d "$home/stacks" ]; then
  for f in "$home"/stacks/*; do [ -e "$f" ] && say "$f"; done
fi
grep -q " $home" /proc/mounts && say "a mount below $home"
runtime=${XDG_RUNTIME_DIR:-/tmp}
[ ${#runtime} -gt 40 ] && runtime=/tmp
sum=$(printf '%d:%s' ${#home} "$home" | sha256sum | cut -c1-12)
[ -e "$runtime/vzcompose-$(id -u)-$sum" ] && say "$runtime/vzcompose-$(id -u)-$sum"
[ $left -eq 0 ] && echo "nothing is left: no process, socket, mount or folder"
exit $left
