#!/bin/bash
# Fills ROOT with a Debian system that has Bazel. Called by bazelw only, inside its own mount and PID namespace,
# so that whatever kills it takes every child and every mount along.
#
#   root.sh ROOT MIRROR DEBS STATUS     DEBS: downloaded packages, kept; STATUS: file that gets "stage|what is happening"
set -euo pipefail
root=$1 mirror=$2 debs=$3 status=$4
here=$(dirname "$(readlink -f "$0")")
stages=4

stage() { printf '%s of %s|%s\n' "$1" "$stages" "$2" >"$status.new" && mv "$status.new" "$status" && printf '\n== %s ==\n' "$2"; }
in_root() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
  ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} "$@"; }
packages() { sed 's/#.*//' "$here/packages.txt" | xargs; }

# A testing suite can lose a package for some days: sid has it then.
base_system() {
  local suite
  for suite in forky sid; do
    stage 1 "base system of Debian $suite"
    rm -rf --one-file-system "$root" && mkdir -p "$root"
    # The script of sid serves every newer suite; an older debootstrap does not know forky by name.
    if debootstrap --variant=minbase --cache-dir="$debs" --include=ca-certificates \
      "$suite" "$root" "$mirror" /usr/share/debootstrap/scripts/sid && install_packages; then
      return 0
    fi
    umount -l "$root/proc" "$root/var/cache/apt/archives" 2>/dev/null || true
    echo "Debian $suite did not do."
  done
  return 1
}

install_packages() {
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # no service is started in the root
  chmod 755 "$root/usr/sbin/policy-rc.d"
  mkdir -p "$root/etc/dpkg/dpkg.cfg.d" "$root/etc/apt/apt.conf.d"
  printf '%s\n' force-unsafe-io path-exclude=/usr/share/{doc,man,locale}/'*' >"$root/etc/dpkg/dpkg.cfg.d/bazelw"
  # A mirror may lag behind the date in its own lists. Packages are fetched into DEBS by root, without the _apt user.
  printf '%s\n' 'Acquire::Check-Valid-Until "false";' 'Acquire::Retries "5";' 'APT::Sandbox::User "root";' \
    'APT::Keep-Downloaded-Packages "true";' >"$root/etc/apt/apt.conf.d/90bazelw"
  if [ -s /etc/ssl/certs/ca-certificates.crt ]; then # the host may trust more authorities than Debian does
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/host-authorities.crt"
    echo 'Acquire::https::CAInfo "/etc/ssl/host-authorities.crt";' >>"$root/etc/apt/apt.conf.d/90bazelw"
  fi
  mount -t proc proc "$root/proc"
  mount --bind "$debs" "$root/var/cache/apt/archives"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  # A newer suite may drop the Python that images run with: trixie, whose Python that is, has it then.
  echo "deb $mirror trixie main" >"$root/etc/apt/sources.list.d/trixie.list"
  printf 'Package: *\nPin: release n=trixie\nPin-Priority: 100\n' >"$root/etc/apt/preferences.d/trixie"
  stage 2 "package lists"
  in_root apt-get update || return 1
  stage 3 "$(packages | wc -w) packages and what they need"
  # shellcheck disable=SC2046 # one word a package
  in_root apt-get install -y --no-install-recommends $(packages) || return 1
  umount "$root/proc" "$root/var/cache/apt/archives"
}

base_system
stage 4 "Bazel's own settings"
# Debian's Bazel calls itself a development version, which rules_python takes for Bazel 9: give it its real name.
mkdir -p "$root/opt/bazelw"
echo "build.label=$(cat "$here/../../.bazelversion")" >"$root/opt/bazelw/build-data.properties"
rm -rf "$root/var/lib/apt/lists"
