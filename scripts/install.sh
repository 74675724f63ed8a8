#!/bin/sh
# Installs the packages of package-lock.json when they are missing or older than the lockfile; silent otherwise.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
stamp=$root/node_modules/.package-lock.json

is_installed() {
  [ -x "$root/node_modules/.bin/node" ] && [ -e "$stamp" ] && [ ! "$root/package-lock.json" -nt "$stamp" ]
}

if is_installed; then exit 0; fi
if [ -L "$root/node_modules" ]; then
  echo "nsm: node_modules is a link, and an installation would empty what it points to; make it a folder of its own" >&2
  exit 9
fi
if ! command -v npm >/dev/null 2>&1; then
  echo "nsm: npm is not installed; install Node 20 or newer, then run this again" >&2
  exit 9
fi
# Who is started beside another installation waits for it: two at once empty the folder under each other.
exec 9<"$root/package-lock.json"
if command -v flock >/dev/null 2>&1; then
  # In steps, since not every flock knows -w; an installation takes half a minute.
  left=600
  until flock -n 9; do
    if [ "$left" -eq 0 ]; then
      echo "nsm: another installation of the packages in $root has not ended for 10 minutes; end it, then run this again" >&2
      exit 7
    fi
    left=$((left - 1))
    sleep 1
  done
fi
if is_installed; then exit 0; fi
echo "installing the packages of package-lock.json (once, about half a minute) ..." >&2
cd "$root"
npm ci --no-audit --no-fund --loglevel=error >&2 9<&-
touch "$stamp"
