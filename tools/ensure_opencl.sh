#!/bin/bash
# Makes sure that there is an OpenCL device: whatever the machine has, else PoCL on the CPU from the system's
# packages, else PoCL from PyPI.
#
# usage: ensure_opencl.sh ENVIRONMENT_FOLDER
set -euo pipefail

python=$1/bin/python

say() { echo "opencl: $1" >&2; }

# Prints nothing and succeeds when a device is there; otherwise prints the reason. A fresh process each time,
# because the library is looked up once a process.
missing() {
  "$python" -c '
import sys
from ddimcache.runtime.devices import describe_missing
reason = describe_missing()
print((reason or "").splitlines()[0] if reason else "")
sys.exit(reason is not None)'
}

if reason=$(missing); then exit 0; fi
say "$reason"

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  say "installing PoCL from the system's packages"
  if { apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      pocl-opencl-icd ocl-icd-libopencl1; } >/dev/null 2>&1 && missing >/dev/null; then
    exit 0
  fi
  say "the system's packages did not give a device"
fi

say "installing PoCL from PyPI"
"$python" -m pip install --quiet --disable-pip-version-check 'pocl-binary-distribution==3.0' 'pyopencl>=2025.1'
if reason=$(missing); then exit 0; fi
say "still no device: $reason"
exit 1
