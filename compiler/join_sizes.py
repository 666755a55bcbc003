"""Makes one component of compilations for several picture sizes.

Before: a module a size, each with ``full(..., params)``, ``cached(..., params)`` and their kernels.

After: one module with ``full``, ``cached``, ``full_640x384``, ``cached_640x384``, all of which take the same
weights. Kernels that are equal in two sizes are there once, and so are functions that do not depend on the
size.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from ddimcache.compiler.pipeline import Compilation
from ddimcache.errors import CompileError


@mutator
class _Renamer(PyExprMutator):
    """Calls other kernels in the place of those that ``kernels`` names."""

    def __init__(self, kernels: dict[str, tvm.ir.GlobalVar]) -> None:
        super().__init__()
        self.kernels = kernels

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        if isinstance(call.op, tvm.ir.GlobalVar) and call.op.name_hint in self.kernels:
            return relax.Call(self.kernels[call.op.name_hint], call.args, call.attrs, call.ty_args)
        return call


def join_sizes(compilations: Sequence[tuple[str, Compilation]]) -> tuple[tvm.IRModule, tuple[str, ...]]:
    """Joins the compilations of a component, each with what its functions' names shall end in.

    The first has no such ending. Returns the module and the names of its Relax functions. Raises
    :class:`CompileError` where two sizes want the weights in different forms.
    """
    [(_, first), *others] = compilations
    # It gives a function that is there already the name that it has.
    builder = relax.BlockBuilder(first.module)
    names = list(first.inputs)
    for suffix, compilation in others:
        if compilation.weight_names != first.weight_names:
            [name, *_] = sorted(set(compilation.weight_names) ^ set(first.weight_names))
            raise CompileError(f"size {suffix.removeprefix('_')} and the first one differ in weight {name}")
        renamer = _Renamer(
            {
                variable.name_hint: builder.add_func(kernel, variable.name_hint + suffix)
                for variable, kernel in compilation.module.functions_items()
                if isinstance(kernel, tirx.PrimFunc)
            }
        )
        for name in compilation.inputs:
            function = renamer.visit_expr(compilation.module[name])
            if not tvm_ffi.structural_equal(function, first.module[name]):
                builder.add_func(function.with_attr("global_symbol", name + suffix), name + suffix)
                names.append(name + suffix)
    return builder.get(), tuple(names)
