"""What may be decided about a workload: places of a ``TileTable`` and the numbers that they may have.

A decision is a number of the table and no program: it outlives the schedule's code and TVM's versions, as
long as the place means the same. Where that changes, the family's entry of :data:`VERSIONS` goes up, and
older records are stale. Only numbers of the space are taken from a record: a bad one costs time at most.
"""

from __future__ import annotations

from collections.abc import Iterable

from ddimcache.compiler.target import Decisions, TileTable, with_decisions
from ddimcache.kernels.attention.blocked import parts_of
from ddimcache.kernels.matmul.dots import LANES
from ddimcache.kernels.matmul.kernel import panel_width
from ddimcache.kernels.tiling import PIXEL
from ddimcache.kernels.workload import Workload

VERSIONS = {"matmul": 3, "geglu": 3, "conv2d": 4, "attention": 5}
"""By family; raised when a decision comes to mean something else, or a better kernel has others."""

PRIVATE_BYTES = 1_700_000
"""Memory that a work-item may keep: a CPU device takes it from a thread's stack, often of 2 MiB."""

Space = dict[str, tuple[int, ...]]
"""Numbers that may be chosen, by place."""

_PANELS = (8, 16, 24, 32, 48, 64, 80, 96)


def space_of(tiles: TileTable, workload: Workload) -> Space:
    """The decisions about ``workload`` on a device with these ``tiles``; the defaults are among them.

    They are those of the schedule that takes the workload: products of int8, blocks, Winograd, pixels, or a
    tile a work-item.
    """
    if workload.family == "attention":
        space = _attention_space(tiles, workload)
    elif sums_of(tiles, workload) is not None:
        pixels = _reduction(workload)[0] // PIXEL
        space = {
            "pixels.rows": (0, 2, 3, 4, 5, 6, 7, 8),
            "pixels.chunk": (0, *_divisors(pixels, *range(1, 17))),
            "pixels.down": (0, 8, 16, 32, 64),
            "pixels.across": (0, 1, 2, 4, 8, 16),
            "pixels.parts": (0, 1, 2, 4, 8, 16, 32, 64),
        }
    else:
        space = _vector_space(tiles, workload)
    default = defaults(tiles, workload, space)
    return {place: tuple(sorted({*numbers, default[place]})) for place, numbers in space.items()}


def defaults(tiles: TileTable, workload: Workload, places: Iterable[str]) -> dict[str, int]:
    """What ``tiles`` has at ``places``, for ``workload``."""
    found: dict[str, int] = {}
    for place in places:
        node: object = tiles
        for name in place.split("."):
            node = node[name] if isinstance(node, dict) else getattr(node, name)
        found[place] = panel_width(_channels(workload), node) if isinstance(node, tuple) else int(node)  # type: ignore[call-overload]
    return found


def problem(tiles: TileTable, workload: Workload, decisions: Decisions) -> str | None:
    """Why ``decisions`` cannot be taken for ``workload``, or ``None``."""
    space = space_of(tiles, workload)
    for place, number in decisions.items():
        if place not in space:
            return f"{workload.family} {workload.shape} has no decision {place!r}"
        if number not in space[place]:
            return f"{place} cannot be {number}, only {', '.join(map(str, space[place]))}"
    return _misfit(with_decisions(tiles, decisions), workload)


def tiles_for_panels(
    tiles: TileTable, workload: Workload, decisions: Decisions | None, width: int
) -> tuple[TileTable, Decisions | None]:
    """Tiles of a product whose weight lies in panels of ``width`` channels, and the decisions they have.

    Bands and sizes of a picture share a weight, and one of them chose its panels. A record of another that
    wants others is left out, and blocks are made smaller where the defaults would keep too much.
    """
    decided = tiles if decisions is None else with_decisions(tiles, decisions)
    if sums_of(tiles, workload) or panel_width(_channels(workload), decided.columns) == width:
        return decided, decisions
    tiles = with_decisions(tiles, {"columns": width})
    place = "winograd.tiles" if is_winograd(tiles, workload) else "blocks.rows"
    while _private_bytes(tiles, workload) > PRIVATE_BYTES:
        [number] = defaults(tiles, workload, [place]).values()
        tiles = with_decisions(tiles, {place: number // 2})
    return tiles, None


def _misfit(tiles: TileTable, workload: Workload) -> str | None:
    """What of the numbers together does not fit, or ``None``."""
    private = _private_bytes(tiles, workload)
    if private > PRIVATE_BYTES:
        return f"a work-item would keep {private} bytes, at most {PRIVATE_BYTES} are safe"
    return None


def sums_of(tiles: TileTable, workload: Workload) -> str | None:
    """How a product is summed that reads pixels, by length and weights; ``None`` for one that does not."""
    return None if tiles.pixels is None else tiles.pixels.sums_of(*_reduction(workload), workload.rounded)


def _reduction(workload: Workload) -> tuple[int, int]:
    """Depth and taps of a product."""
    if workload.family == "conv2d":
        return workload.sizes[3], workload.sizes[5] * workload.sizes[6]
    return workload.sizes[1], 1


def _channels(workload: Workload) -> int:
    return workload.sizes[4] if workload.family == "conv2d" else workload.sizes[2]


def is_winograd(tiles: TileTable, workload: Workload) -> bool:
    """Whether Winograd's filtering takes a convolution, if its panels are whole vectors."""
    return (
        tiles.winograd is not None
        and workload.family == "conv2d"
        and workload.sizes[5:] == (3, 3, 1, 1)
        and workload.sizes[3] % tiles.vector == 0
        and workload.sizes[4] % tiles.vector == 0
    )


def is_blocked(tiles: TileTable, workload: Workload) -> bool:
    """Whether a matrix product is computed in blocks."""
    return (
        tiles.blocks is not None
        and workload.family in ("matmul", "geglu")
        and workload.sizes[0] >= tiles.blocks.strip // 2
        and workload.sizes[1] % tiles.vector == 0
        and workload.sizes[2] % tiles.vector == 0
    )


def _upto(limit: int, *numbers: int) -> tuple[int, ...]:
    """Those of ``numbers`` that a shape with ``limit`` can tell apart, and the least of the others."""
    return (*(number for number in numbers if number < limit), *[n for n in numbers if n >= limit][:1])


def _divisors(size: int, *numbers: int) -> tuple[int, ...]:
    return tuple(number for number in numbers if size % number == 0)


def _vector_space(tiles: TileTable, workload: Workload) -> Space:
    channels, (depth, _) = _channels(workload), _reduction(workload)
    pairs = 2 if workload.family == "geglu" else 1
    if is_winograd(tiles, workload):
        return {
            "columns": _divisors(channels, *(width for width in _PANELS if width % tiles.vector == 0)),
            "winograd.size": (0, 2, 4),
            "winograd.tiles": (8, 16, 24, 32, 48, 64),
            "winograd.columns": _upto(channels, 32, 64, 96, 128, 160, 192, 256, 320, 640, 1280),
            "winograd.depth": _divisors(depth, 16, 32, 48, 64, 80, 96, 128, 160, 320),
            "winograd.rows": (4, 6, 8, 10, 12, 14),
            "winograd.groups": (2, 4, 8, 16),
        }
    if workload.dtype == "int8":
        rows = workload.sizes[0]
        panels = [width for width in _PANELS if width % LANES == 0]
        return {
            "columns": _divisors(channels, *panels),
            "dots.rows": _upto(rows, 8, 16, 32, 48, 64, 96, 128, 192, 256),
            "dots.strip": _upto(rows, 4, 5, 6, 7, 8, 9, 10, 12),
            "dots.groups": (2, 4, 8, 16, 32),
        }
    if is_blocked(tiles, workload):
        rows = workload.sizes[0]
        panels = [width for width in _PANELS if width // pairs % tiles.vector == 0]
        return {
            "columns": _divisors(channels, *panels),
            "blocks.rows": _upto(rows, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384),
            "blocks.columns": _upto(channels, 32, 64, 96, 128, 160, 320, 640, 1280),
            "blocks.depth": _divisors(depth, 16, 32, 64, 80, 128, 160, 192, 256, 320, 384, 640, 768, 1280),
            "blocks.strip": _upto(rows, 4, 5, 6, 7, 8, 9, 10, 12, 14),
            "blocks.groups": (2, 4, 8, 16, 32),
        }
    return {
        "vector": (4, 8, 16),
        "rows": (1, 2, 4, 5, 6, 7, 8, 10, 12, 16),
        "columns": _divisors(channels, 4, *_PANELS),
        "work_group": (1, 2, 4, 8, 16, 32, 64),
    }


def _attention_space(tiles: TileTable, workload: Workload) -> Space:
    _, queries, tokens, _, width = workload.sizes
    if tiles.pixels is not None and width % PIXEL == 0 and workload.dtype == "float16":
        return {
            "pixels.attention_together": _upto(width // PIXEL, 1, 2, 3, 4, 5, 6, 7, 8, 10),
            "pixels.attention_group": (32, 64, 128, 192, 256, 384, 512),
        }
    if tiles.attention is None:
        return {
            "attention_queries": (4, 8, 16),
            "attention_keys": (4, 8, 16, 32),
            "work_group": (1, 16, 32, 64, 128),
        }
    values = tuple(count for count in range(1, 21) if width % count == 0)
    pairs = workload.dtype == "bfloat16"
    return {
        "attention_queries": (16,) if pairs else (8, 16),
        "attention.vectors": _upto(-(-queries // 16), 1, 2, 3, 4),
        "attention.parts": _upto(-(-queries // 16), 1, 2, 4, 6, 8, 12, 16, 32),
        "attention.block": _upto(tokens, 16, 24, 32, 40, 48, 64, 96, 128, 192, 256, 512),
        "attention.keys": (2, 4, 6, 8, 10, 12) if pairs else (2, 3, 4, 5, 6, 7, 8, 10, 12),
        "attention.values": values,
    }


def _private_bytes(tiles: TileTable, workload: Workload) -> int:
    """Bytes that the blocks of a work-item take, at most."""
    panel = panel_width(_channels(workload), tiles.columns) if workload.family != "attention" else 0
    if workload.family == "attention" and tiles.attention is not None and tiles.pixels is None:
        own, queries, width = tiles.attention, workload.sizes[1], workload.sizes[4]
        span = own.vectors * tiles.attention_queries
        parts = parts_of(own.parts, queries, span, width)
        block = max(own.block, own.keys)
        return 4 * (span * (parts * (2 * width + 2) + block + own.keys) + 2 * block * width)
    if is_winograd(tiles, workload):
        table = tiles.winograd
        assert table is not None
        vectors = table.tiles * (table.depth + max(panel, min(table.columns, _channels(workload))))
        return 4 * 36 * (vectors + table.depth * panel)
    if workload.dtype == "int8":
        # What ``dots.bytes`` bounds, which is no decision.
        return 0
    if is_blocked(tiles, workload):
        blocks = tiles.blocks
        assert blocks is not None
        kept = min(blocks.columns, _channels(workload)) * min(blocks.rows, workload.sizes[0])
        return 4 * (kept + blocks.depth * panel)
    return 0
