#!/bin/bash
# Runs a command inside ROOT with the host's devices, network, /tmp, /run and home, and the directories given.
# Called by bazelw only, in a mount namespace of its own, so no mount outlives the command.
#
#   enter.sh ROOT DIR... -- COMMAND...
set -euo pipefail
root=$1; shift
dirs=(/tmp /run "$HOME")
while [ "$1" != -- ]; do dirs+=("$1"); shift; done
shift

mount --bind "$root" "$root"
for dir in /proc /sys /dev "${dirs[@]}"; do
  mkdir -p "$root$dir"
  mount --rbind "$dir" "$root$dir"
done
for file in /etc/resolv.conf /etc/hosts /etc/npmrc /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
  [ -s "$file" ] || continue
  [ -e "$root$file" ] || : >"$root$file"
  mount --bind "$file" "$root$file"
done
# pivot_root and not chroot: in a chroot the kernel refuses user namespaces, and Bazel silently loses its sandbox.
mkdir -p "$root/.host"
here=$PWD
cd "$root"
pivot_root . .host
cd /
umount -l /.host
cd "$here"
exec "$@"
