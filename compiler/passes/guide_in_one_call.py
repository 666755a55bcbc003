"""Makes functions that compute a step for both prompts of guidance at once.

Guidance wants two predictions for the same latents: one of the negative prompt and one of the prompt. A call
for both has what depends on a prompt twice along the leading axis, the negative prompt's half first, and
everything before the first cross-attention once: of SD 1.5's full step a residual block and a
self-attention of 64×64 cells, of its cached one all that the skip connection adds behind the cut.

Before::

    full(latents [B, ...], time, context [B, ...], weights...) -> (noise [B, ...], feature [B, ...])
    cached(latents [B, ...], time, context [B, ...], feature [B, ...], weights...) -> noise [B, ...]

After, beside them::

    full_guided(latents [B, ...], time, context [2B, ...], weights...) -> (noise [2B, ...], feature [2B, ...])
    cached_guided(latents [B, ...], time, context [2B, ...], feature [2B, ...], weights...) -> noise [2B, ...]

A tensor that both prompts share is doubled, ``R.concat((x, x), axis=0)``, where it first meets one that they
do not. An operator that does not keep the halves of its operands apart is called for each half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relax

from ddimcache.compiler.passes.partition_at_cut import bindings_of, substitute
from ddimcache.compiler.passes.simplify import ELEMENT_WISE, VIEWS, op_name, permutation, static_shape
from ddimcache.errors import CompileError
from ddimcache.manifest import GUIDED

_BY_PICTURE = {"relax.nn.conv2d", "relax.image.resize2d", "relax.nn.group_norm", "relax.nn.layer_norm"}
"""Operators whose first operand has a leading axis of pictures, and whose others are weights."""


class _Doubler:
    """Writes one function for both prompts, each of which has its own of the parameters ``varying``."""

    def __init__(self, function: relax.Function, varying: Sequence[int]) -> None:
        self.function = relax.utils.copy_with_new_vars(function)
        self.builder = relax.BlockBuilder()
        self.replaced: dict[relax.Var, relax.Var] = {}
        self.twofold: set[relax.Var] = set()
        """The variables, of the function before, that the prompts do not share."""
        self.doubled: dict[relax.Expr, relax.Var] = {}
        for position in varying:
            parameter = self.function.params[position]
            lead, *sides = static_shape(parameter) or []
            both = relax.TensorType((2 * lead, *sides), parameter.ty.dtype)
            self.replaced[parameter] = relax.Var(parameter.name, both)
            self.twofold.add(parameter)

    def write(self, name: str) -> relax.Function:
        """The function ``name`` for both prompts."""
        parameters = [self.replaced.get(parameter, parameter) for parameter in self.function.params]
        with self.builder.function(name, parameters):
            with self.builder.dataflow():
                for binding in bindings_of(self.function):
                    variable, value = binding.var, binding.value
                    shared = self.twofold.isdisjoint(relax.analysis.free_vars(value))
                    if shared and not isinstance(value, relax.Tuple):
                        self.replaced[variable] = self.builder.emit(substitute(value, self.replaced))
                    else:
                        self.replaced[variable] = self.builder.emit(self._both(value))
                        self.twofold.add(variable)
                output = self.builder.emit_output(self._result(self.function.body.body))
            self.builder.emit_func_output(output)
        return self.builder.get()[name].with_attr("global_symbol", name)

    def _result(self, result: relax.Expr) -> relax.Expr:
        if isinstance(result, relax.Tuple):
            return relax.Tuple([self._twice(field) for field in result])
        return self._twice(result)

    def _twice(self, expr: relax.Expr) -> relax.Expr:
        """``expr`` for both prompts, doubled where they share it."""
        value = substitute(expr, self.replaced)
        if expr in self.twofold:
            return value
        if expr not in self.doubled:
            self.doubled[expr] = self.builder.emit(relax.op.concat([value, value], axis=0))
        return self.doubled[expr]

    def _both(self, value: Any) -> relax.Expr:
        if isinstance(value, (relax.Var, relax.Tuple, relax.TupleGetItem)):
            return self._result(value) if isinstance(value, relax.Tuple) else substitute(value, self.replaced)
        at_once = self._at_once(value, op_name(value))
        return self._one_by_one(value) if at_once is None else at_once

    def _at_once(self, call: relax.Call, name: str) -> relax.Expr | None:
        """The call over both halves, or nothing where it would not keep them apart."""
        shape = static_shape(call)
        lead = shape[0] if shape else 0
        arguments = list(call.args)
        first = arguments[0] if arguments else None
        if name in VIEWS and shape:
            return relax.op.reshape(substitute(first, self.replaced), [2 * lead, *shape[1:]])
        if name in ELEMENT_WISE and shape:
            operands = [self._operand(each, shape) for each in arguments]
            if any(operand is None for operand in operands):
                return None
            arguments = operands
        elif name == "relax.nn.attention":
            arguments = [self._twice(each) for each in arguments]
        elif name == "relax.concat" and isinstance(first, relax.Tuple) and shape:
            if call.attrs.axis is None or int(call.attrs.axis) % len(shape) == 0:
                return None
            arguments = [relax.Tuple([self._twice(each) for each in first])]
        elif name == "relax.matmul" and shape and len(shape) > 2:
            sides = [static_shape(each) or [] for each in arguments]
            # Weights have no axis of pictures.
            if len(sides[0]) != len(shape) or len(sides[1]) not in (2, len(shape)):
                return None
            batched = len(sides[1]) == len(shape)
            if not batched and arguments[1] in self.twofold:
                return None
            if batched and not sides[0][0] == sides[1][0] == lead:
                return None
            arguments = [self._twice(each) for each in arguments[: 1 + batched]] + arguments[1 + batched :]
        elif not self._alone(arguments) or not self._keeps_lead(call, name):
            return None
        return relax.Call(
            call.op, [substitute(each, self.replaced) for each in arguments], call.attrs, call.ty_args
        )

    def _operand(self, expr: relax.Expr, shape: list[int]) -> relax.Expr | None:
        """An operand of element-wise arithmetic whose result was of ``shape``, where it can be one for both.

        What is broadcast anyway, a bias or what a timestep adds, stays as it is.
        """
        sides = static_shape(expr)
        if sides == shape:
            return self._twice(expr)
        if expr in self.twofold:
            return expr if sides is not None and len(sides) == len(shape) and sides[0] == shape[0] else None
        return expr if not sides or len(sides) < len(shape) or sides[0] == 1 else None

    def _alone(self, arguments: Sequence[relax.Expr]) -> bool:
        """Whether the first operand alone is not shared."""
        return bool(arguments) and arguments[0] in self.twofold and self.twofold.isdisjoint(arguments[1:])

    def _keeps_lead(self, call: relax.Call, name: str) -> bool:
        """Whether an operator does the same to every entry of its first operand's leading axis."""
        source = static_shape(call.args[0]) or []
        rank = len(source)
        if name in ("relax.nn.group_norm", "relax.nn.layer_norm"):
            return all(int(axis) % rank != 0 for axis in call.attrs.axes)
        if name == "relax.permute_dims":
            return permutation(call)[0] == 0
        if name == "relax.strided_slice":
            axes = call.args[1]
            return isinstance(axes, relax.Tuple) and all(int(axis.value) % rank != 0 for axis in axes)
        if name in ("relax.split", "relax.nn.softmax"):
            return int(call.attrs.axis) % rank != 0
        return name in _BY_PICTURE

    def _one_by_one(self, call: relax.Call) -> relax.Expr:
        """The call for each half, and their results behind one another."""
        results = []
        for side in range(2):
            halves: dict[relax.Var, relax.Var] = dict(self.replaced)
            for variable in relax.analysis.free_vars(call):
                if variable in self.twofold:
                    shape = static_shape(variable)
                    if not shape:
                        raise CompileError(f"guidance in one call: {op_name(call)} takes what has no halves")
                    begin = side * shape[0]
                    part = relax.op.strided_slice(
                        self.replaced[variable], [0], [begin], [begin + shape[0]], assume_inbound=True
                    )
                    halves[variable] = self.builder.emit(part)
            results.append(self.builder.emit(substitute(call, halves)))
        if not static_shape(call):
            raise CompileError(f"guidance in one call: what {op_name(call)} makes has no halves")
        return relax.op.concat(results, axis=0)


@tvm.transform.module_pass(opt_level=0, name="GuideInOneCall")
class GuideInOneCall:
    """See the module's text.

    ``varying`` names the functions to make such others of, each with the positions of the parameters that
    each prompt has its own of. Raises :class:`CompileError` for an operator whose result has no halves.
    """

    def __init__(self, varying: Mapping[str, Sequence[int]]) -> None:
        self.varying = varying
        self.note = ""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Adds a function for both prompts beside each of those named; all others stay as they are."""
        functions = {variable.name_hint: function for variable, function in module.functions_items()}
        shared = []
        for name, positions in self.varying.items():
            doubler = _Doubler(module[name], positions)
            functions[name + GUIDED] = doubler.write(name + GUIDED)
            total = len(bindings_of(module[name]))
            shared.append(f"{total - len(doubler.twofold) + len(positions)} of {total} in {name}")
        self.note = f"operators that both prompts share: {', '.join(shared)}"
        return relax.transform.CanonicalizeBindings()(tvm.IRModule(functions, attrs=module.attrs))
