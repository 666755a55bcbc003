"""Lowers planned storage to the VM's, with its element type.

Before::

    s = R.memory.alloc_storage(R.shape([1024]), 0, R.str("global"), R.dtype("int8"))

After::

    s = R.vm.alloc_storage(R.shape([1024]), 0, R.dtype("int8"), R.str("global"))

TVM's own lowering says ``uint8`` of all storage, what a function returns included, and the allocator could
not tell the two apart (``plan_memory.py``). Storage of another type is left to it.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ddimcache.compiler.passes.plan_memory import STORAGE_DTYPE
from ddimcache.compiler.passes.simplify import op_name


@mutator
class _StorageLowerer(PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        if op_name(call) != "relax.memory.alloc_storage":
            return super().visit_call_(call)
        size, device, scope, dtype = call.args
        if str(dtype.value) != STORAGE_DTYPE:
            return call
        return relax.Call(tvm.ir.Op.get("relax.vm.alloc_storage"), [size, device, dtype, scope])


@tvm.transform.module_pass(opt_level=0, name="LowerStorages")
class LowerStorages:
    """See the module's text."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Lowers planned storage in every Relax function of ``module``."""
        lowerer = _StorageLowerer(module)
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function):
                lowerer.builder_.update_func(variable, lowerer.visit_expr(function))
        return lowerer.builder_.get()
