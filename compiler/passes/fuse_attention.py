"""Makes one operator of attention that a model writes out.

Before, over [B, H, T, D] or [N, T, D]::

    t = R.permute_dims(k, [0, 1, 3, 2]); s = R.matmul(q, t); m = R.multiply(s, R.const(0.125))
    p = R.nn.softmax(R.add(m, bias), axis=-1); y = R.matmul(p, v)

After::

    a = R.nn.attention_bias(R.permute_dims(q, [0, 2, 1, 3]), ..., bias, scale=0.125)
    y = R.permute_dims(a, [0, 2, 1, 3])

A number may scale the query, the key or the scores, in any mixture; scores may be cast on their way, because
attention keeps them in float32; a bias may be added to them where one is for all heads. [N, T, D] that was
made of [B, H, T, D] is looked through, so that ``Simplify`` meets the transposes around it. Attention whose
scores or weights something else reads, or whose values are of another width than its keys, stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from ddimcache.compiler.passes.partition_at_cut import bindings_of, substitute
from ddimcache.compiler.passes.simplify import op_name, permutation, static_shape


@dataclass(frozen=True)
class _Attention:
    """softmax(``scale`` · ``query`` ``key``ᵀ + ``bias``) ``value``; ``bias`` has a number a pair, if any."""

    query: relax.Expr
    key: relax.Expr
    value: relax.Expr
    scale: float
    bias: relax.Expr | None


class _Fuser:
    def __init__(self, function: relax.Function) -> None:
        self.function = function
        self.definitions: Mapping[relax.Var, Any] = {
            binding.var: binding.value for binding in bindings_of(function)
        }
        self.uses: dict[relax.Var, int] = {}
        for value in [*self.definitions.values(), function.body.body]:
            for variable in _read(value):
                self.uses[variable] = self.uses.get(variable, 0) + 1

    def run(self) -> relax.Function:
        """The function with its written-out attentions fused."""
        name = self.function.attrs["global_symbol"]
        builder = relax.BlockBuilder()
        with builder.function(name, list(self.function.params)):
            with builder.dataflow():
                replaced: dict[relax.Var, relax.Var] = {}
                for variable, value in self.definitions.items():
                    found = self._match(value)
                    if found is None:
                        replaced[variable] = builder.emit(substitute(value, replaced))
                    else:
                        replaced[variable] = self._emit(builder, found, value, replaced)
                output = builder.emit_output(substitute(self.function.body.body, replaced))
            builder.emit_func_output(output)
        result = builder.get()[name]
        return relax.Function(self.function.params, result.body, result.ret_ty, True, self.function.attrs)

    def _only_read_here(self, expr: relax.Expr) -> Any:
        """What a variable with one reader is bound to."""
        if isinstance(expr, relax.Var) and self.uses.get(expr) == 1:
            return self.definitions.get(expr)
        return None

    def _match(self, value: Any) -> _Attention | None:
        if op_name(value) != "relax.matmul":
            return None
        weights = self._only_read_here(value.args[0])
        while op_name(weights) == "relax.astype":
            weights = self._only_read_here(weights.args[0])
        rank = len(static_shape(value) or [])
        if op_name(weights) != "relax.nn.softmax" or int(weights.attrs.axis) % rank != rank - 1:
            return None
        scores, scale, bias = self._scores(weights.args[0])
        if scores is None:
            return None
        query, query_scale = self._scaled(scores.args[0])
        key, key_scale = self._scaled(scores.args[1])
        turned: Any = self.definitions.get(key) if isinstance(key, relax.Var) else None
        if op_name(turned) != "relax.permute_dims":
            return None
        if permutation(turned) != [*range(rank - 2), rank - 1, rank - 2]:
            return None
        key, inner_scale = self._scaled(turned.args[0])
        found = _Attention(query, key, value.args[1], scale * query_scale * key_scale * inner_scale, bias)
        return found if _is_supported(found) else None

    def _scores(self, expr: relax.Expr) -> tuple[Any, float, relax.Expr | None]:
        """The product of query and key behind ``expr``, what scales it and what is added, or no product."""
        scale, bias = 1.0, None
        while (value := self._only_read_here(expr)) is not None:
            name = op_name(value)
            if name == "relax.matmul":
                return value, scale, bias
            if name == "relax.astype":
                expr = value.args[0]
            elif (scaled := _scaling(value)) is not None:
                expr, number = scaled
                scale *= number
            elif name == "relax.add" and bias is None and scale == 1.0:
                sides = [op_name(self._only_read_here(side)) for side in value.args]
                shapes = [math.prod(static_shape(side) or [0]) for side in value.args]
                # The scores are the side that is computed here; of two such, the one that is for all heads
                # is the bias.
                left = bool(sides[0]) and (not sides[1] or shapes[0] >= shapes[1])
                expr, bias = (value.args[0], value.args[1]) if left else (value.args[1], value.args[0])
            else:
                break
        return None, scale, bias

    def _scaled(self, expr: relax.Expr) -> tuple[relax.Expr, float]:
        """What is scaled to give ``expr``, and by what."""
        scaled = _scaling(self.definitions.get(expr)) if isinstance(expr, relax.Var) else None
        return (expr, 1.0) if scaled is None else scaled

    def _emit(
        self,
        builder: relax.BlockBuilder,
        found: _Attention,
        value: relax.Call,
        replaced: dict[relax.Var, relax.Var],
    ) -> relax.Var:
        operands = [found.query, found.key, found.value]
        split = [self._with_heads(operand) for operand in operands]
        heads = {tuple((static_shape(operand) or [])[:2]) for operand in split if operand is not None}
        if len(heads) == 1 and None not in split:
            operands = [operand for operand in split if operand is not None]
        shaped = []
        for operand in operands:
            expr, shape = substitute(operand, replaced), static_shape(operand) or []
            if len(shape) == 4:
                shaped.append(builder.emit(relax.op.permute_dims(expr, [0, 2, 1, 3])))
            else:
                shaped.append(builder.emit(relax.op.reshape(expr, [shape[0], shape[1], 1, shape[2]])))
        bias = None
        if found.bias is not None:
            sides = (static_shape(found.query) or [])[-2], (static_shape(found.key) or [])[-2]
            bias = builder.emit(relax.op.reshape(substitute(found.bias, replaced), [1, 1, *sides]))
        fused = builder.emit(relax.op.nn.attention(*shaped, bias=bias, scale=found.scale))
        if len(static_shape(operands[0]) or []) == 4:
            fused = builder.emit(relax.op.permute_dims(fused, [0, 2, 1, 3]))
        return builder.emit(relax.op.reshape(fused, static_shape(value)))

    def _with_heads(self, expr: relax.Expr) -> relax.Expr | None:
        """The [B, H, T, D] that ``expr`` is or, as [B · H, T, D], was made of."""
        shape = static_shape(expr) or []
        if len(shape) == 4:
            return expr
        value: Any = self.definitions.get(expr) if isinstance(expr, relax.Var) else None
        if op_name(value) != "relax.reshape":
            return None
        inner = static_shape(value.args[0]) or []
        return value.args[0] if len(inner) == 4 and inner[2:] == shape[1:] else None


def _read(expr: relax.Expr) -> list[relax.Var]:
    """The variables that ``expr`` reads, as often as it does."""
    if isinstance(expr, relax.Var):
        return [expr]
    parts: Any = ()
    if isinstance(expr, relax.TupleGetItem):
        parts = (expr.tuple_value,)
    elif isinstance(expr, relax.Tuple):
        parts = expr
    elif isinstance(expr, relax.Call):
        parts = expr.args
    return [variable for part in parts for variable in _read(part)]


def _scaling(value: Any) -> tuple[relax.Expr, float] | None:
    """What ``value`` multiplies by a number or divides by it, and the factor."""
    name = op_name(value)
    if name not in ("relax.multiply", "relax.divide"):
        return None
    number = _number(value.args[1])
    if number is not None:
        return (value.args[0], number) if name == "relax.multiply" else (value.args[0], 1.0 / number)
    number = _number(value.args[0]) if name == "relax.multiply" else None
    return None if number is None else (value.args[1], number)


def _number(expr: relax.Expr) -> float | None:
    """The number that a constant of one element is; none where it is 0."""
    if not isinstance(expr, tvm.ir.GenericConst) or math.prod(static_shape(expr) or []) != 1:
        return None
    return float(expr.value.numpy().item()) or None


def _is_supported(found: _Attention) -> bool:
    query, key = static_shape(found.query), static_shape(found.key)
    if query is None or key is None or static_shape(found.value) != key:
        return False
    if len(query) not in (3, 4) or query[:-2] != key[:-2] or query[-1] != key[-1]:
        return False
    if len({str(operand.ty.dtype) for operand in (found.query, found.key, found.value)}) > 1:
        return False
    if found.bias is None:
        return True
    bias = static_shape(found.bias)
    pair = [query[-2], key[-2]]
    return bias is not None and bias[-2:] == pair and math.prod(bias) == math.prod(pair)


@tvm.transform.module_pass(opt_level=0, name="FuseAttention")
class FuseAttention:
    """See the module's text."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Fuses in every Relax function of ``module``."""
        functions = dict(module.functions_items())
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function):
                functions[variable] = _Fuser(function).run()
        module = tvm.IRModule(functions, attrs=module.attrs, global_infos=module.global_infos)
        module = relax.transform.CanonicalizeBindings()(module)
        names = [variable.name_hint for variable, f in functions.items() if isinstance(f, relax.Function)]
        return relax.transform.DeadCodeElimination(names)(module)
