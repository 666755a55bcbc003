#!/bin/bash
# Builds the plug-in and the tests that look inside it with sanitizers, and runs them:
#
#   tests/native/run.sh sanitize          queue, memory, cache and modules from several threads, under the address
#                                         and undefined-behaviour sanitizers and under the thread sanitizer
#   tests/native/run.sh plugin [TESTS…]   the plug-in's tests in Python, under the address and undefined-behaviour
#                                         sanitizers
#   tests/native/run.sh fuzz [COUNT]      COUNT damaged inputs (10000) for readers of programs and modules, and 12000
#                                         bundles for both readers of these, under the same two sanitizers
#
# PYTHON is the interpreter with TVM (python3); the builds are kept in build/.
set -euo pipefail
cd "$(dirname "$0")/../.."
# Whole, because a build looks for it from a folder of its own; links stay, they are what a virtual environment is.
PYTHON=$(command -v "${PYTHON:-python3}")
[[ $PYTHON = /* ]] || PYTHON=$PWD/$PYTHON
what=${1:-}
here=$PWD/tests/native

# Sets `built` to the folder of a build with these sanitizers, which make GCC see uninitialised memory in its own
# library.
build() {
  built=$PWD/build/sanitize-${1//,/-}
  cmake -S . -B "$built" -DCMAKE_BUILD_TYPE=Debug -DPython_EXECUTABLE="$PYTHON" \
    -DDDIMCACHE_SANITIZE="$1" -DDDIMCACHE_NATIVE_TESTS=ON -DDDIMCACHE_WERROR=OFF -DCMAKE_CXX_FLAGS=-Wno-maybe-uninitialized >/dev/null
  cmake --build "$built" --parallel "$(nproc)" >"$built/build.log" 2>&1 || {
    cat "$built/build.log" >&2
    exit 1
  }
}

# Runs pytest with the plug-in of the build.
test_in_python() {
  local compiler
  compiler=$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' "$built/CMakeCache.txt")
  # Before everything, as the sanitizer wants it; the C++ library with it, so that it finds what exceptions call.
  # Python never gives back all it allocated.
  env -u DDIMCACHE_CACHE -u DDIMCACHE_PROGRAM_CACHE_BYTES \
    LD_PRELOAD="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 DDIMCACHE_PLUGIN=$built/libddimcache_opencl.so \
    "$PYTHON" -m pytest -q --timeout 7200 -p no:cacheprovider "$@"
}

# A cache of its own, small enough that programs are evicted.
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT
export DDIMCACHE_CACHE=$cache DDIMCACHE_PROGRAM_CACHE_BYTES=20000

# What suppressions there are, and why, stands in the files.
address="detect_leaks=1:halt_on_error=1:strict_string_checks=1"
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export LSAN_OPTIONS=suppressions=$here/leaks.txt:print_suppressions=0
export TSAN_OPTIONS=suppressions=$here/threads.txt:halt_on_error=1:ignore_noninstrumented_modules=1

case $what in
  sanitize)
    build address,undefined
    for keep in 1 ""; do
      DDIMCACHE_PROGRAM_CACHE=$keep ASAN_OPTIONS=$address "$built/ddimcache_stress" 60
    done
    build thread
    for keep in 1 ""; do
      DDIMCACHE_PROGRAM_CACHE=$keep "$built/ddimcache_stress" 60
    done
    ;;
  plugin)
    shift
    build address,undefined
    test_in_python "${@:-tests/runtime/opencl}"
    ;;
  fuzz)
    build address,undefined
    for target in program module; do
      ASAN_OPTIONS=$address "$built/ddimcache_fuzz" $target "${2:-10000}"
    done
    test_in_python -m full -s tests/campaigns/test_bundle_fuzz.py
    ;;
  *)
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
