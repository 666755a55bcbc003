"""Cuts the UNet where the published cache has its boundary.

A UNet joins every skip connection into its up path by a concatenation along the channels. Counted from
the outermost (the output of ``conv_in``), the k-th one is cut k. What the up path brings to it is the
feature that the cache keeps: DDIMCache (Wu, Kybernetika 60(6), 2024) caches ``U_2``, which is cut 0;
DeepCache (Ma et al., CVPR 2024) names the same places by branch.

Before::

    main(latents, timestep, context, weights...) -> noise

After::

    full(latents, timestep, context, weights...) -> (noise, feature)
    cached(latents, timestep, context, feature, weights...) -> noise

``cached`` keeps only what the noise depends on given the feature; both take the same weights.
"""

from __future__ import annotations

import tvm
from tvm import relax

from ddimcache.compiler.passes.simplify import op_name, static_shape
from ddimcache.errors import UsageError


def bindings_of(function: relax.Function) -> list[relax.Binding]:
    """The bindings of a function, in order."""
    return [binding for block in function.body.blocks for binding in block.bindings]


def cut_points(function: relax.Function) -> list[relax.Call]:
    """The concatenations of skip connections, outermost first; cut k is entry k."""
    joins = []
    for binding in bindings_of(function):
        if op_name(binding.value) != "relax.concat":
            continue
        fields = binding.value.args[0]
        if not isinstance(fields, relax.Tuple) or len(fields) != 2:
            continue
        shapes = [static_shape(field) for field in fields]
        if all(shape is not None and len(shape) == 4 for shape in shapes):
            joins.append(binding.value)
    return joins[::-1]


def cut_count(module: tvm.IRModule) -> int:
    """How many cuts the UNet ``main`` of ``module`` has; they are 0 to this number less one."""
    return len(cut_points(module["main"]))


@tvm.transform.module_pass(opt_level=0, name="PartitionAtCut")
class PartitionAtCut:
    """See the module's text; raises :class:`UsageError` for a cut that the UNet does not have."""

    def __init__(self, cut: int, input_count: int) -> None:
        self.cut = cut
        self.input_count = input_count

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Replaces ``main`` by ``full`` and ``cached``; other functions stay as they are."""
        function = module["main"]
        joins = cut_points(function)
        if not 0 <= self.cut < len(joins):
            raise UsageError(
                f"this UNet has no cut {self.cut}; it has {len(joins)}, from 0 (the outermost) to "
                f"{len(joins) - 1}",
                where="--cut",
            )
        feature = joins[self.cut].args[0][0]
        full = self._full(function, feature)
        cached = self._cached(function, feature)
        others = {
            variable.name_hint: function
            for variable, function in module.functions_items()
            if variable.name_hint != "main"
        }
        result = tvm.IRModule({"full": full, "cached": cached, **others}, attrs=module.attrs)
        result = relax.transform.CanonicalizeBindings()(result)
        return relax.transform.DeadCodeElimination(["full", "cached", *others])(result)

    def _full(self, function: relax.Function, feature: relax.Var) -> relax.Function:
        builder = relax.BlockBuilder()
        fresh = relax.utils.copy_with_new_vars(function)
        position = [binding.var for binding in bindings_of(function)].index(feature)
        copied_feature = bindings_of(fresh)[position].var
        with builder.function("full", list(fresh.params)):
            with builder.dataflow():
                replaced: dict[relax.Var, relax.Var] = {}
                for binding in bindings_of(fresh):
                    replaced[binding.var] = builder.emit(substitute(binding.value, replaced))
                noise = substitute(fresh.body.body, replaced)
                output = builder.emit_output(relax.Tuple([noise, replaced[copied_feature]]))
            builder.emit_func_output(output)
        return _public(builder.get()["full"], "full")

    def _cached(self, function: relax.Function, feature: relax.Var) -> relax.Function:
        builder = relax.BlockBuilder()
        fresh = relax.utils.copy_with_new_vars(function)
        parameter = relax.Var("feature", feature.ty)
        parameters = [*fresh.params[: self.input_count], parameter, *fresh.params[self.input_count :]]
        join = cut_points(fresh)[self.cut]
        definitions = {binding.var: binding.value for binding in bindings_of(fresh)}
        for variable, value in definitions.items():
            if value.same_as(join):
                # Only here: without a middle block the innermost feature is its own skip connection.
                fields = relax.Tuple([parameter, join.args[0][1]])
                definitions[variable] = relax.Call(join.op, [fields], join.attrs, join.ty_args)
        needed = needed_for(fresh.body.body, definitions)
        with builder.function("cached", parameters):
            with builder.dataflow():
                replaced: dict[relax.Var, relax.Var] = {}
                for variable, value in definitions.items():
                    if variable in needed:
                        replaced[variable] = builder.emit(substitute(value, replaced))
                output = builder.emit_output(substitute(fresh.body.body, replaced))
            builder.emit_func_output(output)
        return _public(builder.get()["cached"], "cached")


def needed_for(result: relax.Expr, definitions: dict[relax.Var, relax.Expr]) -> set[relax.Var]:
    """The variables that ``result`` depends on, through ``definitions``."""
    needed: set[relax.Var] = set()
    waiting = list(relax.analysis.free_vars(result))
    while waiting:
        variable = waiting.pop()
        if variable not in needed:
            needed.add(variable)
            if variable in definitions:
                waiting.extend(relax.analysis.free_vars(definitions[variable]))
    return needed


def substitute(expr: relax.Expr, replaced: dict[relax.Var, relax.Var]) -> relax.Expr:
    """``expr`` with variables replaced, not normalised: emit it through a block builder."""
    if isinstance(expr, relax.Var):
        return replaced.get(expr, expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([substitute(field, replaced) for field in expr])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(substitute(expr.tuple_value, replaced), expr.index)
    if isinstance(expr, relax.Call):
        arguments = [substitute(argument, replaced) for argument in expr.args]
        return relax.Call(expr.op, arguments, expr.attrs, expr.ty_args)
    return expr


def _public(function: relax.Function, name: str) -> relax.Function:
    return function.with_attr("global_symbol", name)
