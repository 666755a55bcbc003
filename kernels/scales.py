"""Scales of int8 weights, as kernels take them.

One for an output channel, [N]: it multiplies the sum, which is the same as multiplying every weight and costs
one product an output instead of one a weight. One for a group of input channels: packed as the weights are,
with C / group in place of C. Then it multiplies the sum over a group where such a sum is taken, and every
weight otherwise, as the weight is converted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te

from ddimcache.kernels.tags import DOTS, GROUPED

FOUR = 4
"""Input channels whose weights are the bytes of one int32, where activations are rounded to int8 too."""

OFFSET = 128
"""What such a byte is above its weight."""


class Scales:
    """The scales of a packed ``weight`` [N / P, ..., C, P]: a tensor as above, or None for no int8 weight."""

    def __init__(self, scale: te.Tensor | None, weight: te.Tensor) -> None:
        self.scale = scale
        self.fours = str(weight.dtype) == "int32"
        """Whether four weights are one number, whose products are those of whole numbers (``DOTS``)."""
        self.dtype = "int8" if self.fours else str(weight.dtype)
        self.depth = int(weight.shape[-2]) * (FOUR if self.fours else 1)
        grouped = scale is not None and len(scale.shape) > 1
        self.group = self.depth // int(scale.shape[-2]) if scale is not None and grouped else 0
        """Input channels of a group, 0 without groups."""

    @property
    def weights(self) -> str:
        """The dtype of the weights with the size of their groups, as a ``Workload`` has it: ``int8g64``."""
        return f"{self.dtype}g{self.group}" if self.group else self.dtype

    @property
    def of_channels(self) -> te.Tensor | None:
        """What the sums of output channels are multiplied by, if anything."""
        return None if self.group else self.scale

    @property
    def annotations(self) -> dict[str, Any]:
        """What the block of a product says of its scales."""
        found: dict[str, Any] = {GROUPED: True} if self.group else {}
        return found | {DOTS: True} if self.fours else found

    def activations(self, x: te.Tensor) -> str:
        """The dtype in which activations ``x`` are multiplied."""
        return "int8" if self.fours else str(x.dtype)

    def weight(self, weight: te.Tensor, index: Sequence[Any]) -> Any:
        """The packed ``weight`` at ``index`` [..., C, P] in float32, with the scale of its group."""
        if self.fours:
            *outer, channel, column = index
            four = weight[(*outer, channel // FOUR, column)]
            byte = (four >> (channel % FOUR * 8).astype("int32")) & 0xFF
            value = (byte - OFFSET).astype("float32")
        else:
            value = weight[tuple(index)].astype("float32")
        return value * self._at(index) if self.group else value

    def _at(self, index: Sequence[Any]) -> Any:
        *outer, channel, column = index
        assert self.scale is not None
        return self.scale[(*outer, channel // self.group, column)]
