"""Makes OpenCL drivers that came as Python packages visible to the plug-in.

Where nobody may install system packages, ``pip install pocl-binary-distribution pyopencl`` brings PoCL and
an ICD loader. Neither is where a loader looks: PoCL lies in a Python package, and its ICD file names it
without a folder. This module writes an ICD file with the full path and points the loader at it, but only
where the system has no driver of its own and nobody has chosen one.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LIBRARY_VARIABLE = "DDIMCACHE_OPENCL_LIBRARY"
VENDORS_VARIABLE = "OCL_ICD_VENDORS"
PYOPENCL_VARIABLE = "PYOPENCL_HOME"
SYSTEM_VENDORS = Path("/etc/OpenCL/vendors")


@dataclass(frozen=True)
class PackagedDriver:
    """PoCL from PyPI: the driver, and the loader that goes with it (None: use the system's)."""

    driver: Path
    loader: Path | None


def _file_of(distribution: str, prefix: str) -> Path | None:
    """Path of the installed distribution's first file whose name starts with ``prefix``, if there is one."""
    try:
        files = importlib.metadata.distribution(distribution).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name.startswith(prefix):
            path = Path(str(file.locate()))
            if path.is_file():
                return path.resolve()
    return None


def find_packaged_driver() -> PackagedDriver | None:
    """PoCL as installed from PyPI, or None."""
    driver = _file_of("pocl-binary-distribution", "libpocl")
    return None if driver is None else PackagedDriver(driver, _file_of("pyopencl", "libOpenCL"))


def system_has_driver(vendors: Path = SYSTEM_VENDORS) -> bool:
    """Whether the system names at least one OpenCL driver, and has a loader for it."""
    return any(vendors.glob("*.icd")) and ctypes.util.find_library("OpenCL") is not None


def choose_environment(environment: Mapping[str, str], *, icd_folder: Path) -> dict[str, str]:
    """Variables to set so that the plug-in finds a packaged driver; empty where nothing is to be done.

    Writes the ICD file into ``icd_folder`` when one is needed.
    """
    if environment.get(LIBRARY_VARIABLE) or environment.get(VENDORS_VARIABLE) or system_has_driver():
        return {}
    packaged = find_packaged_driver()
    if packaged is None:
        return {}
    icd_folder.mkdir(parents=True, exist_ok=True)
    icd = icd_folder / "pocl.icd"
    text = f"{packaged.driver}\n"
    if not icd.is_file() or icd.read_text() != text:
        # other processes may be reading it
        temporary = icd.with_name(f"{icd.name}.{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(icd)
    chosen = {VENDORS_VARIABLE: str(icd_folder)}
    if packaged.loader is not None:
        chosen[LIBRARY_VARIABLE] = str(packaged.loader)
        # pyopencl's loader crashes without this variable. It names a folder whose `.libs` is searched as
        # well; pyopencl's own would list PoCL a second time.
        chosen[PYOPENCL_VARIABLE] = environment.get(PYOPENCL_VARIABLE) or str(icd_folder)
    return chosen


def _icd_folder(environment: Mapping[str, str]) -> Path:
    cache = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(cache) / "ddimcache" / "icd"
    # a read-only home still has a place for temporary files
    parent = next(path for path in folder.parents if path.exists())
    if os.access(parent, os.W_OK):
        return folder
    return Path(tempfile.gettempdir()) / f"ddimcache-icd-{os.getuid()}"


def expose_packaged_drivers() -> None:
    """Set the variables of :func:`choose_environment` for this process and its children."""
    os.environ.update(choose_environment(os.environ, icd_folder=_icd_folder(os.environ)))
