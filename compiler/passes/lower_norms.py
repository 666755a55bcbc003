"""Lowers GroupNorm and LayerNorm to kernels over channels-last tensors.

Before: ``R.nn.group_norm(x, weight, bias)``; after: two kernels that find what each channel is multiplied by
and adds, or one where the device's table says so, and an element-wise kernel that does it, which is fused
with SiLU and padding then. One that ``FuseGroupNorm`` has a kernel for stays, with its channels last.
``R.nn.layer_norm`` becomes one kernel. Where the device's
table has teams, work-items share what one of them would take long for.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ddimcache.compiler.passes.fuse_group_norm import (
    is_fused,
    normalisation_of,
    one_launch_of_parameters,
)
from ddimcache.compiler.passes.lower_products import call_kernel, dtype_name
from ddimcache.compiler.passes.simplify import op_name, static_shape
from ddimcache.compiler.target import DeviceProfile, TileTable
from ddimcache.errors import FrontendError
from ddimcache.kernels.group_norm import kernel as group_norm
from ddimcache.kernels.group_norm.fused import channel_parameters
from ddimcache.kernels.group_norm.shared_parameters import shared_parameters
from ddimcache.kernels.layer_norm.kernel import layer_norm
from ddimcache.kernels.layer_norm.shared import shared_layer_norm

INJECTIVE = 2
"""TVM's operator pattern of a kernel whose every output reads a fixed place of its input."""


def flat_rows(builder: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
    """Emits ``x`` [B, ..., C] as [B, R, C]."""
    shape = static_shape(x) or []
    return builder.emit(relax.op.reshape(x, [shape[0], math.prod(shape[1:-1]), shape[-1]]))


def moments(
    builder: relax.BlockBuilder, flat: relax.Expr, first: relax.Expr, groups: int, tiles: TileTable
) -> relax.Expr:
    """Emits the sums over parts of ``flat`` [B, R, C] and of its squares: [B, parts, 2, C] float32.

    ``first`` [B, R', C] is ``flat``, or the first band of what it is a band of.
    """
    batch, rows, channels = static_shape(flat) or []
    kernel = group_norm.moments(
        batch,
        rows,
        (static_shape(first) or [])[1],
        channels,
        groups,
        dtype_name(flat),
        vector=tiles.vector,
        work_group=tiles.injective_work_group,
    )
    out = relax.TensorType([batch, group_norm.chunks(rows), 2, channels], "float32")
    return builder.emit(relax.call_tir(builder.add_func(kernel, "group_norm_moments"), [flat, first], out))


def parameters(
    builder: relax.BlockBuilder,
    sums: relax.Expr,
    first: relax.Expr,
    call: relax.Call,
    weight: relax.Expr,
    bias: relax.Expr,
    tiles: TileTable,
) -> relax.Expr:
    """Emits what each channel of what ``call`` normalises is multiplied by and adds: [B, 2, C] float32.

    ``sums`` are the moments of all of it, in any number of parts, all made with ``first``.
    """
    batch, parts, _, channels = static_shape(sums) or []
    groups = int(call.attrs.num_groups)
    rows = math.prod((static_shape(call.args[0]) or [])[1:-1])
    first_rows = (static_shape(first) or [])[1]
    sizes = (batch, rows, first_rows, parts, channels, groups, float(call.attrs.epsilon), dtype_name(weight))
    if tiles.team > 1:
        kernel = shared_parameters(*sizes, threads=tiles.team)
    else:
        kernel = group_norm.parameters(*sizes, work_group=tiles.injective_work_group)
    variable = builder.add_func(kernel, "group_norm_parameters")
    out = relax.TensorType([batch, 2, channels], "float32")
    return builder.emit(relax.call_tir(variable, [sums, first, weight, bias], out))


def apply_parameters(builder: relax.BlockBuilder, x: relax.Expr, found: relax.Expr) -> relax.Expr:
    """The call that normalises ``x`` [B, ..., C] with what ``parameters`` emitted."""
    attributes = {"op_pattern": INJECTIVE}
    return call_kernel(builder, "group_norm_apply", group_norm.apply, [x, found], attributes)


@mutator
class _NormLowerer(PyExprMutator):
    def __init__(self, module: tvm.IRModule, profile: DeviceProfile) -> None:
        super().__init__(module)
        self.tiles = profile.tiles

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if op_name(call) == "relax.nn.group_norm":
            return self._group_norm(call)
        if op_name(call) == "relax.nn.layer_norm":
            return self._layer_norm(call)
        return call

    def _group_norm(self, call: relax.Call) -> relax.Expr:
        x, weight, bias = call.args
        shape = static_shape(x)
        if shape is None or int(call.attrs.channel_axis) % len(shape) != len(shape) - 1:
            return self._channels_first(call)
        if is_fused(call, self.tiles):
            return call
        found = self._parameters(call)
        if found is None:
            flat = flat_rows(self.builder_, x)
            sums = moments(self.builder_, flat, flat, int(call.attrs.num_groups), self.tiles)
            found = parameters(self.builder_, sums, flat, call, weight, bias, self.tiles)
        return apply_parameters(self.builder_, x, found)

    def _parameters(self, call: relax.Call) -> relax.Expr | None:
        """Emits the parameters of what ``call`` normalises as one launch, where the table says so."""
        norm = normalisation_of(call)
        blocking = None if norm is None else one_launch_of_parameters(norm, self.tiles)
        if norm is None or blocking is None:
            return None
        x, weight, bias = call.args
        flat = self.builder_.emit(relax.op.reshape(x, norm.flat))
        kernel = self.builder_.add_func(channel_parameters(norm, blocking), "group_norm_parameters")
        out = relax.TensorType([norm.batch, 2, norm.channels], "float32")
        return self.builder_.emit(relax.call_tir(kernel, [flat, weight, bias], out))

    def _channels_first(self, call: relax.Call) -> relax.Expr:
        """Attention of the decoder normalises [B, C, T]: moves the channels last and back."""
        x, weight, bias = call.args
        rank = len(static_shape(x) or [])
        axis = int(call.attrs.channel_axis)
        if axis != 1 or rank < 3:
            raise FrontendError(f"GroupNorm along axis {axis} of {rank} is not supported")
        last = self.builder_.emit(relax.op.permute_dims(x, [0, *range(2, rank), 1]))
        moved = relax.op.nn.group_norm(
            last,
            weight,
            bias,
            num_groups=int(call.attrs.num_groups),
            channel_axis=rank - 1,
            axes=list(range(1, rank - 1)),
            epsilon=float(call.attrs.epsilon),
        )
        result = self.builder_.emit(self._group_norm(self.builder_.normalize(moved)))
        return relax.op.permute_dims(result, [0, rank - 1, *range(1, rank - 1)])

    def _layer_norm(self, call: relax.Call) -> relax.Expr:
        x, weight, bias = call.args
        shape = static_shape(x)
        axes = [int(axis) % len(shape or [1]) for axis in call.attrs.axes]
        if shape is None or axes != [len(shape) - 1]:
            raise FrontendError(f"LayerNorm over axes {axes} is not supported: the last one is")
        rows, channels = math.prod(shape[:-1]), shape[-1]
        sizes = (rows, channels, dtype_name(x), float(call.attrs.epsilon))
        vector, group, team = self.tiles.vector, self.tiles.injective_work_group, self.tiles.team
        if team > 1 and channels % vector == 0:
            kernel = shared_layer_norm(*sizes, vector=vector, work_group=group, threads=team)
        else:
            kernel = layer_norm(*sizes, vector=vector, work_group=group)
        variable = self.builder_.add_func(kernel, "layer_norm")
        flat = self.builder_.emit(relax.op.reshape(x, [rows, channels]))
        result = self.builder_.emit(
            relax.call_tir(variable, [flat, weight, bias], relax.TensorType([rows, channels], dtype_name(x)))
        )
        return relax.op.reshape(result, shape)


@tvm.transform.module_pass(opt_level=0, name="LowerNorms")
class LowerNorms:
    """See the module's text."""

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Lowers every GroupNorm and LayerNorm of ``module``."""
        lowerer = _NormLowerer(module, self.profile)
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function):
                lowerer.builder_.update_func(variable, lowerer.visit_expr(function))
        return lowerer.builder_.get()
