#!/bin/bash
# Builds the Adreno lab: a Debian 13 root of about 1.2 GB with Mesa 26 from its backports and PoCL 6. In it
#   - freedreno on a no-op kernel driver compiles OpenCL C to machine code of the Adreno 740 (and runs nothing);
#   - llvmpipe runs OpenCL C with fp16 and images on the CPU.
# Needs root and debootstrap, or apt-get to get it. Done once; a second run returns at once.
#
# usage: build_lab.sh [--if-possible]
#   --if-possible   exit 0 with one line of explanation where it cannot be built
# ADRENO_LAB says where it goes; otherwise ~/.cache/ddimcache/adreno-lab.
set -euo pipefail

root=${ADRENO_LAB:-${XDG_CACHE_HOME:-$HOME/.cache}/ddimcache/adreno-lab}
lenient=0
[ "${1:-}" = --if-possible ] && lenient=1

give_up() {
  echo "Adreno lab: not built: $1" >&2
  exit $((lenient ? 0 : 2))
}

if [ -e "$root/lab-ready" ]; then
  echo "Adreno lab: ready in $root"
  exit 0
fi
[ "$(uname -m)" = x86_64 ] || give_up "the no-op driver for Adreno exists for x86_64 only"
[ "$(id -u)" = 0 ] || give_up "needs root, for debootstrap and chroot"
if ! command -v debootstrap >/dev/null; then
  command -v apt-get >/dev/null || give_up "needs debootstrap"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq debootstrap; } >/dev/null 2>&1 ||
    give_up "debootstrap is not installed, and apt-get cannot get it"
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
step() {
  echo "Adreno lab: $1" >&2
  shift
  if ! "$@" >"$log" 2>&1; then
    tail -20 "$log" >&2
    give_up "failed at: $*"
  fi
}

mkdir -p "$root"
# An interrupted debootstrap leaves a root without apt; it starts over.
[ -x "$root/usr/bin/apt-get" ] || step "installing Debian 13 into $root" debootstrap --variant=minbase trixie "$root"
sed 's/ trixie / trixie-backports /' "$root/etc/apt/sources.list" >"$root/etc/apt/sources.list.d/backports.list"
[ -r /etc/resolv.conf ] && cp -f /etc/resolv.conf "$root/etc/resolv.conf"
install_packages() {
  chroot "$root" /usr/bin/env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}
step "reading package lists" chroot "$root" apt-get update -qq
step "installing Mesa" install_packages -t trixie-backports mesa-opencl-icd mesa-drm-shim libgl1-mesa-dri
step "installing PoCL and a compiler" install_packages pocl-opencl-icd ocl-icd-libopencl1 ocl-icd-opencl-dev \
  opencl-headers clinfo gcc libc6-dev python3 python3-venv
mkdir -p "$root/lab"
touch "$root/lab-ready"
echo "Adreno lab: ready in $root"
