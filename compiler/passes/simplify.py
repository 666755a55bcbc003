"""Removes what does nothing: neutral arithmetic, casts to the same dtype, chains of shape changes.

What is transposed alike and then added or joined is added or joined first, and so is what is transposed and
then activated, or normalised over channels that were last before: the transpose then meets the next.

Before::

    a = R.divide(x, R.const(1.0)); b = R.permute_dims(a, [0, 2, 1, 3]); c = R.permute_dims(b, [0, 2, 1, 3])

After: ``c`` is ``x``.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

VIEWS = {"relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten"}
"""Operators that give the same numbers in the same order another shape."""

ELEMENT_WISE = {
    f"relax.{name}"
    for name in (
        *("add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "negative", "abs"),
        *("exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "sigmoid", "clip", "astype"),
        *("nn.silu", "nn.gelu", "nn.gelu_tanh", "nn.relu"),
    )
}
"""Operators that compute every number of their result from one of each operand, which may be broadcast."""


def static_shape(expr: relax.Expr) -> list[int] | None:
    """The shape of ``expr`` as integers, or ``None`` when it is not a tensor of known shape."""
    shape = getattr(expr.ty, "shape", None)
    if shape is None or not isinstance(shape, relax.ShapeExpr):
        return None
    return [int(value) for value in shape.values]


def op_name(expr: Any) -> str:
    """The name of the operator that ``expr`` calls, or an empty string."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
        return expr.op.name
    return ""


def permutation(call: relax.Call) -> list[int]:
    """The axes of a ``permute_dims`` call, counted from the front."""
    rank = len(static_shape(call.args[0]) or [])
    if call.attrs.axes is None:
        return list(range(rank))[::-1]
    return [int(axis) % rank for axis in call.attrs.axes]


def slice_of(call: relax.Expr) -> tuple[relax.Expr, int, int, int] | None:
    """Source, axis, begin and end of a ``strided_slice`` along one axis in steps of 1, else ``None``."""
    if op_name(call) != "relax.strided_slice" or len(call.args) not in (4, 5):
        return None
    shape = static_shape(call.args[0]) or []
    numbers = []
    for argument in call.args[1:]:
        if not isinstance(argument, relax.Tuple) or len(argument) != 1:
            return None
        numbers.append(int(argument[0].value))
    axis, begin, end, *step = numbers
    if begin < 0 or end < 0 or step not in ([], [1]):
        return None
    return call.args[0], axis % len(shape), begin, min(end, shape[axis])


def slice_of_last_axis(call: relax.Expr) -> tuple[relax.Expr, int] | None:
    """Source and first element of a ``strided_slice`` that takes a range of the last axis, else ``None``."""
    found = slice_of(call)
    if found is None:
        return None
    source, axis, begin, _ = found
    return (source, begin) if axis == len(static_shape(source) or []) - 1 else None


def _is_scalar(expr: relax.Expr, value: float) -> bool:
    if not isinstance(expr, tvm.ir.GenericConst) or static_shape(expr) not in ([], [1]):
        return False
    return bool(expr.value.numpy().item() == value)


@mutator
class _Simplifier(PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        name = op_name(call)
        if name in ("relax.divide", "relax.multiply") and _is_scalar(call.args[1], 1.0):
            return call.args[0]
        if name in ("relax.add", "relax.subtract") and _is_scalar(call.args[1], 0.0):
            return call.args[0]
        if name == "relax.astype" and call.args[0].ty.dtype == call.attrs.dtype:
            return call.args[0]
        if name in ("relax.add", "relax.concat"):
            return self._transposed_behind(call, name)
        if name == "relax.nn.silu":
            return self._activated(call)
        if name == "relax.nn.group_norm":
            return self._normalised(call)
        if name == "relax.permute_dims":
            return self._permute(call)
        if name in VIEWS or name == "relax.broadcast_to":
            return self._reshape(call, name)
        return call

    def _made(self, expr: Any) -> Any:
        """What a variable is bound to, also behind another name of it; nothing for a parameter."""
        while isinstance(expr, relax.Var):
            expr = self.lookup_binding(expr)
        return expr

    def _transposed_behind(self, call: relax.Call, name: str) -> relax.Expr:
        parts = call.args[0] if name == "relax.concat" else call.args
        if isinstance(parts, relax.Var):
            return call
        values = [self._made(part) for part in parts]
        if not all(op_name(value) == "relax.permute_dims" for value in values):
            return call
        axes, sources = permutation(values[0]), [value.args[0] for value in values]
        if any(permutation(value) != axes for value in values):
            return call
        if name == "relax.concat":
            joined = relax.op.concat(sources, axes[int(call.attrs.axis) % len(axes)])
        elif static_shape(sources[0]) == static_shape(sources[1]):
            joined = relax.op.add(*sources)
        else:
            return call
        return self.builder_.normalize(relax.op.permute_dims(self.builder_.emit(joined), axes))

    def _activated(self, call: relax.Call) -> relax.Expr:
        source = call.args[0]
        producer = self._made(source)
        if op_name(producer) != "relax.permute_dims":
            return call
        activated = self.builder_.emit(relax.op.nn.silu(producer.args[0]))
        return self.builder_.normalize(relax.op.permute_dims(activated, permutation(producer)))

    def _normalised(self, call: relax.Call) -> relax.Expr:
        source, *parameters = call.args
        producer = self.lookup_binding(source) if isinstance(source, relax.Var) else None
        if producer is None or op_name(producer) != "relax.permute_dims":
            return call
        places, attributes = permutation(producer), call.attrs
        channels = places[int(attributes.channel_axis) % len(places)]
        if channels != len(places) - 1 or places[0] != 0:
            return call
        normalised = relax.op.nn.group_norm(
            producer.args[0],
            *parameters,
            num_groups=int(attributes.num_groups),
            channel_axis=channels,
            axes=sorted(places[int(axis) % len(places)] for axis in attributes.axes),
            epsilon=float(attributes.epsilon),
            center=bool(attributes.center),
            scale=bool(attributes.scale),
        )
        return self.builder_.normalize(relax.op.permute_dims(self.builder_.emit(normalised), places))

    def _permute(self, call: relax.Call) -> relax.Expr:
        source, axes = call.args[0], permutation(call)
        producer = self._made(source)
        if op_name(producer) == "relax.permute_dims":
            inner = permutation(producer)
            source, axes = producer.args[0], [inner[axis] for axis in axes]
        shape = static_shape(source)
        if shape is None:
            return call
        if axes == list(range(len(axes))):
            return source
        if (moved := [axis for axis in axes if shape[axis] != 1]) == sorted(moved):
            return self.builder_.normalize(relax.op.reshape(source, [shape[axis] for axis in axes]))
        return self.builder_.normalize(relax.op.permute_dims(source, axes))

    def _reshape(self, call: relax.Call, name: str) -> relax.Expr:
        source, shape, target = call.args[0], static_shape(call.args[0]), static_shape(call)
        if shape is None or target is None:
            return call
        if shape == target:
            return source
        if name == "relax.broadcast_to":
            return call
        producer = self._made(source)
        if op_name(producer) == "relax.reshape":
            source = producer.args[0]
            if static_shape(source) == target:
                return source
        return self.builder_.normalize(relax.op.reshape(source, target))


@tvm.transform.module_pass(opt_level=0, name="Simplify")
class Simplify:
    """See the module's text."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Simplifies every Relax function of ``module``."""
        simplifier = _Simplifier(module)
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function):
                simplifier.builder_.update_func(variable, simplifier.visit_expr(function))
        module = simplifier.builder_.get()
        module = relax.transform.CanonicalizeBindings()(module)
        return relax.transform.DeadCodeElimination()(module)
