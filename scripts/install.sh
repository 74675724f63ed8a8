#!/bin/sh
# Installs the packages of package-lock.json when they are missing or older than the lockfile; silent otherwise.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
stamp=$root/node_modules/.package-lock.json
if [ -x "$root/node_modules/.bin/node" ] && [ -e "$stamp" ] && [ ! "$root/package-lock.json" -nt "$stamp" ]; then
  exit 0
fi
if ! command -v npm >/dev/null 2>&1; then
  echo "nsm: npm is not installed; install Node 20 or newer, then run this again" >&2
  exit 9
fi
echo "installing the packages of package-lock.json (once, about half a minute) ..." >&2
cd "$root"
npm ci --no-audit --no-fund --loglevel=error >&2
touch "$stamp"
