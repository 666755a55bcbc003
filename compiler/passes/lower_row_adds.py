"""Lowers the addition of a part of a row to every pixel, so that it joins the kernel before it.

What blocks add of the time embedding is a part of the packed row ``times``::

    t = R.reshape(R.strided_slice(times, axes=[1], begin, end), [1, 1, 1, C]); y = R.add(x, t)

becomes::

    y = R.call_tir(add_row, (x, times))

which counts as element-wise in ``x``. As two operators the slice would be a kernel of its own: a slice is
never fused into the end of a convolution.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, te
from tvm.relax.expr_functor import PyExprMutator, mutator

from ddimcache.compiler.passes.lower_products import call_kernel
from ddimcache.compiler.passes.simplify import op_name, slice_of_last_axis, static_shape
from ddimcache.kernels.tags import ELEMENT_WISE


@mutator
class _RowAddLowerer(PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if op_name(call) != "relax.add":
            return call
        for x, row in (call.args, call.args[::-1]):
            part = self._part(row)
            if part is not None and static_shape(x) == static_shape(call):
                return self._add(x, *part)
        return call

    def _part(self, expr: relax.Expr) -> tuple[relax.Expr, int] | None:
        """The row [1, T] and the offset that ``expr`` [1 or B, 1, …, C] repeats a part of."""
        shape = static_shape(expr)
        # Between the row and what is added are only ones, and copies for the batch.
        while op_name(value := self._value(expr)) in ("relax.reshape", "relax.broadcast_to"):
            expr = value.args[0]
        part = slice_of_last_axis(value)
        if part is None or not shape or any(side != 1 for side in shape[1:-1]):
            return None
        source, taken = static_shape(part[0]) or [], static_shape(value) or []
        return part if len(source) == 2 and source[0] == 1 and taken[-1] == shape[-1] else None

    def _value(self, expr: relax.Expr) -> Any:
        return self.lookup_binding(expr) if isinstance(expr, relax.Var) else expr

    def _add(self, x: relax.Expr, row: relax.Expr, offset: int) -> relax.Expr:
        def compute(x: te.Tensor, row: te.Tensor) -> te.Tensor:
            return te.compute(x.shape, lambda *index: x[index] + row[0, index[-1] + offset], name="add_row")

        return call_kernel(self.builder_, "add_row", compute, [x, row], {ELEMENT_WISE: True})


@tvm.transform.module_pass(opt_level=0, name="LowerRowAdds")
class LowerRowAdds:
    """See the module's text."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Lowers every such addition of ``module``."""
        lowerer = _RowAddLowerer(module)
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function):
                lowerer.builder_.update_func(variable, lowerer.visit_expr(function))
        return lowerer.builder_.get()
