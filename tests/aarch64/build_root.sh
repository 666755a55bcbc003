#!/bin/bash
# Builds a root of 64-bit ARM: Debian 13 with Python, PoCL and the wheels that ddimcache needs, about 1.2 GB.
# Nothing in it runs while it is built: packages are unpacked, not configured, so it takes two minutes.
# Needs root and debootstrap, qemu-user-static and g++-aarch64-linux-gnu, or apt-get to get them. Done once; a
# second run returns at once.
#
# usage: build_root.sh ENVIRONMENT
#   ENVIRONMENT   virtual environment whose pip gets the wheels
# DDIMCACHE_AARCH64 says where it goes; otherwise ~/.cache/ddimcache/aarch64.
set -euo pipefail

environment=$1
root=${DDIMCACHE_AARCH64:-${XDG_CACHE_HOME:-$HOME/.cache}/ddimcache/aarch64}

give_up() {
  echo "aarch64 root: not built: $1" >&2
  exit 2
}

if [ -e "$root/root-ready" ]; then
  echo "aarch64 root: ready in $root"
  exit 0
fi
[ "$(id -u)" = 0 ] || give_up "needs root, for chroot"
for pair in debootstrap:debootstrap qemu-aarch64-static:qemu-user-static \
  aarch64-linux-gnu-g++:g++-aarch64-linux-gnu; do
  command -v "${pair%%:*}" >/dev/null && continue
  echo "aarch64 root: installing ${pair##*:}" >&2
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${pair##*:}"; } >/dev/null 2>&1 ||
    give_up "${pair##*:} is not installed, and apt-get cannot get it"
done

log=$(mktemp)
trap 'rm -f "$log"' EXIT
step() {
  echo "aarch64 root: $1" >&2
  shift
  if ! "$@" >"$log" 2>&1; then
    tail -20 "$log" >&2
    give_up "failed at: $*"
  fi
}

mkdir -p "$root"
get_packages() {
  debootstrap --foreign --variant=minbase --arch=arm64 \
    --include=python3,pocl-opencl-icd,ocl-icd-libopencl1 trixie "$root"
}
unpack() {
  for package in "$root"/var/cache/apt/archives/*.deb; do
    dpkg-deb -x "$package" "$root"
  done
  rm "$root"/var/cache/apt/archives/*.deb
}
# An interrupted run leaves no stamp, and starts over in the same folder.
step "getting Debian 13 into $root" get_packages
step "unpacking" unpack

# PoCL runs a linker as a child. The emulator runs this process only: a child has to be a program of the
# machine itself, unless emulation is registered with its kernel. So it is this machine's linker for ARM.
linker=$(command -v aarch64-linux-gnu-ld)
for file in $(ldd "$linker" | grep -o '/[^ ]*'); do
  mkdir -p "$root$(dirname "$file")"
  cp -L "$file" "$root$file"
done
cp -L --remove-destination "$linker" "$root/usr/bin/aarch64-linux-gnu-ld.bfd"
cp "$(command -v qemu-aarch64-static)" "$root/usr/bin/qemu-aarch64-static"

mapfile -t requirements < <("$environment/bin/python" -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")')
version=$(basename "$(readlink "$root/usr/bin/python3")")
platforms=(--platform manylinux2014_aarch64)
for minor in $(seq 17 41); do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
step "getting wheels for ${version} on aarch64" "$environment/bin/pip" install --disable-pip-version-check --no-compile \
  --target "$root/opt/packages" --upgrade --only-binary=:all: --implementation cp \
  --python-version "${version#python}" "${platforms[@]}" "${requirements[@]}"
mkdir -p "$root/opt/product" "$root/mnt/work"
touch "$root/root-ready"
echo "aarch64 root: ready in $root"
