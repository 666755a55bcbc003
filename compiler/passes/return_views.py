"""Returns a reshape of what a function computed as a view of it, where TVM launches a kernel that copies.

Before::

    y = R.call_tir(attention, (q, k, v)); z = R.call_tir(reshape, (y,)); R.output(z)

After::

    y = R.call_tir(attention, (q, k, v)); z = R.reshape(y, ...); R.output(z)

TVM's ``RewriteDataflowReshape`` does the same inside a function and leaves what it returns. That has to be
memory of its own: a parameter that is returned in another shape is copied still, and so is what is returned
twice. Storage is planned around what is returned, whichever view of it that is.
"""

from __future__ import annotations

import tvm
from tvm import relax

from ddimcache.compiler.passes.partition_at_cut import bindings_of
from ddimcache.compiler.passes.simplify import op_name, static_shape


@tvm.transform.module_pass(opt_level=0, name="ReturnViews")
class ReturnViews:
    """See the module's text. Runs behind ``RewriteDataflowReshape``; kernels that nothing calls stay."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrites every Relax function of ``module``."""
        functions = dict(module.functions_items())
        for variable, function in functions.items():
            if isinstance(function, relax.Function):
                functions[variable] = _rewritten(function, module)
        return tvm.IRModule(functions, attrs=module.attrs, global_infos=module.global_infos)


def _rewritten(function: relax.Function, module: tvm.IRModule) -> relax.Function:
    values = {binding.var: binding.value for binding in bindings_of(function)}
    sources = {variable: _source(value, module) for variable, value in values.items()}

    def root(variable: relax.Var) -> relax.Var:
        """The variable whose memory a view of it shows."""
        while (source := sources.get(variable)) is not None:
            variable = source
        return variable

    returned = [root(variable) for variable in _outputs(function.body.body, values)]
    builder = relax.BlockBuilder()  # what it normalises gets a type
    blocks = []
    for block in function.body.blocks:
        bindings = []
        for binding in block.bindings:
            source, own = sources[binding.var], root(binding.var)
            copied = op_name(binding.value) == "relax.call_tir" and source is not None
            made_here = op_name(values.get(own)) == "relax.call_tir"
            if copied and made_here and returned.count(own) == 1:
                view = relax.op.reshape(source, static_shape(binding.var))
                binding = relax.VarBinding(binding.var, builder.normalize(view))
            bindings.append(binding)
        blocks.append(type(block)(bindings))
    body = builder.normalize(relax.SeqExpr(blocks, function.body.body))
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)


def _source(value: relax.Expr, module: tvm.IRModule) -> relax.Var | None:
    """What ``value`` has the numbers of, in another shape; ``None`` where it is something else."""
    if op_name(value) == "relax.reshape":
        source = value.args[0]
    elif op_name(value) == "relax.call_tir" and relax.analysis.has_reshape_pattern(module[value.args[0]]):
        source = value.args[1][0]
    else:
        return None
    return source if isinstance(source, relax.Var) else None


def _outputs(result: relax.Expr, values: dict[relax.Var, relax.Expr]) -> list[relax.Var]:
    """The variables that a function returns, one by one: its result may be a tuple of them."""
    if isinstance(result, relax.Tuple):
        return [variable for field in result for variable in _outputs(field, values)]
    if not isinstance(result, relax.Var):
        return []
    value = values.get(result)
    return _outputs(value, values) if isinstance(value, relax.Tuple) else [result]
