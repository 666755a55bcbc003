"""A linear layer whose result is gated by GELU, in one kernel.

``GEGLU(x) = (x V^T + b) * gelu(x G^T + c)`` (Shazeer, arXiv 2002.05202). The two products share their panels:
each holds ``H`` columns of V and the ``H`` of G that gate them, so that a work-item has both sums in its
registers and the tensor of 2 N columns, the widest of a transformer block, is never stored.

GELU is taken of float32 sums, before anything is rounded to the type of the activations: neither the cubic
term of its tanh form nor a clipped argument (Choi et al., ICML workshop 2023, clip at 10 for float16's sake)
is needed, and the result is that of the model, not of an approximation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from tvm import te, tirx

from ddimcache.kernels.exponential import exponential
from ddimcache.kernels.scales import Scales
from ddimcache.kernels.tags import FAMILY, PAIRED, PIXELS, WORKLOAD
from ddimcache.kernels.tiling import wide
from ddimcache.kernels.workload import Workload


def interleave(weight: np.ndarray, half: int) -> np.ndarray:
    """Order the 2 N output channels of ``weight`` [2 N, ...] so that panels of 2 ``half`` hold pairs.

    Values are the first N channels and gates the others, as diffusers' GEGLU has them; N is a multiple
    of ``half``.
    """
    channels = weight.shape[0] // 2
    paired = weight.reshape(2, channels // half, half, *weight.shape[1:]).swapaxes(0, 1)
    return np.ascontiguousarray(paired.reshape(weight.shape))


_TAIL = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
_TAIL_SLOPE = 0.3275911
"""Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: erf to 1.5e-7 by one exponential."""


def gelu(x: Any, power: Callable[[Any], Any]) -> Any:
    """``x Phi(x)`` of a float32 expression, Phi being the normal distribution; ``power`` is the exponential.

    As ``max(x, 0) - |x| Q(|x|)`` with the upper tail Q, which needs no choice between lanes. PoCL's own
    ``erf`` takes vectors apart: it cost more than both products.
    """
    size = te.abs(x)
    t = 1.0 / (1.0 + size * (_TAIL_SLOPE * math.sqrt(0.5)))
    series = tirx.const(0.0, "float32")
    for coefficient in reversed(_TAIL):
        series = (series + coefficient) * t
    tail = series * power(x * x * -0.5) * 0.5
    return te.max(x, tirx.const(0.0, "float32")) - size * tail


def geglu(
    x: te.Tensor,
    weight: te.Tensor,
    scale: te.Tensor | None,
    bias: te.Tensor,
    dtype: str,
    sums: str | None = None,
) -> te.Tensor:
    """``x`` [..., K] and packed ``weight`` [2 N / P, K, P] to [..., 2 N / P, P / 2] in ``dtype``.

    ``scale``, of int8 weights, is float32 [2 N] or [2 N / P, K / group, P] (``kernels/scales.py``); ``bias``
    [2 N] is added to the sums. Weights, scales and biases are in the order of ``interleave`` with ``half`` =
    P / 2. ``sums`` is as in ``matmul``. The last two sides of the result are its N channels.
    """
    depth, panels, half = x.shape[-1], int(weight.shape[0]), int(weight.shape[-1]) // 2
    reduction = te.reduce_axis((0, wide([depth])[0]), "k")
    rank = len(x.shape) - 1
    scales = Scales(scale, weight)

    def product(*index: Any) -> Any:
        rows, (panel, side, column) = index[:rank], index[rank:]
        value = x[(*rows, reduction)].astype("float32")
        factor = scales.weight(weight, (panel, reduction, side * half + column))
        return te.sum(value * factor, axis=reduction)

    rows = math.prod(int(extent) for extent in x.shape[:-1])
    sizes = (rows, int(depth), 2 * panels * half)
    workload = Workload("geglu", sizes, scales.activations(x), scales.weights).text
    attributes = {FAMILY: "matmul", PAIRED: True, WORKLOAD: workload, **scales.annotations}
    if sums is not None:
        attributes[PIXELS] = sums
    shape = [*x.shape[:-1], panels, 2, half]
    summed = te.compute(wide(shape), product, name="geglu", attrs=attributes)

    # A device that reads pixels has the exponential as an instruction.
    power = partial(exponential, below_one=True) if sums is None else te.exp

    def finish(*index: Any) -> Any:
        rows, (panel, column) = index[:rank], index[rank:]
        sides = []
        for side in (0, 1):
            channel = (panel * 2 + side) * half + column
            value = summed[(*rows, panel, side, column)]
            if scales.of_channels is not None:
                value = value * scales.of_channels[channel]
            sides.append(value + bias[channel].astype("float32"))
        return (sides[0] * gelu(sides[1], power)).astype(dtype)

    return te.compute(wide([*x.shape[:-1], panels, half]), finish, name="geglu_gate")
