"""What ``compile --target adreno-740`` writes goes through the Adreno 740's compiler."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest

from ddimcache.adreno import lab as adreno_lab
from ddimcache.runtime.bundle import Bundle
from tests.kit.device_run import compile_to
from tests.kit.family import stand_in

ELF_AARCH64 = 183


def one_of_each_kind(bundle: Bundle) -> dict[str, str]:
    """The source of one kernel for every name without its numbers."""
    chosen: dict[str, tuple[str, str]] = {}
    for component in bundle.manifest.components.values():
        assert component.sources is not None
        for name, source in json.loads(bundle.path(component.sources).read_text()).items():
            chosen.setdefault(re.sub(r"\d", "", name), (name, source))
    return dict(chosen.values())


def check_host(library: Path) -> None:
    header = library.read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", header, 18)[0] == ELF_AARCH64


@pytest.mark.lab
@pytest.mark.parametrize("weights", ["int8", pytest.param("int8-g32", marks=pytest.mark.full)])
def test_kernels_of_a_small_bundle_compile_for_the_phone(tmp_path: Path, weights: str) -> None:
    bundle = compile_to(
        stand_in("tiny-sd15"),
        tmp_path / "bundle",
        target="adreno-740",
        weights=weights,
        host="aarch64-linux-gnu",
    )
    for component in bundle.manifest.components.values():
        check_host(bundle.path(component.library))
    sources = one_of_each_kind(bundle)
    assert any("half" in source for source in sources.values())
    for name, source in sources.items():
        statistics = adreno_lab.compile_for_adreno(source)
        assert {kernel.kernel for kernel in statistics} == {f"{name}_kernel"}


@pytest.mark.lab
@pytest.mark.full
@pytest.mark.timeout(7200)
def test_every_kernel_of_a_step_of_sd15_compiles_for_the_phone(tmp_path: Path) -> None:
    bundle = compile_to(
        stand_in("sd15", "float16"),
        tmp_path / "bundle",
        target="adreno-740",
        weights="int8",
        host="aarch64-linux-gnu",
    )
    unet = bundle.manifest.components["unet"]
    check_host(bundle.path(unet.library))
    assert unet.sources is not None
    sources = json.loads(bundle.path(unet.sources).read_text())
    launched = {kernel.name for kernel in unet.kernels if kernel.calls}
    assert launched <= set(sources)
    for name in sorted(launched):
        statistics = adreno_lab.compile_for_adreno(sources[name])
        assert all(kernel.kernel.startswith(f"{name}_kernel") for kernel in statistics)
