#!/bin/sh
# Installs nsm from the archives of a release, after comparing the download with the release's sums and their signature.
#   sh install.sh --from URL-OR-FOLDER [--version VERSION] [--to FOLDER] [--key MINISIGN-PUBLIC-KEY] [--unsigned]
# --from   where the files of a release are: https://..., or a folder on this machine
# --to     where the program goes; /usr/local/bin for root, else ~/.local/bin
# --key    the project's public key, as `minisign -P` takes it
# --unsigned  trust the sums as they are: only where --from is a place that nobody else can write
# Nothing is written outside a private folder before everything is verified, and the program is put in place in one step.
set -eu
umask 077

from='' version='' to='' key='' unsigned=''
fail() { echo "install.sh: $1" >&2; exit "${2:-1}"; }
while [ $# -gt 0 ]; do
  case $1 in
    --from | --version | --to | --key)
      [ $# -ge 2 ] || fail "$1 needs a value" 2
      name=${1#--}
      eval "$name=\$2"
      shift 2
      ;;
    --unsigned) unsigned=1; shift ;;
    *) fail "there is no option $1" 2 ;;
  esac
done
[ -n "$from" ] || fail '--from is missing: where the files of a release are' 2
[ -n "$key$unsigned" ] || fail 'give --key with the public key of the project, or --unsigned' 2
case $from in http://*) fail 'http:// can be changed on its way; use https://' 2 ;; esac
if [ -z "$to" ]; then
  if [ "$(id -u)" = 0 ]; then to=/usr/local/bin; else to=$HOME/.local/bin; fi
fi

case $(uname -s) in
  Linux) os=linux ;;
  Darwin) os=darwin ;;
  *) fail "there is no build for $(uname -s)" ;;
esac
case $(uname -m) in
  x86_64 | amd64) arch=x64 ;;
  aarch64 | arm64) arch=arm64 ;;
  *) fail "there is no build for $(uname -m)" ;;
esac
if [ "$os" = linux ] && ls /lib/ld-musl-* >/dev/null 2>&1 && [ ! -e /lib64/ld-linux-x86-64.so.2 ] && [ ! -e /lib/ld-linux-aarch64.so.1 ]; then
  fail 'nsm needs the GNU C library, and this system has musl'
fi

work=$(mktemp -d)
staged=''
trap 'rm -rf "$work" ${staged:+"$staged"}' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A file may take so many blocks of 512 bytes: whoever sends more is cut off. A lower limit stays.
fetch() (
  ulimit -f "$2" 2>/dev/null || true
  case $from in
    https://*)
      if command -v curl >/dev/null; then
        curl --fail --silent --show-error --location --proto '=https' --tlsv1.2 --max-redirs 5 --max-time 300 \
          --output "$work/$1" "$from/$1"
      elif command -v wget >/dev/null; then
        # It cannot be kept to https behind a redirect; what is signed may come by any way.
        wget --quiet ${unsigned:+--max-redirect=0} --output-document="$work/$1" "$from/$1"
      else
        fail 'neither curl nor wget is there'
      fi
      ;;
    *) cp "$from/$1" "$work/$1" ;;
  esac || fail "cannot get $from/$1"
)

fetch SHA256SUMS 128
if [ -n "$key" ]; then
  command -v minisign >/dev/null || fail 'minisign is not installed; without it the signature cannot be verified'
  fetch SHA256SUMS.minisig 128
  minisign -V -q -P "$key" -m "$work/SHA256SUMS" || fail 'the signature of SHA256SUMS is not of this key: nothing was installed'
fi

# The only name of this platform in the sums that were verified says which version it is.
name=$(sed -n "s/^[0-9a-f]\{64\}  \(nsm-[0-9][0-9A-Za-z.+-]*-$os-$arch\.tar\.xz\)\$/\1/p" "$work/SHA256SUMS")
[ -n "$name" ] || fail "the release has nothing for $os-$arch"
[ "$(printf '%s\n' "$name" | wc -l)" -eq 1 ] || fail 'the sums name more than one archive of this platform'
if [ -n "$version" ] && [ "$name" != "nsm-$version-$os-$arch.tar.xz" ]; then
  fail "the release is $name, not version $version"
fi
fetch "$name" 262144
sum=$(grep "  $name\$" "$work/SHA256SUMS" | cut -d' ' -f1)
if command -v sha256sum >/dev/null; then found=$(sha256sum "$work/$name"); else found=$(shasum -a 256 "$work/$name"); fi
[ "${found%% *}" = "$sum" ] || fail "$name is not what SHA256SUMS says: nothing was installed"

# Only the program is taken out, by its whole name: an archive cannot put a file elsewhere.
folder=${name%.tar.xz}
tar -xJf "$work/$name" -C "$work" "$folder/nsm" || fail 'the archive cannot be unpacked; is xz installed?'
[ ! -d "$to/nsm" ] || fail "$to/nsm is a folder: name another place with --to"
umask 022
mkdir -p "$to"
staged=$(mktemp "$to/.nsm.XXXXXX")
cp "$work/$folder/nsm" "$staged"
chmod 755 "$staged"
# From there, for programs may be forbidden in the scratch folder.
"$staged" --version >/dev/null || fail 'the program does not start on this machine'
mv -f "$staged" "$to/nsm"
staged=''
echo "installed $("$to/nsm" --version) as $to/nsm"
case :$PATH: in *:"$to":*) ;; *) echo "put $to into PATH to call it as nsm" ;; esac
