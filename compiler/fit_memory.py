"""Compiles a component into the memory that it may have, in as few bands of rows as that takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from ddimcache.compiler.memory_plan import Plan, buffers, output_bytes, plan_in_turns
from ddimcache.compiler.passes.tile_rows import Tiling
from ddimcache.compiler.pipeline import Compilation, Request
from ddimcache.errors import CompileError

BANDS = (2, 3, 4, 6, 8, 12, 16)
"""Numbers of bands that are tried, in this order."""

SHARE = 8
"""Tensors above this part of the wanted size are cut: at most so many of them make the peak."""


TILES_SHARE = 4
"""Transformed tiles of a convolution may have this part of the wanted size, where bands are many enough."""


@dataclass(frozen=True)
class MemoryLimits:
    """Bytes that a component's planned activations may take.

    ``wanted`` is what tiling aims at, ``wanted_by`` who wants it; above ``most`` nothing is compiled, and no
    buffer may be larger than ``allocation``.
    """

    wanted: int
    wanted_by: str
    most: int
    allocation: int
    beside: tuple[Plan, ...] = ()
    """Components that share their storages with it: only what it takes beyond them counts."""
    most_by: str = ""
    """Who sets ``most``, where that is another one."""

    def taken(self, plan: Plan) -> int:
        """The bytes of ``plan`` that count."""
        return plan_in_turns((*self.beside, plan)).bytes - plan_in_turns(self.beside).bytes


def fit(request: Request, limits: MemoryLimits, run: Callable[[Request], Compilation]) -> Compilation:
    """Runs ``request`` in one piece and, where that is too large, in more and more bands until it fits.

    Without a number of bands that reaches what is wanted the least plan is taken. On a device whose
    convolutions may be in tiles twice as many bands are taken where they fit too, as more tiles do then.
    Raises :class:`CompileError` with figures when even the least is above what is possible.
    """
    tried = [_Trial(1, run(request), limits)]
    if not tried[0].fits(limits):
        whole = tried[0]
        if whole.largest > limits.allocation:
            reason = f"a buffer of {_text(whole.largest)} is above the device's {_text(limits.allocation)}"
        else:
            reason = f"one piece needs {_text(whole.bytes)}, {limits.wanted_by} {_text(limits.wanted)}"
        least = -(-whole.largest // limits.allocation)
        limit = min(limits.wanted // SHARE, limits.allocation // 2)
        for bands in BANDS:
            if bands < least:
                continue
            tiling = Tiling(bands, limit, reason)
            trial = _Trial(bands, run(dataclasses.replace(request, tiling=tiling)), limits)
            tried.append(trial)
            # More bands have more edges: once the plans begin to grow, they go on.
            if trial.fits(limits) or (len(tried) > 3 and trial.bytes >= tried[-2].bytes):
                break
    possible = [trial for trial in tried if trial.largest <= limits.allocation]
    best = min(possible or tried, key=lambda trial: (not trial.fits(limits), trial.bytes))
    name = request.component.name
    if best.largest > limits.allocation:
        raise CompileError(
            f"a buffer of {_text(best.largest)} is needed in {best.bands} bands of rows, the device takes at "
            f"most {_text(limits.allocation)}",
            where=name,
            remedy="take a smaller --size or --batch",
        )
    if best.bytes > limits.most:
        raise CompileError(
            f"activations need {_text(best.bytes)} {_pieces(best.bands)}; "
            f"{limits.most_by or limits.wanted_by} {_text(limits.most)}",
            where=name,
            remedy="take a smaller --size or --batch, or a larger --memory-budget",
        )
    if best.bands > 1 and best.fits(limits) and request.profile.tiles.tiled is not None:
        tiling = Tiling(2 * best.bands, limit, f"{reason}; tiles fit", limits.wanted // TILES_SHARE)
        best = _with_more_tiles(best, dataclasses.replace(request, tiling=tiling), limits, run)
    return best.compilation


def _with_more_tiles(
    best: _Trial, request: Request, limits: MemoryLimits, run: Callable[[Request], Compilation]
) -> _Trial:
    """``request`` compiled where it fits and its tiles save more than those of ``best``, else ``best``."""
    assert request.tiling is not None
    try:
        trial = _Trial(request.tiling.bands, run(request), limits)
    except CompileError:
        # Nothing is lost: ``best`` is whole, and this one was for speed alone.
        return best
    saves = trial.compilation.cycles_saved > best.compilation.cycles_saved
    return trial if saves and trial.fits(limits) else best


def planned(compilation: Compilation) -> Plan:
    """The plan of a compilation: the storages of all its functions, and the outputs of the largest."""
    outputs = max(output_bytes(compilation.module[name]) for name in compilation.inputs)
    return Plan(compilation.storages, outputs)


class _Trial:
    """A compilation in ``bands`` bands, with the bytes of it that count and those of its largest buffer."""

    def __init__(self, bands: int, compilation: Compilation, limits: MemoryLimits) -> None:
        self.bands, self.compilation = bands, compilation
        self.bytes = limits.taken(planned(compilation))
        plans = [buffers(compilation.module[name]) for name in compilation.inputs]
        self.largest = max(max(plan, default=0) for plan in plans)

    def fits(self, limits: MemoryLimits) -> bool:
        return self.bytes <= limits.wanted and self.largest <= limits.allocation


def _pieces(bands: int) -> str:
    return f"in {bands} bands of rows, the best number of them" if bands > 1 else "in one piece"


def _text(count: int) -> str:
    """Megabytes with a digit behind the point; smaller numbers exactly."""
    return f"{count / 1e6:.1f} MB" if count >= 10**6 else f"{count} bytes"
