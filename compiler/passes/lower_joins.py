"""Lowers the concatenation of pictures along their channels, and of a tensor with itself, to copies.

Before (channels last)::

    y = R.concat((a, b), axis=3)
    z = R.concat((c, c), axis=0)

After::

    y = R.reshape(R.call_tir(join, (R.reshape(a, [R, C]), R.reshape(b, [R, D]))), [B, H, W, C + D])
    z = R.call_tir(repeat, (c,))

As an element-wise kernel the first would choose a tensor for every number. The second needs no choice, and
joins what is computed of it number by number. Pictures of other ranks stay, as does what is joined along
another axis: those are small, or fused with their neighbours.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax, te
from tvm.relax.expr_functor import PyExprMutator, mutator

from ddimcache.compiler.passes.lower_products import call_kernel, dtype_name
from ddimcache.compiler.passes.simplify import op_name, static_shape
from ddimcache.compiler.target import DeviceProfile
from ddimcache.kernels.join.kernel import join_channels

INJECTIVE = 2
"""TVM's operator pattern of a kernel that reads one number for each of its own, anywhere."""


def _repeat(x: te.Tensor) -> te.Tensor:
    """``x`` [B, ...] and behind it the same again, [2B, ...]."""
    batch = x.shape[0]
    return te.compute(
        (2 * batch, *x.shape[1:]), lambda first, *others: x[(first % batch, *others)], name="repeat"
    )


@mutator
class _JoinLowerer(PyExprMutator):
    def __init__(self, module: tvm.IRModule, profile: DeviceProfile) -> None:
        super().__init__(module)
        self.tiles = profile.tiles

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        shape = static_shape(call)
        if op_name(call) != "relax.concat" or not shape or call.attrs.axis is None:
            return call
        parts, axis = call.args[0], int(call.attrs.axis) % len(shape)
        if not isinstance(parts, relax.Tuple):
            return call
        if axis == 0 and len(parts) == 2 and parts[0].same_as(parts[1]):
            return call_kernel(self.builder_, "repeat", _repeat, [parts[0]], {"op_pattern": INJECTIVE})
        if axis != 3 or len(shape) != 4:
            return call
        rows, dtype, tiles = math.prod(shape[:-1]), dtype_name(call), self.tiles
        channels = tuple((static_shape(part) or [])[-1] for part in parts)
        groups = rows if tiles.blocks is None else min(rows, 2 * tiles.blocks.groups)
        kernel = join_channels(
            rows,
            channels,
            dtype,
            vector=tiles.vector,
            rows_of_group=-(-rows // groups),
            work_group=tiles.work_group,
        )
        flat = [
            self.builder_.emit(relax.op.reshape(part, [rows, count]))
            for part, count in zip(parts, channels, strict=True)
        ]
        out = relax.TensorType([rows, shape[-1]], dtype)
        joined = self.builder_.emit(relax.call_tir(self.builder_.add_func(kernel, "join"), flat, out))
        return relax.op.reshape(joined, shape)


@tvm.transform.module_pass(opt_level=0, name="LowerJoins")
class LowerJoins:
    """See the module's text."""

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Lowers every such concatenation of ``module``."""
        lowerer = _JoinLowerer(module, self.profile)
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function):
                lowerer.builder_.update_func(variable, lowerer.visit_expr(function))
        return lowerer.builder_.get()
