"""Enlarges pictures by whole factors with indices that are whole numbers.

Before (channels last)::

    y = R.image.resize2d(x, R.shape([2 * H, 3 * W]), method="nearest_neighbor", ...)

After::

    y = R.call_tir(resize, (x,))        # y[b, i, j, c] = x[b, i // 2, j // 3, c]

TVM computes the nearest pixel in float32, with bounds that it cannot see: all indices of a kernel become 64
bits wide, and a copy takes thousands of instructions on a phone. With a factor F, pixel F k + r lies at
k + (r + 1/2) / F − 1/2, never half-way between two, so that every way of rounding gives k. Other ways of
placing pixels, other factors and other methods stay.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, te
from tvm.relax.expr_functor import PyExprMutator, mutator

from ddimcache.compiler.passes.lower_products import call_kernel
from ddimcache.compiler.passes.simplify import op_name, static_shape
from ddimcache.kernels.tiling import wide


@mutator
class _ResizeLowerer(PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if op_name(call) != "relax.image.resize2d" or not _is_nearest(call.attrs):
            return call
        source, target = static_shape(call.args[0]), static_shape(call)
        if not source or not target or target[1] % source[1] or target[2] % source[2]:
            return call
        down, right = target[1] // source[1], target[2] // source[2]

        def compute(x: te.Tensor) -> te.Tensor:
            def nearest(b: Any, row: Any, column: Any, c: Any) -> Any:
                return x[b, row // down, column // right, c]

            return te.compute(wide(target), nearest, name="resize")

        return call_kernel(self.builder_, "resize", compute, [call.args[0]], {})


def _is_nearest(attributes: Any) -> bool:
    """Whether pixels are copied, and lie where the module's text says."""
    return (
        attributes.layout == "NHWC"
        and attributes.method == "nearest_neighbor"
        and attributes.coordinate_transformation_mode == "half_pixel"
        and not attributes.out_dtype
    )


@tvm.transform.module_pass(opt_level=0, name="LowerResizes")
class LowerResizes:
    """See the module's text."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrites every Relax function of ``module``."""
        lowerer = _ResizeLowerer(module)
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function):
                lowerer.builder_.update_func(variable, lowerer.visit_expr(function))
        return lowerer.builder_.get()
