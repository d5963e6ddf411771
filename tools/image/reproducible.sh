#!/bin/bash
# Builds an image twice from nothing, in two copies of this tree, and compares the digests (R-41).
#
#   tools/image/reproducible.sh [TARGET]      default //:image
#
# The copies lie at paths of different lengths, so each has an output base of its own; no result of an earlier build is
# used (only downloads are), and umask, time zone and locale differ. Takes as long as two first builds of the image.
set -euo pipefail
target=${1:-//:image}
ws=$(cd "$(dirname "$0")/../.." && pwd -P)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/reproducible.XXXXXX")
copies=("$scratch/a" "$scratch/another/place/for/the/same/tree")

finish() {
  for copy in "${copies[@]}"; do
    [ -x "$copy/bazelw" ] && (cd "$copy" && ./bazelw clean --expunge >/dev/null 2>&1) || true
  done
  rm -rf "$scratch"
}
trap finish EXIT

build() ( # COPY UMASK TIMEZONE LOCALE
  mkdir -p "$1"
  umask "$2"
  cd "$ws"
  git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read | tar --extract --no-same-permissions --directory="$1"
  cd "$1"
  TZ=$3 LC_ALL=$4 ./bazelw build --disk_cache= "$target.digest" >&2
  cat "$(./bazelw cquery --output=files "$target.digest" 2>/dev/null | tail -1)"
)

first=$(build "${copies[0]}" 022 UTC C)
second=$(build "${copies[1]}" 077 Asia/Kathmandu C.UTF-8)
echo "$first  ${copies[0]}"
echo "$second  ${copies[1]}"
[ "$first" = "$second" ] || { echo "$target differs" >&2; exit 1; }
echo "$target is the same in both"
