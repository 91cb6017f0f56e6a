#!/usr/bin/env bash
# The demonstration: examples/hello comes up, is looked at and goes away.
# Usage: demo.sh CACHE
set -euo pipefail
cache=$1
here=$(cd "$(dirname "$0")/.." && pwd)
export VZCOMPOSE_HOME=$cache/demo
vz() { echo; echo "\$ vzcompose $*"; "$here/bin/vzcompose" "$@"; }
down() { "$here/bin/vzcompose" -n hello down -t 1 >/dev/null 2>&1 || true; }
trap down EXIT

"$here/bin/vzcompose" kernel ls -q | grep -q . || vz kernel import "$cache/kernel.deb"
"$here/bin/vzcompose" image ls -q | grep -q busybox || vz image import --cmd sh "$cache/images/busybox.tar" busybox
vz doctor
cd "$here/examples/hello"
vz plan
vz up -d
vz ps
vz up -d
sleep 3 # for the client to tick
vz exec server wget -q -O - http://127.0.0.1/
vz logs --tail 5
vz down
trap - EXIT
"$here/test/leftovers.sh" "$VZCOMPOSE_HOME"
