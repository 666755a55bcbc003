"""An OpenCL driver that fails as a test wants it to, built with the C++ compiler of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.kit.no_torch import without_torch

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]

ADRENO = {
    "FAKE_PLATFORM": "QUALCOMM Snapdragon(TM)",
    "FAKE_DEVICE": "QUALCOMM Adreno(TM) 740",
    "FAKE_DRIVER_VERSION": "OpenCL 3.0 QUALCOMM build: 0676.73 Compiler E031.41.03.62",
}
"""What the driver of a Galaxy S23 says of itself."""


def build(folder: Path) -> Path:
    """Compile the driver into ``folder`` and return the library."""
    library = folder / "libfake_opencl.so"
    command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-Wall", "-Werror"]
    command += ["-I", str(REPOSITORY / "runtime" / "cc"), "-o", str(library)]
    subprocess.run([*command, str(HERE / "driver.cc"), str(HERE / "absent.cc")], check=True)
    return library


def start(library: Path, program: str, **variables: str) -> subprocess.Popen[str]:
    """Start Python code in a fresh process whose only OpenCL device is the fake one.

    The program cache is off unless ``variables`` turn it on.
    """
    if "LD_PRELOAD" in variables and "LD_PRELOAD" in os.environ:
        # a sanitizer that is preloaded has to stay the first
        variables["LD_PRELOAD"] = f"{os.environ['LD_PRELOAD']} {variables['LD_PRELOAD']}"
    environment = {
        **without_torch(os.environ),
        "DDIMCACHE_OPENCL_LIBRARY": str(library),
        "DDIMCACHE_PROGRAM_CACHE": "0",
        **variables,
    }
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(library: Path, program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """As :func:`start`, and wait for its end."""
    process = start(library, program, **variables)
    output, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
