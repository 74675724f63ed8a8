#!/bin/sh
# Signs files of a release with keys from outside: sh installers/sign.sh FILE ...
# `npm run package -- --all --installers --sign` calls it for each program before it is packed, for each package, and for
# SHA256SUMS last. What signs what, and the variable that names the key; `none` leaves that signature out:
#   *.exe *.msi   osslsigncode   NSM_SIGN_PKCS12     file with certificate and key
#                                NSM_SIGN_PASSWORD   file with its password; empty or unset when it has none
#                                NSM_SIGN_TIMESTAMP  URL of a time stamp service (RFC 3161); optional
#   *.rpm         rpmsign        NSM_SIGN_GPG        name of a key in GnuPG's folder (GNUPGHOME)
#   SHA256SUMS    minisign       NSM_SIGN_MINISIGN   file with the secret key; a password is read from standard input
# A .deb and an archive have no signature of their own: SHA256SUMS covers them. A program for macOS has an ad-hoc one; a
# Developer ID needs Apple's tools: sign it there, and make the archive again.
set -eu
fail() { echo "sign.sh: $1" >&2; exit 1; }

# The key that a variable names, or the end.
key() {
  eval "value=\${$1-}"
  [ -n "$value" ] || fail "$1 is not set: it names the key for $2, or is none"
  [ "$value" != none ]
}

windows() {
  key NSM_SIGN_PKCS12 "$1" || return 0
  set -- "$1" -pkcs12 "$NSM_SIGN_PKCS12" -h sha256 -n nsm
  [ -z "${NSM_SIGN_PASSWORD-}" ] || set -- "$@" -readpass "$NSM_SIGN_PASSWORD"
  [ -z "${NSM_SIGN_TIMESTAMP-}" ] || set -- "$@" -ts "$NSM_SIGN_TIMESTAMP"
  file=$1
  shift
  osslsigncode sign "$@" -in "$file" -out "$file.signed" >/dev/null || fail "osslsigncode does not sign $file"
  mv -f "$file.signed" "$file"
}

[ $# -gt 0 ] || fail 'name the files to sign'
for file; do
  [ -f "$file" ] || fail "$file is no file"
  case ${file##*/} in
    *.exe | *.msi) windows "$file" ;;
    *.rpm)
      key NSM_SIGN_GPG "$file" || continue
      # rpm looks for it as gpg2, which not every system has.
      rpmsign --define "_gpg_name $NSM_SIGN_GPG" --define "__gpg $(command -v gpg)" --addsign "$file" >/dev/null || fail "rpmsign does not sign $file"
      ;;
    SHA256SUMS)
      key NSM_SIGN_MINISIGN "$file" || continue
      minisign -S -s "$NSM_SIGN_MINISIGN" -m "$file" -t "sums of a release of nsm" >/dev/null || fail "minisign does not sign $file"
      ;;
    *) ;;
  esac
done
