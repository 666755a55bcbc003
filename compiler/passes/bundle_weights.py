"""Collects all weights of a component into one tuple, the last parameter of each of its functions.

Before: ``full(latents, timestep, context, bias, weight@int8@32, ...)``; after: ``full(latents, timestep,
context, params)``. The tuple is the same for every function, so that it is uploaded once; what no function
uses is not in it.
"""

from __future__ import annotations

import tvm
from tvm import relax

from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.passes.partition_at_cut import substitute


def _used(function: relax.Function) -> set[relax.Var]:
    """The variables that the body reads and does not bind."""
    bound = {binding.var for block in function.body.blocks for binding in block.bindings}
    read = set(relax.analysis.all_vars(function.body))
    return read - bound


@tvm.transform.module_pass(opt_level=0, name="BundleWeights")
class BundleWeights:
    """See the module's text; after the pass, ``names`` is the order of the tuple."""

    def __init__(self, store: WeightStore, inputs: dict[str, int]) -> None:
        self.store = store
        self.inputs = inputs
        self.names: list[str] = []

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Gives every Relax function of ``module`` the parameter ``params``."""
        # A weight that was moved or packed is still bound where it was, though nothing reads it.
        module = relax.transform.CanonicalizeBindings()(module)
        module = relax.transform.DeadCodeElimination(list(self.inputs))(module)
        functions = {
            variable: function
            for variable, function in module.functions_items()
            if isinstance(function, relax.Function)
        }
        used = set()
        for variable, function in functions.items():
            inputs = set(function.params[: self.inputs[variable.name_hint]])
            used |= {weight.name for weight in _used(function) - inputs}
        self.names = sorted(used)
        fields = [relax.TensorType(self.store[name].shape, self.store[name].dtype) for name in self.names]
        changed = dict(module.functions_items())
        for variable, function in functions.items():
            changed[variable] = self._bundled(function, variable.name_hint, relax.TupleType(fields))
        module = tvm.IRModule(changed, attrs=module.attrs)
        return relax.transform.CanonicalizeBindings()(module)

    def _bundled(self, function: relax.Function, name: str, weights: relax.Type) -> relax.Function:
        parameter = relax.Var("params", weights)
        inputs = list(function.params[: self.inputs[name]])
        builder = relax.BlockBuilder()
        with builder.function(name, [*inputs, parameter]):
            with builder.dataflow():
                replaced: dict[relax.Var, relax.Var] = {}
                fields: dict[str, relax.Var] = {}
                # Every use of a derived weight made a variable of its own.
                for variable in sorted(_used(function) - set(inputs), key=lambda variable: variable.name):
                    if variable.name not in fields:
                        index = self.names.index(variable.name)
                        fields[variable.name] = builder.emit(relax.TupleGetItem(parameter, index))
                    replaced[variable] = fields[variable.name]
                for block in function.body.blocks:
                    for binding in block.bindings:
                        replaced[binding.var] = builder.emit(substitute(binding.value, replaced))
                output = builder.emit_output(substitute(function.body.body, replaced))
            builder.emit_func_output(output)
        return builder.get()[name].with_attr("global_symbol", name)
