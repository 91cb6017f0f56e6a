#!/usr/bin/env bash
# Makes the root of a busybox image from Debian's busybox-static.
# Usage: busybox.sh FOLDER; the result is FOLDER/images/busybox.tar
set -euo pipefail
cache=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
dpkg-deb -x "$cache"/debs/busybox-static_*.deb "$work/deb"
root=$work/root
mkdir -p "$root"/{bin,dev,etc,home,proc,root,run,sys,tmp,usr/bin,usr/sbin,sbin,var/www}
chmod 1777 "$root/tmp"
busybox=$(find "$work/deb" -type f -path '*/bin/busybox' | head -n 1)
install -m 0755 "$busybox" "$root/bin/busybox"
"$busybox" --list | while read -r applet; do
  [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
cat >"$root/etc/passwd" <<'EOF'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
EOF
cat >"$root/etc/group" <<'EOF'
root:x:0:
daemon:x:1:
nogroup:x:65534:
EOF
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$root" -cf "$cache/images/busybox.tar.new" .
mv "$cache/images/busybox.tar.new" "$cache/images/busybox.tar"
