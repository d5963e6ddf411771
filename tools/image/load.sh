#!/bin/bash
# load.sh load --input IMAGE.tar: loads an image into docker or podman, whichever answers; the `loader` of oci_load.
# Where neither does, it fails, leaves the tarball in a file and says where. On machines served by ./bazelw it runs inside
# bazelw's Debian system, so it also looks on the host itself.
set -euo pipefail
input=$3

host=(nsenter --target 1 --mount)
if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
  exec docker load --input "$input"
elif command -v podman >/dev/null && podman info >/dev/null 2>&1; then
  exec podman load --input "$input"
elif [ -n "${BAZELW_WHEELS:-}" ] && "${host[@]}" which podman >/dev/null 2>&1; then
  exec "${host[@]}" podman load <"$input"
fi
tarball=$(mktemp -d "${TMPDIR:-/tmp}/image.XXXXXX")/image.tar
cat "$input" >"$tarball"
chmod -R a+rX "${tarball%/*}"
echo "Neither docker (with a daemon that answers) nor podman works here, so the image was built but not loaded." >&2
echo "It is in $tarball: \`docker load --input $tarball\` or \`podman load --input $tarball\` loads it." >&2
exit 1
