#!/usr/bin/env bash
# Puts in place what vzcompose is compared with: docker's engine, podman and
# docker compose. Only root can install; what cannot be had is said and is no
# error. No service is started. Usage: deps.sh FOLDER
set -euo pipefail
cache=$1
# The last of v2. v5.7 wants a later Go than this module (1.26.10) and was not
# tried. Debian's own docker-compose is v1, which nobody maintains.
compose=v2.40.3

say() { echo "compare: $*" >&2; }

need=()
{ command -v dockerd && command -v docker; } >/dev/null || need+=(docker.io)
command -v podman >/dev/null || need+=(podman)
command -v runc >/dev/null || need+=(runc)
command -v tini >/dev/null || need+=(tini)

# The packages would start their services, and this is no host for them.
policy=/usr/sbin/policy-rc.d
install_packages() {
  local made=
  if ! [ -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 0755 $policy
    made=1
  fi
  local status=0
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; } || status=$?
  [ -z "$made" ] || rm -f $policy
  return $status
}

if [ ${#need[@]} -gt 0 ]; then
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    say "not there: ${need[*]}; on Debian, as root: apt-get install --no-install-recommends ${need[*]}"
  else
    say "installing ${need[*]}"
    install_packages "${need[@]}" || say "not all of ${need[*]} could be installed"
  fi
fi

# docker compose cannot be had with "go install": its go.mod excludes modules. So
# it is built in a copy of its own folder, with its own go.sum. That takes some
# minutes, once.
build_compose() {
  local work dir
  work=$(mktemp -d)
  trap 'rm -rf "$work"' RETURN
  dir=$(cd "$work" && go mod download -json "github.com/docker/compose/v2@$compose" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
  [ -n "$dir" ] || return 1
  cp -r "$dir" "$work/compose"
  chmod -R u+w "$work/compose"
  (cd "$work/compose" && GOWORK=off GOFLAGS= CGO_ENABLED=0 go build -trimpath \
    -ldflags "-s -w -X github.com/docker/compose/v2/internal.Version=$compose" -o "$work/docker-compose" ./cmd) || return 1
  mkdir -p "$cache/bin"
  mv "$work/docker-compose" "$cache/bin/docker-compose"
}

if [ "$("$cache/bin/docker-compose" version --short 2>/dev/null)" != "${compose#v}" ]; then
  say "building docker compose $compose"
  build_compose || say "docker compose $compose could not be built"
fi
