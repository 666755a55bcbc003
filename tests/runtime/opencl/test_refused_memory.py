"""A driver that has no memory left: what is idle gives way, then an error in words, and all goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.fake_bundle import build_fake_bundle
from tests.kit.no_torch import without_torch
from tests.kit.opencl_shim import build_shim

pytestmark = pytest.mark.opencl

_ROOT = Path(__file__).resolve().parents[3]
_START = """
import gc, sys
import pytest, tvm
from ddimcache.runtime import devices, plugin

assert plugin.problem() is None
device = tvm.runtime.device("opencl", 0)

def floats(count):
    return tvm.runtime.empty((count,), "float32", device)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


def run(shim: Path, room: int, program: str, *arguments: object) -> None:
    """Run a program on a device that gives out ``room`` bytes at most."""
    done = subprocess.run(
        [sys.executable, "-c", _START + program, *map(str, arguments)],
        env=without_torch(
            {**os.environ, "DDIMCACHE_OPENCL_LIBRARY": str(shim), "SHIM_MEMORY_BYTES": str(room)}
        ),
        cwd=_ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_refused_and_right_again(shim: Path) -> None:
    run(
        shim,
        5_000_000,
        """
kept = floats(500_000)
before = devices.memory_use().current_bytes
with pytest.raises(RuntimeError, match=r"CL_MEM_OBJECT_ALLOCATION_FAILURE.*4000000 bytes for"):
    floats(1_000_000)
assert devices.memory_use().current_bytes == before
kept.copyfrom(__import__("numpy").arange(500_000, dtype="float32"))
more = floats(500_000)
assert kept.numpy()[-1] == 499_999
del kept, more
gc.collect()
devices.release_idle()
floats(1_000_000)
""",
    )


def test_what_is_idle_gives_way(shim: Path) -> None:
    """Storage that the pool keeps for the VM's next call is not what a tensor fails for."""
    run(
        shim,
        8_000_000,
        """
from tests.runtime.opencl.test_memory_pool import Chain, machine
import numpy as np
vm = machine(Chain(), 512)
x = tvm.runtime.tensor(np.eye(512, dtype="float32"), device)
vm["forward"](x)
gc.collect()
idle = devices.memory_use().idle_bytes
assert idle >= 2_000_000, idle
floats(1_200_000)
assert devices.memory_use().idle_bytes < idle
vm["forward"](x)
""",
    )


def test_a_session_that_does_not_fit(shim: Path, tmp_path: Path) -> None:
    """The driver's refusal is a DeviceError; the same process draws when there is room again."""
    bundle = build_fake_bundle(tmp_path / "bundle", tmp_path, "opencl")
    run(
        shim,
        4_000_000,
        """
from pathlib import Path
from ddimcache.errors import DeviceError
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.session import Session
from tests.fakes.drawings import draw
bundle = open_bundle(Path(sys.argv[1]))
ballast = floats(999_000)
with pytest.raises(DeviceError, match="CL_MEM_OBJECT_ALLOCATION_FAILURE"):
    session = Session(bundle, DeviceSpec("opencl"))
    draw(session)
del ballast
gc.collect()
devices.release_idle()
first = draw(Session(bundle, DeviceSpec("opencl")))
assert first == draw(Session(bundle, DeviceSpec("opencl")))
""",
        bundle,
    )
