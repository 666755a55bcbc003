"""Adds a residual before a product's pixels are put back into rows and columns, so that it joins the product.

A transformer block of Stable Diffusion 2 ends in a linear layer over a list of pixels::

    y = R.add(R.matmul(x, w), bias)                 # [B, H·W, C]
    z = R.add(R.reshape(y, [B, H, W, C]), residual)

becomes::

    z = R.reshape(R.add(y, R.reshape(residual, [B, H·W, C])), [B, H, W, C])

where nothing else reads ``y``. A reshape ends what is fused with a product; the addition behind it would be
a kernel of its own.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ddimcache.compiler.passes.partition_at_cut import bindings_of
from ddimcache.compiler.passes.simplify import op_name, static_shape


@mutator
class _Adder(PyExprMutator):
    def __init__(self, module: tvm.IRModule, readers: dict[relax.Var, int]) -> None:
        super().__init__(module)
        self._readers = readers

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        # Uses are counted of the variables as they were.
        before = call.args
        call = super().visit_call_(call)
        if op_name(call) != "relax.add":
            return call
        for number, other in ((0, 1), (1, 0)):
            row = self._row(call.args[number], before[number])
            if row is not None and static_shape(call.args[other]) == static_shape(call):
                residual = self.builder_.normalize(relax.op.reshape(call.args[other], static_shape(row)))
                total = self.builder_.normalize(relax.op.add(row, self.builder_.emit(residual)))
                return self.builder_.normalize(
                    relax.op.reshape(self.builder_.emit(total), static_shape(call))
                )
        return call

    def _row(self, expr: relax.Expr, before: relax.Expr) -> relax.Expr | None:
        """What ``expr`` is a reshape of, when that is a product and both have the same last axis."""
        if not isinstance(expr, relax.Var) or self._readers.get(before) != 1:
            return None
        reshape = self.lookup_binding(expr)
        if op_name(reshape) != "relax.reshape" or not isinstance(reshape.args[0], relax.Var):
            return None
        source, target = static_shape(reshape.args[0]), static_shape(expr)
        if not source or not target or source[-1] != target[-1] or len(source) >= len(target):
            return None
        product = self.lookup_binding(reshape.args[0])
        if op_name(product) == "relax.add" and isinstance(product.args[0], relax.Var):
            product = self.lookup_binding(product.args[0])
        return reshape.args[0] if op_name(product) == "relax.matmul" else None


def _readers(function: relax.Function) -> dict[relax.Var, int]:
    """How many expressions read each variable; of a reshape, also those that read what it reshapes."""
    bindings = bindings_of(function)
    counts: dict[relax.Var, int] = {}
    for value in [*(binding.value for binding in bindings), function.body.body]:
        for variable in relax.analysis.free_vars(value):
            counts[variable] = counts.get(variable, 0) + 1
    for binding in bindings:
        if op_name(binding.value) == "relax.reshape" and binding.value.args[0] in counts:
            counts[binding.var] = max(counts.get(binding.var, 0), counts[binding.value.args[0]])
    return counts


@tvm.transform.module_pass(opt_level=0, name="AddBeforeReshape")
class AddBeforeReshape:
    """See the module's text."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Moves every such addition of ``module``."""
        functions = dict(module.functions_items())
        for variable, function in functions.items():
            if isinstance(function, relax.Function):
                adder = _Adder(module, _readers(function))
                adder.builder_.update_func(variable, adder.visit_expr(function))
                module = adder.builder_.get()
        return relax.transform.DeadCodeElimination()(module)
