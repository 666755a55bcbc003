"""Device profiles: everything passes and schedules may ask about a device, as data.

Passes and schedules read a :class:`DeviceProfile`; none of them looks at a device's name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ddimcache.compiler.options import HOSTS
from ddimcache.errors import UsageError
from ddimcache.kernels.tiling import PIXEL
from ddimcache.kernels.workload import Workload


@dataclass(frozen=True)
class PixelTable:
    """What products take per device that read pixels (``schedules/pixel_products.py``).

    Numbers that are 0 are chosen by the schedule, shape by shape.
    """

    longest: int
    """Multiply-adds of one sum in float16, at most: a longer reduction is shared among work-items."""
    shortened: int
    """The same for a reduction that has no more, where its weights speak against one sum."""
    most_half_error: float
    """Relative error of a sum in float16 above which they do (``accumulate.py``)."""
    local_bytes: int
    """Local memory of a work-item, at most: more of it and fewer waves are resident."""
    most_items: int
    """Work-items of a work-group, at most."""
    most_chunk: int
    """Pixels of a row between two barriers, at most."""
    attention_together: int
    """Pixels of each of four keys or values that attention reads before it multiplies them, at most: as many
    as registers take; :meth:`together_of` has those of a team."""
    attention_group: int
    """Work-items of an attention work-group, at most, or one team (``kernels/attention/pixels.py``)."""
    rows: int = 0
    """Rows (pixels or tokens) of a work-item."""
    chunk: int = 0
    """Pixels of a row between two barriers."""
    down: int = 0
    """Work-items of a work-group that share a panel of weights."""
    across: int = 0
    """Panels of a work-group."""
    parts: int = 0
    """Work-items that share a reduction."""

    def sums_of(self, depth: int, taps: int, in_half: bool) -> str | None:
        """How ``taps`` times ``depth`` products are summed; None where ``depth`` is not made of pixels.

        Where they are not to be summed ``in_half``, in float16, float32 is all that is left.
        """
        if depth % PIXEL:
            return None
        if not in_half:
            return "float"
        return "half" if depth * taps <= self.longest else "chunks"

    def longest_of(self, sums: str, length: int) -> int:
        """Multiply-adds of one sum in float16 of ``length`` products that are summed as ``sums`` says."""
        if sums != "chunks":
            return length
        return self.longest if length > self.longest else self.shortened

    def together_of(self, team: int) -> int:
        """Pixels of each key or value that a team of ``team`` work-items reads together.

        One less where it is more than a work-group should be, whose waves are twice as wide: the registers
        that the last one takes would leave half as many of them.
        """
        return max(self.attention_together - (team > self.attention_group), 1)

    def rows_of(self, width: int, dtype: str, together: bool = False) -> int:
        """Rows of a work-item whose panels have ``width`` output channels: what 12 registers take.

        Sums of ``dtype`` float32 take twice the registers, and weights too. Where rows are ``together`` they
        have one place for all (``kernels/pixels.py``), which leaves registers for more.
        """
        if self.rows:
            return self.rows
        wide = width == 2 * PIXEL
        if dtype == "float16":
            return 6 if wide and together else 5 if wide else 8 if together else 6
        return 2 if wide else 5 if together else 4


@dataclass(frozen=True)
class AttentionTable:
    """What blocked attention takes per device; see ``kernels/attention/blocked.py``."""

    vectors: int
    """Vectors of queries that are computed together in registers."""
    parts: int
    """How many times as many a work-item has, at most: a block of keys is in a near cache for all of them."""
    block: int
    """Keys of a block, at most."""
    keys: int
    """Keys that are scored together in registers."""
    values: int
    """Values that are summed together in registers, at most."""
    instruction: bool = False
    """Whether functions of the runtime are called, as a ``DotTable`` has them: for powers of two, for
    products in bfloat16 and for what is read next."""


@dataclass(frozen=True)
class BlockTable:
    """What blocked matrix products take per device; see ``kernels/matmul/blocked.py``."""

    rows: int
    """Rows of a work-group, at most."""
    columns: int
    """Output channels of a work-group, at most: more share the inputs of its rows."""
    depth: int
    """Inputs of a row that are multiplied before the next panel of weights, at most."""
    strip: int
    """Rows that one panel of weights is multiplied with in registers."""
    groups: int
    """Work-groups that a launch should have."""


@dataclass(frozen=True)
class DotTable:
    """What products of int8 take per device; see ``kernels/matmul/dots.py``."""

    rows: int
    """Rows of a work-group, at most: each weight is loaded once for all of them."""
    bytes: int
    """Bytes of the rounded rows of a work-group, at most."""
    strip: int
    """Rows that one panel of weights is multiplied with in registers."""
    groups: int
    """Work-groups that a launch should have."""
    instruction: bool
    """Whether sums are taken by a function of the runtime, which knows the device's instructions."""


@dataclass(frozen=True)
class WinogradTable:
    """What Winograd's convolutions take per device; see ``kernels/conv2d/winograd.py``."""

    tiles: int
    """Tiles of 4 x 4 outputs of a work-group, at most; of 2 x 2 as many as fit into as much memory."""
    columns: int
    """Output channels of a work-group, at most: more share the transformed inputs of its tiles."""
    depth: int
    """Input channels that are transformed at a time, at most."""
    rows: int
    """Tiles that one panel of weights is multiplied with in registers."""
    groups: int
    """Work-groups that a launch should have, where that only costs inputs transformed again."""
    size: int = 0
    """Side of a tile, 2 or 4; 0 takes the one that the schedule's two costs speak for."""


@dataclass(frozen=True)
class TiledTable:
    """What Winograd's convolutions in two launches take; see ``schedules/tiled_convolutions.py``."""

    most_bytes: int
    """Bytes of a transformed input, at most, where no other tensor of its function has more.

    What is larger is convolved directly."""
    longest: int
    """Input channels whose products are one sum in float16, at most. What the transforms add to the error of
    a sum makes it as large as that of three times as many products of the direct convolution."""


@dataclass(frozen=True)
class NormTable:
    """How GroupNorm is shared out per device; see ``kernels/group_norm``."""

    pixels: int
    """Pixels up to which all of it is one launch."""
    threads: int
    """Work-items of a work-group of that launch, at most; 1 where each has caches of its own."""
    bands: int
    """Bands of rows of a larger picture, at most, whose sums each work-group adds up again; 0 for none."""
    summed_pixels: int = 0
    """Pixels up to which the statistics of a larger picture without bands are one launch."""
    widest: int = 0
    """Channels of a lone work-item of that launch, at most, where there are work-groups enough."""


@dataclass(frozen=True)
class TileTable:
    """Numbers that the schedules take per device; tuned ones replace them shape by shape."""

    vector: int
    """Elements a vector load or an arithmetic vector has."""
    rows: int
    """Rows (pixels or tokens) of a matrix product that one work-item keeps in registers."""
    columns: tuple[int, ...]
    """Output channels of a packed weight panel, best first; the first that divides them is taken."""
    work_group: int
    """Work-items of a work-group in matrix products."""
    injective_work_group: int
    """Work-items of a work-group in element-wise kernels."""
    injective_vectors: int
    """Vectors that one work-item of an element-wise kernel computes."""
    attention_queries: int
    """Queries that one attention work-item keeps as the lanes of a vector."""
    attention_keys: int
    """Keys that an attention work-item scores before it updates its running maximum."""
    attention: AttentionTable | None = None
    """Without it an attention work-item has one vector of queries and shares nothing."""
    blocks: BlockTable | None = None
    """For matrix products; without it a work-item computes a tile and shares nothing."""
    dots: DotTable | None = None
    """For matrix products with activations rounded to int8; without it there are none."""
    winograd: WinogradTable | None = None
    """For 3x3 convolutions of stride 1; without it they are computed directly."""
    tiled: TiledTable | None = None
    """The same in two launches, where products read pixels; without it they are computed directly."""
    pixels: PixelTable | None = None
    """Set where products read their operands as pixels."""
    team: int = 1
    """Work-items that share a row of a LayerNorm, or the sums of a group of a GroupNorm, at most."""
    norms: NormTable | None = None
    """For GroupNorm; without it statistics are launches of their own, and what uses them is another."""

    def columns_of(self, sums: str | None) -> tuple[int, ...]:
        """``columns`` of weights whose products are summed so, by :meth:`PixelTable.sums_of`.

        With sums in float32 of pixels a panel is a pixel: a weight in float32 is twice the local memory,
        which more rows share then. A gated one is two values and their gates.
        """
        return (PIXEL,) if sums == "float" else self.columns


Decisions = Mapping[str, int]
"""Numbers of a :class:`TileTable` by their dotted places: ``blocks.rows``, ``pixels.down``."""


def with_decisions(tiles: TileTable, decisions: Decisions) -> TileTable:
    """``tiles`` with other numbers; one for ``columns`` is the only width. Places must be there."""
    for place, number in decisions.items():
        tiles = _replaced(tiles, place.split("."), number)
    return tiles


def _replaced(node: Any, path: list[str], number: int) -> Any:
    first, *rest = path
    old = node[first] if isinstance(node, dict) else getattr(node, first)
    new = _replaced(old, rest, number) if rest else (number,) if isinstance(old, tuple) else number
    return {**node, first: new} if isinstance(node, dict) else dataclasses.replace(node, **{first: new})


@dataclass(frozen=True)
class DeviceProfile:
    """What the compiler knows of a device.

    ``kind`` is the TVM target kind; sizes are in bytes; ``compute_dtype`` is the dtype of stored
    activations and float weights; how products are summed is ``compiler/accumulate.py``'s to say.
    """

    name: str
    kind: str
    compute_dtype: str
    max_threads: int
    max_local_memory: int
    max_allocation: int
    wanted_activations: int
    """Bytes: a component whose plan is larger is compiled in bands of rows, as far as that helps."""
    max_kernel_arguments: int
    max_argument_bytes: int
    max_work_items: tuple[int, int, int]
    """Work-items of a work-group along x, y and z."""
    max_image_pixels: int
    """Of an image over a buffer; what has more is read as a buffer."""
    tiles: TileTable
    tuned: Mapping[Workload, Decisions] = field(default_factory=dict, compare=False)
    """What tuning records decided for single workloads."""

    @property
    def most_arguments(self) -> int:
        """Tensors that a kernel may take and give."""
        # Each is a pointer of at most 8 bytes in a kernel's argument block.
        return min(self.max_kernel_arguments, self.max_argument_bytes // 8)

    def tiles_of(self, workload: Workload | None) -> TileTable:
        """The tiles for a workload: the family's defaults, but what a tuning record decided."""
        decisions = None if workload is None else self.tuned.get(workload)
        return self.tiles if decisions is None else with_decisions(self.tiles, decisions)

    def tvm_target(self, host: str = "x86_64-linux-gnu") -> Any:
        """The TVM target whose host part runs on ``host`` (one of ``HOSTS``, which are LLVM triples).

        Raises :class:`UsageError` for a host that is not supported.
        """
        import tvm

        if host not in HOSTS:
            raise UsageError(f"host '{host}' is not supported; use one of {', '.join(HOSTS)}")
        host_target: dict[str, Any] = {"kind": "llvm", "mtriple": host}
        if self.kind == "llvm":
            if host.startswith("x86_64"):
                host_target["mcpu"] = "x86-64-v3"
            return tvm.target.Target(host_target)
        device: dict[str, Any] = {
            "kind": self.kind,
            "max_num_threads": self.max_threads,
            "max_shared_memory_per_block": self.max_local_memory,
        }
        return tvm.target.Target(device, host=tvm.target.Target(host_target))


_CPU_ATTENTION = AttentionTable(vectors=2, parts=16, block=64, keys=8, values=8)
_CPU_DOTS = DotTable(rows=128, bytes=256 << 10, strip=8, groups=8, instruction=False)
_CPU_TILES = TileTable(
    vector=16,
    rows=8,
    columns=(32, 48, 16),
    work_group=1,
    injective_work_group=16,
    injective_vectors=8,
    attention_queries=16,
    attention_keys=16,
    attention=_CPU_ATTENTION,
    blocks=BlockTable(rows=128, columns=320, depth=320, strip=8, groups=8),
    dots=_CPU_DOTS,
    winograd=WinogradTable(tiles=32, columns=160, depth=64, rows=8, groups=8),
    # Sums of 160 channels and of their squares are 20 of 32 registers.
    norms=NormTable(pixels=1024, threads=1, bands=16, widest=160),
)

PROFILES = {
    # PoCL and other OpenCL devices that run on a CPU's vector units; 3.1 has no cl_khr_fp16.
    "opencl": DeviceProfile(
        name="opencl",
        kind="opencl",
        compute_dtype="float32",
        max_threads=1024,
        max_local_memory=32 << 10,
        max_allocation=1 << 30,
        wanted_activations=1 << 40,
        max_kernel_arguments=128,
        max_argument_bytes=1024,
        max_work_items=(1024, 1024, 64),
        # What OpenCL 3.0 guarantees (CL_DEVICE_IMAGE_MAX_BUFFER_SIZE); nothing is read as pixels here.
        max_image_pixels=65536,
        tiles=dataclasses.replace(
            _CPU_TILES,
            attention=dataclasses.replace(_CPU_ATTENTION, instruction=True),
            dots=dataclasses.replace(_CPU_DOTS, instruction=True),
        ),
    ),
    # Limits as Qualcomm's OpenCL guide gives them for the phone's driver.
    "adreno-740": DeviceProfile(
        name="adreno-740",
        kind="opencl",
        compute_dtype="float16",
        max_threads=1024,
        max_local_memory=32 << 10,
        max_allocation=1 << 30,
        # The best plan published for a decoder of 512x512 (ML Drift, arXiv 2505.00232).
        wanted_activations=320_000_000,
        max_kernel_arguments=128,
        max_argument_bytes=1024,
        max_work_items=(1024, 1024, 1024),
        # As clinfo's listings of phones with Adreno 6xx and 7xx have it.
        max_image_pixels=1 << 27,
        tiles=TileTable(
            vector=4,
            rows=4,
            columns=(8, 4),
            work_group=64,
            injective_work_group=64,
            injective_vectors=1,
            attention_queries=4,
            attention_keys=8,
            team=256,
            norms=NormTable(pixels=1024, threads=256, bands=0, summed_pixels=4096),
            pixels=PixelTable(
                longest=384,
                shortened=128,
                # Between what evenly spread weights make of 384 products (0.39 %) and the most (0.55 %).
                most_half_error=0.0045,
                local_bytes=32,
                most_items=512,
                most_chunk=16,
                attention_together=4,
                attention_group=64,
            ),
            # The UNet of SD 1.5 at 512x512 plans 58.2 MB with it, and 68.7 with 31 MB, of 65 that it may.
            tiled=TiledTable(most_bytes=20 << 20, longest=240),
        ),
    ),
    "llvm": DeviceProfile(
        name="llvm",
        kind="llvm",
        compute_dtype="float32",
        max_threads=1024,
        max_local_memory=32 << 10,
        # Kernels count numbers in int32; the largest have 4 bytes.
        max_allocation=4 * (2**31 - 1),
        wanted_activations=1 << 40,
        max_kernel_arguments=1 << 16,
        max_argument_bytes=1 << 20,
        max_work_items=(1024, 1024, 1024),
        max_image_pixels=1 << 40,
        tiles=_CPU_TILES,
    ),
}


def with_limits(profile: DeviceProfile, limits: Mapping[str, int]) -> DeviceProfile:
    """``profile`` with each of ``limits`` that is lower than its own."""
    return dataclasses.replace(
        profile, **{name: min(number, getattr(profile, name)) for name, number in limits.items()}
    )


def profile(name: str) -> DeviceProfile:
    """The device profile called ``name``; raises :class:`UsageError` when there is none."""
    if name not in PROFILES:
        raise UsageError(f"target '{name}' is not known; use one of {', '.join(sorted(PROFILES))}")
    return PROFILES[name]
