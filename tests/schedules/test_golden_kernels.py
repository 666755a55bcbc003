"""What the tuned families' kernels are, as OpenCL, so that none becomes another one unnoticed.

A tuning record is about a kernel. Where that changes, records may ask for what used to be best, and compile
goes on doing as they say. So each change of a kernel is looked at here once: does the family's entry of
``VERSIONS`` go up, which makes its records stale? Then ``pytest tests/schedules/test_golden_kernels.py
--refresh-golden`` writes the texts anew.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from pathlib import Path

import pytest

from ddimcache.compiler.target import profile
from ddimcache.kernels.workload import parse
from ddimcache.schedules.spaces import VERSIONS
from ddimcache.tuning.kernels import blank_arguments, build, kernel_of

GOLDEN = Path(__file__).parent / "golden"
WORKLOADS = {
    "opencl": (
        "matmul 64x64x32 float32 int8",
        "geglu 8x16x32 float32 int8",
        "conv2d 1x8x8x16x32x3x3x2x2 float32 int8",
        "conv2d 1x4x4x16x32x3x3x1x1 float32 int8",
        "attention 1x16x16x1x8 float32 none",
    ),
    "adreno-740": (
        "matmul 64x64x32 float16 int8",
        "geglu 16x32x32 float16 int8",
        "conv2d 1x8x8x16x32x3x3x1x1 float16 int8",
        # Summed in float32.
        "matmul 64x64x32 float16 float16",
        "geglu 16x32x32 float16 float16",
        "conv2d 1x8x8x16x32x3x3x1x1 float16 float16",
        "attention 1x16x16x1x8 float16 none",
    ),
}
SPLAT = re.compile(r"\(\((\w+)\)\(([^,()]+)(?:, \2)+\)\)")


def source_of(target: str, text: str) -> str:
    """The default kernel of a workload; a vector of equal numbers is written once."""
    device = dataclasses.replace(profile(target), tuned={})
    workload = parse(text)
    library = build(kernel_of(workload, device, blank_arguments(workload, device)), device)
    source = library.mod.imports[0].inspect_source()
    head = f"// {target}: {text}, version {VERSIONS[workload.family]} of the family\n"
    return head + SPLAT.sub(r"((\1)(\2))", source[source.index("__kernel") :])


@pytest.mark.parametrize(
    ("target", "text"), [(key, text) for key, texts in WORKLOADS.items() for text in texts]
)
def test_the_kernel_is_the_one_that_records_are_about(
    target: str, text: str, request: pytest.FixtureRequest
) -> None:
    path = GOLDEN / f"{target}-{text.replace(' ', '-')}.cl"
    source = source_of(target, text)
    if request.config.getoption("refresh_golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")
    golden = path.read_text(encoding="utf-8").splitlines()
    difference = list(difflib.unified_diff(golden, source.splitlines(), "golden", "now", n=0, lineterm=""))
    shown = "\n".join(line[:200] for line in difference[:20])
    assert not difference, f"{path.name} is another kernel now, see the text of this file:\n{shown}"


def test_no_golden_kernel_is_left_over() -> None:
    known = {f"{target}-{text.replace(' ', '-')}.cl" for target, texts in WORKLOADS.items() for text in texts}
    assert {path.name for path in GOLDEN.iterdir()} == known
