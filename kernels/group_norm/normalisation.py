"""What kernels of a whole GroupNorm compute, and the arithmetic that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from ddimcache.kernels.tiling import local, vector_lanes


@dataclass(frozen=True)
class Normalisation:
    """GroupNorm of [B, H, W, C], then SiLU where asked for, then zeros around it.

    ``padding`` is of the top, left, bottom and right.
    """

    batch: int
    height: int
    width: int
    channels: int
    groups: int
    epsilon: float
    dtype: str
    silu: bool = False
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def size(self) -> int:
        """Channels of a group."""
        return self.channels // self.groups

    @property
    def pixels(self) -> int:
        """Pixels of a picture."""
        return self.height * self.width

    @property
    def sample(self) -> int:
        """The pixel whose first number of a group stands for all of it, see :func:`sample_of`."""
        return sample_of(self.pixels)

    @property
    def flat(self) -> tuple[int, int, int]:
        """The shape in which kernels take their input."""
        return (self.batch, self.pixels, self.channels)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The result's shape, with its border."""
        top, left, bottom, right = self.padding
        return (self.batch, self.height + top + bottom, self.width + left + right, self.channels)


def sample_of(pixels: int) -> int:
    """The pixel of ``pixels`` whose first number in a group is subtracted from all of it before it is summed.

    The squares of numbers around 100 lose four digits of the variance, those of what is left lose none. The
    pixel is one from within, as numbers at a picture's border come of convolutions with zeros.
    """
    return pixels // 3


def group_sums(groups: int, size: int, lanes: int, sums: tuple[Any, Any]) -> Any:
    """Local memory [2, groups] with what ``sums`` of channels, and of their squares, are by group.

    Groups are lanes of a vector. One after another, each is a chain of additions that wait for each other,
    which Clang makes worse as it looks for vectors in them.
    """
    totals, lanes = local(2, groups), vector_lanes(groups, lanes)
    for side, buffer in enumerate(sums):
        with T.serial(0, groups // lanes) as number:
            with T.vectorized(0, lanes) as lane:
                T.buffer_store(totals, T.float32(0), [side, number * lanes + lane])
            with T.serial(0, size) as c, T.vectorized(0, lanes) as lane:
                g = number * lanes + lane
                T.buffer_store(totals, totals[side, g] + buffer[g * size + c], [side, g])
    return totals


def store_statistic(
    norm: Normalisation, total: Any, square: Any, sample: Any, statistic: Any, g: Any
) -> None:
    """Stores mean and reciprocal deviation at ``statistic[g]`` from a group without its ``sample``.

    ``total`` and ``square`` are the sums of these numbers and of their squares.
    """
    count = T.float32(norm.size * norm.pixels)
    mean = T.bind(total / count)
    # Rounding can make the difference of two near numbers negative.
    variance = T.max(square / count - mean * mean, T.float32(0))
    T.buffer_store(statistic, sample + mean, [g, 0])
    T.buffer_store(statistic, T.float32(1) / T.sqrt(variance + T.float32(norm.epsilon)), [g, 1])


def silu(value: Any, power: Callable[[Any], Any]) -> Any:
    """``value`` times its logistic function; ``power`` is the device's exponential."""
    return value / (T.float32(1) + power(T.float32(0) - value))
