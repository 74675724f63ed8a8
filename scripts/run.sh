#!/bin/sh
# Runs a script of this project on the Node that npm brings, after installing what is missing.
# usage: sh scripts/run.sh SCRIPT [ARG ...]
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
sh "$root/scripts/install.sh"
script=$1
shift
case $script in /*) ;; *) script=$root/$script ;; esac
PATH=$root/node_modules/.bin:$PATH
export PATH
exec "$root/node_modules/.bin/node" "$script" "$@"
