"""Runs programs in the root of 64-bit ARM that ``build_root.sh`` makes (``make aarch64``), emulated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_VARIABLE = "DDIMCACHE_AARCH64"
# Pointer authentication takes thousands of instructions a call to emulate, and Debian's packages use it in
# every function: with it, importing TVM takes minutes.
_PROCESSOR = "max,pauth=off,sve=off"


def root_folder() -> Path:
    """Folder of the root: ``DDIMCACHE_AARCH64``, else ``~/.cache/ddimcache/aarch64``."""
    if chosen := os.environ.get(_VARIABLE):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "ddimcache" / "aarch64"


def missing() -> str | None:
    """Why nothing can be run there, or None when it can."""
    root = root_folder()
    if not (root / "root-ready").exists():
        return f"the root of 64-bit ARM is not in {root}: `make aarch64` builds it"
    if os.geteuid() != 0:
        return "the root of 64-bit ARM needs root, for chroot"
    return None


def command(product: Path, work: Path, variables: Mapping[str, str]) -> list[str]:
    """Command line that runs a program of the root, which is to be appended with its arguments.

    ``product`` is a folder of Python packages, seen before the others; ``work`` is seen as ``/mnt/work``.
    What is mounted is mounted for this process alone, and gone with it.
    """
    root = root_folder()
    mounts = [
        "mount -t proc proc $1/proc",
        "mount --rbind /sys $1/sys",
        "mount --rbind /dev $1/dev",
        "mount --bind $2 $1/opt/product",
        "mount --bind $3 $1/mnt/work",
    ]
    script = "\n".join(["set -e", *mounts, "root=$1", "shift 3", 'exec chroot "$root" "$@"'])
    inside = {
        "HOME": "/tmp",
        "LC_ALL": "C.UTF-8",
        "PATH": "/usr/bin",
        "PYTHONPATH": "/opt/product:/opt/packages",
        # The compiler's library is large and takes long to load; a device needs the runtime alone.
        "TVM_USE_RUNTIME_LIB": "1",
        **variables,
    }
    return [
        # The emulator hands its own environment on.
        *("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"),
        *("unshare", "--mount", "--propagation", "private", "bash", "-c", script, "root"),
        *(str(root), str(product), str(work)),
        *("/usr/bin/qemu-aarch64-static", "-cpu", _PROCESSOR),
        *(argument for pair in inside.items() for argument in ("-E", "=".join(pair))),
    ]
