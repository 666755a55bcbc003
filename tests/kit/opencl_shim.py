"""Builds the shim that counts live OpenCL handles, and reads its counts."""

import ctypes
import subprocess
from pathlib import Path

KINDS = ("context", "queue", "memory", "program", "kernel", "event")
_SOURCES = Path(__file__).resolve().parents[2] / "runtime" / "cc"


def build_shim(folder: Path) -> Path:
    """Compile the shim; a process that starts with ``DDIMCACHE_OPENCL_LIBRARY`` set to it is counted."""
    library = folder / "libcounting_opencl.so"
    source = Path(__file__).with_name("opencl_shim.cc")
    command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-I", _SOURCES, source, "-o", library, "-ldl"]
    subprocess.run(list(map(str, command)), check=True)
    return library


def alive_handles(library: Path) -> dict[str, int]:
    """Return how many handles of each kind are alive in this process."""
    count = ctypes.CDLL(str(library)).alive_handles
    count.restype = ctypes.c_long
    return {kind: count(kind.encode()) for kind in KINDS}
