"""Takes what does not depend on the latents out of the denoising step.

Keys and values of cross-attention depend on the prompt alone, so they are computed once an image; what every
block adds of the timestep depends on the timestep alone, so it is computed once a sampler schedule.

Before::

    main(latents, timestep [1], context [B, L, D], surroundings [B, S, h, w], weights...) -> noise

After::

    embed_time(timesteps [S], weights...) -> times [S, T]
    project_context(context, weights...) -> keys_values [B, L, K]
    project_surroundings(surroundings, weights...) -> projected_surroundings [B, h, w, P]
    main(latents, times [1, T], keys_values, projected_surroundings, weights...) -> noise

Only UNets that fill in a part of a picture take surroundings (``compiler/passes/split_convolutions.py``).

A hoisted function gives one tensor, the results side by side along the last axis; ``main`` reads its parts
by ``strided_slice``, which the lowering of attention and of additions turns into offsets. Where results
cannot lie side by side (other types or leading sides), and where there are none, the input stays as it was
and its function is not made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from ddimcache.compiler.passes.partition_at_cut import bindings_of, needed_for, substitute
from ddimcache.compiler.passes.simplify import ELEMENT_WISE, VIEWS, op_name, static_shape


@dataclass(frozen=True)
class Invariant:
    """An input of ``main`` that stays while latents change.

    ``position`` counts the parameters of ``main``; ``function`` is the one to make, and ``parameter`` takes
    the input's place. With ``rows`` the input is one number [1] for the whole batch, and the function takes
    so many of them at once; ``main`` is then given one row of what it returns.
    """

    position: int
    function: str
    parameter: str
    rows: int | None = None


def _results(function: relax.Function, source: relax.Var, weights: set[relax.Var]) -> list[relax.Var]:
    """What the rest of ``function`` reads of the values that depend on ``source`` and weights alone.

    Seen through changes of shape, which are free where the value is read.
    """
    depends: dict[relax.Var, bool] = {source: True, **dict.fromkeys(weights, False)}
    definitions = _definitions(function)
    read: set[relax.Var] = set()

    def look_at(expr: relax.Expr) -> None:
        for variable in relax.analysis.free_vars(expr):
            while op_name(definitions.get(variable)) in VIEWS and depends.get(variable):
                variable = definitions[variable].args[0]
            if depends.get(variable):
                read.add(variable)

    for variable, value in definitions.items():
        inputs = relax.analysis.free_vars(value)
        if all(used in depends for used in inputs):
            depends[variable] = any(depends[used] for used in inputs)
        else:
            look_at(value)
    look_at(function.body.body)
    return [variable for variable in (source, *definitions) if variable in read]


def _definitions(function: relax.Function) -> dict[relax.Var, Any]:
    return {binding.var: binding.value for binding in bindings_of(function)}


def _can_be_packed(results: Sequence[relax.Var], rows: int | None) -> bool:
    shapes = [static_shape(result) for result in results]
    if not results or not all(shapes):
        return False
    kinds = {
        (str(result.ty.dtype), *(shape or [])[:-1]) for result, shape in zip(results, shapes, strict=True)
    }
    return len(kinds) == 1 and (rows is None or len(shapes[0] or []) == 2)


class _RowWise:
    """Computes for many rows what ``function`` computes for the one number of an input.

    The number may have been repeated for a batch: all rows are equal then, and one is enough.
    """

    def __init__(self, source: relax.Var, rows: int) -> None:
        self.rows = rows
        self.source = relax.Var(f"{source.name}s", relax.TensorType((rows,), source.ty.dtype))
        self.of_rows: dict[relax.Var, list[int]] = {source: static_shape(source) or []}
        """The shapes before, of variables that have a row for every number."""

    def visit(self, variable: relax.Var, value: Any, replaced: dict[relax.Var, relax.Expr]) -> Any:
        """What takes the place of ``value``, or ``None`` where its rows are not computed one by one."""
        inputs = relax.analysis.free_vars(value)
        if not any(used in self.of_rows for used in inputs):
            return substitute(value, replaced)
        shape, name = static_shape(value), op_name(value)
        if not shape:
            return None
        arguments = list(value.args) if isinstance(value, relax.Call) else []
        shapes = [
            self.of_rows.get(argument) if isinstance(argument, relax.Var) else None for argument in arguments
        ]
        first, result = shapes[0] if shapes else None, None
        if name == "relax.broadcast_to" and first is not None and first[0] == 1 and first[1:] == shape[1:]:
            result = replaced[arguments[0]]
        elif name in VIEWS and first is not None and first[0] == shape[0]:
            result = relax.op.reshape(replaced[arguments[0]], [self.rows, *shape[1:]])
        elif (
            (name in ELEMENT_WISE and all(map(self._fits, arguments, [shape] * len(arguments))))
            or (name == "relax.matmul" and first is not None and len(first) == 2 and shapes[1] is None)
            or (name == "relax.concat" and self._side_by_side(value, len(shape)))
            or (name == "relax.strided_slice" and first is not None and _keeps_rows(value))
        ):
            result = substitute(value, replaced)
        if result is not None:
            self.of_rows[variable] = shape
        return result

    def _fits(self, argument: relax.Expr, shape: list[int]) -> bool:
        """Whether an operand of element-wise arithmetic has the same rows, or is the same for all."""
        if isinstance(argument, relax.Var) and argument in self.of_rows:
            return self.of_rows[argument][:1] == shape[:1] and len(self.of_rows[argument]) == len(shape)
        other = static_shape(argument)
        return other is not None and (len(other) < len(shape) or other[0] == 1)

    def _side_by_side(self, call: relax.Call, rank: int) -> bool:
        fields = call.args[0]
        return (
            isinstance(fields, relax.Tuple)
            and all(isinstance(field, relax.Var) and field in self.of_rows for field in fields)
            and call.attrs.axis is not None
            and int(call.attrs.axis) % rank != 0
        )


def _keeps_rows(call: relax.Call) -> bool:
    """Whether a ``strided_slice`` takes parts of rows and not some of them."""
    rank = len(static_shape(call.args[0]) or [])
    axes = call.args[1]
    return isinstance(axes, relax.Tuple) and all(int(axis.value) % rank != 0 for axis in axes)


def _hoisted(
    function: relax.Function, source: relax.Var, results: list[relax.Var], invariant: Invariant
) -> relax.Function | None:
    """The function that gives ``results`` side by side; ``None`` where rows cannot be told apart."""
    fresh = relax.utils.copy_with_new_vars(function)
    copies = dict(zip(_variables(function), _variables(fresh), strict=True))
    definitions = _definitions(fresh)
    wanted = [copies[result] for result in results]
    needed = needed_for(relax.Tuple(wanted), definitions)
    weights = [parameter for parameter in fresh.params if parameter in needed]
    weights.remove(copies[source])
    steps = [(variable, value) for variable, value in definitions.items() if variable in needed]
    row_wise = None if invariant.rows is None else _RowWise(copies[source], invariant.rows)
    parameter = copies[source]
    if row_wise is not None:
        same = {variable: variable for variable in needed}
        if any(row_wise.visit(variable, value, same) is None for variable, value in steps):
            return None
        parameter = row_wise.source
    builder = relax.BlockBuilder()
    with builder.function(invariant.function, [parameter, *weights]):
        with builder.dataflow():
            replaced: dict[relax.Var, Any] = {copies[source]: parameter}
            for variable, value in steps:
                moved = row_wise.visit(variable, value, replaced) if row_wise else substitute(value, replaced)
                replaced[variable] = moved if isinstance(moved, relax.Var) else builder.emit(moved)
            packed = replaced[wanted[0]]
            if len(wanted) > 1:
                packed = builder.emit(relax.op.concat([replaced[result] for result in wanted], axis=-1))
            output = builder.emit_output(packed)
        builder.emit_func_output(output)
    return builder.get()[invariant.function].with_attr("global_symbol", invariant.function)


def _variables(function: relax.Function) -> list[relax.Var]:
    return [*function.params, *(binding.var for binding in bindings_of(function))]


def _remaining(
    function: relax.Function, source: relax.Var, results: list[relax.Var], packed: relax.Var
) -> relax.Function:
    """``function`` with ``packed`` in the place of its parameter ``source``."""
    definitions = _definitions(function)
    # Rows are read through slices even where they are whole: what lowers additions looks for these.
    is_whole = len(results) == 1 and len(static_shape(packed) or []) == 4
    axis, begin = len(static_shape(packed) or []) - 1, 0
    parts: dict[relax.Var, tuple[int, int]] = {}
    for result in results:
        end = begin + (static_shape(result) or [])[-1]
        parts[result] = begin, end
        # Found again below; what it was computed from is needed no longer.
        definitions[result] = relax.Tuple([packed])
        begin = end
    needed = needed_for(function.body.body, definitions)
    parameters = [packed if parameter.same_as(source) else parameter for parameter in function.params]
    builder = relax.BlockBuilder()
    with builder.function("main", parameters):
        with builder.dataflow():
            replaced: dict[relax.Var, relax.Var] = {}
            for variable, value in definitions.items():
                if variable not in needed:
                    continue
                if variable in parts and is_whole:
                    replaced[variable] = packed
                elif variable in parts:
                    begin, end = parts[variable]
                    value = relax.op.strided_slice(packed, [axis], [begin], [end], assume_inbound=True)
                    part, shape = builder.emit(value), static_shape(variable) or []
                    # The same for the whole batch.
                    repeated = relax.op.broadcast_to(part, shape)
                    replaced[variable] = part if static_shape(part) == shape else builder.emit(repeated)
                else:
                    replaced[variable] = builder.emit(substitute(value, replaced))
            output = builder.emit_output(substitute(function.body.body, replaced))
        builder.emit_func_output(output)
    return builder.get()["main"].with_attr("global_symbol", "main")


@tvm.transform.module_pass(opt_level=0, name="HoistInvariants")
class HoistInvariants:
    """See the module's text.

    ``input_count`` parameters of ``main`` are no weights. After the pass, ``made`` names the functions that
    were made.
    """

    def __init__(self, input_count: int, invariants: Sequence[Invariant]) -> None:
        self.input_count = input_count
        self.invariants = invariants
        self.made: list[str] = []

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Hoists from ``main``; other functions of ``module`` stay as they are."""
        functions = {variable.name_hint: function for variable, function in module.functions_items()}
        for invariant in self.invariants:
            main = functions["main"]
            source = main.params[invariant.position]
            results = _results(main, source, set(main.params[self.input_count :]))
            if source in results or not _can_be_packed(results, invariant.rows):
                continue
            function = _hoisted(main, source, results, invariant)
            if function is None:
                continue
            shape = static_shape(function.body.body) or []
            given = shape if invariant.rows is None else [1, *shape[1:]]
            packed = relax.Var(invariant.parameter, relax.TensorType(given, function.ret_ty.dtype))
            functions[invariant.function] = function
            functions["main"] = _remaining(main, source, results, packed)
            self.made.append(invariant.function)
        if not self.made:
            return module
        return relax.transform.CanonicalizeBindings()(tvm.IRModule(functions, attrs=module.attrs))
