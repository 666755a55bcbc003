#!/bin/bash
# Makes a virtual environment and installs this project into it with everything pinned.
#
# usage: environment.sh FOLDER EXTRA[,EXTRA…]
#
# Works on a bare Debian with Python 3.11, gcc and git: where the venv module lacks ensurepip (package
# python3-venv), it is installed when root and apt-get are there.
set -euo pipefail

folder=$1
extras=$2
python=${PYTHON:-python3}

say() { echo "environment: $1" >&2; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  say "$python is older than 3.11: set PYTHON to a newer one"
  exit 1
}

if [ ! -x "$folder/bin/pip" ]; then
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      say "installing python3-venv"
      apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
    else
      say "$python cannot make virtual environments: install the package python3-venv"
      exit 1
    fi
  fi
  say "making $folder"
  "$python" -m venv "$folder"
fi

# The exact version of torch alone, first: it is what decides between the CPU build and gigabytes of CUDA, and
# nothing that follows may change it.
if [[ ",$extras," == *,compile,* || ",$extras," == *,dev,* ]]; then
  say "installing PyTorch"
  "$folder/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
fi
say "building and installing ddimcache[$extras]"
"$folder/bin/pip" install --quiet --disable-pip-version-check --editable ".[$extras]" \
  --config-settings=cmake.define.DDIMCACHE_WERROR="${DDIMCACHE_WERROR:-OFF}"
