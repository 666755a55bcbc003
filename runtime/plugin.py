"""Finds the OpenCL plug-in and registers it with TVM.

TVM calls :func:`load` at ``import tvm``, through the entry point group ``tvm.backends``, in every process
that imports it. Whatever goes wrong here is kept and told by :func:`problem`; ``import tvm`` goes on without
OpenCL.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import ddimcache
from ddimcache.runtime import icd

LIBRARY_NAME = "libddimcache_opencl.so"
LIBRARY_VARIABLE = "DDIMCACHE_PLUGIN"
INTERFACE = 10
"""Version of the functions that the plug-in registers; ``plugin.cc`` has the same number."""

_library: ctypes.CDLL | None = None
_problem: str | None = "`import tvm` has not run yet"


def library_path() -> Path:
    """Path of the built plug-in: ``DDIMCACHE_PLUGIN`` if set, else the one installed with the package.

    Raises:
        FileNotFoundError: there is none; the message lists where it was looked for and how to build it.
    """
    if chosen := os.environ.get(LIBRARY_VARIABLE):
        candidates = [Path(chosen)]
    else:
        # an editable installation has two folders: the sources and, for what was built, site-packages
        candidates = [Path(folder) / "lib" / LIBRARY_NAME for folder in ddimcache.__path__]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    places = ", ".join(str(candidate) for candidate in candidates)
    raise FileNotFoundError(
        f"the OpenCL plug-in is not built: looked for {places}. Run `pip install -e .` in the source folder"
    )


def load() -> None:
    """Load the plug-in and register it with TVM, once. Never raises; :func:`problem` tells why it failed."""
    global _library, _problem
    if _library is not None:
        return
    try:
        icd.expose_packaged_drivers()
        path = library_path()
        library = ctypes.CDLL(str(path))
        if (found := library.ddimcache_interface()) != INTERFACE:
            _problem = (
                f"the OpenCL plug-in {path} has interface {found}, but {INTERFACE} is needed: "
                "run `pip install -e .` in the source folder again"
            )
            return
        library.ddimcache_register.restype = ctypes.c_char_p
        answer = library.ddimcache_register()
    except (OSError, AttributeError) as error:
        _problem = str(error)
        return
    if answer is not None:
        _problem = answer.decode(errors="replace")
        return
    # kept for the life of the process: TVM holds pointers into it
    _library = library
    _problem = None


def problem() -> str | None:
    """Why the plug-in is not registered with TVM, or None when it is."""
    return _problem
