"""Takes the constant channels of a convolution's input out of it.

A UNet that fills in a part of a picture is given latents, a mask and the latents of the masked picture side
by side, and its first convolution reads all of them. A convolution is a sum over its input channels, so it is
that of the latents and that of the rest, and the rest stays the same for an image: it is then an invariant
that ``HoistInvariants`` finds. Of SD 1.5's 9 channels 4 remain in the step: 47 of 106 million
multiply-accumulates at 64×64, read in vectors of four, and 5.2 MB are read to add the rest (2.6 in float16).
Both halves have few enough channels to keep their weights in float16.

Before::

    conv2d(concat((x, y), axis=1), weight)

where ``y`` depends on nothing but the inputs at ``positions`` and weights, and ``x`` on others as well.

After::

    conv2d(x, weight[:, :C]) + conv2d(y, weight[:, C:])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ddimcache.compiler.compress.weights import Weight, WeightStore
from ddimcache.compiler.passes.partition_at_cut import bindings_of, substitute
from ddimcache.compiler.passes.simplify import op_name, static_shape


@tvm.transform.module_pass(opt_level=0, name="SplitConvolutions")
class SplitConvolutions:
    """See the module's text.

    ``input_count`` parameters of ``main`` are no weights, and those at ``positions`` stay while the others
    change. New weights are entries of ``store``; after the pass, ``members`` names what each was made of.
    """

    def __init__(self, store: WeightStore, input_count: int, positions: Sequence[int]) -> None:
        self.store = store
        self.input_count = input_count
        self.positions = positions
        self.members: dict[str, tuple[str, ...]] = {}

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Splits in ``main``; other functions of ``module`` stay as they are."""
        function = module["main"]
        constant = self._constant(function)
        weights = set(function.params[self.input_count :])
        definitions = {binding.var: binding.value for binding in bindings_of(function)}
        added: dict[str, relax.Var] = {}
        builder = relax.BlockBuilder()
        with builder.function("main", list(function.params)):
            with builder.dataflow():
                replaced: dict[relax.Var, relax.Var] = {}
                for variable, value in definitions.items():
                    sides = self._sides(value, definitions, constant, weights)
                    if sides is None:
                        replaced[variable] = builder.emit(substitute(value, replaced))
                        continue
                    products = [self._part(builder, value, side, replaced, added) for side in sides]
                    replaced[variable] = builder.emit(relax.op.add(*products))
                output = builder.emit_output(substitute(function.body.body, replaced))
            builder.emit_func_output(output)
        if not added:
            return module
        main = builder.get()["main"].with_attr("global_symbol", "main")
        main = relax.Function(
            [*main.params, *added.values()], main.body, main.ret_ty, main.is_pure, main.attrs
        )
        functions = {variable.name_hint: other for variable, other in module.functions_items()}
        result = tvm.IRModule(functions | {"main": main}, attrs=module.attrs)
        return relax.transform.DeadCodeElimination()(relax.transform.CanonicalizeBindings()(result))

    def _constant(self, function: relax.Function) -> set[relax.Var]:
        """The variables that depend on the inputs at ``positions`` and on weights alone."""
        found = {function.params[position] for position in self.positions}
        found.update(function.params[self.input_count :])
        for binding in bindings_of(function):
            if all(used in found for used in relax.analysis.free_vars(binding.value)):
                found.add(binding.var)
        return found

    def _sides(
        self,
        value: relax.Expr,
        definitions: dict[relax.Var, relax.Expr],
        constant: set[relax.Var],
        weights: set[relax.Var],
    ) -> list[list[tuple[relax.Var, int]]] | None:
        """What a convolution reads that changes, and what does not, with the first channel of each part.

        ``None`` where it is not such a convolution.
        """
        if op_name(value) != "relax.nn.conv2d" or value.args[1] not in weights:
            return None
        attributes = value.attrs
        if (attributes.data_layout, attributes.kernel_layout, int(attributes.groups)) != ("NCHW", "OIHW", 1):
            return None
        joined: Any = definitions.get(value.args[0])
        if op_name(joined) != "relax.concat" or not isinstance(joined.args[0], relax.Tuple):
            return None
        if joined.attrs.axis is None or int(joined.attrs.axis) % 4 != 1:
            return None
        sides: list[list[tuple[relax.Var, int]]] = [[], []]
        first = 0
        for field in joined.args[0]:
            sides[field in constant].append((field, first))
            first += (static_shape(field) or [])[1]
        return sides if all(sides) else None

    def _part(
        self,
        builder: relax.BlockBuilder,
        convolution: relax.Call,
        side: list[tuple[relax.Var, int]],
        replaced: dict[relax.Var, relax.Var],
        added: dict[str, relax.Var],
    ) -> relax.Var:
        fields = [replaced.get(field, field) for field, _ in side]
        x = fields[0] if len(fields) == 1 else builder.emit(relax.op.concat(fields, axis=1))
        channels = [
            first + offset for field, first in side for offset in range((static_shape(field) or [])[1])
        ]
        weight = self._weight(convolution.args[1], channels, added)
        return builder.emit(relax.Call(convolution.op, [x, weight], convolution.attrs, convolution.ty_args))

    def _weight(self, whole: relax.Var, channels: list[int], added: dict[str, relax.Var]) -> relax.Var:
        """The input ``channels`` of a weight, computed when the bundle is written."""
        source = self.store[whole.name]
        name = f"{whole.name}+{channels[0]}"
        shape = (source.shape[0], len(channels), *source.shape[2:])
        self.store.add(
            name, Weight(shape, source.dtype, lambda: np.ascontiguousarray(_taken(source, channels)))
        )
        self.members[name] = (whole.name,)
        return added.setdefault(name, relax.Var(name, relax.TensorType(shape, source.dtype)))


def _taken(weight: Weight, channels: list[int]) -> np.ndarray:
    return weight.compute()[:, channels]
