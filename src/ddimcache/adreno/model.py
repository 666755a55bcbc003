"""A model of time on the Adreno 740, over what its compiler says. Nothing here was measured on a phone.

A launch takes what its busiest unit needs, and the launch itself::

    seconds = max(cycles / clock, bytes / bandwidth) + launch
    cycles  = waves a processor × max(arithmetic, texture, buffer, local, waiting)

all of a wave: *arithmetic* is the slots that issue, *texture* its image reads, *buffer* and *local* its
bytes, and *waiting* the length of a wave that runs alone, with every wait for memory, shared among the waves
that a processor holds. Every number that is not in the compiler's report is in :class:`Assumptions`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ddimcache.adreno.isa import InstructionMix, KernelStatistics
from ddimcache.launches import WorkSize


@dataclass(frozen=True)
class Assumptions:
    """What the model takes for granted of the device; where a number comes from stands beside it."""

    clock: float = 680e6
    """Cycles a second: the least of the clocks that the 740 is sold with (680 and 719 MHz)."""
    processors: int = 6
    """Shader processors: 1536 lanes over 256 of each (derived)."""
    lanes: int = 256
    """32-bit operations that a processor issues a cycle; 16-bit arithmetic takes half (derived)."""
    special_lanes: int = 32
    """Exponentials, roots and reciprocals a cycle of a processor (assumed)."""
    texels: int = 16
    """Pixels of four halves or bytes that a processor reads a cycle, out of its cache (assumed)."""
    buffer_bytes: int = 64
    """Bytes a cycle between a processor and the second cache (assumed)."""
    local_bytes: int = 128
    """Bytes a cycle of a processor's local memory (assumed)."""
    memory_latency: int = 400
    """Cycles from an access of a buffer or image to its result (assumed)."""
    bandwidth: float = 50e9
    """Bytes a second of memory: what remains in practice of 63 to 68 GB/s."""
    launch: float = 7.5e-6
    """Seconds from one launch to the next: the middle of 5 to 10 µs."""


ASSUMPTIONS = Assumptions()


@dataclass(frozen=True)
class KernelTime:
    """Modelled seconds of one launch, and what each unit alone would need.

    ``limit`` names the unit that needs most: ``arithmetic``, ``texture``, ``buffer``, ``local``, ``waiting``
    or ``memory``.
    """

    seconds: float
    limit: str
    units: dict[str, float]


def wave_work(statistics: KernelStatistics, macs_an_item: float = 0.0) -> list[tuple[InstructionMix, float]]:
    """Stretches of code with how often a work-item runs each.

    A loop whose count the code does not show runs as often as ``macs_an_item`` asks for, where it is the only
    one that multiplies; otherwise once.
    """
    known = [(loop.mix, loop.runs) for loop in statistics.loops]
    counted = sum(mix.multiply_adds * runs for mix, runs in known if runs is not None)
    unknown = [mix for mix, runs in known if runs is None and mix.multiply_adds]
    estimate = 1.0
    if len(unknown) == 1:
        estimate = max((macs_an_item - counted) / unknown[0].multiply_adds, 1.0)
    work = [(mix, float(runs) if runs is not None else estimate) for mix, runs in known]
    return [(statistics.straight, 1.0), *work]


def kernel_time(
    parts: Sequence[tuple[KernelStatistics, WorkSize]],
    moved_bytes: int,
    macs: int = 0,
    assumptions: Assumptions = ASSUMPTIONS,
) -> KernelTime:
    """The modelled time of one launch of a kernel whose device functions are ``parts``.

    ``moved_bytes`` are what it reads and writes, each argument once; ``macs`` its multiply-accumulates.
    """
    cycles = dict.fromkeys(("arithmetic", "texture", "buffer", "local", "waiting"), 0.0)
    for statistics, size in parts:
        items = math.prod(size.items)
        groups = math.prod(size.groups)
        waves = groups * -(-items // statistics.wave_size)
        share = -(-waves // assumptions.processors)
        resident = max(min(statistics.waves, share), 1)
        per_wave = _wave_cycles(statistics, macs / (items * groups), assumptions)
        per_wave["waiting"] /= resident
        for unit, amount in per_wave.items():
            cycles[unit] += share * amount
    units = {unit: amount / assumptions.clock for unit, amount in cycles.items()}
    units["memory"] = moved_bytes / assumptions.bandwidth
    limit = max(units, key=lambda unit: units[unit])
    return KernelTime(units[limit] + assumptions.launch * len(parts), limit, units)


def _wave_cycles(statistics: KernelStatistics, macs_an_item: float, assume: Assumptions) -> dict[str, float]:
    """Cycles of a processor that one wave keeps each unit busy, and how long it takes alone."""
    cycles = dict.fromkeys(("arithmetic", "texture", "buffer", "local", "waiting"), 0.0)
    width = statistics.wave_size
    for mix, runs in wave_work(statistics, macs_an_item):
        issued = mix.issue - mix.waits - mix.special
        slots = issued - mix.mad_f16 / 2
        busy = slots * width / assume.lanes + mix.special * width / assume.special_lanes
        spilled = 4 * mix.spills
        moved = mix.global_load_bytes + mix.global_store_bytes + spilled
        cycles["arithmetic"] += runs * busy
        cycles["texture"] += runs * mix.texture * width / assume.texels
        cycles["buffer"] += runs * moved * width / assume.buffer_bytes
        cycles["local"] += runs * mix.local_bytes * width / assume.local_bytes
        cycles["waiting"] += runs * (busy + mix.waits + mix.syncs * assume.memory_latency)
    return cycles
