#!/bin/sh
# crate.sh CARGO NAME VERSION SHA256 OUT - a published crate in the folder OUT, with patches/NAME-*.patch applied.
# OUT must lie in the workspace: cargo hashes the absolute path of any other, and the module would depend on it.
set -eu
cargo=$1
name=$2
version=$3
sha256=$4
out=$5
patches=$(cd "$(dirname "$0")/../patches" && pwd)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
archive() { find "$cargo_home/registry/cache" -name "$name-$version.crate" 2>/dev/null | head -n 1; }

# A package that needs nothing else makes cargo download the archive and check it against the index.
if [ -z "$(archive)" ]; then
  fetch=$(mktemp -d)
  trap 'rm -rf "$fetch"' EXIT
  mkdir "$fetch/src"
  : > "$fetch/src/lib.rs"
  printf '[package]\nname = "fetch"\nversion = "0.0.0"\n[dependencies]\n%s = "=%s"\n' "$name" "$version" > "$fetch/Cargo.toml"
  "$cargo" fetch --quiet --manifest-path "$fetch/Cargo.toml"
fi
echo "$sha256  $(archive)" | sha256sum -c --quiet -
rm -rf "$out"
mkdir -p "$out"
tar -xzf "$(archive)" -C "$out" --strip-components 1
for change in "$patches/$name"-*.patch; do patch -s -p1 -d "$out" < "$change"; done
# Its warnings are not ours; cargo shows those of any crate that lies in a folder.
sed -i '1s/^/#![allow(warnings)] /' "$out/src/lib.rs"
