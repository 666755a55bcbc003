"""What a kernel for the Adreno 740 must be like, and which demands one breaks."""

from __future__ import annotations

from ddimcache.adreno.isa import INSTRUCTION_CACHE, LOCAL_BYTES_LIMIT, KernelStatistics

PRODUCT_SHARE = 0.60
"""Least share of multiply-adds in the hot loop of a matrix product or convolution."""

ATTENTION_SHARE = 0.35
"""The same for attention, which also takes exponentials."""

WAVES = 8
"""Least waves of 128 work-items that a processor holds of a matrix product or convolution."""


def broken(statistics: KernelStatistics, family: str) -> list[str]:
    """The demands that a kernel breaks, with figures; ``family`` is as :func:`family_of` gives it."""
    found = []
    if statistics.spills or statistics.private_bytes:
        found.append(f"spills {statistics.private_bytes} B")
    if statistics.local_bytes > LOCAL_BYTES_LIMIT:
        found.append(f"local memory {statistics.local_bytes} B")
    if statistics.instructions > INSTRUCTION_CACHE:
        found.append(f"{statistics.instructions} instructions")
    hot = statistics.hot_loop
    mix = hot.mix if hot is not None else statistics.total
    least = {"product": PRODUCT_SHARE, "attention": ATTENTION_SHARE}.get(family)
    if least is not None and mix.multiply_add_share < least:
        found.append(f"multiply-adds {mix.multiply_add_share:.0%}")
    if family == "product" and statistics.waves * statistics.wave_size < WAVES * 128:
        found.append(f"waves {statistics.waves} x {statistics.wave_size}")
    if least is not None and mix.narrow_loads:
        found.append(f"{mix.narrow_loads} narrow loads")
    return found


def family_of(kernel: str, macs: int) -> str:
    """``attention``, ``product`` for every other kernel that multiplies matrices, or ``other``."""
    if "attention" in kernel:
        return "attention"
    return "product" if macs else "other"
