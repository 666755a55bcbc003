"""Refuses a function with a tensor that is too large for any kernel, before kernels are made for it."""

from __future__ import annotations

import math

from tvm import relax

from ddimcache.compiler.passes.simplify import static_shape
from ddimcache.errors import CompileError
from ddimcache.kernels.workload import MOST_NUMBERS


def limit_tensors(function: relax.Function, component: str) -> None:
    """Raises :class:`CompileError` for a tensor with more numbers than indices of 32 bits count.

    Bands of rows would be smaller, but how many are needed is found by compiling in one piece first.
    """
    for block in function.body.blocks:
        for binding in block.bindings:
            shape = static_shape(binding.var)
            if shape is not None and math.prod(shape) > MOST_NUMBERS:
                raise CompileError(
                    f"a tensor of {'x'.join(map(str, shape))} has {math.prod(shape)} numbers, kernels count "
                    f"{MOST_NUMBERS} at most",
                    where=component,
                    remedy="take a smaller --size or --batch",
                )
