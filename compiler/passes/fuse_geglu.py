"""Fuses the gated linear layer of a transformer block into one kernel.

Before::

    z = R.matmul(x, w.T) + b; p = R.split(z, 2, axis=-1); y = p[0] * R.nn.gelu(p[1])

After::

    g = R.call_tir(geglu, (x, w|interleaved@int8@32, w|interleaved@scale, b|interleaved))
    y = R.reshape(g, ...)

The weight's output channels are ordered so that a panel holds values and the gates that belong to them; see
``kernels/geglu``. A layer whose channels do not fill whole half panels stays as it is.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
from tvm import relax, te
from tvm.relax.expr_functor import PyExprMutator, mutator

from ddimcache.compiler.compress.weights import Weight
from ddimcache.compiler.passes.lower_products import OUT_ELEMENTWISE_FUSABLE, call_kernel, dtype_name
from ddimcache.compiler.passes.pack_weights import Packing, WeightPacker
from ddimcache.compiler.passes.simplify import op_name, permutation, static_shape
from ddimcache.kernels.geglu import kernel as geglu_kernel
from ddimcache.kernels.matmul import kernel as matmul_kernel


@mutator
class _GegluFuser(PyExprMutator):
    def __init__(self, module: tvm.IRModule, packer: WeightPacker) -> None:
        super().__init__(module)
        self.packer = packer

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if op_name(call) != "relax.multiply":
            return call
        for value, gate in (call.args, call.args[::-1]):
            found = self._gated(value, gate)
            if found is not None:
                return self._fused(call, *found)
        return call

    def _value(self, expr: relax.Expr) -> Any:
        return self.lookup_binding(expr) if isinstance(expr, relax.Var) else expr

    def _key(self, expr: relax.Expr) -> str | None:
        return self.packer.key_of(expr, self)

    def _gated(self, value: relax.Expr, gate: relax.Expr) -> tuple[relax.Expr, str, str] | None:
        """Input, weight and bias of the layer whose halves ``value`` and ``gelu`` of ``gate`` are."""
        first, activated = self._value(value), self._value(gate)
        if op_name(activated) != "relax.nn.gelu" or not isinstance(first, relax.TupleGetItem):
            return None
        second = self._value(activated.args[0])
        if not isinstance(second, relax.TupleGetItem) or (first.index, second.index) != (0, 1):
            return None
        if not first.tuple_value.same_as(second.tuple_value):
            return None
        split = self._value(first.tuple_value)
        rank = len(static_shape(value) or [])
        if op_name(split) != "relax.split" or int(split.attrs.axis) % rank != rank - 1:
            return None
        if len(split.ty.fields) != 2 or static_shape(value) != static_shape(gate):
            return None
        added = self._value(split.args[0])
        bias = self._key(added.args[1]) if op_name(added) == "relax.add" else None
        product: Any = self._value(added.args[0]) if bias is not None else None
        if bias is None or op_name(product) != "relax.matmul":
            return None
        turned = self._value(product.args[1])
        weight = self._key(turned.args[0]) if op_name(turned) == "relax.permute_dims" else None
        if weight is None or permutation(turned) != [1, 0]:
            return None
        return product.args[0], weight, bias

    def _fused(self, call: relax.Call, x: relax.Expr, key: str, bias: str) -> relax.Expr:
        store, packer = self.packer.store, self.packer
        weight, offset = store[key], store[bias]
        sums = packer.sums(key, weight.shape, weight.compute)
        rows = math.prod((static_shape(x) or [])[:-1])
        workload = packer.product("geglu", key, weight.shape, rows, dtype_name(x))
        width = packer.panel_width(key, workload, sums)
        half = width // 2
        if width % 2 or weight.shape[0] % width:
            return call
        ordered = f"{key}|interleaved"

        def matrix() -> Any:
            return geglu_kernel.interleave(weight.compute(), half)

        store.add(ordered, Weight(weight.shape, weight.dtype, matrix))
        fours = workload.dtype == "int8"
        packed = packer.packed(ordered, matrix, weight.shape, matmul_kernel.pack, width, fours)
        shifted = f"{bias}|interleaved"
        store.add(
            shifted,
            Weight(offset.shape, offset.dtype, lambda: geglu_kernel.interleave(offset.compute(), half)),
        )

        def compute(x: te.Tensor, weight: te.Tensor, *others: te.Tensor) -> te.Tensor:
            scale = others[0] if len(others) == 2 else None
            return geglu_kernel.geglu(x, weight, scale, others[-1], dtype_name(call), sums)

        gated = call_kernel(
            self.builder_,
            "geglu",
            compute,
            [x, *packed, packer.variable(shifted)],
            {"op_pattern": OUT_ELEMENTWISE_FUSABLE},
        )
        return relax.op.reshape(self.builder_.emit(gated), static_shape(call))


@tvm.transform.module_pass(opt_level=0, name="FuseGeglu")
class FuseGeglu:
    """See the module's text; ``packing`` and ``note`` are as ``LowerProducts`` has them."""

    def __init__(self, packing: Packing) -> None:
        self.packing = packing
        self.note = ""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Fuses in every Relax function of ``module``."""
        packer = WeightPacker(self.packing)
        module = packer.rewritten(module, _GegluFuser(module, packer))
        self.note = packer.note()
        return relax.transform.DeadCodeElimination(list(self.packing.inputs))(module)
