"""Makes one matrix product of linear layers that read the same input.

Query, key and value of self-attention::

    q = R.matmul(x, wq.T); k = R.matmul(x, wk.T); v = R.matmul(x, wv.T)
    R.nn.attention(reshape(q), reshape(k), reshape(v))

become::

    z = R.matmul(x, (wq + wk + wv).T)
    q, k, v = R.strided_slice(z, ...)

whose slices attention reads in place (``LowerAttention``). Layers whose results are put side by side, as
``HoistInvariants`` leaves them, become one product without a concatenation::

    R.concat((R.matmul(x, w0.T) + b0, R.matmul(x, w1.T) + b1), axis=-1)
    R.matmul(x, (w0 + w1).T) + (b0 + b1)

Output channels are rounded to int8 one by one, so merging changes no weight. Layers of so few channels that
they are not rounded (``compress/quantize.py``) are merged only where what they become is not rounded either,
and layers that options ask something of by name (``--keep-fp16``, ``--accumulate``, ``--activations``) only
with others that are asked the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ddimcache.compiler.compress.quantize import is_sensitive
from ddimcache.compiler.compress.weights import Weight, WeightStore
from ddimcache.compiler.passes.partition_at_cut import bindings_of, substitute
from ddimcache.compiler.passes.simplify import op_name, permutation, static_shape

Asked = Callable[[str, str], object]
"""Says by a weight's name and that of the function that uses it what options ask of the layer."""


def nothing_asked(_key: str, _function: str) -> None:
    """Asks the same of all layers."""


_ATTENTION = ("relax.nn.attention", "relax.nn.attention_bias")


@dataclass(frozen=True)
class _Linear:
    """``x @ weight.T`` or ``x @ weight.T + bias``, ``weight`` and ``bias`` being parameters."""

    x: relax.Var
    weight: relax.Var
    bias: relax.Var | None
    channels: int


class _Merger:
    def __init__(self, function: relax.Function, store: WeightStore, inputs: int, asked: Asked) -> None:
        self.function = function
        self.store = store
        self.asked = asked
        self.weights = set(function.params[inputs:])
        self.definitions = {binding.var: binding.value for binding in bindings_of(function)}
        self.uses: dict[relax.Var, int] = {}
        for value in [*self.definitions.values(), function.body.body]:
            for variable in relax.analysis.free_vars(value):
                self.uses[variable] = self.uses.get(variable, 0) + 1
        self.added: dict[str, relax.Var] = {}
        self.members: dict[str, tuple[str, ...]] = {}

    def run(self) -> relax.Function:
        """The function with its parallel linear layers merged."""
        merged: dict[relax.Var, tuple[list[_Linear], list[relax.Var]]] = {}
        for variables in self._projections():
            found = [self._linear(variable) for variable in variables]
            linears = [linear for linear in found if linear is not None]
            if len(linears) == len(variables) and self._can_be_merged(linears):
                merged[variables[0]] = (linears, variables)
        builder = relax.BlockBuilder()
        name = self.function.attrs["global_symbol"]
        # Parameters that only the merged weights were computed from are dropped with the dead code.
        with builder.function(name, list(self.function.params)):
            with builder.dataflow():
                replaced: dict[relax.Var, relax.Var] = {}
                for variable, value in self.definitions.items():
                    if variable in merged:
                        self._emit_slices(builder, *merged[variable], replaced)
                    elif variable not in replaced:
                        joined = self._joined(value)
                        if joined is not None:
                            replaced[variable] = self._emit(builder, joined, replaced)
                        else:
                            replaced[variable] = builder.emit(substitute(value, replaced))
                output = builder.emit_output(substitute(self.function.body.body, replaced))
            builder.emit_func_output(output)
        result = builder.get()[name]
        parameters = [*self.function.params, *self.added.values()]
        return relax.Function(parameters, result.body, result.ret_ty, True, self.function.attrs)

    def _projections(self) -> list[list[relax.Var]]:
        """For every attention, those of its inputs that are used for nothing else, by their common source."""
        groups = []
        for value in self.definitions.values():
            if op_name(value) not in _ATTENTION:
                continue
            by_source: dict[relax.Var, list[relax.Var]] = {}
            for argument in value.args[:3]:
                shaped: Any = self.definitions.get(argument)
                if op_name(shaped) != "relax.reshape" or self.uses[argument] != 1:
                    continue
                variable = shaped.args[0]
                linear = self._linear(variable) if isinstance(variable, relax.Var) else None
                if linear is not None and self.uses[variable] == 1:
                    by_source.setdefault(linear.x, []).append(variable)
            order = {variable: place for place, variable in enumerate(self.definitions)}
            groups += [sorted(group, key=order.__getitem__) for group in by_source.values() if len(group) > 1]
        return groups

    def _linear(self, variable: relax.Var) -> _Linear | None:
        value: Any = self.definitions.get(variable)
        bias = None
        if op_name(value) == "relax.add" and value.args[1] in self.weights:
            bias = value.args[1]
            if len(static_shape(bias) or []) != 1 or self.uses.get(value.args[0]) != 1:
                return None
            value = self.definitions.get(value.args[0])
        if op_name(value) != "relax.matmul" or not isinstance(value.args[0], relax.Var):
            return None
        turned: Any = self.definitions.get(value.args[1])
        if op_name(turned) != "relax.permute_dims" or turned.args[0] not in self.weights:
            return None
        weight = turned.args[0]
        if permutation(turned) != [1, 0]:
            return None
        return _Linear(value.args[0], weight, bias, (static_shape(weight) or [0])[0])

    def _joined(self, value: relax.Expr) -> list[_Linear] | None:
        """The linear layers whose results ``value`` puts side by side, if that is all it does."""
        if op_name(value) != "relax.concat" or not isinstance(value.args[0], relax.Tuple):
            return None
        fields = list(value.args[0])
        rank = len(static_shape(value) or [])
        if value.attrs.axis is None or int(value.attrs.axis) % rank != rank - 1:
            return None
        found = [self._linear(field) if self.uses.get(field) == 1 else None for field in fields]
        linears = [linear for linear in found if linear is not None]
        return linears if len(linears) == len(fields) and self._can_be_merged(linears) else None

    def _can_be_merged(self, linears: list[_Linear]) -> bool:
        first, depth = linears[0], (static_shape(linears[0].weight) or [0])[-1]
        sensitive = is_sensitive(sum(linear.channels for linear in linears), depth)
        name = self.function.attrs["global_symbol"]
        return len(linears) > 1 and all(
            linear.x.same_as(first.x)
            and (linear.bias is None) == (first.bias is None)
            and linear.weight.ty.dtype == first.weight.ty.dtype
            and is_sensitive(linear.channels, depth) == sensitive
            and self.asked(linear.weight.name, name) == self.asked(first.weight.name, name)
            for linear in linears
        )

    def _emit_slices(
        self,
        builder: relax.BlockBuilder,
        linears: list[_Linear],
        variables: list[relax.Var],
        replaced: dict[relax.Var, relax.Var],
    ) -> None:
        product = self._emit(builder, linears, replaced)
        axis, begin = len(static_shape(product) or []) - 1, 0
        for linear, variable in zip(linears, variables, strict=True):
            end = begin + linear.channels
            part = relax.op.strided_slice(product, [axis], [begin], [end], assume_inbound=True)
            replaced[variable] = builder.emit(part)
            begin = end

    def _emit(
        self, builder: relax.BlockBuilder, linears: list[_Linear], replaced: dict[relax.Var, relax.Var]
    ) -> relax.Var:
        x = replaced.get(linears[0].x, linears[0].x)
        weight = self._merged([linear.weight for linear in linears])
        product = builder.emit(relax.op.matmul(x, builder.emit(relax.op.permute_dims(weight, [1, 0]))))
        biases = [linear.bias for linear in linears if linear.bias is not None]
        return builder.emit(relax.op.add(product, self._merged(biases))) if biases else product

    def _merged(self, weights: Sequence[relax.Var]) -> relax.Var:
        """One weight with the output channels of all of ``weights``, computed when the bundle is written."""
        parts = [self.store[weight.name] for weight in weights]
        # No other group begins with the same weight: it is used once.
        name = f"{weights[0].name}+{len(weights) - 1}"
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        self.store.add(
            name, Weight(shape, parts[0].dtype, lambda: np.concatenate([part.compute() for part in parts]))
        )
        self.members[name] = tuple(weight.name for weight in weights)
        if name not in self.added:
            self.added[name] = relax.Var(name, relax.TensorType(shape, str(weights[0].ty.dtype)))
        return self.added[name]


@tvm.transform.module_pass(opt_level=0, name="MergeProjections")
class MergeProjections:
    """See the module's text; ``inputs`` gives how many leading parameters of a function are no weights.

    ``asked`` keeps layers apart. After the pass, ``members`` gives for every merged weight the weights that
    it was made of.
    """

    def __init__(self, store: WeightStore, inputs: dict[str, int], asked: Asked = nothing_asked) -> None:
        self.store = store
        self.inputs = inputs
        self.asked = asked
        self.members: dict[str, tuple[str, ...]] = {}

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Merges in every Relax function of ``module``."""
        functions = dict(module.functions_items())
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function):
                merger = _Merger(function, self.store, self.inputs[variable.name_hint], self.asked)
                functions[variable] = merger.run()
                self.members.update(merger.members)
        module = relax.transform.CanonicalizeBindings()(tvm.IRModule(functions, attrs=module.attrs))
        return relax.transform.DeadCodeElimination(list(self.inputs))(module)
