"""Lowers the concatenation of pictures along their channels to a kernel that copies rows.

Before (channels last)::

    y = R.concat((a, b), axis=3)

After::

    y = R.reshape(R.call_tir(join, (R.reshape(a, [R, C]), R.reshape(b, [R, D]))), [B, H, W, C + D])

As an element-wise kernel it would choose a tensor for every number. Tensors of other ranks stay, as does what
is joined along another axis: those are small, or fused with their neighbours.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ddimcache.compiler.passes.lower_products import dtype_name
from ddimcache.compiler.passes.simplify import op_name, static_shape
from ddimcache.compiler.target import DeviceProfile
from ddimcache.kernels.join.kernel import join_channels


@mutator
class _JoinLowerer(PyExprMutator):
    def __init__(self, module: tvm.IRModule, profile: DeviceProfile) -> None:
        super().__init__(module)
        self.tiles = profile.tiles

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        shape = static_shape(call)
        if op_name(call) != "relax.concat" or not shape or len(shape) != 4:
            return call
        parts = call.args[0]
        if int(call.attrs.axis) % 4 != 3 or not isinstance(parts, relax.Tuple):
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
