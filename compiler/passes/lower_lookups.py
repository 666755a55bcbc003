"""Lowers lookups in a table of weights, such as a text encoder's tokens, to a kernel over an int8 table.

Before, ``table`` [N, C] being a weight and ``rows`` [R] computed from an input::

    y = R.take(table, rows, axis=0, mode="clip")

After::

    y = R.call_tir(lookup, (table@int8, table@scale, rows), ...)

A lookup adds nothing up: its error is that of one rounding, whatever the table's size, so the scale is one a
row for all kinds of int8 weights. Narrow tables, and those of layers that are kept, are rounded to fp16. The
embeddings of positions, which are taken in a fixed order, stay as they are, and so does every table where the
weights are not int8.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax, te
from tvm.relax.expr_functor import PyExprMutator, mutator

from ddimcache.compiler.compress.quantize import channel_scale, is_sensitive, most_of_group, quantize
from ddimcache.compiler.compress.weights import Weight, WeightStore
from ddimcache.compiler.passes.lower_products import call_kernel, dtype_name
from ddimcache.compiler.passes.pack_weights import Kept, close, none_kept
from ddimcache.compiler.passes.simplify import op_name
from ddimcache.kernels.lookup.kernel import lookup


@mutator
class _LookupLowerer(PyExprMutator):
    def __init__(self, module: tvm.IRModule, store: WeightStore, kept: Kept) -> None:
        super().__init__(module)
        self.store = store
        self.kept = kept
        self.inputs: set[relax.Var] = set()
        self.weights: set[relax.Var] = set()
        self.lowered: list[str] = []
        self.left: list[str] = []

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if op_name(call) != "relax.take" or call.args[0] not in self.weights:
            return call
        table, rows = call.args
        shape = self.store[table.name].shape
        by_rows = len(shape) == 2 and int(call.attrs.axis) == 0 and call.attrs.mode == "clip"
        if not by_rows or len(rows.ty.shape) != 1 or dtype_name(rows) != "int32" or not self._given(rows):
            return call
        if is_sensitive(*shape) or self.kept(table.name):
            self.left.append(table.name)
            return relax.op.take(self._halved(table), rows, axis=0, mode="clip")
        self.lowered.append(table.name)
        return self._lookup(table, rows)

    def _given(self, expr: relax.Expr) -> bool:
        """Whether a caller decides about ``expr``."""
        found = relax.analysis.free_vars(expr)
        return any(
            variable in self.inputs or (value is not None and self._given(value))
            for variable in found
            for value in (self.lookup_binding(variable),)
        )

    def _halved(self, table: relax.Var) -> relax.Var:
        """``table`` with the values that fp16 leaves, in its own dtype, as packed weights have them."""
        weight, name = self.store[table.name], f"{table.name}@fp16"
        if weight.dtype == "float16":
            return table

        def rounded() -> np.ndarray:
            return weight.compute().astype(np.float16).astype(weight.dtype)

        self.store.add(name, Weight(weight.shape, weight.dtype, rounded))
        return relax.Var(name, relax.TensorType(weight.shape, weight.dtype))

    def _lookup(self, table: relax.Var, rows: relax.Expr) -> relax.Expr:
        weight, dtype = self.store[table.name], dtype_name(table)
        numbers, scale = f"{table.name}@int8", f"{table.name}@scale"
        self.store.add(numbers, Weight(weight.shape, "int8", lambda: quantize(weight.compute())))
        self.store.add(scale, Weight(weight.shape[:1], "float32", lambda: channel_scale(weight.compute())))
        variables = [
            relax.Var(name, relax.TensorType(self.store[name].shape, self.store[name].dtype))
            for name in (numbers, scale)
        ]

        def compute(table: te.Tensor, scale: te.Tensor, rows: te.Tensor) -> te.Tensor:
            return lookup(table, scale, rows, dtype)

        return call_kernel(self.builder_, "lookup", compute, [*variables, rows], {})


@tvm.transform.module_pass(opt_level=0, name="LowerLookups")
class LowerLookups:
    """See the module's text; the arguments are those of ``LowerProducts``. ``note`` counts tables."""

    def __init__(
        self,
        store: WeightStore,
        weights: str,
        inputs: dict[str, int],
        kept: Kept = none_kept,
    ) -> None:
        self.store = store
        self.weights = weights
        self.inputs = inputs
        self.kept = kept
        self.note = ""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Lowers every such lookup of ``module``."""
        if self.weights != "int8" and not most_of_group(self.weights):
            return module
        lowerer = _LookupLowerer(module, self.store, self.kept)
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function):
                count = self.inputs[variable.name_hint]
                lowerer.inputs = set(function.params[:count])
                lowerer.weights = set(function.params[count:])
                lowerer.builder_.update_func(variable, close(lowerer.visit_expr(function)))
        counts = {"int8, one scale a row": lowerer.lowered, "fp16": lowerer.left}
        self.note = ", ".join(
            f"{len(set(names))} tables in {kind}" for kind, names in counts.items() if names
        )
        return lowerer.builder_.get()
