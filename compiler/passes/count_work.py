"""Counts the multiply-accumulates of a function, before its operators become kernels."""

from __future__ import annotations

import math

from tvm import relax

from ddimcache.compiler.passes.simplify import op_name, static_shape
from ddimcache.errors import CompileError


def count_work(function: relax.Function) -> int:
    """Multiply-accumulates of one call: convolutions, matrix products and both products of attention.

    Convolutions count at their direct form and unpadded outputs, whatever algorithm runs them.
    """
    total = 0
    for block in function.body.blocks:
        for binding in block.bindings:
            total += _work(binding.value)
    return total


def _shape(expr: relax.Expr) -> list[int]:
    shape = static_shape(expr)
    if shape is None:
        raise CompileError("a tensor's shape is not known at compile time, so its work cannot be counted")
    return shape


def _work(call: relax.Expr) -> int:
    name = op_name(call)
    if name == "relax.nn.conv2d":
        weight, out = _shape(call.args[1]), _shape(call)
        layout = call.attrs.kernel_layout
        per_output = math.prod(weight) // weight[layout.index("O")]
        return math.prod(out) * per_output
    if name == "relax.matmul":
        return math.prod(_shape(call)) * _shape(call.args[0])[-1]
    if name in ("relax.nn.attention", "relax.nn.attention_bias"):
        query, key, value = (_shape(argument) for argument in call.args[:3])
        batch, queries, heads, width = query
        return batch * heads * queries * key[1] * (width + value[3])
    return 0
