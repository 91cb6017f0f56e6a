#!/usr/bin/env bash
# Makes the root of an image from Debian packages and all they need, unpacked
# without their scripts. Usage: debian.sh FOLDER NAME PACKAGE… [PATTERN-…]; the
# result is FOLDER/images/NAME.tar. A pattern with a - behind it leaves out what is
# needed for the scripts alone, or by a part that nobody uses.
set -euo pipefail
cache=$1 name=$2
shift 2
with=() without=none
for word; do
  case $word in *-) without+="|${word%-}" ;; *) with+=("$word") ;; esac
done
out=$cache/images/$name.tar
[ -e "$out" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{root,state/lists/partial,archives/partial} "$cache/debs-$name"
touch "$work/status"
# As if nothing were installed: everything that the packages need comes along.
(cd "$cache/debs-$name" &&
  apt-get -o Dir::State::status="$work/status" -o Debug::NoLocking=1 install -qq --no-install-recommends --print-uris "${with[@]}" |
  awk '{sub(/_.*/, "", $2); print $2}' | grep -vxE "$without" | sort -u >"$work/packages")
(cd "$cache/debs-$name" && xargs apt-get download -qq <"$work/packages" 2>"$work/said") || { cat "$work/said" >&2; exit 1; }
for deb in "$cache/debs-$name"/*.deb; do
  dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/root" --no-same-owner \
    --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' --exclude='./usr/share/info/*'
done
mkdir -p "$work/root"/{proc,sys,dev,run,tmp,etc,data}
chmod 1777 "$work/root/tmp"
printf 'root:x:0:0:root:/root:/bin/sh\nredis:x:100:101::/var/lib/redis:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$work/root/etc/passwd"
printf 'root:x:0:\nredis:x:101:\nwww-data:x:33:\npostgres:x:999:\nnogroup:x:65534:\n' >"$work/root/etc/group"
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$work/root" -cf "$out.new" .
mv "$out.new" "$out"
rm -rf "$cache/debs-$name"
