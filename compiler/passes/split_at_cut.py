"""Moves what the layers behind the cut make of the cached feature into the full step.

The join at the cut is read by a residual block: normalised, activated and convolved, and convolved for the
shortcut. A convolution is a sum over its input channels, so what the feature adds to it stays the same until
the next full step. That is computed there and kept in place of the feature. Of SD 1.5 at cut 0 and 512×512 a
cached step is spared 4.2 of 31.6 G multiply-accumulates, the copy that joined feature and skip connection,
and half of the block's first GroupNorm; two tensors of 320 channels are kept where one was.

Before (channels last)::

    full(inputs..., weights...) -> (noise, feature)
    cached(inputs..., feature, weights...):
        x = R.concat((feature, skip), axis=3)                                      # C of A + B channels
        y = R.nn.conv2d(R.nn.silu(R.nn.group_norm(x, g, b, num_groups=G)), w)
        z = R.nn.conv2d(x, v)

After::

    full(inputs..., weights...) -> (noise, feature_0, feature_1)
    cached(inputs..., feature_0, feature_1, weights...):
        s = R.nn.silu(R.nn.group_norm(skip, g[A:], b[A:], num_groups=G * B / C))
        y = R.nn.conv2d(s, w[..., A:]) + feature_0
        z = R.nn.conv2d(skip, v[..., A:]) + feature_1

``full`` computes ``feature_0 = R.nn.conv2d(R.nn.silu(R.nn.group_norm(feature, ...)), w[..., :A])`` and
``feature_1`` alike, and adds them to the same products as ``cached``. Weights are rounded before they are
split, so that their numbers are those of the whole.

Left alone where a group of the normalisation, or one that shares a scale, has channels of both sides, and
where anything else reads the join.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax

from ddimcache.compiler.compress.weights import Weight, WeightStore
from ddimcache.compiler.passes.pack_weights import StoredWeights
from ddimcache.compiler.passes.partition_at_cut import bindings_of, substitute
from ddimcache.compiler.passes.simplify import op_name, static_shape
from ddimcache.compiler.target import DeviceProfile
from ddimcache.kernels.tiling import PIXEL

_ONE_BY_ONE = {"relax.nn.silu", "relax.nn.gelu", "relax.nn.relu", "relax.tanh", "relax.sigmoid"}
_NORM, _CONVOLUTION = "relax.nn.group_norm", "relax.nn.conv2d"

Product = Callable[[relax.BlockBuilder, relax.Call | None], relax.Var]
"""What the feature adds to a convolution: emits the call, or is what was kept of it."""


@dataclass
class _Split:
    """What is split in a function: its join of ``feature``, and all that reads it, by variable."""

    feature: relax.Var
    join: relax.Var
    halves: set[relax.Var] = field(default_factory=set)
    sums: list[relax.Var] = field(default_factory=list)


@tvm.transform.module_pass(opt_level=0, name="SplitAtCut")
class SplitAtCut:
    """See the module's text.

    ``input_count`` parameters of ``full`` are no weights; ``cached`` has the feature behind them. After the
    pass, ``features`` is the number of tensors that are kept, ``members`` names what each new weight of
    ``store`` was made of, and ``note`` says what was done, or why nothing was.
    """

    def __init__(self, store: WeightStore, input_count: int, profile: DeviceProfile, weights: str) -> None:
        self.store = store
        self.input_count = input_count
        self.stored = StoredWeights(profile, weights)
        self.features = 1
        self.members: dict[str, tuple[str, ...]] = {}
        self.note = ""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Splits in ``full`` and ``cached`` alike; other functions stay as they are."""
        full, cached = module["full"], module["cached"]
        noise, feature = _outputs(full)
        plans = [self._plan(full, feature), self._plan(cached, cached.params[self.input_count])]
        if isinstance(plans[0], str) or isinstance(plans[1], str):
            self.note = next(plan for plan in plans if isinstance(plan, str))
            return module
        split_full, split_cached = plans
        assert isinstance(split_full, _Split)
        assert isinstance(split_cached, _Split)
        assert len(split_full.sums) == len(split_cached.sums)
        functions = {variable.name_hint: function for variable, function in module.functions_items()}
        functions["full"] = self._full(full, split_full, noise)
        functions["cached"] = self._cached(cached, split_cached)
        self.features = len(split_cached.sums)
        self.note = f"{self.features} convolutions split, of {_channels(feature)} channels from the feature"
        result = relax.transform.CanonicalizeBindings()(tvm.IRModule(functions, attrs=module.attrs))
        return relax.transform.DeadCodeElimination(list(functions))(result)

    def _plan(self, function: relax.Function, feature: relax.Var) -> _Split | str:
        """What to split in ``function``, or why nothing is."""
        definitions = {binding.var: binding.value for binding in bindings_of(function)}
        joins = [variable for variable, value in definitions.items() if _joins(value, feature)]
        if len(joins) != 1:
            return "left alone, the feature is joined with nothing along its channels"
        split = _Split(feature, joins[0], {joins[0]})
        first = _channels(feature)
        weights = set(function.params[self.input_count :])
        for variable, value in definitions.items():
            if not split.halves.intersection(relax.analysis.free_vars(value)):
                continue
            name = op_name(value)
            if name in _ONE_BY_ONE:
                split.halves.add(variable)
            elif name == _NORM and weights.issuperset(value.args[1:]):
                if first % (_channels(value) // int(value.attrs.num_groups)):
                    return "left alone, a group of the normalisation has channels of both sides"
                split.halves.add(variable)
            elif name == _CONVOLUTION and value.args[0] in split.halves:
                if not self._divides(value, first):
                    return "left alone, a convolution's input channels cannot be parted there"
                split.sums.append(variable)
            else:
                return f"left alone, the join is read by {name.removeprefix('relax.') or 'another function'}"
        if split.halves.intersection(relax.analysis.free_vars(function.body.body)):
            return "left alone, the join is a result"
        return split if split.sums else "left alone, nothing convolves the join"

    def _divides(self, call: relax.Call, first: int) -> bool:
        """Whether a convolution's weights can be parted before input channel ``first``."""
        attributes = call.attrs
        if (attributes.data_layout, attributes.kernel_layout, int(attributes.groups)) != ("NHWC", "OHWI", 1):
            return False
        shape = tuple(static_shape(call.args[1]) or ())
        group = self.stored.group(shape) if self.stored.stored(shape)[0] == "int8" else 0
        return first % math.lcm(PIXEL, group or 1) == 0

    def _full(self, function: relax.Function, split: _Split, noise: relax.Var) -> relax.Function:
        kept: list[relax.Var] = []

        def product(builder: relax.BlockBuilder, call: relax.Call | None) -> relax.Var:
            kept.append(builder.emit(call))
            return kept[-1]

        def result(replaced: dict[relax.Var, relax.Var]) -> relax.Expr:
            return relax.Tuple([substitute(noise, replaced), *kept])

        return self._write(function, split, list(function.params), product, result)

    def _cached(self, function: relax.Function, split: _Split) -> relax.Function:
        kept = [relax.Var(f"feature_{number}", found.ty) for number, found in enumerate(split.sums)]
        parameters = list(function.params)
        parameters[self.input_count : self.input_count + 1] = kept
        waiting = iter(kept)

        def product(_builder: relax.BlockBuilder, _call: relax.Call | None) -> relax.Var:
            return next(waiting)

        def result(replaced: dict[relax.Var, relax.Var]) -> relax.Expr:
            return substitute(function.body.body, replaced)

        return self._write(function, split, parameters, product, result, computes_feature=False)

    def _write(
        self,
        function: relax.Function,
        split: _Split,
        parameters: list[relax.Var],
        product: Product,
        result: Callable[[dict[relax.Var, relax.Var]], relax.Expr],
        *,
        computes_feature: bool = True,
    ) -> relax.Function:
        """``function`` with what ``split`` names in two halves, that of the feature only where asked."""
        name = str(function.attrs["global_symbol"])
        first, added = _channels(split.feature), dict[str, relax.Var]()
        halves: dict[relax.Var, tuple[relax.Var | None, relax.Var]] = {}
        replaced: dict[relax.Var, relax.Var] = {}
        builder = relax.BlockBuilder()
        with builder.function(name, parameters):
            with builder.dataflow():
                for binding in bindings_of(function):
                    variable, value = binding.var, binding.value
                    if variable.same_as(split.join):
                        feature, skip = (replaced.get(side, side) for side in value.args[0])
                        halves[variable] = (feature if computes_feature else None, skip)
                    elif variable in split.halves:
                        ours, others = halves[value.args[0]]
                        halves[variable] = (
                            None if ours is None else self._half(builder, value, ours, 0, first, added),
                            self._half(builder, value, others, first, _channels(value), added),
                        )
                    elif variable in split.sums:
                        ours, others = halves[value.args[0]]
                        weight = replaced.get(value.args[1], value.args[1])
                        call = None if ours is None else _convolve(builder, value, ours, weight, 0, first)
                        kept = product(builder, call)
                        end = (static_shape(value.args[1]) or [])[-1]
                        rest = builder.emit(_convolve(builder, value, others, weight, first, end))
                        replaced[variable] = builder.emit(relax.op.add(rest, kept))
                    else:
                        replaced[variable] = builder.emit(substitute(value, replaced))
                output = builder.emit_output(result(replaced))
            builder.emit_func_output(output)
        written = builder.get()[name]
        return relax.Function(
            [*written.params, *added.values()], written.body, written.ret_ty, True, function.attrs
        )

    def _half(
        self,
        builder: relax.BlockBuilder,
        call: relax.Call,
        x: relax.Var,
        begin: int,
        end: int,
        added: dict[str, relax.Var],
    ) -> relax.Var:
        """What ``call`` makes of the channels from ``begin`` to ``end``, which are ``x``."""
        if op_name(call) != _NORM:
            return builder.emit(relax.Call(call.op, [x], call.attrs, call.ty_args))
        attributes, total = call.attrs, _channels(call)
        parameters = [self._part(weight, begin, end, added) for weight in call.args[1:]]
        return builder.emit(
            relax.op.nn.group_norm(
                x,
                *parameters,
                num_groups=int(attributes.num_groups) * (end - begin) // total,
                channel_axis=int(attributes.channel_axis),
                axes=[int(axis) for axis in attributes.axes],
                epsilon=float(attributes.epsilon),
                center=bool(attributes.center),
                scale=bool(attributes.scale),
            )
        )

    def _part(self, whole: relax.Var, begin: int, end: int, added: dict[str, relax.Var]) -> relax.Var:
        """Numbers of a weight [C], taken when the bundle is written."""
        source, name = self.store[whole.name], f"{whole.name}|{begin}to{end}"
        self.store.add(name, Weight((end - begin,), source.dtype, lambda: source.compute()[begin:end]))
        self.members[name] = (whole.name,)
        return added.setdefault(name, relax.Var(name, relax.TensorType((end - begin,), source.dtype)))


def _channels(tensor: relax.Expr) -> int:
    return (static_shape(tensor) or [])[-1]


def _outputs(full: relax.Function) -> tuple[relax.Var, relax.Var]:
    """The noise and the feature that ``full`` gives."""
    result: Any = full.body.body
    if isinstance(result, relax.Var):
        [result] = [binding.value for binding in bindings_of(full) if binding.var.same_as(result)]
    noise, feature = result
    return noise, feature


def _joins(value: relax.Expr, feature: relax.Var) -> bool:
    """Whether ``value`` puts ``feature`` before the channels of a skip connection."""
    if op_name(value) != "relax.concat" or not isinstance(value.args[0], relax.Tuple):
        return False
    fields, shape = value.args[0], static_shape(value) or []
    if len(fields) != 2 or not fields[0].same_as(feature) or value.attrs.axis is None:
        return False
    return len(shape) == 4 and int(value.attrs.axis) % 4 == 3


def _convolve(
    builder: relax.BlockBuilder, call: relax.Call, x: relax.Var, weight: relax.Var, begin: int, end: int
) -> relax.Call:
    """A convolution of ``x`` with the input channels from ``begin`` to ``end`` of ``weight``."""
    part = builder.emit(relax.op.strided_slice(weight, [3], [begin], [end], assume_inbound=True))
    return relax.Call(call.op, [x, part], call.attrs, call.ty_args)
