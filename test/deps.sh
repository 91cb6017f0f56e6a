#!/usr/bin/env bash
# Puts what machines need in place: QEMU, a Debian kernel package and busybox.
# As root it installs; otherwise it says the one command. Usage: deps.sh FOLDER
set -euo pipefail
cache=$1
if [ "$(uname)" = Darwin ]; then
  [ -e "$cache/kernel.deb" ] && [ -e "$cache/images/busybox.tar" ] && exit 0
  echo "deps: run make deps on Debian for arm64 and copy kernel.deb and images/busybox.tar of its .cache here: docs/macos.md" >&2
  exit 1
fi
mkdir -p "$cache/debs" "$cache/images"
arch=$(dpkg --print-architecture)
case $arch in
  amd64) qemu=qemu-system-x86_64 qemu_pkg=qemu-system-x86 kernel=linux-image-cloud-amd64 ;;
  arm64) qemu=qemu-system-aarch64 qemu_pkg=qemu-system-arm kernel=linux-image-cloud-arm64 ;;
  *) echo "deps: there are no machines on $arch" >&2; exit 1 ;;
esac

need=()
command -v "$qemu" >/dev/null || need+=("$qemu_pkg")

updated=
update() {
  [ -n "$updated" ] && return
  updated=1
  echo "deps: apt-get update" >&2
  apt-get update -qq
}

if [ ${#need[@]} -gt 0 ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "deps: run: sudo apt-get install -y --no-install-recommends ${need[*]}" >&2
    exit 1
  fi
  update
  echo "deps: installing ${need[*]}" >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

# fetch PACKAGE: its .deb in the cache, without installing it.
fetch() {
  compgen -G "$cache/debs/$1_*.deb" >/dev/null && return
  if ! apt-cache show "$1" >/dev/null 2>&1; then
    if [ "$(id -u)" -ne 0 ]; then echo "deps: run: sudo apt-get update" >&2; exit 1; fi
    update
  fi
  echo "deps: fetching $1" >&2
  (cd "$cache/debs" && apt-get download -qq "$1" 2>/dev/null) ||
    { update; (cd "$cache/debs" && apt-get download -qq "$1"); }
}

# The kernel's own name has its version in it.
if ! [ -e "$cache/kernel.deb" ]; then
  apt-cache show "$kernel" >/dev/null 2>&1 || { [ "$(id -u)" -eq 0 ] && update; }
  image=$(apt-cache depends "$kernel" | awk '/Depends: linux-image-[0-9]/ {print $2; exit}')
  [ -n "$image" ] || { echo "deps: no kernel package behind $kernel" >&2; exit 1; }
  fetch "$image"
  ln -sf "debs/$(basename "$cache/debs/$image"_*.deb)" "$cache/kernel.deb"
fi
fetch busybox-static
[ -e "$cache/images/busybox.tar" ] || "$(dirname "$0")/images/busybox.sh" "$cache"
# For the tests: a real registry, and a larger image to push to it.
fetch docker-registry
if ! [ -x "$cache/bin/docker-registry" ]; then
  mkdir -p "$cache/bin"
  dpkg-deb --fsys-tarfile "$cache"/debs/docker-registry_*.deb | tar -x -C "$cache/bin" --strip-components=3 ./usr/bin/docker-registry
fi
"$(dirname "$0")/images/debian.sh" "$cache" redis redis-server redis-tools dash coreutils
"$(dirname "$0")/images/debian.sh" "$cache" nginx nginx-light dash coreutils
# Perl, locales and the like are for the scripts of packages, LLVM for queries that
# run long.
"$(dirname "$0")/images/debian.sh" "$cache" postgresql postgresql-15 gosu dash coreutils \
  '.*perl.*-' 'postgresql.*-common-' 'lib(llvm|z3|gdbm|db5|semanage|sepol|pam-mod).*-' locales- libc-l10n- libc-bin- dpkg- tar- passwd- adduser- debconf- \
  ucf- openssl- ssl-cert- usrmerge- sensible-utils- sysvinit-utils- init-system-helpers- debianutils- netbase- lsb-base-
# OCI runtimes, for containers that one of them runs.
"$(dirname "$0")/images/debian.sh" "$cache" oci crun runc dash coreutils grep
fetch hey
if ! [ -x "$cache/bin/hey" ]; then
  dpkg-deb --fsys-tarfile "$cache"/debs/hey_*.deb | tar -x -C "$cache/bin" --strip-components=3 ./usr/bin/hey
fi
# runtimetest checks a container from within; it runs there, and so is static.
[ -x "$cache/bin/runtimetest" ] || (out=$(realpath "$cache")/bin/runtimetest && cd "$(dirname "$0")/runtimetest" &&
  echo "deps: building runtimetest" >&2 &&
  CGO_ENABLED=0 GOOS=linux go build -trimpath -buildvcs=false -o "$out" github.com/opencontainers/runtime-tools/cmd/runtimetest)
