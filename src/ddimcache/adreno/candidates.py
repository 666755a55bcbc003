"""Tiles for the Adreno 740 without the phone: candidates go through its compiler and the model of time.

``python -m ddimcache.adreno.candidates conv2d:64x64x320x320 attention:4096x8x40`` compiles the
candidates of each shape in the lab, rejects what spills, does not fit the instruction cache or needs too much
local memory, and ranks the rest by modelled time. What was compiled before is not compiled again, so that it
may be stopped at any time.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import tvm
from tvm import te, tirx

from ddimcache.adreno.bars import broken
from ddimcache.adreno.isa import INSTRUCTION_CACHE, LOCAL_BYTES_LIMIT
from ddimcache.adreno.lab import LabError
from ddimcache.adreno.model import kernel_time
from ddimcache.adreno.report import statistics_of, with_work_sizes
from ddimcache.compiler.passes.list_launches import work_sizes
from ddimcache.compiler.passes.read_pixels import ReadPixels
from ddimcache.compiler.target import DeviceProfile, PixelTable, PixelTiles, profile
from ddimcache.errors import DdimcacheError, UsageError
from ddimcache.kernels.attention.kernel import Place
from ddimcache.kernels.attention.pixels import pixel_attention
from ddimcache.kernels.conv2d import kernel as conv2d
from ddimcache.kernels.matmul import kernel as matmul
from ddimcache.kernels.pixels import PixelSum
from ddimcache.kernels.tiling import PIXEL, wide
from ddimcache.schedules.apply import ApplySchedules

DEVICE = "adreno-740"


@dataclass(frozen=True)
class Score:
    """A candidate: its decisions, the modelled seconds of a launch, what limits it and what it breaks.

    ``rejected`` says why it cannot be taken at all; its time is infinite then.
    """

    decisions: dict[str, int]
    seconds: float
    limit: str
    breaks: tuple[str, ...]
    rejected: str = ""


def candidates(op: str, shape: Sequence[int]) -> Iterator[dict[str, int]]:
    """The decisions that are tried for a shape; raises :class:`UsageError` for an operation without any."""
    if op in ("matmul", "conv2d"):
        for rows, unroll, across in itertools.product((2, 4, 8), (1, 2), (8, 16, 32)):
            yield {"rows": rows, "unroll": unroll, "across": across, "down": 128 // across}
    elif op == "attention":
        widths = [part for part in (16, 20, 32, 40, 64, 80) if shape[2] % part == 0 or part > shape[2]]
        for keys, values, group in itertools.product((4, 8, 16), widths, (64, 128)):
            yield {"keys": keys, "values": values, "group": group}
    else:
        raise UsageError(f"operation {op!r} has no candidates", remedy="take matmul, conv2d or attention")


def build(op: str, shape: Sequence[int], decisions: dict[str, int]) -> tuple[tirx.PrimFunc, str, int, int]:
    """A candidate's kernel with its OpenCL source, multiply-accumulates, and bytes that it moves."""
    device = profile(DEVICE)
    table = device.tiles.pixels
    assert table is not None
    if op == "attention":
        function, macs, moved = _attention(shape, decisions)
    else:
        tiles = PixelTiles(**decisions)
        device = _with_tiles(device, dataclasses.replace(table, tiles=dict.fromkeys(table.tiles, tiles)))
        function, macs, moved = (_matmul if op == "matmul" else _conv2d)(shape, table)
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    with device.tvm_target():
        module = ApplySchedules(device)(module)  # type: ignore[operator]
    scheduled = module["main"]
    library = tvm.compile(ReadPixels()(module), target=device.tvm_target())  # type: ignore[operator]
    return scheduled, library.mod.imports[0].inspect_source(), macs, moved


def score(op: str, shape: Sequence[int], decisions: dict[str, int]) -> Score:
    """Compiles a candidate in the lab and times it by the model.

    What the compiler refuses is a rejected score and no error; without a lab it raises :class:`LabError`.
    """
    try:
        function, source, macs, moved = build(op, shape, decisions)
        sizes = work_sizes(function)
        parts = statistics_of(with_work_sizes(source, sizes))
    except tvm.TVMError as error:
        return Score(decisions, math.inf, "", (), f"cannot be scheduled: {str(error).splitlines()[-1][:200]}")
    except LabError as error:
        if "does not compile" not in str(error):
            raise
        return Score(decisions, math.inf, "", (), str(error).splitlines()[0])
    for part in parts:
        if part.private_bytes or part.spills:
            return Score(decisions, math.inf, "", (), f"spills {part.private_bytes} B")
        if part.instructions > INSTRUCTION_CACHE or part.local_bytes > LOCAL_BYTES_LIMIT:
            return Score(decisions, math.inf, "", (), f"{part.instructions} instructions")
    time = kernel_time(list(zip(parts, sizes, strict=True)), moved, macs)
    family = "attention" if op == "attention" else "product"
    problems = tuple(problem for part in parts for problem in broken(part, family))
    return Score(decisions, time.seconds, time.limit, problems)


def search(op: str, shape: Sequence[int], scored: Callable[[Score], object] = lambda _: None) -> list[Score]:
    """Every candidate of a shape, the best first: those that break no demand, then by modelled time."""

    def one(decisions: dict[str, int]) -> Score:
        result = score(op, shape, decisions)
        scored(result)
        return result

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(one, candidates(op, shape)))
    return sorted(found, key=lambda entry: (bool(entry.rejected), bool(entry.breaks), entry.seconds))


def _with_tiles(device: DeviceProfile, table: PixelTable) -> DeviceProfile:
    return dataclasses.replace(device, tiles=dataclasses.replace(device.tiles, pixels=table))


def _arguments(*specs: tuple[Sequence[int], str]) -> tuple[list[te.Tensor], int]:
    tensors = [te.placeholder(wide(shape), dtype, f"p{index}") for index, (shape, dtype) in enumerate(specs)]
    return tensors, sum(math.prod(shape) * tvm.DataType(dtype).itemsize for shape, dtype in specs)


def _sum_of(table: PixelTable, depth: int, taps: int = 1) -> PixelSum:
    found = table.sum_of(depth, taps)
    if found is None:
        raise UsageError(f"a reduction over {depth} numbers is not made of pixels of {PIXEL}")
    return found


def _matmul(shape: Sequence[int], table: PixelTable) -> tuple[tirx.PrimFunc, int, int]:
    rows, depth, channels = shape
    panels = -(-channels // PIXEL)
    inputs, moved = _arguments(
        ((1, rows, depth), "float16"), ((panels, depth, PIXEL), "int8"), ((channels,), "float32")
    )
    x, weight, scale = inputs
    out = matmul.matmul(x, weight, scale, channels, "float16", _sum_of(table, depth))
    return te.create_prim_func([*inputs, out]), rows * depth * channels, moved + 2 * rows * channels


def _conv2d(shape: Sequence[int], table: PixelTable) -> tuple[tirx.PrimFunc, int, int]:
    height, width, depth, channels = shape
    panels = -(-channels // PIXEL)
    inputs, moved = _arguments(
        ((1, height + 2, width + 2, depth), "float16"),
        ((panels, 3, 3, depth, PIXEL), "int8"),
        ((channels,), "float32"),
    )
    x, weight, scale = inputs
    out = conv2d.conv2d(x, weight, scale, channels, (1, 1), "float16", _sum_of(table, depth, 9))
    macs = height * width * 9 * depth * channels
    return te.create_prim_func([*inputs, out]), macs, moved + 2 * height * width * channels


def _attention(shape: Sequence[int], decisions: dict[str, int]) -> tuple[tirx.PrimFunc, int, int]:
    tokens, heads, width = shape
    size = heads * width
    q, k, v = (Place(3 * size, index * size) for index in range(3))
    function = pixel_attention(
        (1, tokens, heads, width),
        tokens,
        "float16",
        width**-0.5,
        value_part=decisions["values"],
        key_block=decisions["keys"],
        work_group=decisions["group"],
        has_bias=False,
        places=(q, k, v),
    )
    return function, 2 * heads * tokens * tokens * width, 8 * tokens * size


def _parse(text: str) -> tuple[str, tuple[int, ...]]:
    op, _, sides = text.partition(":")
    counts = {"matmul": 3, "conv2d": 4, "attention": 3}
    try:
        shape = tuple(int(side) for side in sides.split("x"))
    except ValueError:
        shape = ()
    if len(shape) != counts.get(op) or min(shape) < 1:
        raise UsageError(
            f"{text!r} is no shape",
            remedy="write matmul:ROWSxDEPTHxCHANNELS, conv2d:HEIGHTxWIDTHxDEPTHxCHANNELS or "
            "attention:TOKENSxHEADSxWIDTH",
        )
    return op, shape


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the search of the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ddimcache.adreno.candidates", description=__doc__)
    parser.add_argument("shapes", nargs="+", help="OP:SIDESxOFxSHAPE")
    options = parser.parse_args(arguments)
    try:
        for op, shape in [_parse(text) for text in options.shapes]:
            print(f"{op} {'x'.join(map(str, shape))} (modelled)")
            found = search(op, shape, lambda _: print(".", end="", file=sys.stderr, flush=True))
            for entry in found:
                verdict = entry.rejected or "; ".join(entry.breaks)
                print(f"  {entry.seconds * 1e3:9.3f} ms  {entry.limit:10}  {entry.decisions}  {verdict}")
    except DdimcacheError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
