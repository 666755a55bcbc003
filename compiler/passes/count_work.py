"""Counts the multiply-accumulates of a function, before its operators become kernels."""

from __future__ import annotations

import math

from tvm import relax

from ddimcache.compiler.passes.simplify import op_name, static_shape


def count_work(function: relax.Function) -> int:
    """Multiply-accumulates of one call: convolutions, matrix products and both products of attention.

    Convolutions count at their direct form and unpadded outputs, whatever algorithm runs them.
    """
    total = 0
    for block in function.body.blocks:
        for binding in block.bindings:
            total += _work(binding.value)
    return total


def _work(call: relax.Expr) -> int:
    name = op_name(call)
    if name == "relax.nn.conv2d":
        weight, out = static_shape(call.args[1]), static_shape(call)
        assert weight is not None and out is not None
        layout = call.attrs.kernel_layout
        per_output = math.prod(weight) // weight[layout.index("O")]
        return math.prod(out) * per_output
    if name == "relax.matmul":
        left, out = static_shape(call.args[0]), static_shape(call)
        assert left is not None and out is not None
        return math.prod(out) * left[-1]
    if name in ("relax.nn.attention", "relax.nn.attention_bias"):
        query, key, value = (static_shape(argument) for argument in call.args[:3])
        assert query is not None and key is not None and value is not None
        batch, queries, heads, width = query
        return batch * heads * queries * key[1] * (width + value[3])
    return 0
