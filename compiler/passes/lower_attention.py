"""Lowers ``nn.attention`` to the running-softmax kernel, which never stores the score matrix.

Before: ``R.nn.attention(q, k, v, scale)`` over [B, T, H, D]; after:
``R.call_tir(attention, (q, k, v, bias))``. An operand that is a slice of the rows of a wider tensor, as
merged projections are, is read where it lies.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from ddimcache.compiler.passes.lower_products import dtype_name
from ddimcache.compiler.passes.simplify import op_name, slice_of_last_axis, static_shape
from ddimcache.compiler.target import DeviceProfile
from ddimcache.errors import FrontendError
from ddimcache.kernels.attention.blocked import AttentionBlocking, blocked_attention
from ddimcache.kernels.attention.kernel import Place, attention
from ddimcache.kernels.attention.pairs import LANES, PairCalls, PairLoops
from ddimcache.kernels.attention.pixels import MOST_ITEMS, can_read_pixels, pixel_attention
from ddimcache.kernels.tiling import PIXEL
from ddimcache.kernels.workload import Workload, tagged

CAUSAL = -1.0e30
"""What is added to the score of a key that comes after its query."""


def attention_kernel(
    profile: DeviceProfile, workload: Workload, scale: float, variant: dict[str, Any]
) -> tirx.PrimFunc:
    """The kernel of ``workload`` that ``profile`` has, its loops bound.

    ``variant`` is ``has_bias`` and ``places``; see ``kernels/attention/kernel.py``.
    """
    tiles, dtype = profile.tiles_of(workload), workload.stored
    batch, queries, tokens, heads, width = workload.sizes
    shape = (batch, queries, heads, width)
    table, pixels = tiles.attention, tiles.pixels
    most_items = min(profile.max_threads, MOST_ITEMS)
    if pixels is not None and dtype == "float16" and can_read_pixels(width, variant["places"], most_items):
        return pixel_attention(
            shape,
            tokens,
            dtype,
            scale,
            together=pixels.together_of(width // PIXEL),
            work_group=min(pixels.attention_group, most_items),
            image_pixels=profile.max_image_pixels,
            **variant,
        )
    if table is None:
        return attention(
            shape,
            tokens,
            dtype,
            scale,
            lanes=tiles.attention_queries,
            key_block=tiles.attention_keys,
            work_group=tiles.work_group,
            **variant,
        )
    blocking = AttentionBlocking(
        tiles.attention_queries, table.vectors, table.parts, table.block, table.keys, table.values
    )
    if workload.dtype == "bfloat16":
        # Vectors of 16, as the instruction has them, and whole pairs of keys.
        blocking = dataclasses.replace(blocking, lanes=LANES, keys=table.keys + table.keys % 2)
        variant = {**variant, "loops": PairCalls if table.instruction else PairLoops}
    return blocked_attention(shape, tokens, dtype, scale, blocking, calls=table.instruction, **variant)


@mutator
class _AttentionLowerer(PyExprMutator):
    def __init__(self, module: tvm.IRModule, profile: DeviceProfile) -> None:
        super().__init__(module)
        self.profile = profile
        self.kind = "float"

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if op_name(call) not in ("relax.nn.attention", "relax.nn.attention_bias"):
            return call
        query, key, value = call.args[:3]
        shape, key_shape = static_shape(query), static_shape(key)
        if shape is None or key_shape is None or static_shape(value) != key_shape:
            raise FrontendError("attention needs keys and values of one known shape")
        if call.attrs.window_size is not None:
            raise FrontendError("attention over a window is not supported")
        bias = self._bias(call, shape[1], key_shape[1])
        scale = float(call.attrs.scale) if call.attrs.scale is not None else 1.0 / math.sqrt(shape[3])
        operands = [self._operand(argument) for argument in (query, key, value)]
        q_place, k_place, v_place = (place for _, place in operands)
        sizes = (shape[0], shape[1], shape[2], shape[3])
        variant = {"has_bias": bias is not None, "places": (q_place, k_place, v_place)}
        function = self._kernel(sizes, key_shape[1], dtype_name(query), scale, variant)
        variable = self.builder_.add_func(function, "attention")
        if bias is None:
            bias = relax.const(np.zeros((1, 1), np.float32))
        return relax.call_tir(variable, [*(tensor for tensor, _ in operands), bias], query.ty)

    def _kernel(
        self,
        shape: tuple[int, int, int, int],
        tokens: int,
        dtype: str,
        scale: float,
        variant: dict[str, Any],
    ) -> tirx.PrimFunc:
        batch, queries, heads, width = shape
        if self.kind != "float" and self.profile.tiles.attention is not None and width % 2 == 0:
            dtype = self.kind
        workload = Workload("attention", (batch, queries, tokens, heads, width), dtype)
        function = attention_kernel(self.profile, workload, scale, variant)
        return tagged(function, workload, self.profile.tuned.get(workload))

    def _operand(self, expr: relax.Expr) -> tuple[relax.Expr, Place]:
        """The tensor [B, T, row] that holds ``expr`` [B, T, H, D], and where in its rows."""
        batch, tokens, heads, width = static_shape(expr) or []
        shaped: Any = self.lookup_binding(expr) if isinstance(expr, relax.Var) else None
        if op_name(shaped) == "relax.reshape" and isinstance(shaped.args[0], relax.Var):
            source = shaped.args[0]
            if static_shape(source) == [batch, tokens, heads * width]:
                part = slice_of_last_axis(self.lookup_binding(source))
                if part is not None:
                    return part[0], Place((static_shape(part[0]) or [])[-1], part[1])
                return source, Place(heads * width, 0)
        flat = self.builder_.emit(relax.op.reshape(expr, [batch, tokens, heads * width]))
        return flat, Place(heads * width, 0)

    def _bias(self, call: relax.Call, queries: int, keys: int) -> relax.Expr | None:
        """The bias as [keys, queries] float32, so that a vector of queries reads it in one load."""
        parts = []
        if call.attrs.causal_mask is not None:
            if call.attrs.causal_mask != "TopLeft":
                raise FrontendError(f"causal mask {call.attrs.causal_mask} is not supported")
            visible = np.arange(keys)[:, None] <= np.arange(queries)[None, :]
            parts.append(relax.const(np.where(visible, 0.0, CAUSAL).astype(np.float32)))
        if op_name(call) == "relax.nn.attention_bias":
            shape = static_shape(call.args[3])
            if shape is None or math.prod(shape) != queries * keys:
                raise FrontendError(
                    f"an attention bias of shape {shape} is not supported: one for all heads is"
                )
            flat = self.builder_.emit(relax.op.reshape(call.args[3], [queries, keys]))
            parts.append(self.builder_.emit(relax.op.permute_dims(flat, [1, 0])))
        if len(parts) == 2:
            return self.builder_.emit(relax.op.add(parts[0], parts[1]))
        return parts[0] if parts else None


@tvm.transform.module_pass(opt_level=0, name="LowerAttention")
class LowerAttention:
    """See the module's text.

    ``kind`` is ``float``, or ``bfloat16`` for both products of heads of an even width on a device with an
    ``AttentionTable``; functions in ``once`` are float anyway.
    """

    def __init__(self, profile: DeviceProfile, kind: str = "float", once: Container[str] = ()) -> None:
        self.profile = profile
        self.kind = kind
        self.once = once

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Lowers every attention of ``module``."""
        lowerer = _AttentionLowerer(module, self.profile)
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function):
                lowerer.kind = "float" if variable.name_hint in self.once else self.kind
                lowerer.builder_.update_func(variable, lowerer.visit_expr(function))
        return lowerer.builder_.get()
